"""The command line: execgw COMMAND ...; each command is a file in commands/."""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

from . import commands
from ._version import __version__
from .errors import ExecgwError
from .venv import environment

INTERRUPTED = 130  # as shells say it: 128 + SIGINT
NOBODY_READS = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="execgw",
        description="Run code in other Python processes and talk to them over channels.",
        epilog="execgw COMMAND --help says more about each, with examples.",
    )
    parser.set_defaults(whole=parser)  # for `execgw completion`
    parser.add_argument("--version", action="version", version=f"execgw {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for found in pkgutil.iter_modules(commands.__path__):
        if not found.name.startswith("_"):
            import_module(f"{commands.__name__}.{found.name}").add(subparsers)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    environment.shown = _show
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer would be written at the exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except (ExecgwError, OSError) as e:
        print(f"execgw {args.command}: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return code


def _show(line: str) -> None:
    """Tell on stderr how an environment is made."""
    print(f"execgw: {line}", file=sys.stderr, flush=True)
