"""'popen//python=python3.9//chdir=work' <-> XSpec: what kind of gateway, and how it is to start."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import SpecError, masked

# Keys that every kind of gateway understands; kinds and their own keys come from the transports.
COMMON_KEYS = (
    "id",
    "python",
    "chdir",
    "nice",
    "execmodel",
    "via",
    "dont_write_bytecode",
    "start_timeout",
    "keepalive",
    "preload",
    "limit",
    "import",
    "resume",
)

_URL_HEAD = re.compile(r"^(?:env:)?[A-Za-z0-9_]+=[A-Za-z][A-Za-z0-9+.-]*:$")


def _parts(text: str) -> list[str]:
    """Split at '//', but not at the one of a URL that is a value ('http=https://host', 'env:X=https://host')."""
    parts: list[str] = []
    for piece in text.split("//"):
        if parts and _URL_HEAD.match(parts[-1]):
            parts[-1] += "//" + piece
        else:
            parts.append(piece)
    return parts


TICKET = "execgw-ticket-1."  # how one begins; transports/keeping.py writes them


def read_ticket(ticket: str) -> tuple[XSpec, dict[str, str]]:
    """(spec, what else is in it) of what Gateway.detach() gave; SpecError, which does not show it, if it is none."""
    head, body = ticket.strip()[: len(TICKET)], ticket.strip()[len(TICKET) :]
    try:
        told = json.loads(base64.b64decode(body, "-_", validate=True)) if head == TICKET else None
    except ValueError:
        told = None
    if not isinstance(told, dict) or not all(isinstance(told.get(key), str) for key in ("spec", "id", "secret")):
        raise SpecError("that is no ticket of Gateway.detach(), or not all of it")
    return XSpec(told["spec"]), told


class XSpec:
    """A gateway spec: 'key=value//key=value...', where a key without '=' is True.

    Each key is an attribute, and one that was not given reads None; `env` is the dict of the env:NAME=value keys.
    Two specs are equal if their texts are.  Raises SpecError (a ValueError) for what is no spec.
    """

    env: dict[str, str]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> str | bool | None: ...

        def __setattr__(self, name: str, value: object) -> None: ...
    else:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            return

    def __init__(self, string: str) -> None:
        self._spec = string
        self.env = {}
        if not string:
            raise SpecError("'': an empty spec; try 'popen'")
        seen = set()
        for part in _parts(string):
            key, equals, value = part.partition("=")
            if not key or key.startswith("_"):
                raise SpecError(f"{string!r}: {part!r} is no key=value")
            if key in seen:
                raise SpecError(f"{string!r}: {key!r} is given twice")
            seen.add(key)
            if key.startswith("env:"):
                if not equals or not key[4:]:
                    raise SpecError(f"{string!r}: {part!r} must be env:NAME=value")
                self.env[key[4:]] = value
            elif not key.isidentifier():
                raise SpecError(f"{string!r}: {key!r} is no name of a key")
            else:
                setattr(self, key, value if equals else True)

    def keys(self) -> list[str]:
        """The keys that are set, without env."""
        return [key for key, value in vars(self).items() if not key.startswith("_") and key != "env" and value]

    def changed(self, drop: Iterable[str] = (), **values: str | bool | None) -> XSpec:
        """The same without the keys *drop*, and with other *values*; None is a key that was not given."""
        new = XSpec.__new__(XSpec)
        given = {key: getattr(self, key) for key in self.keys() if key not in set(drop)}
        for key, value in {**given, **values}.items():
            if value is not None:
                setattr(new, key, value)
        new.env = dict(self.env)
        parts = [key if (value := getattr(new, key)) is True else f"{key}={value}" for key in new.keys()]  # noqa: SIM118
        new._spec = "//".join([*parts, *(f"env:{name}={value}" for name, value in new.env.items())])
        return new

    def check(self, kinds: Iterable[str], known: Iterable[str]) -> str:
        """Return which of *kinds* this spec asks for; SpecError if none, several, or a key that nobody knows."""
        kinds = list(kinds)
        chosen = [key for key in self.keys() if key in kinds]
        if not chosen:
            for key in vars(self):
                if key in kinds:
                    raise SpecError(f"{self._spec!r}: {key}= has no value; it needs one: {key}=...")
            raise SpecError(f"{self._spec!r}: no gateway type found; it needs one of {', '.join(sorted(kinds))}")
        if len(chosen) > 1:
            raise SpecError(f"{self._spec!r}: {' and '.join(map(repr, chosen))} are two types of gateway; give one")
        allowed = {*kinds, *known, *COMMON_KEYS}
        for key in self.keys():
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(allowed))}"
                raise SpecError(f"{self._spec!r}: unknown key {key!r}; {hint}")
        return chosen[0]

    def _samefilesystem(self) -> bool:
        return bool(self.popen and not self.chdir)

    def __str__(self) -> str:
        return self._spec

    def __repr__(self) -> str:
        return f"<XSpec {masked(self._spec)!r}>"

    def __hash__(self) -> int:
        return hash(self._spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, XSpec) and self._spec == other._spec
