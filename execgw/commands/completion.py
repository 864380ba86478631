"""execgw completion SHELL: a script that lets a shell complete commands, options and files with the Tab key."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from . import new_parser

if TYPE_CHECKING:
    from . import Commands

SHELLS = ("bash", "fish", "tcsh", "zsh")
EXAMPLES = """
examples:
  eval "$(execgw completion bash)"                                        in ~/.bashrc
  execgw completion fish > ~/.config/fish/completions/execgw.fish
  execgw completion zsh > ~/.zfunc/_execgw                                a folder of your $fpath
  execgw completion tcsh > ~/.execgw.completion.csh                       and source it in ~/.tcshrc

The script is made from the options of this very version: make it again after an update.
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "completion", "print what makes a shell complete execgw commands", EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        print("execgw completion needs shtab: pip install 'execgw[cli]'", file=sys.stderr)
        return 1
    print(shtab.complete(args.whole, args.shell))
    return 0
