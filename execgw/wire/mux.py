"""Channels over one stream of bytes: feed(bytes) -> events; header(...) -> bytes.  Sans-IO, as h11 is.

All state has moved when feed() returns.  Two locks of the owner guard a Mux: the *reading* lock around feed(), take()
and everything about incoming values, the *sending* lock around header() and everything outgoing.  Counters that both
sides look at have one writer each and only grow (`allowed` by reading, `sent` by sending), so they need no third.

Credit.  A frame of DATA costs its size + FRAME_COST.  The receiver has granted a window of bytes when a channel opens
and grants more as values are taken, half a window at a time.  A sender may send a chunk while it has any credit left,
so at most one chunk more than was granted is ever on its way.  Chunks of an unfinished value count as taken at once
while no finished value waits before it (else a value larger than the window could never arrive).
"""

from . import frames as f
from .compat import deque
from .errors import LocalProtocolError, RemoteProtocolError
from .frames import HEADER, FrameReader

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Deque, Dict, List, Optional, Set, Tuple  # noqa: F401

WINDOW = 1 << 20  # unless the two sides have agreed on another (HELLO)
FRAME_COST = 96  # what a queued value needs beside its bytes, measured on 64-bit CPython; and the header
MOST_CHANNELS = 1 << 16  # open at a time, as far as the other side opened them
MOST_UNCLAIMED = 1024
LAST_CHANNEL = (1 << 32) - 1
_MASK = 0xFFFFFFFF

# events: (PORT, port) its items, credit or end changed; (PART, port) a piece of a value came; (TASK, port, form, data)
# an EXEC; (HEARD, kind, payload) for HELLO, ASK, TELL, BYE; (REFUSED, port, why) it sent what it must not: close it
PORT, PART, TASK, HEARD, REFUSED = "port", "part", "task", "heard", "refused"


class Port(object):
    """One channel, as one side sees it."""

    __slots__ = (
        "number", "sent", "allowed", "busy", "send_closed",
        "items", "partial", "partial_size", "pending", "received", "consumed", "granted", "window",
        "ended", "error", "closed", "claimed", "waiters", "notify", "blocked",
    )  # fmt: skip

    def __init__(self, number, window=WINDOW):
        # type: (int, int) -> None
        self.number = number
        # sending
        self.sent = 0  # bytes charged so far
        self.allowed = window  # bytes that the other side allows in all; written by the reading side
        self.busy = False  # a value of several chunks is on its way out
        self.send_closed = False  # nothing more may be sent: END or CLOSE, by whichever side
        # receiving
        self.items = deque()  # type: Deque[Tuple[int, Any, int]]  # (form, data, cost)
        self.partial = None  # type: Any  # pieces of an unfinished value
        self.partial_size = 0
        self.pending = 0  # cost of its chunks that is not yet counted as consumed
        self.received = 0  # bytes charged so far
        self.consumed = 0
        self.granted = window  # allowed to the other side in all
        self.window = window
        self.ended = False  # the other side will send no more
        self.error = None  # type: Any  # why: bytes of a CLOSE, or an exception; raised once
        self.closed = False  # by either side, both ways
        # the owner's
        self.claimed = False  # a channel object stands for it
        self.waiters = []  # type: List[Any]
        self.notify = None  # type: Any  # called with the port, under the reading lock, when it changed
        self.blocked = 0  # threads that wait in send

    @property
    def credit(self):
        # type: () -> int
        return self.allowed - self.sent

    def __repr__(self):
        # type: () -> str
        return "<Port %d sent %d of %d, %d queued%s>" % (
            self.number, self.sent, self.allowed, len(self.items), " ended" if self.ended else "",
        )  # fmt: skip


class Mux(object):
    """The channels of one session, as one side sees them.  *first* is the number of this side's first channel."""

    keeps = False  # true in kept_mux.py, which must hear what user code has seen

    def __init__(self, first, max_value=None, max_held=None, max_channels=MOST_CHANNELS):
        # type: (int, Optional[int], Optional[int], int) -> None
        self.max_channels = max_channels
        self.reader = FrameReader()
        self.window = WINDOW
        self.ports = {}  # type: Dict[int, Port]
        self.max_value = max_value  # bytes of one value in chunks; None: as the memory allows
        self.max_held = max_held  # bytes of all values that wait here
        self.held = 0
        self.dropped = 0  # frames for channels that are no more
        self._next = first
        self._theirs = 0  # how many of the ports the other side has opened
        self._newest_theirs = (3 - first) - 2  # the newest channel number that the other side used
        self._unclaimed = deque()  # type: Deque[Port]  # closed by the other side before this side knew them
        self._skipped = set()  # type: Set[int]  # below it, but not yet seen
        self.seq = 0  # of the last frame sent
        self.received_seq = 0
        self.acked = 0  # the last of our frames that the other side has

    # -- channels

    def open(self):
        # type: () -> Port
        """A new channel of this side's own; the other side learns of it by its first frame."""
        number = self._next
        if number > LAST_CHANNEL:
            raise LocalProtocolError("all %d channel numbers of this session are used up" % (LAST_CHANNEL // 2))
        self._next = number + 2
        self.ports[number] = port = Port(number, self.window)
        return port

    def claim(self, number):
        # type: (int) -> Port
        """The port for a channel number that came in a value; a closed one if it is no more."""
        port = self.ports.get(number)
        if port is None:
            port = self._their_new(number) if self._is_theirs(number) else None
        if port is None:
            port = Port(number)
            port.ended = port.closed = port.send_closed = True
        port.claimed = True
        if port.closed:
            self._forget(number)
        return port

    def drop(self, port):
        # type: (Port) -> None
        """This side is done with a channel: what still comes for it is dropped, what waits is not held against it."""
        port.closed = port.send_closed = port.ended = True
        if port.items or port.pending:
            self.held -= port.pending + sum([item[2] for item in port.items])
            port.pending = 0
            port.items = deque([(form, data, 0) for form, data, _ in port.items])
        self._forget(port.number)

    def _forget(self, number):
        # type: (int) -> None
        if self.ports.pop(number, None) is not None and self._is_theirs(number):
            self._theirs -= 1

    def _is_theirs(self, number):
        # type: (int) -> bool
        return (number - self._newest_theirs) % 2 == 0

    def _their_new(self, number):
        # type: (int) -> Optional[Port]
        """A port for a number of the other side's that was never seen before, else None."""
        newest = self._newest_theirs
        if number > newest:
            if (number - newest) // 2 + len(self._skipped) > self.max_channels:
                raise RemoteProtocolError("channel %d is too far from the newest, %d" % (number, newest))
            self._skipped.update(range(newest + 2, number, 2))
            self._newest_theirs = number
        elif number in self._skipped:
            self._skipped.discard(number)
        else:
            return None
        if self._theirs >= self.max_channels:  # our own are our own affair
            raise RemoteProtocolError("more than %d channels are open" % self.max_channels)
        self._theirs += 1
        self.ports[number] = port = Port(number, self.window)
        return port

    # -- outgoing

    def header(self, kind, flags, form, channel, size):
        # type: (int, int, int, int, int) -> bytes
        """The header of the next frame; its payload of *size* bytes must follow."""
        self.seq = seq = (self.seq + 1) & _MASK
        return HEADER.pack(kind, flags, form, channel, seq, self.received_seq, size)

    def hello(self, payload):
        # type: (bytes) -> bytes
        """HELLO is outside of the sequence: a resumed session says it again."""
        return HEADER.pack(f.HELLO, 0, 0, 0, 0, self.received_seq, len(payload)) + payload

    # -- incoming

    def feed(self, data):
        # type: (bytes) -> List[Tuple[Any, ...]]
        """Take bytes as they came; return what they mean.  Raises RemoteProtocolError: the session is then over."""
        events = []  # type: List[Tuple[Any, ...]]
        ports = self.ports
        touched = None
        for kind, flags, form, number, seq, ack, payload in self.reader.feed(data):
            if kind == f.HELLO:
                events.append((HEARD, kind, _join(payload)))
                continue
            if seq != self.received_seq + 1:
                if kind == f.ACK or not self._in_sequence(seq):
                    if (ack - self.acked) & _MASK <= _MASK // 2:  # a repeated frame says what is old
                        self.acked = ack
                    continue
            self.received_seq = seq
            self.acked = ack
            if kind == f.DATA or kind == f.EXEC:
                port = ports.get(number)
                if port is None:
                    port = self._their_new(number) if number and self._is_theirs(number) else None
                    if port is None:
                        self.dropped += 1
                        continue
                if port.ended:
                    self.dropped += 1
                    continue
                cost = FRAME_COST + (
                    len(payload) if type(payload) is not list else sum([len(part) for part in payload])
                )
                port.received += cost
                if port.received > port.granted + f.MAX_FRAME:
                    raise RemoteProtocolError("channel %d got %d bytes more than it has credit for" % (
                        number, port.received - port.granted))  # fmt: skip
                self.held += cost
                if self.max_held is not None and self.held > self.max_held:
                    raise RemoteProtocolError("more than %d bytes wait here unread" % self.max_held)
                if kind == f.DATA and not flags and port.partial is None:
                    port.items.append((form, payload, cost))
                    if port is not touched:
                        events.append((PORT, port))
                        touched = port
                else:
                    event = self._chunk(port, kind, flags, form, payload, cost)
                    if event is not None:
                        events.append(event)
                        touched = None
            else:
                touched = None
                event = self._control(kind, number, _join(payload))
                if event is not None:
                    events.append(event)
        return events

    def _in_sequence(self, seq):
        # type: (int) -> bool
        """Whether an unexpected number is new (after 2**32 - 1 comes 0); a repeated one is not."""
        ahead = (seq - self.received_seq) & _MASK
        if ahead == 1:
            return True
        if ahead == 0 or ahead > _MASK // 2:
            return False
        raise RemoteProtocolError("frame %d came after frame %d" % (seq, self.received_seq))

    def _chunk(self, port, kind, flags, form, payload, cost):
        # type: (Port, int, int, int, Any, int) -> Optional[Tuple[Any, ...]]
        """A piece of a large value, or an EXEC."""
        if flags & f.ABORT:
            self._count_pending(port)
            self.held -= cost
            port.consumed += cost
            port.partial = None
            return PORT, port
        if port.partial is None:
            port.partial = []
            port.partial_size = 0
        if type(payload) is list:
            port.partial.extend(payload)
        else:
            port.partial.append(payload)
        port.partial_size += cost - FRAME_COST
        port.pending += cost
        if self.max_value is not None and port.partial_size > self.max_value:
            return REFUSED, port, "a value of more than %d bytes" % self.max_value
        if flags & f.MORE:
            if port.items:
                return None
            self._count_pending(port)
            return PART, port
        data, port.partial = port.partial, None
        if kind == f.EXEC:
            self._count_pending(port)
            return TASK, port, form, data
        port.items.append((form, data, port.pending))
        port.pending = 0
        return PORT, port

    def _count_pending(self, port):
        # type: (Port) -> None
        """Chunks that nothing waits before are as good as taken."""
        self.held -= port.pending
        port.consumed += port.pending
        port.pending = 0

    def _control(self, kind, number, payload):
        # type: (int, int, bytes) -> Optional[Tuple[Any, ...]]
        if kind in (f.ASK, f.TELL, f.BYE):
            return HEARD, kind, payload
        if kind == f.ACK:
            return None
        port = self.ports.get(number)
        if port is None and kind != f.CREDIT and number and self._is_theirs(number):
            port = self._their_new(number)
        if port is None:
            self.dropped += 1
            return None
        if kind == f.CREDIT:
            port.allowed += f.unpack_credit(payload)
            return PORT, port
        port.ended = True
        if kind == f.CLOSE:
            port.closed = port.send_closed = True
            port.error = payload or None
            if port.claimed:
                self._forget(number)
            else:
                self._leave_unclaimed(port)
        return PORT, port

    def _leave_unclaimed(self, port):
        # type: (Port) -> None
        """Its number may still come in a value that nobody has read yet: keep what it holds, but not of too many."""
        if not port.items and port.error is None:
            self._forget(port.number)
            return
        self._unclaimed.append(port)
        if len(self._unclaimed) > MOST_UNCLAIMED:
            oldest = self._unclaimed.popleft()
            if not oldest.claimed:
                self.held -= sum([item[2] for item in oldest.items])
                self._forget(oldest.number)

    def take(self, port):
        # type: (Port) -> Tuple[int, Any]
        """The oldest value of a port that has one: (form, data)."""
        form, data, cost = port.items.popleft()
        self.held -= cost
        port.consumed += cost
        if port.pending and not port.items:
            self._count_pending(port)
        return form, data

    def grant(self, port):
        # type: (Port) -> int
        """Bytes of credit to give now: none until they make half a window."""
        more = port.consumed + port.window - port.granted
        if more < self.window // 2 or port.ended:
            return 0
        port.granted += more
        return more


def _join(payload):
    # type: (Any) -> bytes
    return b"".join(payload) if type(payload) is list else payload
