"""execgw tree: the gateways of a running program, or behind specs, one below the other."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from . import new_parser
from ._looking import add_place, looking, show

if TYPE_CHECKING:
    from . import Commands

MORE = """
With --at it shows the gateways of another program of this user, which keeps running: one that has
called group.monitor(PATH) or was started with EXECGW_MONITOR=PATH in its environment. If PATH is a
folder, each such program has a socket in it, and all are shown. With specs it starts these gateways,
shows them and ends them.

columns: tasks that run; queue: tasks that wait + items that wait to be received; credit: bytes that the
worker may send on the channel that has least left; trip: what the question took

examples:
  EXECGW_MONITOR=/tmp/work.sock python work.py &
  execgw tree --at /tmp/work.sock
  execgw tree ssh=host//id=host popen//via=host 2*docker=db//via=host
  execgw tree --json --at /tmp/work.sock | jq '.[].nodes[].memory'
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "tree", "show the gateways of a running program, or behind specs", MORE)
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of text")
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="gateways to start; each may be N*SPEC")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with looking(args) as look:
        trees = look()
    if args.json:
        print(json.dumps([found.as_dict() for found in trees], indent=2))
    else:
        show(trees)
    return 0
