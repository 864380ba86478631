"""factory=NAME, and a group's later popen gateways: workers that a fork server on this host starts in milliseconds.

A Factory is the link to a fork server (worker/tasks/factory.py): one of our own, or one that `execgw service` runs for
all processes of this user.  Each worker gets one end of a socket pair and of a pipe for its stderr over that link, so
its bytes go straight to us; the link tells how it ends, and its end is the end of its workers.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from .. import _bundle
from .._loop import get_loop
from .._version import __version__
from ..errors import HandshakeError, HostNotReached, SpecError, StartError
from .base import _shared_sockets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .base import Launch, Transport
    from .factory_worker import FactoryTransport

START_SECONDS = 30.0  # for the fork server to be ready, its modules preloaded
END_SECONDS = 3.0  # for it to end: it gives its workers 1.3
PIECE = 64 * 1024
LOCAL = "local"  # the name of a group's own factory


class Factory:
    """The link to a fork server on this host."""

    is_here = True

    def __init__(self, name: str, sock: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.process = process
        self.workers: dict[int, FactoryTransport] = {}
        self.over = False
        self.problem = ""
        self._sock = sock
        self._lock = threading.Lock()
        self._out: deque[tuple[bytes, list[int]]] = deque()
        self._last = 0
        self._data = b""
        self._descriptors: list[int] = []
        self._has_pidfds = True
        self._environ = dict(os.environb)
        self._cwd = _cwd()
        self._ready = threading.Event()
        self._gone = threading.Event()
        self._listening = threading.Event()
        sock.setblocking(False)
        _shared_sockets.add(sock)
        get_loop().when_readable(sock.fileno(), self._read)

    def __repr__(self) -> str:
        return f"the factory {self.name!r}"

    def wait_ready(self, seconds: float = START_SECONDS) -> Factory:
        """Wait until its modules are loaded; StartError, and nothing left of it, if that fails."""
        try:
            if not self._ready.wait(seconds):
                raise StartError(f"{self}: it was not ready within {seconds:g} s")
            if self.problem:
                raise StartError(f"{self}: {self.problem}")
        except BaseException:
            self.close()
            raise
        return self

    def listen(self, sock: socket.socket) -> None:
        """Let it serve other processes, too: those that connect to this Unix socket."""
        self._send({"do": "listen"}, [sock.fileno()])
        if not self._listening.wait(START_SECONDS):
            raise StartError(f"{self}: it does not answer")

    # -- workers

    def transport(self, launch: Launch) -> Transport:
        """A new worker."""
        from .factory_worker import FactoryTransport

        return FactoryTransport(launch, self)

    def start(self, worker: FactoryTransport) -> None:
        """Ask for a worker."""
        message: dict[str, Any] = {"do": "start", "lease": worker.lease, "idle": worker.idle, "keep": worker.keeps}
        if self.process is not None:  # as a process that we start ourselves: from our surroundings of now
            message.update(self._surroundings())
        with self._lock:
            if self.over:
                raise StartError(f"{worker.where}: {self} has ended")
            self._last += 1
            worker.number = message["n"] = self._last
            self.workers[worker.number] = worker
        self._send(message, worker.descriptors())

    def _surroundings(self) -> dict[str, Any]:
        """What has changed here since the factory was started."""
        changed: dict[str, Any] = {}
        now = os.environb
        if self._environ != now:
            env = {name: value for name, value in now.items() if self._environ.get(name) != value}
            changed["env"] = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
            changed["unset"] = [os.fsdecode(name) for name in self._environ if name not in now]
        cwd = _cwd()
        if cwd != self._cwd:
            changed["cwd"] = cwd
        return changed

    def tell(self, message: dict[str, Any]) -> bool:
        """Say something about a worker; false if nobody hears it any more."""
        return self._send(message, [])

    # -- the link

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        with self._lock:
            if self.over:
                return False
            self._out.append((json.dumps(message).encode("ascii") + b"\n", descriptors))
            self._flush()
        return True

    def _flush(self) -> None:
        """Under the lock.  It may be called in the loop, so it never waits."""
        while self._out:
            data, descriptors = self._out.popleft()
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                done = self._sock.sendmsg([data], extra)
            except BlockingIOError:
                self._out.appendleft((data, descriptors))
                get_loop().when_writable(self._sock.fileno(), self._flush_later)
                return
            except OSError:  # it has gone, which reading tells
                self._out.clear()
                return
            if done < len(data):
                self._out.appendleft((data[done:], []))

    def _flush_later(self) -> None:
        with self._lock:
            if not self.over:
                self._flush()

    def _read(self) -> None:
        """In the loop."""
        try:
            data, extra, flags, _ = self._sock.recvmsg(PIECE, socket.CMSG_SPACE(64 * 4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, extra, flags = b"", [], 0
        for level, kind, packed in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:  # we are out of descriptors: whose pidfd is missing cannot be told
            self._has_pidfds = False
        if not data:
            self._on_gone()
            return
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, message: dict[str, Any]) -> None:
        say, number = message["say"], message.get("n", 0)
        if say == "ready":
            self._check(message)
            self._ready.set()
        elif say == "failed":
            self.problem = message["why"]
            self._ready.set()
        elif say == "listening":
            self._listening.set()
        elif say == "started":
            fd = self._descriptors.pop(0) if message["pidfd"] and self._descriptors else -1
            if fd >= 0 and not self._has_pidfds:
                os.close(fd)
                fd = -1
            self.workers[number].on_started(message["pid"], fd)
        else:
            worker = self.workers.pop(number)
            if say == "refused":
                worker.on_refused(message["why"])
            else:
                worker.on_ended(message["code"], message["why"])

    def _check(self, message: dict[str, Any]) -> None:
        theirs, ours = (message["version"], message["python"]), (__version__, [*sys.version_info[:3]])
        if theirs != ours:
            self.problem = (
                f"it runs execgw {theirs[0]} on Python {'.'.join(map(str, theirs[1]))}, this process execgw {ours[0]} "
                f"on Python {'.'.join(map(str, ours[1]))}; start the service with this interpreter"
            )

    def _on_gone(self) -> None:
        self._close_link()
        if not self._ready.is_set():
            self.problem = "it ended before it was ready; its stderr says why"
            self._ready.set()
        workers, self.workers = self.workers, {}
        for worker in workers.values():
            worker.on_factory_gone()
        self._gone.set()

    def _close_link(self) -> None:
        with get_loop().lock, self._lock:
            if self.over:
                return
            self.over = True
            get_loop().forget(self._sock.fileno())
            _shared_sockets.discard(self._sock)
            self._sock.close()
            for fd in self._descriptors:
                os.close(fd)
            self._descriptors = []

    def close(self) -> None:
        """End it, if it is our own, with all its workers; it waits for that."""
        if self.process is None:
            get_loop().call_soon(self._on_gone)
            self._gone.wait(END_SECONDS)
            return
        with self._lock:
            if not self.over:
                with contextlib.suppress(OSError):  # it says how its workers end, and then ends itself
                    self._sock.shutdown(socket.SHUT_WR)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._gone.wait(END_SECONDS)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it is no more
        return None


def deadline(launch: Launch, key: str) -> float | None:
    """The seconds of lease= or idle=."""
    text = getattr(launch.spec, key)
    if not text:
        return None
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SpecError(f"{str(launch.spec)!r}: {key}={text!r} is no time in seconds")
    return seconds


def checked_options(preload: str | Iterable[str] | None, limit: object) -> dict[str, Any]:
    """What a fork server is told first."""
    names = preload.split(",") if isinstance(preload, str) else [*(preload or ())]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise SpecError(f"preload={','.join(names)}: {name!r} is no name of a module")
    number = None
    if limit is not None:
        try:
            number = int(str(limit))
        except ValueError:
            number = 0
        if number < 1:
            raise SpecError(f"limit={limit!r} is no number of workers")
    return {"do": "config", "preload": names, "limit": number, "version": __version__}


def fork_server(same: bool) -> tuple[str, bytes]:
    """(program, bytes for its stdin); *same* for the interpreter that runs here."""
    return _bundle.for_factory(_bundle.task("factory")[0], _bundle.task("forks")[0], same)


def start_factory(name: str, preload: str | Iterable[str] | None = None, limit: int | None = None) -> Factory:
    """A fork server of our own, which ends with this process."""
    config = checked_options(preload, limit)
    program, boot = fork_server(same=True)
    ours, theirs = socket.socketpair()
    group: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, **group
        )
    except OSError as e:
        ours.close()
        raise StartError(f"the factory {name!r}: cannot start {sys.executable!r}: {e}") from e
    finally:
        theirs.close()
    factory = Factory(name, ours, process)
    with factory._lock:
        factory._out.append((boot, []))
        factory._flush()
    factory.tell(config)
    return factory.wait_ready()


def connect_factory(name: str, path: str) -> Factory:
    """The fork server that `execgw service unix:PATH` runs."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as e:
        sock.close()
        raise HostNotReached(
            f"the factory {name!r}: nobody serves at {path}: {e.strerror}; start it: execgw service unix:{path}"
        ) from e
    try:
        return Factory(name, sock).wait_ready()
    except StartError as e:
        raise HandshakeError(str(e)) from e
