"""memory: a worker in a thread of this very process, for tests of code that uses gateways.

Everything is real but the process: the same session, frames and worker, over a socket pair.  os.getpid(), os.chdir()
and the imported modules are this process's own, and chdir, env and nice are refused for that reason.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import SpecError
from .base import Ended, Launch, SocketTransport, Transport

if TYPE_CHECKING:
    from .._loop import Loop
    from .._session import Session


class MemoryTransport(SocketTransport):
    """A worker in a thread, at the other end of a socket pair."""

    chunk = 256 * 1024
    window = 4 << 20
    applied = True
    trusted = True
    program = "a thread of this process"

    def __init__(self, loop: Loop | None = None) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours, loop)
        self._over = False
        self._on_end: Callable[[], None] | None = None
        fd = theirs.detach()

        def serve() -> None:
            try:
                _serve(fd)
            finally:
                self.loop.call_soon(self._end)

        threading.Thread(target=serve, name="execgw-memory", daemon=True).start()

    def _end(self) -> None:
        """In the loop: the thread has ended, or is given up."""
        if not self._over:
            self._over = True
            if self._on_end is not None:
                self._on_end()

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self._over:
            call()

    def ended(self) -> Ended | None:
        return Ended() if self._over else None

    def kill(self, force: bool) -> None:
        """No thread can be killed: one that computes on after the end of its link is left to itself."""
        self.loop.call_soon(self._end)


class _TextsAlone(dict[str, str]):
    """What a worker tells linecache of the sources that came: of a file here, linecache knows more than was sent."""

    def __setitem__(self, filename: str, source: str) -> None:
        if filename.startswith("<"):
            super().__setitem__(filename, source)


def _serve(fd: int) -> None:
    # The one place where the near side imports the far side's modules: here both are the same process.
    from ..worker import execute
    from ..worker.link import FdLink
    from ..worker.serve import Server

    if not isinstance(execute._sources, _TextsAlone):  # once: steer.py has taken it by name
        execute._sources = _TextsAlone()
    link = FdLink(fd, fd)
    try:
        Server(link, owns_process=False).serve()
    finally:
        link.close()
        os.close(fd)


class MemoryKind:
    """memory"""

    keys: tuple[str, ...] = ()
    quick = True

    def start(self, launch: Launch, via: Session | None) -> Transport:
        for key in ("python", "chdir", "nice", "via", "import"):
            if getattr(launch.spec, key):
                raise SpecError(f"{str(launch.spec)!r}: {key}= has no meaning inside this process; try popen")
        if launch.env:
            raise SpecError(f"{str(launch.spec)!r}: env: has no meaning inside this process; try popen")
        return MemoryTransport(launch.loop)
