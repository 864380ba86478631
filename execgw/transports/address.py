"""Addresses of sockets as text: HOST:PORT, [IPV6]:PORT, unix:PATH."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError

_TCP = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>[0-9]{1,5})\Z")


@dataclass(frozen=True)
class Address:
    """One of the two: host and port, or the path of a Unix socket."""

    host: str | None = None
    port: int = 0
    path: str | None = None

    def resolve(self) -> list[tuple[int, Any]]:
        """The (family, address) pairs that it may be reached at; OSError if there is no such host."""
        if self.path is not None:
            return [(socket.AF_UNIX, self.path)]
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError as e:  # a label that is empty or too long
            raise OSError(0, str(e)) from e
        return [(family, address) for family, _, _, _, address in found]

    def target(self) -> tuple[str, int] | str:
        """What a task on the far side takes for an address."""
        return self.path if self.path is not None else (str(self.host), self.port)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in str(self.host) else f"{self.host}:{self.port}"


def parse_address(text: object, any_port: bool = False) -> Address:
    """The address that a text names; port 0 only with *any_port*.  SpecError if it names none."""
    if isinstance(text, str) and text.startswith("unix:") and len(text) > 5:
        return Address(path=text[5:])
    match = _TCP.match(text) if isinstance(text, str) else None
    port = int(match["port"]) if match else -1
    if match is None or not (0 if any_port else 1) <= port <= 65535:
        raise SpecError(f"{text!r} is no address; give HOST:PORT, [IPV6]:PORT or unix:PATH, say 127.0.0.1:5000")
    return Address(match["six"] or match["host"], port)
