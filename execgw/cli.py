"""The command line: execgw info SPEC..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ._version import __version__
from .errors import ExecgwError
from .group import Group
from .peer.compat import clock


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="execgw", description="Run code in other Python processes and talk to them over channels."
    )
    parser.add_argument("--version", action="version", version=f"execgw {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    info = commands.add_parser("info", help="start gateways and say what is behind them")
    info.add_argument("specs", nargs="*", default=["popen"], metavar="SPEC", help="gateway specs (default: popen)")
    info.set_defaults(run=_info)
    args = parser.parse_args(argv)
    if not hasattr(args, "run"):
        parser.print_help()
        return 2
    code: int = args.run(args)
    return code


def _info(args: argparse.Namespace) -> int:
    """One line for each spec: interpreter, version, pid, time to start, round trip."""
    failed = 0
    for spec in args.specs:
        with Group() as group:
            begun = clock()
            try:
                gateway = group.makegateway(spec)
            except ExecgwError as e:
                print(f"{spec}: {type(e).__name__}: {e}", file=sys.stderr)
                failed = 1
                continue
            started = clock()
            facts = gateway._rinfo()
            channel = gateway.remote_exec("for item in channel: channel.send(item)")
            trips = []
            for number in range(50):
                begin = clock()
                channel.send(number)
                channel.receive()
                trips.append(clock() - begin)
            version = ".".join(map(str, facts.version_info[:3]))
            print(
                f"{spec}: Python {version} at {facts.executable}, {facts.platform}, pid {facts.pid}, in {facts.cwd}; "
                f"started in {(started - begun) * 1e3:.0f} ms, round trip {sorted(trips)[25] * 1e6:.0f} us"
            )
    return failed
