"""execgw info SPEC...: one line about what is behind each spec."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..errors import ExecgwError
from ..group import Group
from ..peer.compat import clock
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

EXAMPLES = """
examples:
  execgw info                                   this interpreter, as a worker
  execgw info popen//python=python3.9 docker=web

execgw doctor says more, step by step, where a gateway does not start.
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "info", "start gateways and say what is behind them", EXAMPLES)
    parser.add_argument("specs", nargs="*", default=["popen"], metavar="SPEC", help="gateway specs (default: popen)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
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
