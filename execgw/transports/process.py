"""popen: a worker as a child process on this host, over a socket pair.

chdir, env and nice are in force before the interpreter starts.  The child leads a process group of its own, which is
killed to the last process when it ends.  Its stderr goes to ours, and the last lines are kept for error messages.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..errors import PythonNotFound, SpecError, StartError
from ..wire.printable import PrintableBytes
from .base import Ended, Launch, SocketTransport

if TYPE_CHECKING:
    from .._loop import Loop
    from .._session import Session
    from .base import Transport

TAIL = 4096  # bytes of stderr that are kept
SOCKET_BUFFER = 1 << 20  # the kernel's own default makes a big value take twice as many turns
WITHOUT_PIDFD = 0.02  # seconds between looks at a child, where the kernel has no pidfd


class StderrTransport(SocketTransport):
    """A worker on this host over a socket pair, whose stderr comes through a pipe: shown on ours, its end kept."""

    chunk = 512 * 1024  # a fast link: 100 us
    window = 4 << 20

    def __init__(self, sock: socket.socket, err: int, loop: Loop) -> None:
        self._tail = b""
        self._filter = None if self.trusted else PrintableBytes()  # our own child's stderr is as ours
        self._unseen: list[bytes] = []
        self._show_lock = threading.Lock()
        self._showing = False
        self._ended: Ended | None = None
        self._on_end: Callable[[], None] | None = None
        super().__init__(sock, loop)
        os.set_blocking(err, False)
        self._err = err
        self.loop.when_readable(err, self._read_stderr)

    # -- stderr

    def _read_stderr(self) -> None:
        """In the loop: keep the tail, and let another thread show it, for our own stderr may block."""
        try:
            data = os.read(self._err, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_stderr()
            if self._filter is not None:
                self._unseen.append(self._filter.end())
            return
        self._tail = (self._tail + data)[-TAIL:]
        if self._filter is not None:
            data = self._filter.feed(data)
        self._unseen.append(data)
        if self._showing:
            err = self._err
            self.loop.forget(err)  # until this is shown: who writes too much waits, as it would on a terminal

            def show() -> None:
                self._show()
                with self.loop.lock:  # it may be closed at any time
                    if self._err == err:
                        self.loop.when_readable(err, self._read_stderr)

            self.loop.callbacks.submit(show)
        elif len(self._unseen) > 64:  # before the start nothing is shown; an endless banner must not fill the memory
            del self._unseen[0]

    def _show(self) -> None:
        """Write to our own stderr what was not yet shown, as a child that had inherited it would."""
        with self._show_lock:
            while self._unseen:
                data = self._unseen.pop(0)
                if self.show is not None:
                    self.show(data)
                    continue
                try:
                    while data:
                        data = data[os.write(2, data) :]
                except OSError:
                    pass

    def started(self) -> None:
        self._showing = True
        if self._unseen:
            self.loop.callbacks.submit(self._show)

    def _read_last_stderr(self) -> None:
        """All of it before anybody hears of the end: the near side may be ending, too."""
        if self._err >= 0:
            self._read_stderr()
        if self._showing:
            self._show()

    def distrust(self) -> None:
        super().distrust()
        self._filter = self._filter or PrintableBytes()

    def last_words(self) -> str:
        return self._tail.decode("utf-8", "replace")

    def _close_stderr(self) -> None:
        with self.loop.lock:
            err, self._err = self._err, -1
            if err >= 0:
                self.loop.forget(err)
                os.close(err)

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self._ended is not None:
            call()

    def _end(self, ended: Ended) -> None:
        """In the loop: this is how the process has ended."""
        self._ended = ended
        if self._on_end is not None:
            self._on_end()

    def ended(self) -> Ended | None:
        return self._ended

    def close(self) -> None:
        super().close()
        self._close_stderr()


def link_pair() -> tuple[socket.socket, socket.socket]:
    """Our end and the worker's."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return pair


class ProcessTransport(StderrTransport):
    """A child process that runs *argv*, with one end of a socket pair as its stdin, and as its *stdout* if so asked."""

    applied = True

    def __init__(self, launch: Launch, argv: list[str], boot: bytes, trusted: bool, stdout: bool = False) -> None:
        ours, theirs = link_pair()
        err, their_err = os.pipe()
        self.trusted = trusted
        self.program = shlex.join(argv[:-1]) + " ..."
        self.out = int(stdout)
        self._boot = boot
        self._pidfd = -1
        try:
            self.process = _spawn(launch, argv, theirs, stdout, their_err)
            self.group = self.process.pid
        except BaseException:
            ours.close()
            os.close(err)
            raise
        finally:
            theirs.close()
            os.close(their_err)
        super().__init__(ours, err, launch.loop)
        loop = self.loop
        try:
            self._pidfd = os.pidfd_open(self.process.pid)
            loop.when_readable(self._pidfd, self._look)
        except (AttributeError, OSError):
            loop.later(WITHOUT_PIDFD, self._look)

    def bootstrap(self) -> bytes:
        return self._boot

    # -- the process

    def _look(self) -> None:
        """In the loop: has the process ended?  If so, take its whole group along before its pid is free again."""
        if self._ended is not None:
            return
        if self._pidfd < 0:
            done = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if done is None:
                self.loop.later(WITHOUT_PIDFD, self._look)
                return
        # The leader is a zombie still: its pid, and so the group's number, cannot belong to anybody else.
        _signal_group(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if self._pidfd >= 0:
            with self.loop.lock:
                self.loop.forget(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
        self._read_last_stderr()
        self._end(Ended(code, self.last_words()))

    def kill(self, force: bool) -> None:
        if self._ended is None:
            _signal_group(self.process.pid, signal.SIGKILL if force else signal.SIGTERM)

    def doing(self) -> str:
        try:
            folder = Path(f"/proc/{self.process.pid}")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            return f" (the process is in state {state}, in the kernel's {(folder / 'wchan').read_text()})"
        except (OSError, IndexError):  # no Linux, or it has just ended
            return ""


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _spawn(launch: Launch, argv: list[str], link: Any, stdout: bool, stderr: int) -> subprocess.Popen[bytes]:
    if launch.nice is not None:
        nice = shutil.which("nice")
        if nice is None:
            raise StartError(f"gateway {launch.id!r}: nice={launch.nice}: there is no 'nice' command on this host")
        argv = [nice, "-n", str(launch.nice), *argv]
    cwd = launch.chdir
    if cwd is not None:
        try:
            os.makedirs(cwd, exist_ok=True)
        except OSError as e:
            raise StartError(f"gateway {launch.id!r}: chdir={cwd!r}: {e.strerror}") from e
    env = {**os.environ, **launch.env} if launch.env else None
    # A group of its own: Ctrl-C at a terminal reaches the near side alone, which decides what it means.
    group: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
    try:
        return subprocess.Popen(
            argv,
            stdin=link,
            stdout=link if stdout else subprocess.DEVNULL,
            stderr=stderr,
            cwd=cwd,
            env=env,
            close_fds=True,
            **group,
        )
    except FileNotFoundError as e:
        raise PythonNotFound(
            f"gateway {launch.id!r}: there is no program {argv[0]!r} (spec {str(launch.spec)!r}); "
            f"try: command -v {shlex.quote(argv[0])}"
        ) from e
    except (OSError, ValueError) as e:
        raise StartError(f"gateway {launch.id!r}: cannot start {argv[0]!r}: {e}") from e


def interpreter(launch: Launch) -> list[str]:
    """The words of python=, or none."""
    if launch.python is None:
        return []
    try:
        words = shlex.split(launch.python)
    except ValueError as e:
        raise SpecError(f"gateway {launch.id!r}: python={launch.python!r}: {e}") from e
    if not words or words[0].startswith("-"):
        raise StartError(f"gateway {launch.id!r}: python={launch.python!r} names no interpreter")
    return words


class PopenKind:
    """popen, popen//python=python3.9, popen//python=sudo -u joe python3, popen//factory=NAME"""

    keys = ("factory", "lease", "idle")
    quick = True

    def start(self, launch: Launch, via: Session | None) -> Transport:
        if launch.factory is not None:
            return launch.factory.transport(launch)
        if via is not None and launch.spec.factory:
            from .factory_relay import FactoryRelayTransport

            return FactoryRelayTransport(launch, via)
        words: list[str | None] = [*interpreter(launch)] or [None]
        if launch.spec.dont_write_bytecode:
            words.append("-B")
        if via is not None:
            from .channel import RelayTransport

            flavour = _bundle.flavour_of(words, (via.about or {}).get("platform", ""))
            program, boot = _bundle.for_other(1, flavour)
            relayed = RelayTransport(launch, [*words, "-c", program], boot, via)
            relayed.hears_of_death = not launch.keepalive
            return relayed
        flavour = _bundle.flavour_of([word or "" for word in words])
        stdout = flavour == "pyodide"  # which cannot write to descriptor 0
        program, boot = launch.bundle(int(stdout), flavour, same=words[0] is None)
        argv = [word or sys.executable for word in words]
        transport = ProcessTransport(launch, [*argv, "-c", program], boot, trusted=True, stdout=stdout)
        transport.hears_of_death = not launch.keepalive  # of a frozen one it does not; who asks wants to know that
        return transport
