"""Workers whose bytes go through a channel of another one: via= (far half: worker/tasks/relay.py), and ChannelGateway.

Credit makes it fair: the relay channel has a window of its own, so a child that does not read stalls nobody else.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..errors import LoadError
from ..peer.faults import pack_error
from ..peer.peer import HIGH_WATER
from ..wire import codec as values
from ..wire import frames as f
from ..wire.mux import FRAME_COST
from ..wire.printable import printable
from .base import Ended, Launch, Transport

if TYPE_CHECKING:
    from .._session import Session
    from ..wire.mux import Port

CHUNK = 64 * 1024
LONGEST_REASON = 500  # characters
MOST_LAST_WORDS = 64 * 1024  # bytes in which a relay tells how its child ended


def told_end(form: int, data: Any) -> Any:
    """What is no bytes, as told by whoever is at the end of a channel; None if it cannot be read."""
    # Not by the codec of its session: that one knows channels, and asks for the lock that its caller holds.
    if sum(map(len, data if type(data) is list else [data])) <= MOST_LAST_WORDS:
        with contextlib.suppress(LoadError):
            return values.Codec(trusted=False).decode(form, data)
    return None


class ChannelTransport(Transport):
    """The bytes of a worker that come and go over the channel *port* of *via*.

    channel -> worker    bytes; (signal number,) asks for a signal to its process group
    worker -> channel    bytes; (exit code, last lines of stderr) once it has ended
    """

    applied = True
    group = 1
    channel: Any = None  # keeps the channel object of *port*, if there is one

    def __init__(self, program: str, boot: bytes, via: Session, port: Port) -> None:
        self.program = program
        self._via = via
        self._boot = boot
        self._port = port
        self._ended: Ended | None = None
        self._on_end: Callable[[], None] | None = None
        self._closed = self._killed = False
        self._trying = self._flushing = False  # the child's queue is written in a moment
        self.child: Session

    def _put(self, kind: int, form: int, data: Any) -> None:
        """Send something small at once, whatever credit and the link say: who calls this must not have to wait."""
        via, port = self._via, self._port
        data = b"".join(data) if type(data) is list else data
        with via.send_lock:
            if port.send_closed:
                return
            frame = via.mux.header(kind, 0, form, port.number, len(data)) + data
            via.out.append(frame)
            via.out_size += len(frame)
            port.sent += FRAME_COST + len(data)
        via.flush()

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
                self._take_in(b"".join(data) if type(data) is list else data)
            elif self._ended is None:
                self._tell_end(form, data)
        more = mux.grant(port)
        if more:
            self._via._queue(f.CREDIT, port.number, f.pack_credit(more))
        if port.ended and self._ended is None:
            self._finish(Ended(None, ""))
        elif port.allowed > port.sent and self.child.out and not self._flushing:
            self._flushing = True
            self.child.loop.flush_soon(self.child)

    def _take_in(self, data: bytes) -> None:
        self.child.take_in(data)

    def _tell_end(self, form: int, data: Any) -> None:
        told = told_end(form, data)
        if type(told) is tuple and len(told) in (2, 3) and all(isinstance(text, str) for text in told[1:]):
            known = isinstance(told[0], int) and abs(told[0]) < 1 << 32
            why = printable(told[2][:LONGEST_REASON]) if len(told) == 3 else ""
            self._finish(Ended(told[0] if known else None, told[1], why))
        else:
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
        self._flushing = False
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
                    via.out.append(via.mux.header(f.DATA, 0, values.BYTES, port.number, len(part)))
                    via.out.append(part)
                    via.out_size += f.HEADER_SIZE + len(part)
                    port.sent += FRAME_COST + len(part)
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
        if self._port.allowed > self._port.sent and not self._trying:
            self._trying = True
            self._via.loop.later(0.002, self._try_again)

    def _try_again(self) -> None:
        self._trying = False
        self.on_writable()

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
        self._killed = self._killed or force
        if self._ended is None:
            self._put(f.DATA, form, data)

    def close_link(self) -> None:
        """The relay is told to end with the child; see close."""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # A kill waits behind all that a child has not read; a close with an error does not.
            killed = self._killed and self._ended is None
            self._via.close(self._port, pack_error(self._via.codec, "killed") if killed else b"")


class RelayTransport(ChannelTransport):
    """Runs *argv* beside the worker of *via*; argv[0] None stands for that worker's own interpreter."""

    task = "relay"

    def __init__(self, launch: Launch, argv: list[str | None], boot: bytes, via: Session) -> None:
        source, filename = _bundle.task(self.task)
        options = self._options(launch, argv, via)
        form, data = via.codec.encode(("function", source, filename, "main", (), options))
        with via.lock:
            port = via.mux.open()
            port.claimed = True
            if via.lost is not None:
                via.mux.drop(port)
        super().__init__(f"via {via.id}: {' '.join(word or 'python' for word in argv[:1])}", boot, via, port)
        self._put(f.EXEC, form, data)

    def _options(self, launch: Launch, argv: list[str | None], via: Session) -> dict[str, Any]:
        """The arguments of the far half's main()."""
        return {"argv": argv, "env": launch.env, "cwd": launch.chdir, "nice": launch.nice}
