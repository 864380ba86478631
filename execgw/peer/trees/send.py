"""The sender: lists the tree, then sends what was asked for, and only files that it has listed itself.

Small files go many in a message; a big one in pieces, the changes of one that is there already, or the number of one
with the same content.  What the receiver says is looked at between the pieces; nothing it says makes this side wait
for ever with a full queue, for it says little to each message.
"""

import struct

from . import delta
from .files import Changed, FileSender, clock
from .listing import Malformed
from .contents import COPY_SIZE, ID

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

MOST_LISTS = 1000  # that the receiver has not answered
LISTS_TOGETHER = 16 * 1024  # bytes in one message
MOST_BLOCKS = 1 << 16  # of an old file, and four times those of the new one
AHEAD = 2  # files whose old blocks are asked for in advance
_totals = struct.Struct("!6q")


class Sender(FileSender):
    """One run to one receiver.  The on_... methods are for subclasses to hear of things."""

    def __init__(self, channel, content, lists, dry=False):
        # type: (Any, Any, Any, bool) -> None
        self.channel = channel
        self.content = content
        self.files = content.files
        self.lists = lists
        self.dry = dry
        self.answered = 0
        self.full = []  # type: List[int]
        self.changed = []  # type: List[int]
        self.known = set()  # type: Any  # what was asked for
        self.pending = set()  # type: Any  # what was sent, and not yet heard of
        self.again = set()  # type: Any  # what is sent for the second time
        self.offers = {}  # type: Dict[int, bytes]
        self.blocks = {}  # type: Dict[int, delta.Blocks]
        self.compared = False
        self.totals = None  # type: Optional[Tuple[int, ...]]
        self.sent = self.received = self.saved = 0
        self.by_content = {}  # type: Dict[Tuple[int, bytes], int]
        self.common = {}  # type: Dict[int, int]  # size -> how many files have it
        self.batch = []  # type: List[Tuple[int, bytes, int]]
        self.batch_size = 0
        self.pointed = []  # type: List[int]
        self.away = {}  # type: Dict[int, int]  # sizes of the files that the receiver reads itself
        self.unpolled = 0
        self.spent = 0.0  # seconds in send()

    # -- what subclasses hear

    def on_listed(self):
        # type: () -> None
        """All is compared: what is needed is known."""

    def on_send(self, number):
        # type: (int) -> None
        """The content of a file begins to go out."""

    def on_done(self, number):
        # type: (int) -> None
        """The receiver has it."""

    def on_bytes(self, count):
        # type: (int) -> None
        """So much of the files has been dealt with."""

    def on_problem(self, number, text):
        # type: (int, str) -> None
        """The receiver could not do something."""

    def on_unreadable(self, number, error):
        # type: (int, Exception) -> None
        """This side could not read a file."""

    def on_deleted(self, paths):
        # type: (List[bytes]) -> None
        """The receiver has deleted these."""

    def judge(self, names):
        # type: (List[Tuple[bytes, bool]]) -> List[bool]
        """Which of the names that are only there may be deleted."""
        return [True] * len(names)

    # -- talking

    def _send(self, data):
        # type: (bytes) -> None
        before = clock()
        self.channel.send(data)
        self.spent += clock() - before
        self.sent += len(data)
        self.unpolled += len(data)
        if self.unpolled > COPY_SIZE:
            self._poll()

    def _poll(self):
        # type: () -> None
        """Hear what the receiver has said meanwhile."""
        self.unpolled = 0
        try:
            while True:
                self._hear(self.channel.receive(0))
        except self.channel.TimeoutError:
            pass

    def _wait(self):
        # type: () -> None
        self._hear(self.channel.receive())

    def _hear(self, item):
        # type: (Any) -> None
        if not isinstance(item, bytes):
            raise Malformed("a message that is none")
        self.received += len(item)
        kind = item[:1]
        try:
            self._understand(kind, item)
        except (struct.error, ValueError, KeyError, IndexError) as e:
            raise Malformed("a message of kind %r that makes no sense: %s" % (kind, e))

    def _understand(self, kind, item):
        # type: (bytes, bytes) -> None
        if kind == b"Q":
            raise OSError(item[1:2000].decode("utf-8", "replace"))
        if kind == b"A":
            for number in struct.unpack("!%dI" % (len(item) // 4), item[1:]):
                self.pending.remove(number)
                size = self.away.pop(number, 0)
                if size:
                    self.saved += size
                    self.on_bytes(size)
                self.on_done(number)
        elif kind == b"N":
            self.answered += ID.unpack_from(item, 1)[0]
            for need in struct.unpack("!%dI" % (len(item) // 4 - 1), item[5:]):
                number = need >> 1
                if number in self.known or number not in self.files:
                    raise Malformed("a request for what was not listed, or twice")
                self.known.add(number)
                (self.changed if need & 1 else self.full).append(number)
        elif kind == b"s":
            number = delta.number_of(item)
            self.blocks[number].add(item)
        elif kind == b"P":
            (number,) = ID.unpack_from(item, 1)
            self.pending.discard(number)
            self.on_problem(number, item[5:2000].decode("utf-8", "replace"))
        elif kind == b"R":
            (number,) = ID.unpack_from(item, 1)
            self.pending.remove(number)
            if number in self.again:
                raise Malformed("a file %d is wanted for the third time" % number)
            self.again.add(number)
            self.full.append(number)
        elif kind == b"m":
            for at in range(1, len(item), 36):
                (number,) = ID.unpack_from(item, at)
                self._known(number)
                self.offers[number] = item[at + 4 : at + 36]
        elif kind == b"M":
            self.compared = True
        elif kind == b"E":
            names = [(name[1:], name[:1] == b"d") for name in item[1:].split(b"\0")]
            self._send(b"X" + bytes(bytearray([1 if yes else 0 for yes in self.judge(names)])))
        elif kind == b"K":
            self.on_deleted(item[1:].split(b"\0"))
        elif kind == b"Z":
            self.totals = _totals.unpack_from(item, 1)
        else:
            raise Malformed("a message of kind %r" % (kind,))

    def _known(self, number):
        # type: (int) -> None
        if number not in self.known:
            raise Malformed("word of a file %d that was not asked for" % number)

    # -- the run

    def run(self):
        # type: () -> None
        """Until the receiver has said that it has all."""
        count = 0
        together = []  # type: List[bytes]
        size = 0
        for message in self.lists:
            together.append(ID.pack(len(message)))
            together.append(message)
            size += len(message)
            count += 1
            if size > LISTS_TOGETHER:
                self._send(b"W" + b"".join(together))
                together, size = [], 0
                while count - self.answered > MOST_LISTS:
                    self._wait()
        if together:
            self._send(b"W" + b"".join(together))
        self._send(b"L")
        while not self.compared:
            self._wait()
        if self.answered != count:
            raise Malformed("fewer answers than there were lists")
        self._same()
        self.on_listed()
        if not self.dry:
            self._content()
        self._send(b"T")
        while self.totals is None:
            self._wait()

    def _same(self):
        # type: () -> None
        """Leave out what the receiver has offered the right content for."""
        same = set()
        for number, digest in self.offers.items():
            try:
                if self.content.digest(number) == digest:
                    same.add(number)
            except (OSError, IOError, ValueError, Changed):  # told when it is to be sent
                pass
        if same:
            self.full = [number for number in self.full if number not in same]
            self.changed = [number for number in self.changed if number not in same]
            self.saved += sum([self.files[number][2] for number in same])
            ordered = sorted(same)
            for start in range(0, len(ordered), 1000):
                part = ordered[start : start + 1000]
                self.pending.update(part if not self.dry else [])
                self._send(b"S" + struct.pack("!%dI" % len(part), *part))

    def _content(self):
        # type: () -> None
        for number in self.full:
            size = self.files[number][2]
            self.common[size] = self.common.get(size, 0) + 1
        ahead = self.changed[::-1]
        asked = []  # type: List[int]
        self._ask(ahead, asked)
        done = 0
        while True:
            while done < len(self.full):
                self._one(self.full[done])
                done += 1
            self._flush()
            if asked:
                self._update(asked[0])
                del asked[0]
                self._ask(ahead, asked)
            elif self.pending:  # the receiver may want one of these once more
                self._wait()
            else:
                return

    def _ask(self, ahead, asked):
        # type: (List[int], List[int]) -> None
        while ahead and len(asked) < AHEAD:
            number = ahead.pop()
            size = self.files[number][2]
            self.blocks[number] = delta.Blocks(MOST_BLOCKS + 4 * size // delta.block_size(size))
            self._send(b"G" + ID.pack(number))
            asked.append(number)
