"""How the sender reads files and sends content: in batches, in pieces, as changes, or by the number of another."""

import os
import stat
import struct
import time

from . import delta, places
from .places import join, mtime_of
from .contents import DELTA, HOLES, PLAIN, BEGIN, ID, SMALL_FILE, digest_of

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Tuple  # noqa: F401

BATCH = 256 * 1024
MOST_POINTED = 256  # files that the receiver is to read itself, in one message; fewer if they are large
POINTED_BYTES = 4 << 20
MOST_DIRECT = 1 << 30  # bytes of a file; copying a larger one would be silent for too long
SMALL = 64 * 1024
PIECE = 256 * 1024
SLOW = 20e6  # bytes in a second; a link below is worth compressing for
LEAST_SPENT = 0.5  # seconds in send(), after which the speed of the link is known
LEAST_DOUBLE = 1024  # size from which on the same content is looked for
clock = getattr(time, "monotonic", time.time)
_pair = struct.Struct("!II")


class Changed(Exception):
    """A file is not what it was when it was listed."""


class Content(object):
    """The files of a walk, by their numbers; opened without following links, below the root that was walked."""

    def __init__(self, walk):
        # type: (Any) -> None
        self.walk = walk
        self.files = walk.files
        self.digests = {}  # type: Dict[int, bytes]

    def path(self, number):
        # type: (int) -> bytes
        """The path of a listed file."""
        directory, name = self.files[number][:2]
        return join(directory, places.as_bytes(name))

    def open(self, number):
        # type: (int) -> Tuple[Any, Any]
        """(descriptor, fstat)"""
        directory, name, _, _, _, sparse = self.files[number]
        flags = places.READ if sparse is not None else places.READ & ~places.NOFOLLOW  # a link that is copied
        here = self.walk.places[directory]
        fd = here.open(name, flags)
        st = here.fstat(fd, name, sparse is None)
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise Changed("it is no regular file any more")
        return fd, st

    def stat(self, number, fd):
        # type: (int, Any) -> Any
        """How an open file is now."""
        directory, name, _, _, _, sparse = self.files[number]
        return self.walk.places[directory].fstat(fd, name, sparse is None)

    def whole(self, number):
        # type: (int) -> Tuple[bytes, int]
        """(content, mtime) of a small file."""
        fd, st = self.open(number)
        try:
            if st.st_size > SMALL:
                raise Changed("it grew while the tree was copied")
            data = delta.read_full(fd, st.st_size)
            if len(data) < st.st_size:
                raise Changed("it was cut while it was read")
            return data, mtime_of(st)
        finally:
            os.close(fd)

    def digest(self, number):
        # type: (int) -> bytes
        """SHA-256, computed once for all targets."""
        found = self.digests.get(number)
        if found is None:
            fd, _ = self.open(number)
            try:
                found = self.digests[number] = digest_of(fd)
            finally:
                os.close(fd)
        return found

    def piece(self, number, fd, offset, size):
        # type: (int, Any, int, int) -> bytes
        """The next bytes of an open file."""
        return os.read(fd, size)


class FileSender(object):
    """The part of a Sender that reads files."""

    content = files = blocks = common = by_content = pending = again = batch = pointed = away = None  # type: Any  # see send.py
    batch_size = saved = sent = pointed_bytes = 0
    direct = False  # the receiver reads the source itself
    spent = 0.0
    _send = _wait = on_send = on_bytes = on_unreadable = None  # type: Any

    def _one(self, number):
        # type: (int) -> None
        size = self.files[number][2]
        try:
            if self.direct and number not in self.again and self.files[number][5] is False and size <= MOST_DIRECT:
                self._point(number, size)
            elif size <= SMALL:
                self._small(number)
            elif not self._double(number, size):
                self._big(number)
        except (OSError, IOError, ValueError, Changed) as e:
            self._unreadable(number, e)

    def _unreadable(self, number, error):
        # type: (int, Exception) -> None
        self._send(b"V" + ID.pack(number))
        self.on_unreadable(number, error)

    def _point(self, number, size):
        # type: (int, int) -> None
        """Have the receiver read this file itself."""
        self.pending.add(number)
        self.on_send(number)
        self.away[number] = size
        self.pointed.append(number)
        self.pointed_bytes += size
        if len(self.pointed) >= MOST_POINTED or self.pointed_bytes >= POINTED_BYTES:
            self._flush()

    def _small(self, number):
        # type: (int) -> None
        data, mtime = self.content.whole(number)
        if len(data) >= LEAST_DOUBLE and number not in self.again and self.common.get(self.files[number][2], 0) > 1:
            key = len(data), delta.sha256(data).digest()
            first = self.by_content.setdefault(key, number)
            if first != number:
                self._flush()
                self._refer(number, first, len(data))
                return
        self.pending.add(number)
        self.on_send(number)
        self.on_bytes(len(data))
        self.batch.append((number, data, mtime))
        self.batch_size += len(data) + SMALL_FILE.size
        if self.batch_size >= BATCH:
            self._flush()

    def _flush(self):
        # type: () -> None
        if self.pointed:
            pointed, self.pointed, self.pointed_bytes = self.pointed, [], 0
            self._send(b"O" + struct.pack("!%dI" % len(pointed), *pointed))
        if self.batch:
            batch, self.batch, self.batch_size = self.batch, [], 0
            parts = [b"F", ID.pack(len(batch))]
            parts.extend([SMALL_FILE.pack(number, len(data), mtime) for number, data, mtime in batch])
            parts.extend([data for _, data, _ in batch])
            self._send(b"".join(parts))

    def _double(self, number, size):
        # type: (int, int) -> bool
        """Whether the same content was sent before; then only its number is sent now."""
        if number in self.again or self.common.get(size, 0) < 2:
            return False
        key = size, self.content.digest(number)
        first = self.by_content.setdefault(key, number)
        if first == number:
            return False
        self._refer(number, first, size)
        return True

    def _refer(self, number, first, size):
        # type: (int, int, int) -> None
        self.pending.add(number)
        self.saved += size
        self.on_bytes(size)
        self._send(b"U" + _pair.pack(number, first))

    def _big(self, number):
        # type: (int) -> None
        fd, st = self.content.open(number)
        try:
            sparse = self.files[number][5] and hasattr(os, "SEEK_DATA")
            self._start(number, st, HOLES if sparse else PLAIN)
            if sparse:
                whole = self._with_holes(fd, st.st_size)
            else:
                whole = self._range(number, fd, 0, st.st_size)
            self._end(number, fd, st, whole)
        finally:
            os.close(fd)

    def _start(self, number, st, how):
        # type: (int, Any, int) -> None
        self._flush()
        self.pending.add(number)
        self.on_send(number)
        self._send(b"B" + BEGIN.pack(number, st.st_size, mtime_of(st), how))

    def _end(self, number, fd, st, whole):
        # type: (int, Any, Any, bool) -> None
        if not whole:
            self.pending.discard(number)
            self._send(b"e\1")
            self.on_unreadable(number, Changed("it was cut while it was read"))
            return
        self._send(b"e\0")
        now = self.content.stat(number, fd)
        if (now.st_size, mtime_of(now)) != (st.st_size, mtime_of(st)):
            self.on_unreadable(number, Changed("it changed while it was read; what was sent may be of both times"))

    def _range(self, number, fd, offset, end):
        # type: (int, Any, int, int) -> bool
        """Send a part of a file; false if the file ended before."""
        while offset < end:
            data = self.content.piece(number, fd, offset, min(PIECE, end - offset))
            if not data:
                return False
            self._literal(data)
            offset += len(data)
        return True

    def _literal(self, data):
        # type: (bytes) -> None
        self.on_bytes(len(data))
        if self.spent > LEAST_SPENT and self.sent / self.spent < SLOW:
            import zlib

            packed = zlib.compress(data, 1)
            if len(packed) < len(data) * 15 // 16:
                self._send(b"z" + packed)
                return
        self._send(b"l" + data)

    def _with_holes(self, fd, size):
        # type: (Any, int) -> bool
        offset = 0
        while offset < size:
            try:
                begin = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError:  # nothing but a hole
                begin = size
            begin = min(begin, size)
            if begin > offset:
                self._send(b"h" + struct.pack("!q", begin - offset))
                self.on_bytes(begin - offset)
            if begin >= size:
                break
            end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
            os.lseek(fd, begin, os.SEEK_SET)
            while begin < end:
                data = os.read(fd, min(PIECE, end - begin))
                if not data:
                    return False
                self._literal(data)
                begin += len(data)
            offset = end
        return True

    # -- changes

    def _update(self, number):
        # type: (int) -> None
        blocks = self.blocks[number]
        while not blocks.anchors and not blocks.complete:
            self._wait()
        try:
            if not blocks.anchors:
                self._one(number)
                return
            fd, st = self.content.open(number)
        except (OSError, IOError, ValueError, Changed) as e:
            self._unreadable(number, e)
            return
        finally:
            while not blocks.complete and not blocks.anchors:
                self._wait()
        try:
            self._start(number, st, DELTA)
            whole = self._changes(number, fd, st, blocks)
            self._end(number, fd, st, whole)
        finally:
            os.close(fd)
            while not blocks.complete:  # what is still said of it must not be taken for a mistake
                self._wait()
            del self.blocks[number]

    def _changes(self, number, fd, st, blocks):
        # type: (int, Any, Any, delta.Blocks) -> bool
        left = [st.st_size]

        def read(size):
            # type: (int) -> bytes
            data = self.content.piece(number, fd, st.st_size - left[0], min(size, left[0])) if left[0] else b""
            left[0] -= len(data)
            return data

        def want(index):
            # type: (int) -> bool
            while index >= len(blocks.anchors) and not blocks.complete:
                self._wait()
            return index < len(blocks.anchors)

        emit = _Emit(self)
        delta.Search(blocks, read, want, emit).run()
        emit.flush()
        self.saved += emit.copied
        return not left[0]


class _Emit(object):
    """Where a search writes: runs of old bytes are collected, but not for long, so that the receiver works, too."""

    def __init__(self, sender):
        # type: (Any) -> None
        self.sender = sender
        self.runs = []  # type: List[bytes]
        self.waiting = 0
        self.copied = 0

    def copy(self, offset, length):
        # type: (int, int) -> None
        self.runs.append(delta._run.pack(offset, length))
        self.copied += length
        self.waiting += length
        self.sender.on_bytes(length)
        if self.waiting >= 8 * delta.WINDOW or len(self.runs) >= 1000:
            self.flush()

    def literal(self, data):
        # type: (bytes) -> None
        self.flush()
        for at in range(0, len(data), PIECE):
            self.sender._literal(data[at : at + PIECE])

    def flush(self):
        # type: () -> None
        if self.runs:
            self.sender._send(b"c" + b"".join(self.runs))
            self.runs = []
            self.waiting = 0
