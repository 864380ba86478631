"""socket=: a worker at the other end of a socket, started there by `execgw listen` or by another gateway (installvia=).

socket=HOST:PORT//token=file:F   socket=[::1]:PORT   socket=unix:PATH   tls=ca:FILE  tls=sha256:HEX
socket//installvia=ID            socket=HOST:0//installvia=ID

A thread connects, for names and handshakes take their time; then it hands the socket over and ends.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..errors import HostNotFound, HostNotReached, SpecError, StartError
from ..peer.compat import clock
from ..peer.turn import WATCHING
from .address import Address, parse_address
from .base import Ended, Launch, SocketTransport, Transport, _shared_sockets
from .command import KEEPALIVE
from .guard import Guard, Token, Trust, read_tls, read_token
from .process import interpreter

if TYPE_CHECKING:
    from .._session import Session
    from .base import Explanation

START_SECONDS = 30.0
MARGIN = 1.0  # seconds that are left of start_timeout to say what went wrong
HANDSHAKE_SECONDS = 10.0  # that the listener allows, and so that it may take


def stay_alive(sock: socket.socket, seconds: float) -> None:
    """Let the kernel find out within *seconds* that the other host is gone; 0: never."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not seconds:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        third = max(int(seconds / 3), 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, third)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, third)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(seconds * 1000) - 500, 1))


class Plan:
    """What is to be done for one gateway: whom to reach, with which proof, to start what."""

    def __init__(
        self, launch: Launch, address: Address | None, token: Token, trust: Trust | None, program: str, boot: bytes
    ) -> None:
        self.where = f"gateway {launch.id!r}"
        self.address = address
        self.token = token
        self.trust = trust
        self.boot = boot
        seconds = float(str(launch.spec.start_timeout or START_SECONDS))
        self.seconds = max(seconds - MARGIN, seconds / 2)
        self.deadline = clock() + self.seconds
        self.keepalive = KEEPALIVE if launch.keepalive is None else launch.keepalive
        words: list[str | None] = [*interpreter(launch)] or [None]
        if launch.spec.dont_write_bytecode:
            words.append("-B")
        self.request = {
            "argv": [*words, "-c", program],
            "env": launch.env,
            "chdir": launch.chdir,
            "nice": launch.nice,
            "keepalive": self.keepalive,
        }

    def guard(self) -> Guard:
        """What stands between the socket and the session until the worker speaks."""
        assert self.address is not None
        where = f"{self.where}: {self.address}"
        return Guard(where, self.token, self.trust, self.address.host, self.request)


def log_tells(ended: Ended) -> Explanation | None:
    """What a worker has written before it could speak is known where it was started."""
    return StartError, "what it wrote is in the log of the listener, beside the line that says how it ended"


class _NotYet:
    """Stands for the socket until there is one."""

    def _not_yet(self, *args: object) -> Any:
        raise BlockingIOError(errno.EAGAIN, "not connected yet")

    recv = send = sendmsg = _not_yet

    def setblocking(self, flag: bool) -> None: ...

    def fileno(self) -> int:
        return -1

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class TcpTransport(SocketTransport):
    """One connection to a listener.  Until it is there, nothing can be read and nothing is taken."""

    chunk = 64 * 1024  # it may be slow: 5 ms at 100 Mbit/s
    window = 4 << 20
    keepalive = KEEPALIVE
    applied = True
    group = 1

    def __init__(self, plan: Plan, install: Callable[[Plan], Callable[[], None]] | None = None) -> None:
        super().__init__(_NotYet())  # type: ignore[arg-type]
        self.plan = plan
        self.program = f"socket={plan.address or ''}"
        self.explain = log_tells
        self.hears_of_death = sys.platform == "linux"
        self._install = install
        self._changing = threading.Lock()
        self._trying: socket.socket | None = None
        self._arrived = threading.Event()
        self._closed = False
        self._on_end: Callable[[], None] | None = None
        self._end_listener: Callable[[], None] | None = None
        self.session: Session

    def bootstrap(self) -> bytes:
        return self.plan.boot

    def attach(self, session: Session) -> None:
        self.session = session
        threading.Thread(target=self._run, name="execgw-connect", daemon=True).start()

    # -- connecting; in a thread

    def _run(self) -> None:
        try:
            if self._install is not None:
                self._end_listener = self._install(self.plan)
            self._hand_over(*self._shake(self._connect()))
        except StartError as e:
            problem = e
        except Exception as e:
            problem = StartError(f"{self.plan.where}: {type(e).__name__}: {e}")
        else:
            if self._closed and self._end_listener is not None:
                self._end_listener()
            return
        with self._changing:
            sock, self._trying = self._trying, None
        if sock is not None:
            sock.close()
        if self._end_listener is not None:
            self._end_listener()
        with self.session.lock:
            self.session._on_link_end(problem)

    def _connect(self) -> socket.socket:
        """Try all addresses of the host, until one answers."""
        plan = self.plan
        assert plan.address is not None
        try:
            found = plan.address.resolve()
        except OSError as e:
            raise HostNotFound(
                f"{plan.where}: there is no host {plan.address.host!r}: {e.strerror}; "
                f"try: getent hosts {plan.address.host}"
            ) from e
        last: OSError | None = None
        for number, (family, address) in enumerate(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            if not self._try(sock):
                sock.close()
                break
            left = self.plan.deadline - clock()
            sock.settimeout(max(left / (len(found) - number), 0.01))  # one that is silent leaves time for the others
            try:
                sock.connect(address)
            except OSError as e:
                last = e
                sock.close()
            else:
                stay_alive(sock, plan.keepalive)
                return sock
        raise self._unreached(last)

    def _unreached(self, error: OSError | None) -> StartError:
        plan = self.plan
        assert plan.address is not None
        why = error.strerror if error and error.strerror else f"no answer within {plan.seconds:.3g} s"
        hint = f"is the listener running? Start it there: execgw listen {plan.address} --token-file FILE"
        if not isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
            hint = "is the address right, and no firewall between?"
        return HostNotReached(f"{plan.where}: {plan.address} is not reached: {why}; {hint}")

    def _try(self, sock: socket.socket) -> bool:
        """Let close_link() end what is done with this socket; false if that has been called."""
        with self._changing:
            self._trying = sock
            return not self._closed

    def _shake(self, sock: socket.socket) -> tuple[socket.socket, Guard, bytes]:
        guard = self.plan.guard()
        begun = clock()
        deadline = min(self.plan.deadline, begun + HANDSHAKE_SECONDS)
        rest = b""
        try:
            guard.start()
            while True:
                out = guard.take()
                left = deadline - clock()
                if left <= 0:
                    raise guard.too_late(clock() - begun)
                sock.settimeout(left)
                sock.sendall(out)
                if guard.done:
                    return sock, guard, rest
                data = sock.recv(65536)
                if not data:
                    raise guard.ended()
                rest = guard.feed(data)
        except TimeoutError:
            raise guard.too_late(clock() - begun) from None
        except OSError as e:
            raise guard.ended() from e

    def connect_now(self) -> bytes:
        """Connect in this thread, before there is a session; returns what the worker has said already."""
        try:
            sock, guard, rest = self._shake(self._connect())
        except BaseException:
            with self._changing:
                trying, self._trying = self._trying, None
            if trying is not None:
                trying.close()
            raise
        self._arrive(sock, guard)
        return rest

    def _arrive(self, sock: socket.socket, guard: Guard) -> bool:
        """This is the connection; false if it was closed meanwhile."""
        sock.setblocking(False)
        with self._changing:
            self._trying = None
            if self._closed:
                sock.close()
                return False
            _shared_sockets.discard(self.sock)
            _shared_sockets.add(sock)
            self._use(sock, guard)
            assert self.plan.address is not None
            self.remoteaddress = str(self.plan.address)
            self._fd = sock.fileno()
        self._arrived.set()
        return True

    def _hand_over(self, sock: socket.socket, guard: Guard, rest: bytes) -> None:
        session, loop = self.session, self.loop
        if not self._arrive(sock, guard):
            return
        with session.lock:
            if rest:
                session.take_in(rest)
            if session.turn.state == WATCHING:
                loop.watch(session)
        self.wake()  # a thread that waits takes the descriptor into its poll
        session.flush()

    def _use(self, sock: socket.socket, guard: Guard) -> None:
        self.sock, self._recv, self._send = sock, sock.recv, sock.send

    def wait_writable(self, timeout: float | None) -> None:
        if self._fd < 0 and not self._closed:
            self._arrived.wait(0.5 if timeout is None else timeout)
        else:
            super().wait_writable(timeout)

    # -- the end

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self._closed:
            call()

    def ended(self) -> Ended | None:
        """The listener closes the connection when the worker has ended, and ends the worker when we close it."""
        return Ended() if self._closed else None

    def kill(self, force: bool) -> None:
        if self._closed:
            return
        if force and self._fd >= 0:
            try:  # what is still to be sent is thrown away, and the listener hears of it though the way there is full
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        self.close_link()
        if self._on_end is not None:
            self.loop.call_soon(self._on_end)

    def close_link(self) -> None:
        with self._changing:
            self._closed = True
            if self._fd < 0:
                _shared_sockets.discard(self.sock)
            if self._trying is not None:
                try:
                    self._trying.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        super().close_link()

    def close(self) -> None:
        super().close()
        end, self._end_listener = self._end_listener, None
        if end is not None:
            end()


class SocketKind:
    """socket=HOST:PORT, socket=unix:PATH, socket//installvia=ID"""

    keys = ("token", "tls", "installvia")

    def start(self, launch: Launch, via: Session | None) -> Transport:
        spec = launch.spec
        program, boot = launch.bundle(1, _bundle.flavour_of(interpreter(launch)))
        if spec.installvia:
            return self._install(launch, via, program, boot)
        from .sealed import RelaySocketTransport, TlsTransport

        token = read_token(spec.token) if spec.token else None
        address = parse_address(spec.socket)
        if token is None:
            raise SpecError(f"socket={address}: it needs the token of the listener: token=file:PATH or token=env:NAME")
        if address.path is not None and str(spec.tls).startswith("ca:"):
            raise SpecError(f"socket={address}: a certificate names a host; for a Unix socket give tls=sha256:HEX")
        trust = read_tls(spec.tls) if spec.tls else None
        plan = Plan(launch, address, token, trust, program, boot)
        if via is not None:
            return RelaySocketTransport(launch, plan, via)
        return TlsTransport(plan) if trust else TcpTransport(plan)

    def _install(self, launch: Launch, via: Session | None, program: str, boot: bytes) -> Transport:
        from .install import installing, new_token
        from .sealed import TlsTransport

        spec = launch.spec
        name = f"{str(spec)!r}"
        for key, given in (("via", via), ("token", spec.token), ("tls", spec.tls)):
            if given:
                raise SpecError(f"socket with installvia={spec.installvia} makes its own way, and takes no {key}=")
        address = None if spec.socket is True else parse_address(spec.socket, any_port=True)
        gateway = launch.other("installvia") if launch.other is not None else None
        if gateway is None:
            raise SpecError(f"{name}: installvia= needs the id of a gateway")
        plan = Plan(launch, address, new_token(), None, program, boot)
        return TlsTransport(plan, installing(gateway))
