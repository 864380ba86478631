"""execgw token new|list|revoke: the tokens that an HTTP server takes; it sees at once what changes."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpecError
from ..http.access import SCOPES, TokenFile, write_secret
from ..http.limits import read_seconds
from . import new_parser
from ._http import default_token_file

if TYPE_CHECKING:
    from . import Commands

MORE = """
The file keeps a hash of each token, and not the token: what `new` writes is the only copy.  Scopes: popen, start
processes; exec, use and end those that this token has started; admin, those of others too, and the figures.
A server that runs takes a change of the file with its next request.

examples:
  execgw token new laptop --to laptop.token
  execgw token new ci --scopes popen,exec --expires 30d --to ci.token
  execgw token list
  execgw token revoke laptop
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "token", "make, list and revoke the tokens of an HTTP server", MORE)
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"the server's file; {default_token_file(short=True)} if not given"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    new = actions.add_parser("new", help="make a token", description="Make a token.")
    new.add_argument("name", metavar="NAME", help="what logs, lists and the policy call it")
    new.add_argument(
        "--scopes", default=",".join(SCOPES), metavar="SCOPES", help="some of popen,exec,admin; all if not given"
    )
    new.add_argument("--expires", metavar="TIME", help="good for so long: 12h, 30d; for ever if not given")
    new.add_argument("--to", metavar="FILE", help="write it to a new file that only you may read; stdout if not given")
    shown = actions.add_parser("list", help="show what there is", description="Show the tokens, without themselves.")
    shown.add_argument("--json", action="store_true", help="for programs")
    revoke = actions.add_parser("revoke", help="make one worthless", description="Refuse a token from now on.")
    revoke.add_argument("name", metavar="NAME")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    file = TokenFile(args.token_file or default_token_file())
    if args.action == "new":
        _new(file, args)
    elif args.action == "list":
        _list(file, args.json)
    else:
        file.revoke(args.name)
        print(f"revoked {args.name}; a server that runs refuses it from now on, and ends its processes")
    return 0


def _new(file: TokenFile, args: argparse.Namespace) -> None:
    try:
        seconds = None if args.expires is None else read_seconds(args.expires)
    except ValueError as e:
        raise SpecError(f"--expires: {e}") from e
    if args.to is not None and Path(args.to).exists():
        raise SpecError(f"{args.to}: there is such a file already, and a token in it may be in use; give another name")
    token = file.add(args.name, tuple(filter(None, args.scopes.split(","))), seconds)
    if args.to is None:
        print(token)
        return
    write_secret(Path(args.to), token + "\n")
    print(f"clients: token=file:{Path(args.to).absolute()}", file=sys.stderr)


def _list(file: TokenFile, as_json: bool) -> None:
    now = time.time()
    rows: list[dict[str, Any]] = []
    for token in file.read() if file.exists() else []:
        state = {"it was revoked": "revoked", "it has expired": "expired", "": "good"}[token.is_over(now)]
        expires = None if token.expires is None else _day(token.expires)
        made = {"name": token.name, "state": state, "scopes": list(token.scopes), "made": _day(token.made)}
        rows.append({**made, "expires": expires})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"no tokens in {file.path}")
        return
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'name':<{width}}  state    made              expires           scopes")
    for row in rows:
        scopes = ",".join(row["scopes"])
        print(
            f"{row['name']:<{width}}  {row['state']:<7}  {row['made']:<16}  {row['expires'] or 'never':<16}  {scopes}"
        )


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")
