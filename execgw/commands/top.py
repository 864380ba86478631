"""execgw top: the same as tree, again and again in place, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._tree import Tree
from . import new_parser
from ._looking import add_place, looking

if TYPE_CHECKING:
    from . import Commands

CLEAR = "\x1b[H\x1b[2J"

MORE = """
Shows what `execgw tree` shows, anew every --interval seconds, until Ctrl-C, or until the program behind
--at has ended. Where rich is not installed (pip install 'execgw[cli]') it is plain text.

examples:
  execgw top --at /tmp/work.sock
  execgw top --interval 5 ssh=host//id=host popen//via=host
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "top", "watch the gateways of a running program, or behind specs", MORE)
    add_place(parser)
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between looks; 1 if not given")
    parser.add_argument("--count", type=int, metavar="N", help="end after N looks")
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="gateways to start; each may be N*SPEC")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    if not 0 < args.interval < threading.TIMEOUT_MAX:
        args.parser.error(f"--interval {args.interval:g} is no time")
    pause = threading.Event()
    with looking(args) as look, _screen() as show:
        try:
            show(look())
            looks = 1
            while args.count is None or looks < args.count:
                pause.wait(args.interval)
                show(look())
                looks += 1
        except KeyboardInterrupt:
            pass
    return 0


@contextmanager
def _screen() -> Iterator[Callable[[list[Tree]], None]]:
    """Gives a function that shows trees in place of those before."""
    try:
        from rich.console import Console, Group
        from rich.live import Live
    except ImportError:
        yield _show_plain
        return
    console = Console()
    if not console.is_terminal:
        yield _show_plain
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield lambda trees: live.update(Group(*trees) if trees else "no gateways", refresh=True)


def _show_plain(trees: list[Tree]) -> None:
    before = CLEAR if sys.stdout.isatty() else ""
    print(before + ("\n\n".join(map(str, trees)) or "no gateways"), flush=True)
