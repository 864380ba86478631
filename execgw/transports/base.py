"""The seam between a session and the way its bytes go.

A transport moves bytes and nothing else: it knows no frame, no channel and no gateway.  A kind of gateway is a file
like process.py: a subclass of Transport, and a Kind that makes one from a spec.  Third parties register a Kind under
the entry-point group `execgw.transports`; testing/transports/test_contract.py is the test that each must pass.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from .. import _bundle
from .._loop import get_loop
from ..errors import ExecgwError, StartError
from ..wire.guarded import GuardedMux
from ..wire.mux import Mux

if TYPE_CHECKING:
    from .._loop import Loop
    from .._serving import Offers
    from .._session import Session
    from ..spec import XSpec
    from ..wire.mux import Port

READ_SIZE = 256 * 1024
SMALL = 16 * 1024  # from here on pieces are written as they are, not joined
WARM_UP = 4 << 20  # see worker/link.py
MOST_PIECES = 512  # IOV_MAX is 1024 on Linux


@dataclass(frozen=True)
class Ended:
    """How the far process ended, as far as the transport can know."""

    exit_code: int | None = None
    stderr: str = ""
    why: str = ""  # it was ended for that reason, by whoever watches it


Explanation = tuple[type[StartError], str]  # what a failed start means, and what to do next


class AnyFactory(Protocol):
    """What starts workers in place of an interpreter: see factory.py, factory_tcp.py.

    is_here  on this host: a new interpreter would be as good
    """

    name: str
    is_here: bool

    def transport(self, launch: Launch) -> Transport: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Launch:
    """What a transport needs to know to start a worker."""

    id: str
    spec: XSpec
    python: str | None = None
    chdir: str | None = None
    nice: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    keepalive: float | None = None
    factory: AnyFactory | None = None  # the fork server that is to start it
    offers: Offers | None = None  # what the worker may import from here
    other: Callable[[str], Session | None] | None = None  # the gateway of the group that a key of the spec names
    front: bool = False  # start what leads to the keeper of a resumable session, in place of a worker
    loop: Loop = field(default_factory=get_loop, compare=False)

    def bare(self) -> Launch:
        """The same without surroundings: they are not meant for the program that reaches the interpreter."""
        return replace(self, chdir=None, nice=None, env={})

    def bundle(self, write_fd: int, flavour: str = "", same: bool = False) -> tuple[str, bytes]:
        """(program for `python -c`, bytes for its stdin); *same* for the interpreter that runs here."""
        if self.front:
            return _bundle.for_keeper()
        return _bundle.for_same() if same else _bundle.for_other(write_fd, flavour)


class Transport:
    """One connection to a worker that has been started.

    chunk     bytes of a large value between which other channels' frames may go
    window    bytes of values that may wait on each side of a channel
    trusted   it is our own child on this host: its values go to the unpickler at once
    program   how it was started, for messages
    explain   what a failed start means, if this kind of gateway knows more than its stderr says
    refusal   why nothing was started, if whoever was asked for that has said no
    applied   whether chdir, env and nice were applied before the interpreter started; else the worker does it
    group     the process group that was made for the worker; 1: it leads one of its own, whose number is not known here
    keepalive seconds without a sign of life after which the worker takes us for gone; 0: it would hear of our end
    watches   it finds out by itself that the way is cut; the worker's end of file is the end of whoever keeps it for us
    hears_of_death  it tells the end of a worker that was cut off; else one that is silent for keepalive counts as gone
    out       the descriptor on which what was started writes
    resumes   the session outlives the link: see keeping.py
    state     of a session that was another process's until now, see Kept.adopt(); `adopted` are its channels
    loop      what serves its descriptors and timers, and nothing else may: launch.loop; its session sets it, too
    show      gets what the worker writes to stderr, in any thread; None: it goes to our own
    """

    loop: Loop
    trusted = False
    chunk = 64 * 1024
    window = 1 << 20
    keepalive = 0.0
    watches = False
    hears_of_death = True
    applied = False
    group = 0
    out = 1
    resumes = False
    state: dict[str, Any] | None = None
    adopted: Sequence[Port] = ()
    program = ""
    explain: Callable[[Ended], Explanation | None] | None = None
    refusal: StartError | None = None
    remoteaddress: str | None = None
    show: Callable[[bytes], object] | None = None

    def bootstrap(self) -> bytes:
        """The bytes that turn what was started into a worker."""
        return b""

    def mux(self) -> Mux:
        """What keeps the channels of its session."""
        return Mux(1) if self.trusted else GuardedMux(1)

    def telling(self, number: Callable[[Any], int]) -> Callable[[Any], int]:
        """number(channel) of a channel that is about to be sent, with whatever must be said before."""
        return number

    # -- bytes; what peer/peer.py calls a link

    def fileno(self) -> int | None:
        """The descriptor to wait on, or None if data comes by itself (through feed)."""
        raise NotImplementedError

    def read(self) -> bytes | None:
        """What is there: bytes, b'' at the end, None if nothing is.  Never blocks."""
        raise NotImplementedError

    def write(self, pieces: list[Any]) -> int:
        """Write what the link takes now; return how many bytes.  A broken link takes everything."""
        raise NotImplementedError

    def wait(self, timeout: float | None) -> bool:
        """Wait until there is something to read (true) or wake() is called."""
        raise NotImplementedError

    def wake(self) -> None:
        """Get the thread that is in wait() out of it."""
        raise NotImplementedError

    def wait_writable(self, timeout: float | None) -> None:
        """Wait until write() may take something."""
        raise NotImplementedError

    def want_write(self) -> None:
        """Call on_writable() once write() takes something again."""
        raise NotImplementedError

    on_writable: Callable[[], None]

    def attach(self, session: Session) -> None:
        """The session that these bytes belong to; from now on feed it, if data comes by itself."""

    # -- the process behind it

    def on_end(self, call: Callable[[], None]) -> None:
        """Call call() in the loop when the process ends, as far as this transport can see that."""

    def ended(self) -> Ended | None:
        """How the process ended; None while it runs."""
        return Ended()

    def kill(self, force: bool) -> None:
        """End the process and all that it started: SIGTERM, or SIGKILL with *force*."""

    def renew(self, seconds: float | None) -> None:
        """Its lease shall end so many seconds from now; None: as many as at its start."""
        raise ExecgwError("only workers of a factory have leases: start it with factory=NAME//lease=SECONDS")

    async def let_go(self, timeout: float | None) -> str:
        """Leave the worker to whoever has the ticket that this returns."""
        raise ExecgwError("this gateway ends with its link, and cannot be left to another process: give resume=SECONDS")

    def ticket(self) -> str:
        """What another process needs to take the session over."""
        raise ExecgwError("this gateway ends with its link, and so has no ticket: give resume=SECONDS")

    def started(self) -> None:
        """The worker has said hello: its stderr may be shown from now on."""

    def doing(self) -> str:
        """What the process does just now, for the error of a start that takes too long, or nothing."""
        return ""

    def last_words(self) -> str:
        """What it has written to stderr lately."""
        return ""

    def distrust(self) -> None:
        """It is our own child, but runs others' code: call before the session begins."""
        self.trusted = False

    def close_link(self) -> None:
        """No more bytes either way; stderr and the process's end are still heard of."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of everything; the process, if it still runs, is no longer ours to watch."""
        self.close_link()


_shared_sockets: set[socket.socket] = set()


class _Pair:
    """Two ends of a wake-up; closed with the thread that they belong to, at the exit of the process too."""

    def __init__(self) -> None:
        self.end, self.wake = socket.socketpair()
        self.end.setblocking(False)
        self.wake.setblocking(False)
        try:
            self.end.recv(WARM_UP)  # a block from malloc that is given back untouched
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        self.end.close()
        self.wake.close()


class _Waiting(threading.local):
    """Each thread that waits has one wake-up socket and one poll object."""

    def __init__(self) -> None:
        self.pair = _Pair()
        self.end, self.wake = self.pair.end, self.pair.wake
        self.poller = select.poll()
        self.poller.register(self.end, select.POLLIN)
        self.fd = -1


_waiting = _Waiting()


class SocketTransport(Transport):
    """A transport over one connected socket."""

    def __init__(self, sock: socket.socket, loop: Loop | None = None) -> None:
        self.loop = loop or get_loop()
        sock.setblocking(False)
        self.sock = sock
        _shared_sockets.add(sock)
        self._leader_wake: socket.socket | None = None
        self._woken = False  # wake() was called since the last wait()
        self._at_end = False
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._send = sock.send

    def fileno(self) -> int | None:
        return self._fd if self._fd >= 0 else None

    def read(self) -> bytes | None:
        try:
            data = self._recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._at_end = True
        return data

    def write(self, pieces: list[Any]) -> int:
        try:
            if len(pieces) == 1:
                return self._send(pieces[0])
            size = sum(map(len, pieces))
            if size <= SMALL:
                return self._send(b"".join(pieces))
            return self.sock.sendmsg(pieces[:MOST_PIECES])
        except BlockingIOError:
            return 0
        except OSError:
            return sum(map(len, pieces))

    def wait(self, timeout: float | None) -> bool:
        mine = _waiting
        # A link that has ended is readable for ever; its session wakes us when it has found out why.
        fd = -1 if self._at_end else self._fd
        if mine.fd != fd:
            if mine.fd >= 0:
                mine.poller.unregister(mine.fd)
            if fd >= 0:
                mine.poller.register(fd, select.POLLIN)
            mine.fd = fd
        self._leader_wake = mine.wake
        if self._woken:  # before _leader_wake was ours
            self._woken = False
            return False
        for ready, _ in mine.poller.poll(None if timeout is None else timeout * 1000 + 0.5):
            if ready == fd:
                return True
            self._woken = False
            try:
                mine.end.recv(4096)
            except BlockingIOError:
                pass
        return False

    def wake(self) -> None:
        self._woken = True
        wake = self._leader_wake
        if wake is not None:
            try:
                wake.send(b"!")
            except OSError:  # full: it will wake anyway; closed: its thread is gone
                pass

    def wait_writable(self, timeout: float | None) -> None:
        fd = self._fd  # once: another thread may close it at any time
        if fd >= 0:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            # Not for ever: it may be closed, and its number another's, before poll() has looked.
            poller.poll(500 if timeout is None else timeout * 1000)

    def want_write(self) -> None:
        with self.loop.lock:
            if self._fd >= 0:
                self.loop.when_writable(self._fd, self.on_writable)

    def close_link(self) -> None:
        with self.loop.lock:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            self.loop.forget(fd)
            _shared_sockets.discard(self.sock)
            try:
                self.sock.shutdown(socket.SHUT_RDWR)  # a thread that waits on it wakes
            except OSError:
                pass
            self.sock.close()

    def close(self) -> None:
        super().close()
        self._leader_wake = None  # not this session's, and it is garbage for longer than that thread lives


def _close_in_child() -> None:
    """A forked child must not hold the links of its parent open: the worker's end of file would never come."""
    global _waiting
    for sock in list(_shared_sockets):
        sock.close()
    _shared_sockets.clear()
    _waiting = _Waiting()  # its wake-ups would reach the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
