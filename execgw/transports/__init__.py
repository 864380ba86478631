"""Ways to reach a Python: how bytes get there and back.  See base.py for the seam."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..errors import SpecError

if TYPE_CHECKING:
    from .._session import Session
    from .base import Launch, Transport


class Kind(Protocol):
    """A kind of gateway, registered under the name of the spec key that asks for it (entry-point group
    'execgw.transports').

    keys   the further spec keys that it understands
    start  starts a worker; *via* is the session of the gateway that the spec's via= names, if any
    quick  (may be missing) whether start never blocks for long; else the asyncio face calls it in another thread
    """

    @property
    def keys(self) -> tuple[str, ...]: ...

    def start(self, launch: Launch, via: Session | None) -> Transport: ...


@functools.cache
def _builtin() -> dict[str, Callable[[], Kind]]:
    def process() -> Kind:
        from .process import PopenKind

        return PopenKind()

    def memory() -> Kind:
        from .memory import MemoryKind

        return MemoryKind()

    def command() -> Kind:
        from .command import CommandKind

        return CommandKind()

    def shorthand(name: str) -> Callable[[], Kind]:
        def make() -> Kind:
            from .command import SHORTHANDS

            return SHORTHANDS[name]()

        return make

    def ssh(name: str) -> Callable[[], Kind]:
        def make() -> Kind:
            from .ssh import KINDS

            return KINDS[name]()

        return make

    def tcp() -> Kind:
        from .tcp import SocketKind

        return SocketKind()

    short = {name: shorthand(name) for name in ("docker", "podman", "kubectl", "sudo")}
    return {
        "popen": process,
        "memory": memory,
        "cmd": command,
        "ssh": ssh("ssh"),
        "vagrant_ssh": ssh("vagrant_ssh"),
        "socket": tcp,
        **short,
    }


@functools.cache
def _plugins() -> dict[str, Callable[[], Kind]]:
    from importlib.metadata import entry_points

    return {entry.name: entry.load() for entry in entry_points(group="execgw.transports")}


@functools.cache
def kind(name: str) -> Kind:
    """The kind of gateway that a spec key asks for."""
    make = _builtin().get(name) or _plugins().get(name)
    if make is None:
        raise SpecError(f"no kind of gateway is called {name!r}; there are {', '.join(names())}")
    return make()


def names() -> list[str]:
    """All kinds of gateway, the registered ones of third parties among them."""
    return sorted({*_builtin(), *_plugins()})


def builtin_names() -> list[str]:
    """The kinds that come with execgw; looking at the others costs a walk over the installed packages."""
    return sorted(_builtin())


_ends: list[Callable[[], None]] = []


def at_end(call: Callable[[], None]) -> None:
    """Run call() at the end of this process, when the gateways of all groups have ended."""
    _ends.append(call)


@atexit.register  # before any group has registered its own end, so this runs after those
def _run_ends() -> None:
    while _ends:
        _ends.pop()()
