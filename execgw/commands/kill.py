"""execgw kill SERVER PID...: end processes of an HTTP server, or interrupt what runs in them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..wire.printable import printable
from . import new_parser
from ._http import SHOWN, Asking, add_server, asking

if TYPE_CHECKING:
    from . import Commands

MORE = """
A PID may be given by its first characters, as execgw ps shows them, where no other begins so.

examples:
  execgw kill http=127.0.0.1:8642//token=file:owner.token 5f3a9c01
  execgw kill http=127.0.0.1:8642//token=file:owner.token 5f3a9c01 --interrupt
  execgw kill http=127.0.0.1:8642//token=file:owner.token --all
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "kill", "end processes of an HTTP server", MORE)
    add_server(parser)
    parser.add_argument("pids", nargs="*", metavar="PID", help="which, whole or the beginning")
    parser.add_argument("--all", action="store_true", help="all that the token may end")
    parser.add_argument(
        "--interrupt", action="store_true", help="KeyboardInterrupt in the code that runs; nothing ends"
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if bool(args.pids) == args.all:
        args.parser.error("give PIDs, or --all")
    with asking(args.server) as server:
        if args.all:
            pids = [one["pid"] for one in server.processes() if one["state"] != "ended"]
        else:
            pids = [server.find(pid) for pid in args.pids]  # all of them are looked up before the first is ended
        for pid in pids:
            print(f"{pid[:SHOWN]}: {_do(server, pid, args.interrupt)}")
    return 0


def _do(server: Asking, pid: str, interrupt: bool) -> str:
    if not interrupt:
        answer = server.ask("DELETE", f"/exec/{pid}", also=(410,))
        return "it had ended" if answer.status == 410 else f"ended ({printable(str(json.loads(answer.body)['how']))})"
    answer = server.ask("POST", f"/exec/{pid}/interrupt", also=(410,))
    if answer.status == 410:
        return "it had ended"
    outcomes = json.loads(answer.body)["interrupted"]
    return ", ".join(printable(f"channel {at}: {how}") for at, how in outcomes.items()) or "no code runs in it"
