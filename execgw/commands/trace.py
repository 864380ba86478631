"""execgw trace FILE: print the frames that EXECGW_TRACE recorded."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .._trace import VARIABLE, describe
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

EXAMPLES = f"""
A line for each frame: seconds, gateway, direction (-> to the worker), kind, channel, number, what the sender had
received, size, value.  The file is recorded by any program that has {VARIABLE}=FILE in its environment.

examples:
  {VARIABLE}=/tmp/trace python script.py
  execgw trace /tmp/trace
  execgw trace /tmp/trace --gateway gw0
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "trace", "print the frames that a program has recorded", EXAMPLES)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--gateway", metavar="ID", help="of this gateway alone")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        for line in describe(args.file, args.gateway):
            print(line)
    except ValueError as e:
        print(f"execgw trace: {e}", file=sys.stderr)
        return 1
    return 0
