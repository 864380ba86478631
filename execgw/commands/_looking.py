"""What tree, top and stack share: gateways of their own from specs, or those of another process (--at)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .._monitor import VARIABLE, ask, sockets_at
from .._tree import ASK_SECONDS, Tree, tree, tree_of
from ..errors import ExecgwError
from ..group import Group
from ._starting import expand, start

NO_PLACE = (
    f"give specs, or --at PATH of a program that has called group.monitor(PATH) or was started with {VARIABLE}=PATH"
)


def add_place(parser: argparse.ArgumentParser) -> None:
    """The option --at."""
    parser.add_argument(
        "--at",
        metavar="PATH",
        default=os.environ.get(VARIABLE),
        help=f"the monitor's socket of a running program, or a folder of such; without it ${VARIABLE}",
    )


@contextmanager
def looking(args: argparse.Namespace) -> Iterator[Callable[[], list[Tree]]]:
    """Gives a function that looks: at gateways that the specs name, started for this, or at those behind --at."""
    if args.specs:
        with Group() as group:
            start(group, expand(args.specs))
            yield lambda: [tree(group)]
    elif args.at:
        yield lambda: trees_at(args.at)
    else:
        raise ExecgwError(NO_PLACE)


def trees_at(path: str) -> list[Tree]:
    """The trees of all processes at a place; processes of a folder that have just ended are passed over."""
    trees: list[Tree] = []
    paths = sockets_at(path)
    for name in paths:
        try:
            trees += [tree_of(told) for told in ask(name, ASK_SECONDS * 3, ask="tree")["trees"]]
        except (ExecgwError, ValueError, KeyError) as e:  # noqa: PERF203
            if len(paths) == 1:
                raise ExecgwError(str(e)) from e
            print(f"{name}: {e}", file=sys.stderr)
    return trees


def show(trees: list[Tree]) -> None:
    """As tables where rich is installed and a terminal reads, else as plain text."""
    if not trees:
        print("no gateways")
        return
    try:
        from rich.console import Console

        console = Console()
        if console.is_terminal:
            for found in trees:
                console.print(found)
            return
    except ImportError:
        pass
    print("\n\n".join(map(str, trees)))
