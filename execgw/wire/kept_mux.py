"""The near side's Mux of a session that outlives its link: it notes what user code has taken, for the keeper to forget.

Near side only; kept.py is the other half.  `untold` is what TAKEN is to say; who owns this sends it now and then, and
hears by on_taken() that there is something to say, under the reading lock.  It must be sent before a value that holds
a channel of this side's: whoever comes after us must not use its number again.
"""

from . import frames as f
from .guarded import CheckedReader, GuardedMux
from .kept import ALL, pack_taken
from .mux import Port

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401


_MASK = 0xFFFFFFFF


def _nobody():
    # type: () -> None
    pass


class KeptReader(CheckedReader):
    """Keeps OVER, which the keeper says, from the Mux; what is in it is in `over` then."""

    last_kind = f.OVER

    def __init__(self, max_frame=f.MAX_FRAME):
        # type: (int) -> None
        CheckedReader.__init__(self, max_frame)
        self.over = None  # type: Optional[Dict[str, str]]
        self.ack = 0  # the newest; a worker may have had less than its keeper, so the last one may be older

    def feed(self, data):
        # type: (bytes) -> List[Tuple[int, int, int, int, int, int, Any]]
        frames = CheckedReader.feed(self, data)
        for at, frame in enumerate(frames):
            if (frame[5] - self.ack) & _MASK <= _MASK // 2:
                self.ack = frame[5]
            if frame[0] > f.LAST_KIND:
                self.over = f.unpack_pairs(bytes(frame[6]))
                return frames[:at]  # what comes behind it counts no more
        return frames

    def clear(self):
        # type: () -> None
        """Forget half a frame: the next bytes are of another link."""
        self._tail, self._parts, self._head, self._missing = b"", [], None, 0


class KeptMux(GuardedMux):
    """See the file's head."""

    keeps = True

    def __init__(self, first):
        # type: (int) -> None
        GuardedMux.__init__(self, first)
        self.reader = KeptReader()
        self.on_taken = _nobody  # type: Callable[[], None]
        self.on_fed = _nobody  # type: Callable[[], None]  # after each read: acknowledgements may have come
        self.newest_ack = 0  # the last of our frames that the keeper has
        self.untold = {}  # type: Dict[int, int]
        self._counts = {}  # type: Dict[int, int]  # values and ends taken of each channel that the keeper keeps
        self._ends = {}  # type: Dict[int, int]  # that have come, and that nobody has seen

    @property
    def over(self):
        # type: () -> Optional[Dict[str, str]]
        """What the keeper has said of the end."""
        return self.reader.over if isinstance(self.reader, KeptReader) else None

    def restore(self, state):
        # type: (Dict[str, Any]) -> None
        """Go on where another near side was; *state* is what Kept.adopt() gave."""
        self.window = state["window"]
        self.seq = self.acked = self.newest_ack = state["seq"]
        self.received_seq = state["seen"]
        self._next = state["newest"] + 2
        self._newest_theirs = state["newest_theirs"]
        self._skipped = set(state["unseen_theirs"])
        for name, line in state["channels"].items():
            number = int(name)
            port = self.ports[number] = Port(number, self.window)
            self._theirs += self._is_theirs(number)
            port.sent, port.allowed, port.send_closed = line["sent"], line["allowed"], line["send_closed"]
            port.received = port.consumed = line["received"]
            port.granted, port.ended = line["granted"], line["ended"]
            port.claimed = True  # whoever goes on makes a channel of each
            self._counts[number] = line["taken"]

    def take_untold(self):
        # type: () -> bytes
        """The payload of a TAKEN, or nothing; under the reading lock."""
        untold, self.untold = self.untold, {}
        return pack_taken(untold)

    # -- what is noted

    def _tell(self, number, count):
        # type: (int, int) -> None
        self.untold[number] = count
        self.on_taken()

    def _count(self, number, more):
        # type: (int, int) -> None
        if more and number in self._counts:
            self._counts[number] = count = self._counts[number] + more
            self._tell(number, count)

    def seen(self, port):
        # type: (Port) -> None
        """User code was told that nothing more will come."""
        self._count(port.number, self._ends.pop(port.number, 0))
        if port.closed:
            self._counts.pop(port.number, None)

    def _let_go(self, number):
        # type: (int) -> None
        """Nobody will ever look at this closed channel again."""
        self._ends.pop(number, None)
        if self._counts.pop(number, None) is not None:
            self._tell(number, ALL)

    # -- where Mux does something

    def feed(self, data):
        # type: (bytes) -> List[Tuple[Any, ...]]
        reader = self.reader
        assert isinstance(reader, KeptReader)
        reader.ack = self.newest_ack
        events = GuardedMux.feed(self, data)
        self.newest_ack = reader.ack
        self.on_fed()
        return events

    def open(self):
        # type: () -> Port
        port = GuardedMux.open(self)
        self._counts[port.number] = 0
        self._tell(0, port.number)
        return port

    def _their_new(self, number):
        # type: (int) -> Optional[Port]
        port = GuardedMux._their_new(self, number)
        if port is not None:
            self._counts[number] = 0
        return port

    def take(self, port):
        # type: (Port) -> Tuple[int, Any]
        item = GuardedMux.take(self, port)
        self._count(port.number, 1)
        return item

    def drop(self, port):
        # type: (Port) -> None
        if port.closed:
            self._let_go(port.number)
        else:  # a CLOSE goes out, which says all
            self._counts.pop(port.number, None)
            self._ends.pop(port.number, None)
            self.untold.pop(port.number, None)
        GuardedMux.drop(self, port)

    def _control(self, kind, number, payload):
        # type: (int, int, bytes) -> Optional[Tuple[Any, ...]]
        event = GuardedMux._control(self, kind, number, payload)
        if kind in (f.END, f.CLOSE) and number in self._counts:
            self._ends[number] = self._ends.get(number, 0) + 1
        return event

    def _leave_unclaimed(self, port):
        # type: (Port) -> None
        GuardedMux._leave_unclaimed(self, port)
        if self.ports.get(port.number) is not port:
            self._let_go(port.number)
