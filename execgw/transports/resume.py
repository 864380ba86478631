"""A transport whose link may break: what was written is kept until the other side has it, and goes on over a new link.

The other side (a server, a keeper) keeps the worker and what it sends, and knows the session again; a Connector says
how to get there.  The session above sees nothing but time: no byte is lost, doubled or out of order.

    Ring       frames that were written, until they are acknowledged; where the present link is among them
    Resuming   the transport; a thread of its own connects, at the start and again
"""

from __future__ import annotations

import functools
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import StartError
from ..peer.compat import clock
from ..peer.turn import WATCHING
from ..wire.frames import HEADER, HEADER_SIZE
from .base import Ended, SocketTransport, Transport, _shared_sockets
from .tcp import _NotYet

if TYPE_CHECKING:
    from .._loop import Loop
    from .._session import Session

MOST_KEPT = 8 << 20  # bytes that were written and are not acknowledged; more than a window, so that it hardly counts
FRAME_COST = 96  # what a kept frame needs beside its bytes
AT_A_TIME = 256 * 1024  # bytes that are given to the link in one go
MOST_PIECES = 256
PAUSES = (0.02, 2.0)  # seconds between attempts to connect: the first, and the longest
_HALF = 1 << 31
_MASK = (1 << 32) - 1


class Final(Exception):
    """No attempt to connect will help any more; *ended* says how the worker ended, as far as that is known."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.why)
        self.ended = ended


class Connector(Protocol):
    """How to get to one worker, again and again; all methods may block, in threads.

    connect   a fresh link, and the number of our last frame that the other side has (None: not even our HELLO).
              *seen*: the last frame that we have of it, None if not even its HELLO; *seconds*: how long it may take.
              The first time it starts the worker.  StartError and Final end the session; all else is tried again
    heard     something has come over the present link
    end       end the worker there, at once if *force*; how it ended, if that is told
    close     no link is wanted any more: an attempt that is under way is to be given up
    """

    def connect(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]: ...

    def heard(self) -> None: ...

    def end(self, force: bool) -> Ended | None: ...

    def close(self) -> None: ...


class Ring:
    """Frames on their way out, sans-IO: add(); next(), sent() while a link lasts; trim() when the other has them."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self.most = most
        self.size = 0
        self.hello = b""
        self._frames: deque[tuple[int, bytes]] = deque()
        self._last: int | None = (
            None  # number of the last frame that was added; another process may have written before
        )
        self._next = 0  # index of the first frame that this link has not taken wholly
        self._at = 0  # bytes of it that were taken
        self._hello_at: int | None = None  # the same of the HELLO; None: the other side has it
        self._parts: list[bytes] = []  # a frame that has not come wholly
        self._have = 0

    # -- what is to be sent

    def add(self, pieces: list[Any]) -> int:
        """Keep what is to be sent, however it is cut; return how many bytes there was room for."""
        taken = 0
        for piece in pieces:
            if self.size > self.most and not self._parts:
                break
            taken += len(piece)
            data = piece if type(piece) is bytes else bytes(piece)  # a view may change when its owner goes on
            if not self._parts and len(data) >= HEADER_SIZE:
                _, _, _, _, seq, _, size = HEADER.unpack_from(data)
                if len(data) == HEADER_SIZE + size:
                    self._keep(seq, data)
                    continue
            self._parts.append(data)
            self._have += len(data)
            if self._have >= HEADER_SIZE:
                self._cut()
        return taken

    def _cut(self) -> None:
        head = b"".join(self._parts[:2]) if len(self._parts[0]) < HEADER_SIZE else self._parts[0]
        if len(head) >= HEADER_SIZE and self._have < HEADER_SIZE + HEADER.unpack_from(head)[6]:
            return
        data = b"".join(self._parts)
        at = 0
        while len(data) - at >= HEADER_SIZE:
            unpacked = HEADER.unpack_from(data, at)
            stop = at + HEADER_SIZE + unpacked[6]
            if stop > len(data):
                break
            self._keep(unpacked[4], data[at:stop])
            at = stop
        self._parts = [data[at:]] if at < len(data) else []
        self._have = len(data) - at

    def _keep(self, seq: int, frame: bytes) -> None:
        if seq == 0:  # HELLO is outside of the sequence
            self.hello, self._hello_at = frame, 0
        else:
            self._last = seq
            self._frames.append((seq, frame))
            self.size += len(frame) + FRAME_COST

    # -- what the present link has taken

    def next(self) -> list[Any]:
        """What the link is to take next, in pieces; nothing if it has all."""
        pieces: list[Any] = []
        if self._hello_at is not None:
            pieces.append(memoryview(self.hello)[self._hello_at :])
        size, at = 0, self._at
        for index in range(self._next, len(self._frames)):
            frame = self._frames[index][1]
            pieces.append(memoryview(frame)[at:] if at else frame)
            size += len(frame) - at
            at = 0
            if size >= AT_A_TIME or len(pieces) >= MOST_PIECES:
                break
        return pieces

    def sent(self, size: int) -> None:
        """The link has taken so many bytes of next()."""
        if self._hello_at is not None:
            of_hello = min(size, len(self.hello) - self._hello_at)
            size -= of_hello
            self._hello_at += of_hello
            if self._hello_at < len(self.hello):
                return
            self._hello_at = None
        size += self._at
        while self._next < len(self._frames) and size >= (length := len(self._frames[self._next][1])):
            size -= length
            self._next += 1
        self._at = size

    def is_between(self) -> bool:
        """Whether the link has taken whole frames only, so that something else may go now."""
        return self._at == 0 and not self._hello_at

    def trim(self, ack: int) -> None:
        """Forget what the other side has said that it has."""
        frames = self._frames
        while self._next and (ack - frames[0][0]) & _MASK < _HALF:
            self.size -= len(frames.popleft()[1]) + FRAME_COST
            self._next -= 1

    def rewind(self, had: int | None) -> bool:
        """A new link: go on behind frame *had*, or at the HELLO.  False if that was forgotten here, or never was."""
        if had is not None and self._last is not None and 0 < (had - self._last) & _MASK < _HALF:
            return False
        self._hello_at = None if had is not None or not self.hello else 0
        self._next = self._at = 0
        frames = self._frames
        while frames and had is not None and (had - frames[0][0]) & _MASK < _HALF:
            self.size -= len(frames.popleft()[1]) + FRAME_COST
        return not frames or frames[0][0] == ((had or 0) + 1) & _MASK


class Resuming(SocketTransport):
    """The bytes of one session over one link after the other.  *grace*: seconds without a link until it is given up."""

    chunk = 64 * 1024
    window = 4 << 20
    watches = True

    def __init__(self, connector: Connector, loop: Loop, program: str, seconds: float, grace: float) -> None:
        super().__init__(_NotYet(), loop)  # type: ignore[arg-type]
        self.connector = connector
        self.program = program
        self.grace = grace
        self.breaks = 0  # links that broke, and were replaced
        self._deadline = clock() + seconds  # for the first link
        self._pause = PAUSES[0]
        self._heard = False  # of the other side, over this link
        self._had: int | None = None  # what it had when that began
        self._order = threading.RLock()  # who moves the ring, or changes the link
        self._ring = Ring()
        self._link: Transport | None = None
        self._wanted = False  # the session waits for room
        self._room = threading.Event()
        self._closed = False
        self._closing = threading.Event()
        self._ended: Ended | None = None
        self._on_end: Callable[[], None] | None = None
        self.session: Session

    def attach(self, session: Session) -> None:
        self.session = session
        self._start_connecting(first=True)

    # -- connecting; in a thread

    def _start_connecting(self, first: bool) -> None:
        threading.Thread(target=self._connect, args=(first,), name="execgw-connect", daemon=True).start()

    def _connect(self, first: bool) -> None:
        begun = clock()
        if self._heard:
            self._heard = False
            self._start_anew()
        elif not first:  # a link over which nothing came is no better than none
            self._rest()
        while not self._closing.is_set():
            if self._try(first, begun):
                return
            self._rest()

    def _try(self, first: bool, begun: float) -> bool:
        """One attempt; false if there should be another."""
        try:
            link, had = self.connector.connect(self._seen(), max(self._deadline - clock(), 0.01))
        except StartError as e:
            self._fail(e) if first else self._lose(Ended(why=str(e)))
        except Final as e:
            self._lose(e.ended)
        except Exception as e:
            if clock() < self._deadline:
                return False
            self._lose(Ended(why=f"no connection for {clock() - begun:.3g} s: {e or type(e).__name__}"))
        else:
            if had != self._had:  # it was, though nothing was heard over it
                self._had = had
                self._start_anew()
            self.loop.call_soon(functools.partial(self._adopt, link, had))
        return True

    def _start_anew(self) -> None:
        """The last link was of use: the next may be looked for at once, and as long as ever."""
        self._deadline, self._pause = clock() + self.grace, PAUSES[0]

    def _rest(self) -> None:
        """Not all clients of a server that was away for a moment come back at the same time."""
        self._closing.wait(min(self._pause * random.uniform(0.5, 1), max(self._deadline - clock(), 0.01)))
        self._pause = min(self._pause * 2, PAUSES[1])

    def _seen(self) -> int | None:
        """The last frame that has come wholly; the rest of one that was cut is to come again."""
        session = self.session
        with session.lock:
            mux = session.mux
            if session.about is None:
                session._greeted, session._noise = False, b""
            mux.reader = type(mux.reader)(mux.reader.max_frame)
            return mux.received_seq if session.about is not None else None

    def _adopt(self, link: Transport, had: int | None) -> None:
        """In the loop: here is a new link."""
        session, loop = self.session, self.loop
        with session.lock:
            with self._order:
                if self._closed or self._ended is not None:
                    link.close()
                    return
                if not self._ring.rewind(had):
                    link.close()
                    why = f"the other side says that it has {had} frames, and others are missing"
                    loop.call_soon(lambda: self._lose(Ended(why=why)))
                    return
                self._link = link
                link.loop = loop
                link.on_writable = self._on_room
                link.attach(session)
                self.remoteaddress = link.remoteaddress
                self._fd = link.fileno() or -1
            if session.turn.state == WATCHING:
                loop.watch(session)
            session._read()  # what has come with the link's own handshake makes no descriptor readable
        self.wake()  # a thread that waits takes the descriptor into its poll
        self._on_room()
        session.flush()

    # -- bytes

    def read(self) -> bytes | None:
        link = self._link
        if link is None:
            return b"" if self._at_end else None
        data = link.read()
        if data:
            if not self._heard:
                self._heard = True
                self.connector.heard()
            if self._wanted:
                self.loop.call_soon(self._on_room)  # when the session has seen what it acknowledges
            return data
        if data is None:
            return None
        ended = link.ended()
        self._let_go(link)
        if ended is not None:
            self._set_ended(ended)
        elif not self._closed:
            self.breaks += 1
            self._start_connecting(first=False)
            return None
        self._at_end = True
        return b""

    def _let_go(self, link: Transport) -> None:
        with self._order:
            self._link = None
            with self.loop.lock:
                self._fd = -1
            link.close()

    def write(self, pieces: list[Any]) -> int:
        with self._order:
            if self._closed or self._ended is not None:
                return sum(map(len, pieces))
            self._ring.trim(self.session.mux.acked)
            taken = self._ring.add(pieces)
            self._pump()
            return taken

    def _pump(self) -> None:
        """Give the link what it takes."""
        link = self._link
        while link is not None and (pieces := self._ring.next()):
            size = sum(map(len, pieces))
            done = link.write(pieces)
            self._ring.sent(done)
            if done < size:
                link.want_write()
                return

    def _on_room(self) -> None:
        """The link takes more, or the other side has more."""
        with self._order:
            self._ring.trim(self.session.mux.acked)
            self._pump()
            if self._ring.size > self._ring.most:
                return
            wanted, self._wanted = self._wanted, False
            self._room.set()
        if wanted:
            self.on_writable()

    def want_write(self) -> None:
        self._wanted = True
        self._room.clear()
        self.loop.call_soon(self._on_room)

    def wait_writable(self, timeout: float | None) -> None:
        self._wanted = True
        self._room.clear()
        self._on_room()
        self._room.wait(0.5 if timeout is None else timeout)

    # -- the end

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self._ended is not None:
            call()

    def ended(self) -> Ended | None:
        return self._ended

    def _set_ended(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
            self._closing.set()
            if self._on_end is not None:
                self.loop.call_soon(self._on_end)

    def _lose(self, ended: Ended) -> None:
        """There will be no other link."""
        with self.session.lock:
            self._at_end = True
            self._set_ended(ended)

    def _fail(self, problem: StartError) -> None:
        with self.session.lock:
            self._set_ended(Ended())
            self.session._on_link_end(problem)

    def kill(self, force: bool) -> None:
        if self._ended is None:
            threading.Thread(target=self._kill, args=(force,), name="execgw-kill", daemon=True).start()

    def _kill(self, force: bool) -> None:
        ended = self.connector.end(force)
        if force or ended is not None:
            self._lose(ended or Ended())

    def close_link(self) -> None:
        with self._order:
            self._closed = True
            self._closing.set()
            self._room.set()
            link, self._link = self._link, None
            with self.loop.lock:
                self._fd = -1
        _shared_sockets.discard(self.sock)
        self.connector.close()
        if link is not None:
            link.close()
