"""The queue of one process: numbered messages that wait until somebody has them.  Sans-IO.

    put() -> [oldest ... newest] -> take()          delivered, and gone
                                 -> after(n)        delivered, and kept until acknowledged by acknowledge(n)
                                 -> after(n), pushed(n)   sent into a stream: kept for a reconnect while there is room

At most half of the bound is filled before the queue is *full*: then the server takes no more from the code.  A single
message is at most the other half, so what is kept never exceeds the bound, whichever comes last.  What has to go is
noted: whoever asks for it learns how many messages are no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

COST = 200  # bytes that a message needs beside its value, measured on 64-bit CPython
MOST_HOLES = 64

VALUE, RAISED, END = "value", "raised", "end"


@dataclass(slots=True)
class Message:
    """What the code sent; *data* are the bytes of the value, or of the error as JSON."""

    seq: int
    channel: int
    kind: str
    form: int
    data: bytes

    @property
    def cost(self) -> int:
        """Bytes that it counts for."""
        return len(self.data) + COST


@dataclass(frozen=True)
class Hole:
    """Messages that were dropped; the queue goes on with *first*."""

    dropped: int
    first: int


class Messages:
    """See the file's head."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.largest = bound // 2
        self.size = 0
        self.newest = 0
        self.dropped = 0  # in all
        self._kept: deque[Message] = deque()
        self._pushed = 0
        self._holes: list[tuple[int, int]] = []  # (first, last) of what was dropped, and is not yet told

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def full(self) -> bool:
        """Whether nothing should be added now, for all that is kept was not yet read."""
        self._drop_pushed()
        return self.size >= self.largest

    def put(self, channel: int, kind: str, form: int, data: bytes) -> Message:
        """Add a message."""
        self.newest += 1
        message = Message(self.newest, channel, kind, form, data)
        self._kept.append(message)
        self.size += message.cost
        return message

    @property
    def oldest(self) -> int:
        """The number of the oldest message that is kept, or of the next one."""
        return self._kept[0].seq if self._kept else self.newest + 1

    # -- reading

    def take(self) -> Message | Hole | None:
        """The oldest message that no stream has had, which is thereby gone; a hole is told once."""
        self.acknowledge(self._pushed)
        if self._holes:
            hole = Hole(sum(last - first + 1 for first, last in self._holes), self.oldest)
            self._holes.clear()
            return hole
        if not self._kept:
            return None
        message = self._kept.popleft()
        self.size -= message.cost
        return message

    def put_back(self, message: Message) -> None:
        """It could not be delivered after all."""
        self._kept.appendleft(message)
        self.size += message.cost

    def after(self, number: int) -> Message | Hole | None:
        """The first message behind *number*, which stays."""
        dropped = sum(last - max(first, number + 1) + 1 for first, last in self._holes if last > number)
        if dropped:
            return Hole(dropped, self.oldest)
        # Numbers are without gaps but for what plain take() and put_back() have left.
        if self._kept and self._kept[0].seq <= number:
            at = number + 1 - self._kept[0].seq
            if at < len(self._kept) and self._kept[at].seq == number + 1:
                return self._kept[at]
        return next((message for message in self._kept if message.seq > number), None)

    def acknowledge(self, number: int) -> None:
        """The client has all up to *number*."""
        while self._kept and self._kept[0].seq <= number:
            self.size -= self._kept.popleft().cost
        self._holes = [hole for hole in self._holes if hole[1] > number]

    def pushed(self, number: int) -> None:
        """All up to *number* were sent into a stream: they may go when there is no room."""
        self._pushed = max(self._pushed, number)

    # -- room

    def make_room(self) -> int:
        """Drop the oldest until the queue is not full; returns how many."""
        before = self.dropped
        while self.size >= self.largest and self._kept:
            self._drop_oldest()
        return self.dropped - before

    def clear(self) -> None:
        """Drop all."""
        while self._kept:
            self._drop_oldest()

    def _drop_pushed(self) -> None:
        while self.size >= self.largest and self._kept and self._kept[0].seq <= self._pushed:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        message = self._kept.popleft()
        self.size -= message.cost
        if message.seq > self._pushed:
            self.dropped += 1
        if self._holes and self._holes[-1][1] == message.seq - 1:
            self._holes[-1] = self._holes[-1][0], message.seq
        else:
            self._holes.append((message.seq, message.seq))
            if len(self._holes) > MOST_HOLES:
                self._holes[:2] = [(self._holes[0][0], self._holes[1][1])]
