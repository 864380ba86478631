"""What is kept of one worker's session while its near side comes and goes; sans-IO, and the worker knows nothing of it.

    worker --> from_worker() --> kept frames --> take() --> the present link of the near side
    worker <-- from_near()   <-----------------------------'

Two kinds of forgetting.  A frame is *seen* when the near process has acknowledged it (ack of any frame): resume() never
needs it again.  A value is *taken* when code there has received it (TAKEN): adopt(), for another process, never needs
it again.  So a near side that is killed loses nothing that it had not handed on.

TAKEN is numbered like every frame, so that a link which breaks cannot lose it; the worker gets an ACK in its place.
Its payload is (channel u32, count u64) again and again: count is of the values taken, and of the ends seen, since the
session began; ALL once the near side has let go of a closed channel.  Channel 0: the newest that the near side opened.
"""

import struct
from collections import deque

from . import frames as f
from .errors import RemoteProtocolError
from .frames import HEADER, HEADER_SIZE

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Deque, Dict, List, Optional, Set, Tuple  # noqa: F401

MOST_UNSEEN = 8 << 20  # bytes that the near side has not acknowledged, before the worker has to wait
MOST_NOISE = 64 * 1024  # bytes of a worker before its start marker
MOST_NUMBERS = 1 << 16  # channels that were skipped, in each direction; as mux.py has it
FRAME_COST = 96  # as in mux.py
ENTRY_COST = 100  # bytes of memory for each frame that is kept, beside its own
OWED = 64 * 1024  # bytes of the near side after which it gets an ACK, though the worker is silent
ALL = (1 << 64) - 1

_MASK = 0xFFFFFFFF
_taken = struct.Struct("!IQ")
_seq = struct.Struct("!I")


def pack_taken(counts):
    # type: (Dict[int, int]) -> bytes
    """The payload of TAKEN."""
    return b"".join([_taken.pack(number, counts[number]) for number in sorted(counts)])


def _newer(seq, than):
    # type: (int, int) -> int
    """How far *seq* is ahead, modulo 2**32; 0 or less for an old one."""
    ahead = (seq - than) & _MASK
    return ahead if ahead <= _MASK // 2 else ahead - _MASK - 1


class Cutter(object):
    """Cuts a stream into whole frames (kind, flags, channel, seq, ack, all bytes of it)."""

    def __init__(self, last_kind):
        # type: (int) -> None
        self.last_kind = last_kind
        self.clear()

    def clear(self):
        # type: () -> None
        """Forget half a frame."""
        self._parts = []  # type: List[bytes]
        self._size = 0
        self._need = HEADER_SIZE

    def feed(self, data):
        # type: (bytes) -> List[Tuple[int, int, int, int, int, bytes]]
        frames = []  # type: List[Tuple[int, int, int, int, int, bytes]]
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._need:
            return frames
        data = b"".join(self._parts)
        at, end, need = 0, len(data), HEADER_SIZE
        while end - at >= HEADER_SIZE:
            kind, flags, _, channel, seq, ack, size = HEADER.unpack_from(data, at)
            if size > f.MAX_FRAME or not 0 < kind <= self.last_kind:
                raise RemoteProtocolError("no frame: kind %d, %d bytes (at most %d)" % (kind, size, f.MAX_FRAME))
            need = HEADER_SIZE + size
            if end - at < need:
                break
            frames.append((kind, flags, channel, seq, ack, data[at : at + need]))
            at += need
            need = HEADER_SIZE
        self._parts, self._size, self._need = [data[at:]], end - at, need
        return frames


class Entry(object):
    """One frame of the worker."""

    __slots__ = ("cost", "data", "order", "seq")

    def __init__(self, seq, data, order, cost=0):
        # type: (int, bytes, int, int) -> None
        self.seq = seq
        self.data = data
        self.order = order
        self.cost = cost  # what it has cost of its channel's credit


class Line(object):
    """One channel, as the near side's Port has it."""

    def __init__(self, window):
        # type: (int) -> None
        self.sent = 0  # by the near side
        self.allowed = window
        self.send_closed = False
        self.unfinished = False  # the near side is in the middle of a value
        self.received = 0  # of the worker
        self.granted = window
        self.ended = self.closed = False
        self.taken = 0  # values and ends
        self.things = deque()  # type: Deque[List[Entry]]  # the frames of each value or end that is not taken
        self.partial = []  # type: List[Entry]

    def entries(self):
        # type: () -> List[Entry]
        return [entry for thing in self.things for entry in thing] + self.partial

    def state(self):
        # type: () -> Dict[str, Any]
        """What the Port of a near side must be before it gets what is kept."""
        before = self.received - sum([entry.cost for entry in self.entries()])
        return {
            "sent": self.sent, "allowed": self.allowed, "send_closed": self.send_closed,
            "unfinished": self.unfinished, "received": before, "granted": self.granted, "taken": self.taken,
            "ended": self.ended and not self.things,  # of ends that are kept it will hear
        }  # fmt: skip


class Numbers(object):
    """The channel numbers of one side: the newest, and those below it that no frame has named so far."""

    def __init__(self, newest):
        # type: (int) -> None
        self.newest = newest
        self.unseen = set()  # type: Set[int]

    def up_to(self, number):
        # type: (int) -> None
        """There are channels up to this one."""
        if (number - self.newest) // 2 + len(self.unseen) > MOST_NUMBERS:
            raise RemoteProtocolError("channel %d is too far from the newest, %d" % (number, self.newest))
        self.unseen.update(range(self.newest + 2, number + 2, 2))
        self.newest = max(number, self.newest)

    def is_new(self, number):
        # type: (int) -> bool
        """A frame names it: whether that is the first."""
        if number > self.newest:
            self.up_to(number)
        if number not in self.unseen:
            return False
        self.unseen.discard(number)
        return True


class Kept(object):
    """See the file's head.  Not for two threads at a time."""

    def __init__(self, window=1 << 20, most_unseen=MOST_UNSEEN, adoptable=True):
        # type: (int, int, bool) -> None
        # False: nobody will adopt it.  Then what the near side has seen is forgotten, and nothing is noted of channels
        # and questions: two sides that are not trusted could have any number of them.
        self.adoptable = adoptable
        self.window = window  # until the near side's HELLO says another
        self.most_unseen = most_unseen
        self.greeting = []  # type: List[Entry]  # the worker's start marker, and its HELLO
        self.about = None  # type: Optional[Dict[str, str]]  # what the worker said of itself
        self.options = None  # type: Optional[Dict[str, str]]  # what the first near side told it
        self.bye = False  # the near side wants it to end
        self.orders = []  # type: List[Dict[str, str]]  # of the near side, for the owner; he empties it
        self.lines = {}  # type: Dict[int, Line]
        self.asked = {}  # type: Dict[str, Entry]  # questions of the worker without an answer
        self.near_seq = 0  # the last that came from the near side
        self.worker_seq = 0
        self.unseen_size = 0
        self._numbers = (Numbers(0), Numbers(-1))  # even: the worker's; odd: the near side's
        self._unseen = deque()  # type: Deque[Entry]
        self._unsent = deque()  # type: Deque[Entry]  # on the present link
        self._near = Cutter(f.ORDER)
        self._worker = Cutter(f.ACK)
        self._noise = b""
        self._order = 0
        self._owed = 0

    # -- from the worker to the near side

    def from_worker(self, data):
        # type: (bytes) -> None
        """Bytes as they came; the start marker is the first of them that counts."""
        if not self.greeting:
            self._noise, marker, data = (self._noise + data).partition(f.MARKER)
            if not marker:
                if len(self._noise) > MOST_NOISE:
                    raise RemoteProtocolError("%d bytes came, and no worker's hello" % len(self._noise))
                return
            self.greeting.append(Entry(0, marker, 0))
            self._unsent.append(self.greeting[0])
        for frame in self._worker.feed(data):
            kind, seq, raw = frame[0], frame[3], frame[5]
            if kind == f.HELLO:
                if self.about is None:
                    self.about = f.unpack_pairs(raw[HEADER_SIZE:])
                    self.greeting.append(Entry(0, raw, 0))
                    self._unsent.append(self.greeting[1])
                continue
            if _newer(seq, self.worker_seq) != 1:
                raise RemoteProtocolError("frame %d came after frame %d" % (seq, self.worker_seq))
            self.worker_seq = seq
            self._order += 1
            entry = Entry(seq, raw, self._order)
            self._unseen.append(entry)
            self._unsent.append(entry)
            self.unseen_size += len(raw) + ENTRY_COST
            if self.adoptable:
                self._note_worker(kind, frame[1], frame[2], entry)

    def _line(self, number):
        # type: (int) -> Optional[Line]
        line = self.lines.get(number)
        if line is None and number and self._numbers[number % 2].is_new(number):
            line = self.lines[number] = Line(self.window)
        return line

    def _note_worker(self, kind, flags, number, entry):
        # type: (int, int, int, Entry) -> None
        if kind == f.ASK:
            name = f.unpack_pairs(entry.data[HEADER_SIZE:]).get("number")
            if name:
                self.asked[name] = entry
            return
        if kind not in (f.DATA, f.CREDIT, f.END, f.CLOSE):
            return
        line = self._line(number)
        if line is None:
            return
        if kind == f.CREDIT:
            line.allowed += f.unpack_credit(entry.data[HEADER_SIZE:])
        elif kind == f.DATA:
            if line.ended:
                return
            entry.cost = len(entry.data) - HEADER_SIZE + FRAME_COST
            line.received += entry.cost
            if flags & f.ABORT:
                line.partial = []
                return
            line.partial.append(entry)
            if not flags & f.MORE:
                line.things.append(line.partial)
                line.partial = []
        elif not line.closed:
            line.partial = []
            line.things.append([entry])
            line.ended = True
            line.closed = kind == f.CLOSE

    @property
    def full(self):
        # type: () -> bool
        """Whether the worker has to wait: its link is not to be read now."""
        return self.unseen_size > self.most_unseen

    @property
    def pending(self):
        # type: () -> bool
        """Whether take() would give something."""
        return bool(self._unsent) or (self._owed >= OWED and bool(self.greeting))

    def take(self, limit):
        # type: (int) -> bytes
        """The next whole frames for the present link: about *limit* bytes, and one frame at least."""
        parts = []
        while self._unsent and limit > 0:
            data = self._unsent.popleft().data
            parts.append(data)
            limit -= len(data)
        if self._owed >= OWED and self.greeting:
            parts.append(HEADER.pack(f.ACK, 0, 0, 0, 0, self.near_seq, 0))
            self._owed = 0
        return b"".join(parts)

    def speak(self):
        # type: () -> None
        """Have an ACK to give, if there is nothing else: a sign of life."""
        self._owed = max(self._owed, OWED)

    # -- from the near side to the worker

    def from_near(self, data):
        # type: (bytes) -> bytes
        """Bytes of the present link; what of them is for the worker: whole frames, each once."""
        out = []
        for kind, flags, number, seq, ack, raw in self._near.feed(data):
            self._see(ack)
            if kind == f.HELLO:
                if self.options is None:
                    self.options = f.unpack_pairs(raw[HEADER_SIZE:])
                    self.window = _whole(self.options.get("window"), self.window)
                    out.append(raw)
                continue
            if kind == f.ORDER:
                self.orders.append(f.unpack_pairs(raw[HEADER_SIZE:]))
                continue
            ahead = _newer(seq, self.near_seq)
            if ahead < 1:
                continue
            if ahead > 1:
                raise RemoteProtocolError("frame %d came after frame %d" % (seq, self.near_seq))
            self.near_seq = seq
            self._owed += len(raw) + ENTRY_COST
            if kind == f.TAKEN:
                if self.adoptable:
                    self._take_off(raw)
                raw = HEADER.pack(f.ACK, 0, 0, 0, seq, ack, 0)
                self.speak()
            elif kind == f.BYE:
                self.bye = True
            elif self.adoptable:
                self._note_near(kind, flags, number, raw)
            out.append(raw)
        return b"".join(out)

    def _see(self, ack):
        # type: (int) -> None
        """The near process has all frames up to this one."""
        if _newer(ack, self.worker_seq) > 0:
            raise RemoteProtocolError("frame %d is acknowledged, and there was none but %d" % (ack, self.worker_seq))
        unseen = self._unseen
        while unseen and _newer(unseen[0].seq, ack) <= 0:
            self.unseen_size -= len(unseen.popleft().data) + ENTRY_COST

    def _note_near(self, kind, flags, number, raw):
        # type: (int, int, int, bytes) -> None
        if kind == f.TELL:
            self.asked.pop(f.unpack_pairs(raw[HEADER_SIZE:]).get("number", ""), None)
        elif kind in (f.EXEC, f.DATA, f.CREDIT, f.END, f.CLOSE):
            line = self._line(number)
            if line is None:
                return
            if kind == f.CREDIT:
                line.granted += f.unpack_credit(raw[HEADER_SIZE:])
            elif kind == f.END:
                line.send_closed, line.unfinished = True, False
            elif kind == f.CLOSE:
                del self.lines[number]
            else:
                line.unfinished = bool(flags & f.MORE)
                if not flags & f.ABORT:  # which costs its sender nothing
                    line.sent += len(raw) - HEADER_SIZE + FRAME_COST

    def _take_off(self, raw):
        # type: (bytes) -> None
        if (len(raw) - HEADER_SIZE) % _taken.size:
            raise RemoteProtocolError("TAKEN has %d bytes of payload" % (len(raw) - HEADER_SIZE))
        for at in range(HEADER_SIZE, len(raw), _taken.size):
            number, count = _taken.unpack_from(raw, at)
            if not number:
                if count > _MASK or not count % 2:
                    raise RemoteProtocolError("%d is no channel of a near side" % count)
                self._numbers[1].up_to(count)
                continue
            line = self.lines.get(number)
            if line is None:
                continue
            while line.things and line.taken < count:
                line.things.popleft()
                line.taken += 1
            if line.closed and not line.things:
                del self.lines[number]

    # -- other links, other near sides

    def resume(self, seen):
        # type: (Optional[int]) -> int
        """The same near side has a new link, and all frames up to *seen*; None: it has not even the worker's HELLO.

        Returns the last number that came from it.  Half a frame of the old link is forgotten, either way.
        """
        self._near.clear()
        self._owed = 0
        if seen is not None:
            self._see(seen)
        self._unsent = deque(self.greeting if seen is None else [])
        self._unsent.extend(self._unseen)
        return self.near_seq

    def adopt(self):
        # type: () -> Dict[str, Any]
        """Another near side takes over.  Returns what its Mux must know; then it gets what the last one had not taken.

        The frames are numbered anew, and end with the number that the worker's last one had.  Answers to questions of
        the last near side are dropped.
        """
        self._near.clear()
        self._owed = 0
        kept = [entry for line in self.lines.values() for entry in line.entries()]
        kept.extend(self.asked.values())
        kept.sort(key=lambda entry: entry.order)
        first = seq = (self.worker_seq - len(kept)) & _MASK
        for entry in kept:
            seq = (seq + 1) & _MASK
            entry.seq = seq
            entry.data = entry.data[:8] + _seq.pack(seq) + _seq.pack(self.near_seq) + entry.data[16:]
        self._unseen, self._unsent = deque(kept), deque(kept)
        self.unseen_size = sum([len(entry.data) + ENTRY_COST for entry in kept])
        channels = dict([(number, line.state()) for number, line in self.lines.items()])
        far, near = self._numbers
        for number in near.unseen:  # opened, told in a value perhaps, and not used so far
            channels[number] = Line(self.window).state()
        return {
            "about": self.about, "options": self.options, "window": self.window, "channels": channels,
            "seq": self.near_seq, "seen": first, "newest": near.newest,
            "newest_theirs": far.newest, "unseen_theirs": sorted(far.unseen),
        }  # fmt: skip


def _whole(text, default):
    # type: (Optional[str], int) -> int
    try:
        return default if text is None else max(int(text), 1)
    except ValueError:
        raise RemoteProtocolError("window=%r is no number of bytes" % (text,))
