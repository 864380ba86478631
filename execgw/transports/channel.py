"""via=: a worker beside another worker; its bytes go through a channel of that one (far half: worker/tasks/relay.py).

Credit makes it fair: the relay channel has a window of its own, so a child that does not read stalls nobody else.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..peer.peer import HIGH_WATER
from ..wire import codec as values
from ..wire import frames as f
from ..wire.mux import FRAME_COST
from .base import Ended, Launch, Transport

if TYPE_CHECKING:
    from .._session import Session
    from ..wire.mux import Port

CHUNK = 64 * 1024


@functools.cache
def _relay_source() -> tuple[str, str]:
    path = Path(__file__).parent.parent / "worker" / "tasks" / "relay.py"
    return path.read_text("utf-8"), str(path)


class RelayTransport(Transport):
    """Runs *argv* beside the worker of *via*; argv[0] None stands for that worker's own interpreter."""

    applied = True
    group = True

    def __init__(self, launch: Launch, argv: list[str | None], boot: bytes, via: Session) -> None:
        self._via = via
        self._boot = boot
        self.program = f"via {via.id}: {' '.join(word or 'python' for word in argv[:1])}"
        self._ended: Ended | None = None
        self._on_end: Callable[[], None] | None = None
        self._closed = False
        self.child: Session
        source, filename = _relay_source()
        options = {"argv": argv, "env": launch.env, "cwd": launch.chdir, "nice": launch.nice}
        form, data = via.codec.encode(("function", source, filename, "main", (), options))
        with via.lock:
            self._port = via.mux.open()
            self._port.claimed = True
        via.send_task(self._port, form, data)

    def bootstrap(self) -> bytes:
        return self._boot

    def attach(self, session: Session) -> None:
        self.child = session
        with self._via.lock:
            self._port.notify = self._changed
            self._changed(self._port)

    # -- bytes

    def fileno(self) -> int | None:
        return None

    def _changed(self, port: Port) -> None:
        """Under the lock of the one real link: hand on what came."""
        mux = self._via.mux
        while port.items:
            form, data = mux.take(port)
            if form == values.BYTES or form == values.NATIVE2:
                self.child.take_in(b"".join(data) if type(data) is list else data)
            else:
                self._tell_end(form, data)
        more = mux.grant(port)
        if more:
            self._via._queue(f.CREDIT, port.number, f.pack_credit(more))
        if port.ended and self._ended is None:
            self._finish(Ended(None, ""))
        elif port.allowed > port.sent and self.child.out:
            self.child.loop.flush_soon(self.child)

    def _tell_end(self, form: int, data: Any) -> None:
        try:
            code, stderr = self._via.codec.decode(form, data)
            self._finish(Ended(code if isinstance(code, int) else None, str(stderr)))
        except (ValueError, TypeError):
            self._finish(Ended(None, "the relay said something that cannot be read"))

    def _finish(self, ended: Ended) -> None:
        self._ended = ended
        self.child._on_link_end(None)
        if self._on_end is not None:
            self.child.loop.call_soon(self._on_end)

    def read(self) -> bytes | None:
        return None

    def write(self, pieces: list[Any]) -> int:
        via, port = self._via, self._port
        taken = 0
        with via.send_lock:
            for piece in pieces:
                view = memoryview(piece)
                at = 0
                while at < len(view):
                    if port.send_closed:
                        return sum(map(len, pieces))
                    if port.allowed <= port.sent or via.out_size > HIGH_WATER:
                        break
                    part = view[at : at + CHUNK]
                    self._put(values.BYTES, part)
                    at += len(part)
                taken += at
                if at < len(view):
                    break
        via.flush()
        return taken

    def wait(self, timeout: float | None) -> bool:
        raise NotImplementedError("who waits for this session reads the link of the gateway below it")

    def wake(self) -> None:
        self._via.transport.wake()

    def wait_writable(self, timeout: float | None) -> None:
        try:
            self._via._wait_to_send(self._port, mine=True)
        except OSError:
            pass  # it has ended, and what is written now goes nowhere

    def want_write(self) -> None:
        """Credit for the relay channel flushes the child (_changed); room in the link below, this."""
        self._via.loop.later(0.002, self.on_writable) if self._port.allowed > self._port.sent else None

    # -- the process

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self._ended is not None:
            call()

    def ended(self) -> Ended | None:
        return self._ended

    def kill(self, force: bool) -> None:
        number = signal.SIGKILL if force else signal.SIGTERM
        form, data = self._via.codec.encode((int(number),))
        with self._via.send_lock:
            if self._ended is None and not self._port.send_closed:
                self._put(form, data)  # without credit: it does not wait for a child that does not read
        self._via.flush()

    def _put(self, form: int, data: Any) -> None:
        """Queue one frame; under the send_lock."""
        via, port = self._via, self._port
        via.out.append(via.mux.header(f.DATA, 0, form, port.number, len(data)))
        via.out.append(data)
        via.out_size += f.HEADER_SIZE + len(data)
        port.sent += FRAME_COST + len(data)

    def close_link(self) -> None:
        """The relay is told to end with the child; see close."""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._via.close(self._port)
