"""execgw attach FILE: goes on with a worker that another process has left, and shows what it sends."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionLost, SpecError
from ..group import Group
from . import new_parser

if TYPE_CHECKING:
    from ..gateway import Gateway
    from . import Commands

MOST_TICKET = 1 << 20
LOOK_SECONDS = 0.1  # for a signal, which may not wake an event that this very thread waits for
EXAMPLES = """
FILE holds what Gateway.detach() returned, or Gateway.ticket said before.  Whoever can read it has the worker, so nobody
else may (mode 600).  Values are shown one a line: text as it is, anything else as its repr().  At Ctrl-C, and when all
channels have ended, the worker is left as it was; the ticket stays good.

examples:
  execgw attach ticket               show what comes, and leave the worker again
  execgw attach ticket --list        only say what is open there
  execgw attach ticket --end         end the worker
  pass show worker | execgw attach -
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "attach", "go on with a worker that another process has left", EXAMPLES)
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="the ticket; - (the default): stdin")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="say what is open there, and leave again")
    what.add_argument("--end", action="store_true", help="end the worker")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Attach, do what was asked, and leave the worker as it was."""
    ticket = _read(args.file)
    stopped: list[int] = []  # not by an exception, which might end what shows a value, and with it the channel
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    group = Group()
    gateway = group.attach(ticket)
    if args.end:
        how = group.terminate()[gateway.id]
        print(f"gateway {gateway.id!r}: its worker was {how}", file=sys.stderr)
        return 0
    about = gateway._session.about or {}
    print(
        f"gateway {gateway.id!r}: Python {about.get('python')} on {about.get('platform')}, pid {about.get('pid')}; "
        f"channels: {', '.join(map(str, gateway.channels)) or 'none'}",
        file=sys.stderr,
    )
    try:
        if not args.list:
            _follow(gateway, stopped)
    except ConnectionLost as e:
        print(f"execgw attach: {e}", file=sys.stderr)
        return 1
    gateway.detach()
    return 0


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read(MOST_TICKET)
    with open(name, encoding="ascii", errors="replace") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise SpecError(f"{name}: others may read this ticket (mode {mode & 0o777:o}); run: chmod 600 {name}")
        return file.read(MOST_TICKET)


def _follow(gateway: Gateway, stopped: list[int]) -> None:
    """Show what comes until all channels have ended, or a signal has come; ConnectionLost if the gateway has ended."""
    channels = gateway.channels
    left = set(channels)
    over = threading.Event()
    lock = threading.Lock()
    lost: list[ConnectionLost] = []

    def show(number: int, item: Any, error: Exception | None = None) -> None:
        prefix = f"[{number}] " if len(channels) > 1 else ""
        with lock:
            if item is not _END:
                print(f"{prefix}{item if isinstance(item, str) else repr(item)}", flush=True)
                return
            if isinstance(error, ConnectionLost):
                lost.append(error)
            elif error is not None:
                print(f"{prefix}{error}", file=sys.stderr)
            left.discard(number)
            if not left:
                over.set()

    for number, channel in channels.items():
        channel.setcallback(functools.partial(show, number), endmarker=_END, pass_error=True)
    while left and not stopped and not over.wait(LOOK_SECONDS):
        pass
    if lost:
        raise lost[0]


_END = object()
