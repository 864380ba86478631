"""A process whose frames are carried: the client is the near side, and the server keeps what it has not yet seen.

    worker's link -> _readable -> Kept -> the client's present link: a WebSocket, or one GET after the other
    worker's link <- _write    <- Kept <- WebSocket, POST

No threads and no tasks of its own: the event loop reads the worker's link, and what comes goes on at once.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from .. import transports
from .._hub import launch_of
from ..aio.session import get_loop
from ..errors import RemoteProtocolError
from ..peer.compat import clock
from ..spec import XSpec
from ..wire import frames as f
from ..wire.kept import Kept
from .failures import Refusal
from .processes import END_SECONDS, Process, guard

if TYPE_CHECKING:
    from ..transports.base import Transport
    from .limits import Place
    from .policy import Start

GRACE = 60.0  # seconds that it lives on with nobody connected, unless the client says otherwise
LINGER = 0.5  # seconds that it may live on after its link has ended
HIGH_WATER = 1 << 20  # bytes that wait for the worker's link, from which the client is not read
MOST_LAST = 64  # reads of what an ended worker has left

_SEQ = struct.Struct("!BBHIIII")


class Link(Protocol):
    """The present connection of the client."""

    def pushed(self) -> None:
        """There is something to send: kept.pending, output, or the end."""

    def taken_over(self) -> None:
        """Another connection has come."""


class Carrying(Process):
    """See the file's head."""

    protocol = "frames"

    def __init__(self, owner: str, start: Start, place: Place, grace: float) -> None:
        super().__init__(owner, start, place)
        self.grace = min(grace, self.limits.grace)
        self.kept = Kept(adoptable=False)
        self.link: Link | None = None
        self.shown = 0  # bytes of stderr that a link was told
        self.broke = ""  # which rule of the protocol was broken, by whom
        self._transport: Transport
        self._out: deque[Any] = deque()
        self._out_size = 0
        self._reading = -1
        self._gone = False  # the worker's link has ended
        self._loop = asyncio.get_running_loop()

    # -- its life

    async def begin(self, spec: str) -> None:
        """Start the worker; whether it says hello is for the client to see.  Raises StartError."""
        loop = get_loop()
        chosen = XSpec(spec)
        kind = transports.kind(chosen.check(transports.builtin_names(), ()))
        launch = launch_of(chosen, self.name, loop)
        self._transport = transport = kind.start(launch, None)
        guard(transport, self)
        transport.on_writable = self._flush
        self._watch()
        self._write(transport.bootstrap())
        transport.started()
        transport.on_end(self._on_end)

    def _watch(self) -> None:
        fd = self._transport.fileno()
        if fd is not None and self._reading < 0 and not self._gone:
            self._reading = fd
            self._loop.add_reader(fd, self._readable)

    def _unwatch(self) -> None:
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            self._reading = -1

    def _readable(self) -> None:
        """The worker has said something, or its link has ended."""
        data = self._transport.read()
        if data is None:
            return
        if not data:
            self._link_ended()
            return
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        kept = self.kept
        try:
            kept.from_worker(data)
        except RemoteProtocolError as e:
            self.break_off(f"its worker broke the rules of the protocol: {e}")
            return
        if kept.full:  # the worker waits, and its code in send()
            self._unwatch()
        if self.link is not None:
            self.link.pushed()

    def _link_ended(self) -> None:
        self._gone = True
        self._unwatch()
        self._loop.call_later(LINGER, self._kill)

    def _kill(self) -> None:
        if self.over is None:
            self._transport.kill(force=True)

    def _on_end(self) -> None:
        """The process has ended; what it had written comes first."""
        for _ in range(MOST_LAST):
            data = None if self._gone else self._transport.read()
            if not data:
                break
            self._take_in(data)
        self._gone = True
        self._unwatch()
        ended = self._transport.ended()
        self._out.clear()
        self._out_size = 0
        self._transport.close()
        # Its last words come by the loop, and whoever hears of its end wants them before.
        self._loop.call_soon(self._tell_end, ended.exit_code if ended else None, ended.stderr if ended else "")

    def _tell_end(self, exit_code: int | None, stderr: str) -> None:
        self.set_over(exit_code, stderr)
        if self.link is not None:
            self.link.pushed()

    async def stop(self, timeout: float) -> str:
        deadline = clock() + timeout
        if not self.broke:
            kept = self.kept
            self._write(f.HEADER.pack(f.BYE, 0, 0, 0, kept.near_seq + 1 & 0xFFFFFFFF, kept.worker_seq, 0))
        for how, force, seconds in (("asked", None, timeout), ("terminated", False, 1.0), ("killed", True, 1.0)):
            if force is not None:
                self._transport.kill(force)
                deadline = clock() + seconds
            while self.over is None and clock() < deadline:
                await self.bell.wait(deadline - clock())
            if self.over is not None:
                return how
        return "killed"

    def break_off(self, why: str) -> None:
        """End it at once: what one side has sent makes no sense."""
        if not self.broke:
            self.broke = self.ending = why
            self._unwatch()
            self._kill()

    def printed(self, data: bytes) -> None:
        super().printed(data)
        if self.link is not None:
            self.link.pushed()

    # -- what its table wants to know

    @property
    def busy(self) -> bool:
        return self.followers > 0  # what its code does only its client knows

    @property
    def idle_for(self) -> float | None:
        return None if self.followers else clock() - self.used

    def too_idle(self) -> str:
        idle = self.idle_for
        if idle is not None and idle > self.grace:
            return f"nobody was connected to it for {self.grace:g} s"
        return ""

    @property
    def held(self) -> int:
        return self.kept.unseen_size

    def forget(self) -> None:
        self.kept = Kept(adoptable=False)

    def queue(self) -> dict[str, int]:
        return {"messages": 0, "bytes": self.kept.unseen_size, "dropped": 0}

    async def interrupt(self) -> dict[str, str]:
        raise Refusal(409, "protocol", "its client interrupts the code itself: Channel.interrupt()")

    # -- to the worker

    @property
    def clogged(self) -> bool:
        """Whether the worker does not read what there is for it."""
        return self._out_size > HIGH_WATER

    async def unclogged(self, timeout: float | None = None) -> bool:
        """Wait until it has read most of it; false after *timeout* seconds."""
        deadline = None if timeout is None else clock() + timeout
        while self.clogged and self.over is None:
            left = None if deadline is None else deadline - clock()
            if (left is not None and left <= 0) or not await self.bell.wait(left):
                return False
        return True

    def from_client(self, data: bytes) -> None:
        """Bytes of the present link.  Raises Refusal (400): the process is then at its end."""
        kept = self.kept
        was_full = kept.full
        try:
            out = kept.from_near(data)
        except RemoteProtocolError as e:
            self.break_off(f"its client broke the rules of the protocol: {e}")
            raise Refusal(400, "frames", f"these are no frames, or not the next ones: {e}; the process is ended") from e
        if out:
            self._write(out)
        if was_full and not kept.full:
            self._watch()
        if kept.orders:
            kept.orders.clear()  # they are for a keeper on the worker's host
        if kept.bye and not self.ending:
            self.ending = "its client has ended it"
            self._loop.call_later(END_SECONDS, self._kill)
        if self.link is not None and kept.pending:
            self.link.pushed()

    def _write(self, data: bytes) -> None:
        if self._gone:
            return
        if not self._out:
            done = self._transport.write([data])
            if done == len(data):
                return
            data = memoryview(data)[done:]  # type: ignore[assignment]  # as good as bytes for a socket
            self._transport.want_write()
        self._out.append(data)
        self._out_size += len(data)

    def _flush(self) -> None:
        """The worker's link takes something again."""
        while self._out and not self._gone:
            pieces = list(self._out)[:64]
            done = left = self._transport.write(pieces)
            self._out_size -= done
            for piece in pieces:
                if left < len(piece):
                    self._out[0] = memoryview(piece)[left:]
                    break
                left -= len(piece)
                self._out.popleft()
            if done < sum(map(len, pieces)):
                self._transport.want_write()
                break
        if not self.clogged:
            self.bell.ring()

    # -- links of the client

    def take_link(self, link: Link, seen: int | None) -> int:
        """From now on *link* gets what comes, behind *seen*; returns the last number that came from the client."""
        try:
            had = self.kept.resume(seen)
        except RemoteProtocolError as e:
            raise Refusal(400, "request", f"after={seen}: {e}") from e
        old, self.link = self.link, link
        if old is not None:
            old.taken_over()
        self.used = clock()
        if not self.kept.full:
            self._watch()
        return had

    def drop_link(self, link: Link) -> None:
        """That one has ended."""
        self.used = clock()
        if self.link is link:
            self.link = None
            self.kept.resume(None)  # half a frame of it is forgotten

    @property
    def nothing_more(self) -> Refusal | None:
        """How it has ended, once a link has had all before that."""
        if self.over is None or self.kept.pending:
            return None
        return self.over.refusal()


def frames_in(body: bytes) -> list[tuple[int, int]]:
    """(kind, number) of each frame of a body that is to hold whole ones.  Raises Refusal (400)."""
    found = []
    at = 0
    while at < len(body):
        if len(body) - at < f.HEADER_SIZE:
            raise Refusal(400, "frames", "the body ends in the middle of a frame")
        kind, _, _, _, seq, _, size = _SEQ.unpack_from(body, at)
        at += f.HEADER_SIZE + size
        if size > f.MAX_FRAME or at > len(body):
            raise Refusal(400, "frames", "the body ends in the middle of a frame, or holds none")
        found.append((kind, seq))
    return found
