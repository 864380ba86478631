"""What the commands about HTTP servers share: where tokens are, and how a server is asked (ps, kill, logs)."""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import ExecgwError, SpecError
from ..http.client_requests import Answer, Requests
from ..http.client_server import refusal, server_of, told, unreached
from ..spec import XSpec

DEFAULT_ADDRESS = "127.0.0.1:8642"
VARIABLE = "EXECGW_HTTP_TOKEN"
SECONDS = 30.0  # for an answer
SHOWN = 8  # characters of a PID that are shown; logs have as many
SHORTEST = 4  # of a PID that is given by its beginning


def default_token_file(short: bool = False) -> Path:
    """Where the hashes of the tokens are, if nothing else is said; with ~ for the home if *short*."""
    base = os.environ.get("XDG_CONFIG_HOME")
    if short:
        return Path("~/.config/execgw/http-tokens")
    return (Path(base) if base else Path.home() / ".config") / "execgw" / "http-tokens"


def needs_extra(*modules: str) -> None:
    """Raises an error that says what to install, if one of these is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ExecgwError(f"there is no {' and no '.join(missing)} here; pip install 'execgw[http]'")


def add_server(parser: argparse.ArgumentParser) -> None:
    """The argument that says which server."""
    parser.add_argument(
        "server",
        metavar="SERVER",
        help=f"http={DEFAULT_ADDRESS}//token=file:FILE, as execgw serve shows it; without token=: ${VARIABLE}, if set",
    )


class Asking:
    """Requests to one server, from a command."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._server = requests.dial.server

    def ask(self, method: str, path: str, seconds: float = SECONDS, also: tuple[int, ...] = ()) -> Answer:
        """An answer that is good, or one of the statuses *also*; else raises what it means."""
        try:
            answer = self._requests.ask(method, path, seconds)
        except (OSError, http.client.HTTPException) as e:
            raise unreached(self._server, e) from e
        if answer.status >= 300 and answer.status not in also:
            said = told(answer.body)
            if answer.status in (404, 410) and "why" in said:
                raise ExecgwError(f"{self._server}: {said['why']}")
            raise refusal(self._server, answer.status, answer.headers, said, __version__)
        return answer

    def processes(self) -> list[dict[str, Any]]:
        """Those that the token may see, as the server tells them; the oldest first."""
        found: list[dict[str, Any]] = json.loads(self.ask("GET", "/exec").body)["processes"]
        return found

    def find(self, pid: str) -> str:
        """The PID that is given whole, or by a beginning that no other has."""
        fits = [str(one["pid"]) for one in self.processes() if str(one["pid"]).startswith(pid)]
        if len(fits) == 1 and len(pid) >= SHORTEST:
            return fits[0]
        if len(fits) > 1 or (fits and len(pid) < SHORTEST):
            raise ExecgwError(f"{pid!r} is the beginning of {len(fits)} PIDs; give more of it, see execgw ps --json")
        raise ExecgwError(f"{self._server}: there is no process {pid!r} of yours; see execgw ps")


@contextmanager
def asking(text: str) -> Iterator[Asking]:
    """Ask the server that a spec names, or a bare HOST:PORT does."""
    spec = XSpec(text if text.startswith("http=") else f"http={text}")
    for key in spec.keys():  # noqa: SIM118  # it is no dict
        if key not in ("http", "token", "tls"):
            raise SpecError(f"{text!r}: {key!r} says nothing about a server; give http=, token= and tls=")
    if not spec.token and VARIABLE in os.environ:
        spec = spec.changed(token=f"env:{VARIABLE}")
    with Requests(server_of(spec, "the server"), SECONDS) as requests:
        yield Asking(requests)


def size(number: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def duration(seconds: float) -> str:
    """A time, for people."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
