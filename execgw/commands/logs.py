"""execgw logs SERVER PID: what a process of an HTTP server has printed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..wire.printable import PrintableBytes
from . import new_parser
from ._http import SECONDS, add_server, asking

if TYPE_CHECKING:
    from . import Commands

MORE = """
The server keeps the last 64 KiB.  Control characters are made harmless, colours stay; --raw writes the bytes as they
are.  PID may be given by its first characters.

examples:
  execgw logs http=127.0.0.1:8642//token=file:owner.token 5f3a9c01
  execgw logs http=127.0.0.1:8642//token=file:owner.token 5f3a9c01 --follow
"""
WAIT = 20.0  # seconds of one long poll


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "logs", "show what a process of an HTTP server has printed", MORE)
    add_server(parser)
    parser.add_argument("pid", metavar="PID", help="which, whole or the beginning")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends, or Ctrl-C")
    parser.add_argument("--raw", action="store_true", help="the bytes as they are")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    printable = PrintableBytes()
    with asking(args.server) as server:
        path = f"/exec/{server.find(args.pid)}/output"
        after, wait = 0, 0.0
        while True:
            answer = server.ask("GET", f"{path}?after={after}&wait={wait:g}", SECONDS + wait, also=(410,))
            if answer.status == 410:
                break
            _write(answer.body if args.raw else printable.feed(answer.body))
            after = int(answer.headers["Execgw-Offset"])
            if not args.follow:
                break
            wait = WAIT
    _write(b"" if args.raw else printable.end())
    return 0


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
