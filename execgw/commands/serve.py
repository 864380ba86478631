"""execgw serve: an HTTP server that starts processes for clients and carries what they say; extra [http]."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..transports.address import parse_address
from ..transports.guard import SHORTEST_TOKEN
from . import new_parser
from ._http import DEFAULT_ADDRESS, VARIABLE, default_token_file, needs_extra

if TYPE_CHECKING:
    from ..http.access import Access, TokenFile
    from ..http.serving import Listening
    from . import Commands

FIRST = "owner"  # the name of the token that is made at the first start

EXAMPLES = """
Clients start processes here and run code in them, with your rights, so guard the tokens.  At its first start the
server makes one, in a file that only you may read, and says which; it keeps no token itself, only hashes.  What
clients may start is in the policy, a TOML file; without it: this Python.  stdout tells where it serves; stderr is
a log, a line of JSON for each event, without secrets.  SIGTERM ends it in order, a second one at once.

examples:
  execgw serve
  execgw serve --listen 127.0.0.1:9000 --policy policy.toml
  execgw serve --listen 0.0.0.0:8642 --certfile cert.pem --keyfile key.pem
  execgw serve --listen 10.0.0.5:8642 --behind-proxy 10.0.0.1
  EXECGW_HTTP_TOKEN=$(openssl rand -hex 32) execgw serve      where the token comes from elsewhere

clients: http=127.0.0.1:8642//token=file:FILE, curl, and a browser; see docs/guide/http-server.md
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "serve", "start processes for clients that speak HTTP", EXAMPLES)
    parser.add_argument(
        "--listen",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"{DEFAULT_ADDRESS} if not given; port 0: any free",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"the hashes of the tokens, see execgw token; {default_token_file(short=True)} if not given",
    )
    parser.add_argument("--policy", metavar="FILE", help="what clients may start, and how much of it; TOML")
    parser.add_argument("--certfile", metavar="FILE", help="the certificate, PEM; needed beyond 127.0.0.1")
    parser.add_argument("--keyfile", metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--behind-proxy",
        metavar="IP",
        nargs="?",
        const="127.0.0.1,::1",
        help="a proxy that has TLS stands before it, at IP[,IP...]; 127.0.0.1,::1 if not given",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    needs_extra("starlette", "uvicorn", "websockets")
    from ..http.access import TokenFile
    from ..http.app import make_app
    from ..http.jsonlines import write_json_lines
    from ..http.page import page_routes
    from ..http.policy import Policy, read_policy
    from ..http.serving import Listening, address_of, bind, fit_descriptors, serve

    listening = Listening(parse_address(args.listen, any_port=True), args.certfile, args.keyfile, args.behind_proxy)
    listening.check()
    listening.context()
    policy = read_policy(args.policy) if args.policy else Policy()
    given = os.environ.pop(VARIABLE, None)  # so that no process of a client inherits it
    file = TokenFile(args.token_file or default_token_file())
    sock = bind(listening.address)
    access, token = _access(file, given, bool(args.token_file))

    def ready() -> None:
        _tell(listening, address_of(sock), token)

    write_json_lines()
    app = make_app(access, policy, routes=page_routes())
    asyncio.run(serve(app, listening, fit_descriptors(policy.server), sock, ready))
    return 0


def _access(file: TokenFile, given: str | None, asked: bool) -> tuple[Access, str]:
    """The tokens, and how a client names one of them: token=...; makes the first one where there is none."""
    from ..http.access import Access, write_secret

    if given is not None:
        if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable():
            raise SpecError(f"${VARIABLE} is no token of at least {SHORTEST_TOKEN} printable ASCII characters")
        return Access(file if asked or file.exists() else None, given), f"env:{VARIABLE}"
    owner = Path(f"{file.path}.{FIRST}")
    if not file.exists():
        write_secret(owner, file.add(FIRST) + "\n")
        print(f"execgw serve: made a first token, in {owner.absolute()}", flush=True)
    file.read()  # what is wrong with it is told now
    return Access(file), f"file:{owner.absolute() if owner.exists() else 'FILE'}"


def _tell(listening: Listening, address: str, token: str) -> None:
    host = f"{listening.scheme}://{address}"
    words = [f"http={host if listening.certfile else address}", f"token={token}"]
    if listening.certfile:
        words.append(f"tls=sha256:{listening.fingerprint()}")
    print(f"execgw serves at {host}", flush=True)
    print(f"clients: {'//'.join(words)}", flush=True)
