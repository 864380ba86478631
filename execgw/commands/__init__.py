"""The commands of the command line, one file each, found by their names.

A file NAME.py here is the command `execgw NAME`.  Its add(commands) makes the parser with new_parser() and sets `run`:
a function from the parsed arguments to the exit code.  Names that start with an underscore are no commands.
"""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def new_parser(commands: Commands, name: str, summary: str, more: str) -> argparse.ArgumentParser:
    """The parser of one command; *more* is what its --help says behind the options, examples above all."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=textwrap.dedent(more).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
