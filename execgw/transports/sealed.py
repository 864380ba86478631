"""Socket connections whose bytes pass a guard: those with TLS, and those that another gateway has opened (via=)."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import HostNotFound, HostNotReached, StartError
from .base import Ended, Launch, Transport
from .channel import RelayTransport
from .command import KEEPALIVE
from .guard import Guard
from .tcp import Plan, TcpTransport, log_tells

if TYPE_CHECKING:
    from .._session import Session


class _Sealing(Transport):
    """What a transport adds that encrypts: bytes that the guard has taken, and the link has not."""

    guard: Guard
    _left: bytes = b""
    _wanted = False
    _draining = False

    def _prepare(self) -> None:
        self._order = threading.RLock()  # what was encrypted first is sent first

    def _raw_write(self, data: bytes) -> int:
        raise NotImplementedError

    def _when_room(self, call: Callable[[], None]) -> None:
        raise NotImplementedError

    def _drain(self) -> bool:
        """Send what waits; whether all of it went."""
        self._draining = True
        try:
            while data := self._left or self.guard.take():
                self._left = data[self._raw_write(data) :]
                if self._left:
                    return False
            return True
        finally:
            self._draining = False

    def _write_sealed(self, pieces: list[Any]) -> int:
        with self._order:
            # Writing to the gateway below flushes what goes through it, and so may come back here.
            if self._draining or not self._drain():
                return 0
            taken = self.guard.seal(pieces)
            if not self._drain():
                self._when_room(self._on_room)  # who has written all asks for nothing more
            return taken

    def _on_room(self) -> None:
        with self._order:
            if not self._drain():
                self._when_room(self._on_room)
                return
            wanted, self._wanted = self._wanted, False
        if wanted:
            self.on_writable()

    def want_write(self) -> None:
        self._wanted = True
        self._when_room(self._on_room)


class TlsTransport(_Sealing, TcpTransport):
    """The same with TLS: reading decrypts, writing encrypts; unless it turns out that none is needed (installvia=)."""

    def _use(self, sock: socket.socket, guard: Guard) -> None:
        self._prepare()
        self.guard = guard
        super()._use(sock, guard)

    def read(self) -> bytes | None:
        raw = super().read()
        if not raw:
            return raw
        try:
            return self.guard.feed(raw) or None
        except ConnectionAbortedError:
            self._at_end = True
            return b""

    def write(self, pieces: list[Any]) -> int:
        if self._fd < 0 and not self._closed:
            return 0
        if self._closed or not self.guard.secure:
            return super().write(pieces)
        try:
            return self._write_sealed(pieces)
        except OSError:  # ssl.SSLError is one
            return sum(map(len, pieces))

    def want_write(self) -> None:
        if self._fd >= 0:
            super().want_write() if self.guard.secure else TcpTransport.want_write(self)

    def _raw_write(self, data: bytes) -> int:
        return TcpTransport.write(self, [data])

    def _when_room(self, call: Callable[[], None]) -> None:
        loop = self.loop
        with loop.lock:
            if self._fd >= 0:
                loop.when_writable(self._fd, call)


class RelaySocketTransport(_Sealing, RelayTransport):
    """via=: the socket is opened beside the worker of another gateway, and its bytes come through a channel."""

    window = 4 << 20
    keepalive = KEEPALIVE
    task = "connect"

    def __init__(self, launch: Launch, plan: Plan, via: Session) -> None:
        assert plan.address is not None
        self._prepare()
        self.guard = plan.guard()
        self.plan = plan
        self._problem: StartError | None = None
        self.hears_of_death = sys.platform == "linux"
        super().__init__(launch, [], plan.boot, via)
        self.program = f"socket={plan.address} via {via.id}"
        self.explain = log_tells
        self.remoteaddress = str(plan.address)

    def _options(self, launch: Launch, argv: list[str | None], via: Session) -> dict[str, Any]:
        assert self.plan.address is not None
        return {"target": self.plan.address.target(), "keepalive": self.plan.keepalive, "seconds": self.plan.seconds}

    def attach(self, session: Session) -> None:
        super().attach(session)
        self.guard.start()
        self.loop.call_soon(self._on_room)
        self.loop.later(self.plan.seconds, self._too_late)

    def _too_late(self) -> None:
        with self._via.lock:
            if not self.guard.done:
                self._fail(self.guard.too_late(self.plan.seconds))

    def _fail(self, problem: StartError | None) -> None:
        """Under the lock."""
        if self._ended is None:
            self._ended = Ended()
            self.child._on_link_end(problem)
            if self._on_end is not None:
                self.loop.call_soon(self._on_end)

    def _take_in(self, data: bytes) -> None:
        before = self.guard.done
        try:
            plain = self.guard.feed(data)
        except StartError as e:
            self._fail(e)
            return
        except ConnectionAbortedError:
            self._fail(None)
            return
        if not before or self.guard.secure:
            self._wanted = self._wanted or (self.guard.done and not before)
            self.loop.call_soon(self._on_room)
        if plain:
            self.child.take_in(plain)

    def _finish(self, ended: Ended) -> None:
        """The relay says how its socket came to nothing."""
        if self.guard.done:
            self._fail(None)
            return
        address, where = self.plan.address, f"{self.plan.where}: via {self._via.id!r}"
        assert address is not None
        word, _, text = ended.stderr.partition(": ")
        if word == "name":
            self._fail(HostNotFound(f"{where}: there is no host {address.host!r} there: {text}"))
        elif word == "reach":
            hint = f"is the listener running there? Start it: execgw listen {address} --token-file FILE"
            self._fail(HostNotReached(f"{where}: {address} is not reached: {text}; {hint}"))
        elif word == "closed":
            self._fail(self.guard.ended())
        else:  # that gateway has ended, or cannot run the relay
            self._fail(None)

    def write(self, pieces: list[Any]) -> int:
        if self._port.send_closed:
            return sum(map(len, pieces))
        if not self.guard.done:
            return 0
        return self._write_sealed(pieces) if self.guard.secure else super().write(pieces)

    def want_write(self) -> None:
        if not self.guard.done:
            self._wanted = True
        elif self.guard.secure:
            super().want_write()
        else:
            RelayTransport.want_write(self)

    def _raw_write(self, data: bytes) -> int:
        return RelayTransport.write(self, [data])

    def _when_room(self, call: Callable[[], None]) -> None:
        self.loop.later(0.002, call)
