"""execgw stack GATEWAY: where the code in a worker is, while it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .._monitor import ask, sockets_at
from ..errors import ExecgwError
from ..wire.printable import printable
from . import new_parser
from ._looking import NO_PLACE, add_place

if TYPE_CHECKING:
    from . import Commands

MORE = """
Prints the stack of each thread of one worker of a running program, which has called group.monitor(PATH)
or was started with EXECGW_MONITOR=PATH. The worker answers while its code computes, and is not disturbed.
Threads that run tasks come first; --all shows the worker's own threads, too.

examples:
  execgw stack --at /tmp/work.sock gw0
  watch execgw stack --at /tmp/work.sock gw0
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "stack", "print the stacks of a worker's threads while it works", MORE)
    add_place(parser)
    parser.add_argument("--all", action="store_true", help="the worker's own threads, too")
    parser.add_argument("gateway", metavar="GATEWAY", help="its id, as execgw tree shows it")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if not args.at:
        raise ExecgwError(NO_PLACE.replace("give specs, or", "give"))
    stacks = _stacks_at(sockets_at(args.at), args.gateway)
    tasks = {title: text for title, text in stacks.items() if title.startswith("channel ")}
    for title, text in {**tasks, **(stacks if args.all else {})}.items():
        print(f"-- {printable(title)}\n{printable(text).rstrip()}\n")
    if not tasks and not args.all:
        print(f"gateway {args.gateway!r} runs no code; --all shows its own threads")
    return 0


def _stacks_at(paths: list[str], gateway: str) -> dict[str, str]:
    """From the first process that has the gateway."""
    problem = ExecgwError(f"there is no monitor's socket for gateway {gateway!r}")
    for path in paths:
        try:
            stacks: dict[str, str] = ask(path, ask="stacks", gateway=gateway)["stacks"]
        except ExecgwError as e:  # noqa: PERF203
            problem = e
        else:
            return stacks
    raise problem
