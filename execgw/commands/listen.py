"""execgw listen ADDRESS --token-file FILE: a server that starts one worker for each client that knows the token."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from .._loop import run
from ..errors import GatewayClosed, SpecError
from ..group import Group
from ..transports.address import parse_address
from ..transports.guard import read_token
from ..transports.install import listen_task
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

EXAMPLES = """
A client may run anything with the rights of the user that listens, so guard the token.

examples:
  (umask 077; openssl rand -hex 32 > token)
  execgw listen 127.0.0.1:5000 --token-file token
  execgw listen unix:/run/user/1000/execgw --token-file token
  execgw listen 0.0.0.0:5000 --token-file token --tls-cert cert.pem --tls-key key.pem

clients: socket=127.0.0.1:5000//token=file:token, and tls=ca:FILE or tls=sha256:HEX where the listener has TLS
"""


def add(commands: Commands) -> None:
    """Register the command."""
    listen = new_parser(commands, "listen", "start workers for clients that connect to a socket", EXAMPLES)
    listen.add_argument("address", metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT or unix:PATH; port 0: any free one")
    listen.add_argument(
        "--token-file", required=True, metavar="FILE", help="a secret that only you may read (mode 600)"
    )
    listen.add_argument("--tls-cert", metavar="FILE", help="the certificate, PEM; needed beyond 127.0.0.1")
    listen.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    listen.add_argument(
        "--python", metavar="COMMAND", help="the interpreter of the listener and, by default, of workers"
    )
    listen.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Listen until SIGINT or SIGTERM."""
    return listen_on(args, "execgw listens on")


def listen_on(args: argparse.Namespace, words: str, **more: Any) -> int:
    """The same for a command with the same options; *words* come before each address."""
    address = parse_address(args.address, any_port=True)
    token = read_token(f"file:{args.token_file}")
    task = listen_task(token, address.target(), tls=_tls(args), **more)
    signal.signal(signal.SIGTERM, _interrupt)
    with Group() as group:
        gateway = group.makegateway("popen" if args.python is None else f"popen//python={args.python}")
        channel = run(gateway._run(task))
        try:
            said = channel.receive()
            if said[0] == "failed":
                raise SpecError(f"cannot listen on {address}: {said[1]}")
            for name in said[1]:
                print(f"{words} {name}", flush=True)
            if said[2]:
                print(f"its certificate: tls=sha256:{said[2]}", flush=True)
            channel.waitclose()
        except KeyboardInterrupt:
            channel.close()  # it ends its workers before the gateway's end would
            return 0
        except GatewayClosed as e:
            print(f"execgw {args.command}: {e}", file=sys.stderr)
            return 1
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _tls(args: argparse.Namespace) -> dict[str, str] | None:
    if not args.tls_cert and not args.tls_key:
        return None
    if not args.tls_cert or not args.tls_key:
        raise SpecError("--tls-cert and --tls-key belong together; one file may be both")
    for path in (args.tls_cert, args.tls_key):
        if not os.access(path, os.R_OK):
            raise SpecError(f"{path!r} cannot be read; --tls-cert and --tls-key need PEM files")
    return {"cert": os.path.abspath(args.tls_cert), "key": os.path.abspath(args.tls_key)}
