"""execgw ps SERVER: the processes of an HTTP server."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..wire.printable import printable
from . import new_parser
from ._http import SHOWN, add_server, asking, duration, size

if TYPE_CHECKING:
    from . import Commands

MORE = """
Shows those that the token has started; one with the scope admin sees all.  What has ended is shown for some minutes
more, with --all.

examples:
  execgw ps http=127.0.0.1:8642//token=file:owner.token
  execgw ps http=https://build7:8642//token=file:owner.token//tls=ca:ca.pem --json
"""
COLUMNS = ("pid", "state", "spec", "owner", "age", "idle", "queue", "memory", "followers")


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "ps", "show the processes of an HTTP server", MORE)
    add_server(parser)
    parser.add_argument("--all", action="store_true", help="those that have ended, too")
    parser.add_argument("--json", action="store_true", help="all that the server tells, for programs")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with asking(args.server) as server:
        found = [one for one in server.processes() if args.all or one["state"] != "ended"]
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print("no processes")
        return 0
    rows = [COLUMNS, *map(_row, found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    queue = told["queue"]
    waits = f"{queue['messages']} ({size(queue['bytes'])})" if queue.get("messages") else size(queue.get("bytes", 0))
    dropped = f" -{queue['dropped']}" if queue.get("dropped") else ""
    texts = (told["pid"][:SHOWN], told["state"], told["spec"], told["owner"])
    times = (duration(told["age"]), duration(told["idle"]) if told["state"] == "idle" else "-")
    return (*map(printable, texts), *times, waits + dropped, size(told["memory"]), str(told["followers"]))
