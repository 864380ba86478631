"""Changes of a file against an older one that only the receiver has.

The receiver describes each block of the old file by its first 16 bytes and 16 bytes of its SHA-256.  The sender looks
first where the next block should be, then for the first bytes of the blocks around it, with bytes.find: both are C
code in any Python, so that looking costs less than sending.  Now and then it looks for every block at every offset, but
only over the length of one block: where old bytes go on, one of their blocks begins there.
"""

import os
import struct

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

ANCHOR = 16
EACH = 2 * ANCHOR  # bytes that describe a block
SEGMENT = 128  # blocks in a message
WINDOW = 1 << 20
LOOK_AHEAD = 3  # blocks behind the next one that are looked for
MOST_TRIES = 16  # places that look right and are not, before a part is given up
SCAN_FIRST, SCAN_EVERY = 16, 128  # blocks: looking at every offset costs a hundred times as much as reading
SMALLEST = 16 * 1024  # files below are sent as they are

_head = struct.Struct("!IIqIB")
_run = struct.Struct("!qq")


_sha256 = []  # type: List[Any]


def sha256(data=b""):
    # type: (Any) -> Any
    """hashlib.sha256, imported when it is first needed: that takes 4 ms, and most runs need none."""
    if not _sha256:
        import hashlib

        _sha256.append(hashlib.sha256)
    return _sha256[0](data)


def block_size(size):
    # type: (int) -> int
    """Four times the square root, as a power of two: descriptions and half a block of an edit cost about the same."""
    block = 1024
    while block * block < 16 * size and block < 256 * 1024:
        block *= 2
    return block


def describe(number, fd, size, send):
    # type: (int, Any, int, Any) -> None
    """Send the descriptions of all whole blocks of an open file."""
    block = block_size(size)
    count = size // block
    first = 0
    while True:
        here = min(SEGMENT, count - first)
        out = []
        for _ in range(here):
            data = read_full(fd, block)
            out.append(data[:ANCHOR])
            out.append(sha256(data).digest()[:ANCHOR])
        last = first + here >= count
        send(b"s" + _head.pack(number, block, size, first, 1 if last else 0) + b"".join(out))
        first += here
        if last:
            return


def no_description(number):
    # type: (int) -> bytes
    return b"s" + _head.pack(number, 0, 0, 0, 1)


def read_full(fd, size):
    # type: (Any, int) -> bytes
    data = os.read(fd, size)
    if len(data) == size or not data:
        return data
    parts = [data]
    left = size - len(data)
    while left:
        data = os.read(fd, left)
        if not data:
            break
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


class Blocks(object):
    """The descriptions of one old file, as they arrive."""

    def __init__(self, most):
        # type: (int) -> None
        self.most = most  # that are kept: what the other side says must not fill the memory
        self.count = 0
        self.block = 0
        self.size = 0
        self.anchors = []  # type: List[bytes]
        self.hashes = []  # type: List[bytes]
        self.complete = False

    def add(self, data):
        # type: (bytes) -> None
        """One message; ValueError if it makes no sense."""
        _, block, size, first, last = _head.unpack_from(data, 1)
        at = 1 + _head.size
        if first != self.count or (len(data) - at) % EACH or self.complete or (self.block or block) != block:
            raise ValueError("a description of blocks that does not follow")
        if block and (block < 1024 or block > 1 << 20 or (first + (len(data) - at) // EACH) * block > size):
            raise ValueError("a description of blocks that cannot be")
        self.block, self.size = block, size
        self.count += (len(data) - at) // EACH
        self.complete = bool(last)
        for at in range(at, min(len(data), at + EACH * (self.most - len(self.anchors))), EACH):
            self.anchors.append(data[at : at + ANCHOR])
            self.hashes.append(data[at + ANCHOR : at + EACH])


def number_of(data):
    # type: (bytes) -> int
    """Of which file a description is."""
    return struct.unpack_from("!I", data, 1)[0]  # type: ignore[no-any-return]


class Search(object):
    """Writes a file as runs of old blocks and new bytes.

    read(size)   the next bytes of the new file
    want(index)  waits until block *index* is described; false if there is no such block
    emit         .copy(offset, length) and .literal(bytes), in order
    """

    def __init__(self, blocks, read, want, emit):
        # type: (Blocks, Any, Any, Any) -> None
        self.blocks = blocks
        self.read = read
        self.want = want
        self.emit = emit
        self.data = b""
        self.ended = False
        self.lost = 0  # bytes since something matched
        self.next_scan = 0  # at how many lost bytes all blocks are looked for again
        self.scans = 0
        self.index_of = {}  # type: Dict[bytes, int]
        self.saved = 0

    def run(self):
        # type: () -> None
        """Read to the end of the new file."""
        blocks, want = self.blocks, self.want
        at, index = 0, 0
        want(0)
        block = blocks.block
        while True:
            if at + block > len(self.data) and not self.ended:
                self._fill(at)
                at = 0
                continue
            if at >= len(self.data):
                return
            start = index
            data = self.data
            while at + block <= len(data) and want(index):
                if sha256(data[at : at + block]).digest()[:ANCHOR] != blocks.hashes[index]:
                    break
                at += block
                index += 1
            if index > start:
                self.emit.copy(start * block, (index - start) * block)
                self.saved += (index - start) * block
                self.lost = self.next_scan = self.scans = 0
            else:
                at, index = self._resync(at, index)

    def _fill(self, keep):
        # type: (int) -> None
        more = self.read(WINDOW)
        self.ended = not more
        self.data = self.data[keep:] + more if keep < len(self.data) else more

    def _resync(self, at, index):
        # type: (int, int) -> Tuple[int, int]
        """Find the next place that matches; what is before it is sent.  Returns that place and its block."""
        data, block = self.data, self.blocks.block
        found = self._in_place(at, index)
        if self.lost >= self.next_scan and (found is None or found[0] > at + block):
            found = self._anywhere(at) or found
            self.next_scan = self.lost + min(SCAN_FIRST + self.scans, SCAN_EVERY) * block
            self.scans += 4
        if self.lost < WINDOW and (found is None or found[0] > at + block):
            found = self._near(at, found, index)
        if found is None:
            # An anchor may begin in what is seen, and its block end behind it.
            end = len(data) if self.ended else max(len(data) - block, at + 1)
            self.emit.literal(data[at:end])
            self.lost += end - at
            return end, index
        if found[0] > at:
            self.emit.literal(data[at : found[0]])
        return found

    def _in_place(self, at, index):
        # type: (int, int) -> Optional[Tuple[int, int]]
        """The next block that is where it would be if bytes were replaced, and none inserted."""
        data, blocks = self.data, self.blocks
        block = blocks.block
        candidate = index + self.lost // block + 1
        place = at + (candidate - index) * block - self.lost
        tries = 0
        while place + block <= len(data) and tries < MOST_TRIES and self.want(candidate):
            if data[place : place + ANCHOR] == blocks.anchors[candidate]:
                if self._matches(place, candidate):
                    return place, candidate
                tries += 1
            candidate += 1
            place += block
        return None

    def _near(self, at, best, index):
        # type: (int, Optional[Tuple[int, int]], int) -> Optional[Tuple[int, int]]
        """The first place where one of the next blocks begins, and matches."""
        data, anchors = self.data, self.blocks.anchors
        seen = set()  # type: Any
        tries = 0
        for candidate in range(index, index + LOOK_AHEAD):
            if tries > MOST_TRIES or not self.want(candidate):
                break
            anchor = anchors[candidate]
            if anchor in seen:
                continue
            seen.add(anchor)
            end = len(data) if best is None else best[0] + ANCHOR - 1
            place = data.find(anchor, at, end)
            while place >= 0 and tries <= MOST_TRIES:
                if self._matches(place, candidate):
                    best = place, candidate
                    break
                tries += 1
                place = data.find(anchor, place + 1, end)
        return best

    def _anywhere(self, at):
        # type: (int) -> Optional[Tuple[int, int]]
        """Any block that begins within the length of one: where old bytes go on, one must."""
        blocks, data = self.blocks, self.data
        while self.want(len(blocks.anchors)):
            pass
        if len(self.index_of) == 0:
            for number in range(len(blocks.anchors) - 1, -1, -1):
                self.index_of[blocks.anchors[number]] = number
        get = self.index_of.get
        tries = 0
        for place in range(at, min(at + blocks.block, len(data) - blocks.block + 1)):
            candidate = get(data[place : place + ANCHOR])
            if candidate is not None:
                if self._matches(place, candidate):
                    return place, candidate
                tries += 1
                if tries > MOST_TRIES:
                    break
        return None

    def _matches(self, at, index):
        # type: (int, int) -> bool
        blocks = self.blocks
        piece = self.data[at : at + blocks.block]
        return len(piece) == blocks.block and sha256(piece).digest()[:ANCHOR] == blocks.hashes[index]
