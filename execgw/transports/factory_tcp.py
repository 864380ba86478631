"""A factory behind a port: each worker is forked on the connection that its near side has made; see tcp.py.

Whoever knows the token is let in, as with a listener; that the worker comes from a fork server is all that differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _bundle
from .._version import __version__
from ..errors import SpecError
from .factory import checked_options, fork_server
from .guard import read_tls, read_token
from .sealed import TlsTransport
from .tcp import Plan, TcpTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .address import Address
    from .base import Launch, Transport

# For a listener that knows no factories: it is ended, and its log says so.
NOT_HERE = "raise SystemExit('execgw: this listener has no factory; start it with: execgw service')"


class TcpFactory:
    """The port of `execgw service HOST:PORT`."""

    is_here = False

    def __init__(self, name: str, address: Address, token: str | None, tls: str | None) -> None:
        if token is None:
            raise SpecError(f"the factory at {address} needs the token of the service: token='file:PATH' or 'env:NAME'")
        self.name = name
        self.address = address
        self.token = read_token(token)
        self.trust = read_tls(tls) if tls else None

    def __repr__(self) -> str:
        return f"the factory {self.name!r} at {self.address}"

    def transport(self, launch: Launch) -> Transport:
        """A new worker; one with resume= is a new process, which a keeper has started there."""
        if launch.spec.lease or launch.spec.idle:
            raise SpecError(
                f"{str(launch.spec)!r}: {self} has no leases; one at a Unix socket, or beside a gateway, has"
            )
        if launch.front:
            plan = Plan(launch, self.address, self.token, self.trust, *launch.bundle(1))
            return TcpTransport(plan) if self.trust is None else TlsTransport(plan)
        plan = Plan(launch, self.address, self.token, self.trust, NOT_HERE, b"")
        plan.request.update(factory=__version__, env={}, chdir=None, nice=None)  # there is no interpreter to start
        transport = TcpTransport(plan) if self.trust is None else TlsTransport(plan)
        transport.applied = False
        transport.program = f"a worker of {self}"
        return transport

    def close(self) -> None:
        """Its workers end with their gateways."""


def warm_listener(preload: str | Iterable[str] | None, limit: int | None) -> tuple[Any, ...]:
    """What a listener needs to know for its workers to come from a fork server."""
    server = (*fork_server(same=False), checked_options(preload, limit))
    return _bundle.task("listen_factory")[0], _bundle.task("factory_relay")[0], server
