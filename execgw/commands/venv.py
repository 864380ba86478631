"""execgw venv list|prune|rm SPEC: the environments that are kept where a gateway leads."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from ..group import Group
from ..venv.kept import Kept, list_environments, prune_environments, remove_environments
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

USAGE_ERROR = 2
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DAY = 86400.0

MORE = """
Environments are made by venv= in a spec, by execgw.venv.create_venv_gateway(), and for scripts that
say what they need.  They are kept where they were made, by user, until they are removed.

  list   what is there: name, Python, size, when it was last used, requirements; `*` is in use
  prune  removes what was not used for --days (30 if neither option is given), then the least recently
         used until all that is left is no bigger than --size; and what interrupted builds have left
  rm     removes those of these names or keys

What is in use is never removed.  The exit code is 1 if something that was named is in use or not there.

examples:
  execgw venv list popen
  execgw venv list --json ssh=web1
  execgw venv prune --size 2G ssh=web1
  execgw venv rm popen tests
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "venv", "list and remove the environments that are kept somewhere", MORE)
    parser.add_argument("action", choices=["list", "prune", "rm"], help="what to do")
    parser.add_argument("--json", action="store_true", help="list: write JSON")
    parser.add_argument("--days", type=_days, metavar="N", help="prune: what was not used for so long")
    parser.add_argument("--size", type=_size, metavar="BYTES", help="prune: how much may be left, such as 500M or 2G")
    parser.add_argument("spec", metavar="SPEC", help="a gateway spec; popen is this host")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rm: names or keys of environments")
    parser.set_defaults(run=_run, parser=parser)


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < 1e6:
        raise ValueError(text)
    return days


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * UNITS[found[2].upper()]


def _run(args: argparse.Namespace) -> int:
    if bool(args.names) != (args.action == "rm"):
        args.parser.error("rm needs a NAME" if args.action == "rm" else f"{args.action} takes no NAME")
    with Group() as group:
        gateway = group.makegateway(args.spec)
        if args.action == "list":
            found = list_environments(gateway)
            _list_json(found) if args.json else _list(found)
            return 0
        if args.action == "prune":
            days = args.days if args.days is not None or args.size is not None else 30.0
            gone, left = prune_environments(gateway, None if days is None else days * DAY, args.size)
            for key, size in gone:
                print(f"removed {key}, {_shown(size)}")
            print(
                f"{len(gone)} environments removed, {_shown(sum(size for _, size in gone))}, {left} interrupted builds"
            )
            return 0
        removed, busy, missing = remove_environments(gateway, args.names)
    for key in removed:
        print(f"removed {key}")
    for key in busy:
        print(f"{key} is in use; end what runs in it, and try again", file=sys.stderr)
    for name in missing:
        print(f"there is no environment {name!r}; execgw venv list {args.spec} has all", file=sys.stderr)
    return 1 if busy or missing else 0


def _shown(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _list_json(found: list[Kept]) -> None:
    json.dump([one._asdict() for one in found], sys.stdout, indent=2)
    print()


def _list(found: list[Kept]) -> None:
    rows: list[tuple[Any, ...]] = [("NAME", "PYTHON", "SIZE", "USED", "KEY", "REQUIREMENTS")]
    for one in found:
        days = max(time.time() - one.used, 0) / DAY
        used = "in use" if one.busy else f"{days:.0f} days ago" if days >= 1 else "today"
        things = ", ".join([*one.requirements, *one.installed]) or "-"
        rows.append((one.name or "-", one.version, _shown(one.size), used, one.key[-20:], things))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]))
