"""The near side's Mux for workers that it does not trust: what they make it keep is counted, to the last piece.

Near side only; see docs/guide/trust.md for the bounds.  Mux counts what waits unread against credit; a value in many
chunks leaves that count while it is put together, for else it could never be larger than the window.  Here it is
counted all the same, in `large`, from its first chunk until it is received or given up.
"""

from . import frames as f
from .codec import TEXT
from .errors import RemoteProtocolError
from .frames import FrameReader
from .mux import MOST_UNCLAIMED, Mux

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

    from .mux import Port  # noqa: F401

MAX_VALUE = 128 << 20  # bytes of one value
MAX_HELD = 256 << 20  # of all values that wait here or are being put together
MAX_CHANNELS = 4096  # that are open at a time, if the worker opens one more
MAX_UNCLAIMED_ERROR = 16 * 1024  # of the reason for the end of a channel that nobody has here
MOST_PARTS = 256  # pieces of one frame


class CheckedReader(FrameReader):
    """Joins what arrived in pieces: a view of a large block of input keeps all of it, and small pieces cost more than
    their bytes."""

    def feed(self, data):
        # type: (bytes) -> List[Tuple[int, int, int, int, int, int, Any]]
        frames = FrameReader.feed(self, data)
        if frames and type(frames[0][6]) is list:  # only the first can have begun in an earlier read
            frames[0] = frames[0][:6] + (b"".join(frames[0][6]),)
        if len(self._parts) > MOST_PARTS:
            self._parts = [b"".join(self._parts)]
        return frames


class GuardedMux(Mux):
    """See the file's head."""

    def __init__(self, first):
        # type: (int) -> None
        Mux.__init__(self, first, MAX_VALUE, MAX_HELD, MAX_CHANNELS)
        self.reader = CheckedReader()
        self.large = 0
        self._large = {}  # type: Dict[int, int]  # by channel; of its oldest value, or of the unfinished one

    def _chunk(self, port, kind, flags, form, payload, cost):
        # type: (Port, int, int, int, Any, int) -> Optional[Tuple[Any, ...]]
        if kind == f.EXEC:
            raise RemoteProtocolError("it sent code to run here")
        waited, counted = bool(port.items), port.pending
        event = Mux._chunk(self, port, kind, flags, form, payload, cost)
        if flags & f.ABORT:
            # What was counted before is of the value that waits, if there is one, else of the one that was given up.
            self._release(port, counted if waited else None)
        if self.held + self.large > MAX_HELD:
            raise RemoteProtocolError("more than %d bytes of values wait here or are unfinished" % MAX_HELD)
        return event

    def _count_pending(self, port):
        # type: (Port) -> None
        if port.pending:
            self._large[port.number] = self._large.get(port.number, 0) + port.pending
            self.large += port.pending
        Mux._count_pending(self, port)

    def _release(self, port, amount=None):
        # type: (Port, Optional[int]) -> None
        """Forget *amount* of what was counted for a channel, or all."""
        counted = self._large.pop(port.number, 0)
        amount = counted if amount is None else min(amount, counted)
        self.large -= amount
        if counted > amount:
            self._large[port.number] = counted - amount

    def take(self, port):
        # type: (Port) -> Tuple[int, Any]
        self._release(port)  # all of it is the oldest value's: what comes behind is counted as unread
        return Mux.take(self, port)

    def drop(self, port):
        # type: (Port) -> None
        port.partial = None
        self._release(port)
        Mux.drop(self, port)

    def claim(self, number):
        # type: (int) -> Port
        known = self.ports.get(number)
        port = Mux.claim(self, number)
        if known is not None and port.closed and port in self._unclaimed:
            self._unclaimed.remove(port)  # it would keep what waits there when the channel object is gone
        return port

    def _control(self, kind, number, payload):
        # type: (int, int, bytes) -> Optional[Tuple[Any, ...]]
        port = self.ports.get(number)
        if port is not None and port.partial is not None and kind in (f.END, f.CLOSE):
            port.partial = None  # it will never be finished
            self.held -= port.pending
            port.consumed += port.pending
            port.pending = 0
            if not port.items:
                self._release(port)
        return Mux._control(self, kind, number, payload)

    def _leave_unclaimed(self, port):
        # type: (Port) -> None
        if port.error is not None and len(port.error) > MAX_UNCLAIMED_ERROR:
            text = "(an error of %d bytes)" % len(port.error)
            port.error = bytes(bytearray([TEXT])) + text.encode("ascii")
        if len(self._unclaimed) == MOST_UNCLAIMED and not self._unclaimed[0].claimed:
            self.drop(self._unclaimed.popleft())
        Mux._leave_unclaimed(self, port)
