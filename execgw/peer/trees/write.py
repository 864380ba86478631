"""The receiver's files: each is written under a temporary name beside its place, and renamed when it is complete.

No fsync: after a crash of a process every file is old or new; after one of the machine it is as the file system says.
"""

import errno
import os
import stat
import struct

from . import delta
from .contents import BEGIN, DELTA, ID, PLAIN, SMALL_FILE, copy_range, digest_of, each, reason, unchanged
from .listing import Malformed
from .places import CREATE, JAVA, native, temp_name, write_all

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

MODES = 0o777  # neither setuid nor setgid, nor sticky


class Wanted(object):
    """A file that the sender is to send."""

    __slots__ = ("directory", "mode", "mtime", "name", "offer", "size")

    def __init__(self, directory, name, size, mtime, mode):
        # type: (bytes, bytes, int, int, int) -> None
        self.directory = directory
        self.name = name
        self.size = size
        self.mtime = mtime
        self.mode = mode & MODES
        self.offer = None  # type: Any  # a path here whose content may be the same


class Unfinished(object):
    """The file that is being written."""

    def __init__(self, number, wanted, size, mtime):
        # type: (int, Wanted, int, int) -> None
        self.number = number
        self.wanted = wanted
        self.size = size
        self.mtime = mtime
        self.done = 0
        self.fd = None  # type: Any
        self.temp = ""
        self.basis = None  # type: Any
        self.hole = False


class Writer(object):
    """Takes the messages with content.  *tell* sends to the other side, *problem(number, text)* says what failed."""

    def __init__(self, held, tell, problem):
        # type: (Any, Any, Any) -> None
        self.places = held
        self.tell = tell
        self.problem = problem
        self.wanted = {}  # type: Dict[int, Wanted]
        self.written = {}  # type: Dict[int, Tuple[bytes, bytes, int, int]]
        self.touched = set()  # type: Any
        self.now = None  # type: Optional[Unfinished]
        self.bases = {}  # type: Dict[int, Tuple[Any, Any]]
        self.describing = []  # type: List[Any]
        self.bytes = 0

    def take(self, number, size):
        # type: (int, int) -> Wanted
        wanted = self.wanted.pop(number, None)
        if wanted is None or size < 0:
            raise Malformed("a file %d that was not asked for" % number)
        return wanted

    def give_up(self, data):
        # type: (bytes) -> None
        """The sender cannot read these."""
        for (number,) in each(ID, data, 1):
            self.wanted.pop(number, None)

    # -- small files, many in a message

    def small(self, data):
        # type: (bytes) -> None
        (count,) = ID.unpack_from(data, 1)
        at = 5 + SMALL_FILE.size * count
        if at > len(data):
            raise Malformed("a batch of %d files in %d bytes" % (count, len(data)))
        done = []
        touched, held = self.touched, self.places
        for i in range(count):
            number, size, mtime = SMALL_FILE.unpack_from(data, 5 + i * SMALL_FILE.size)
            wanted = self.take(number, size)
            if size > len(data) - at:
                raise Malformed("a batch that is cut off")
            temp = None
            try:
                directory = held[wanted.directory]
                temp = temp_name()
                fd = directory.open(temp, CREATE, 0o600)
                try:
                    if size:
                        write_all(fd, data[at : at + size])
                except BaseException:
                    os.close(fd)
                    raise
                directory.finish(fd, temp, wanted.mode, mtime)
                directory.rename(temp, native(wanted.name))
            except (OSError, IOError, ValueError) as e:
                self.failed(number, wanted, e, temp)
            else:
                if size >= 1024:
                    self.written[number] = wanted.directory, wanted.name, size, mtime
                touched.add(wanted.directory)
                done.append(number)
            at += size
            self.bytes += size
        if at != len(data):
            raise Malformed("a batch that is too long")
        self.ack(done)

    def ack(self, numbers):
        # type: (List[int]) -> None
        if numbers:
            self.tell(b"A" + struct.pack("!%dI" % len(numbers), *numbers))

    def failed(self, number, wanted, error, temp=None):
        # type: (int, Wanted, Exception, Any) -> None
        if temp is not None:
            try:
                self.places[wanted.directory].unlink(temp)
            except (OSError, ValueError):
                pass
        if getattr(error, "errno", None) == errno.EISDIR:
            self.problem(number, "a directory is in its place, and is not empty; delete=True removes it")
        else:
            self.problem(number, "cannot write it: %s" % (reason(error),))

    # -- one file in pieces

    def begin(self, data):
        # type: (bytes) -> None
        number, size, mtime, how = BEGIN.unpack_from(data, 1)
        if self.now is not None:
            raise Malformed("a file within a file")
        wanted = self.take(number, size)
        self.now = now = Unfinished(number, wanted, size, mtime)
        if how == DELTA:
            now.basis = self.bases.pop(number, None)
            if now.basis is None:
                raise Malformed("changes of a file that nobody described")
        try:
            now.temp = temp_name()
            now.fd = self.places[wanted.directory].open(now.temp, CREATE, 0o600)
        except (OSError, ValueError) as e:
            now.fd = None
            self.failed(number, wanted, e)

    def _writes(self, size):
        # type: (int) -> Optional[Unfinished]
        """The file that is being written, if it can be; *size* more bytes of it come."""
        now = self.now
        if now is None or size < 0 or now.done + size > now.size:
            raise Malformed("more bytes than were announced")
        now.done += size
        return now if now.fd is not None else None

    def literal(self, data):
        # type: (bytes) -> None
        now = self._writes(len(data) - 1)
        self.bytes += len(data) - 1
        if now is not None:
            try:
                write_all(now.fd, data[1:] if JAVA else memoryview(data)[1:])
                now.hole = False
            except (OSError, IOError) as e:
                self._drop(now, e)

    def packed(self, data):
        # type: (bytes) -> None
        now = self.now
        import zlib

        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(data[1:], now.size - now.done + 1 if now is not None else 1)
        except zlib.error as e:
            raise Malformed(str(e))
        self.literal(b"l" + plain)

    def holes(self, data):
        # type: (bytes) -> None
        (length,) = struct.unpack_from("!q", data, 1)
        now = self._writes(length)
        if now is not None:
            try:
                os.lseek(now.fd, length, os.SEEK_CUR)
                now.hole = True
            except (OSError, AttributeError) as e:
                self._drop(now, e)

    def copies(self, data):
        # type: (bytes) -> None
        for offset, length in each(delta._run, data, 1):
            now = self._writes(length)
            if now is None:
                continue
            if now.basis is None or offset < 0 or offset + length > now.basis[1].st_size:
                raise Malformed("a copy of what is not there")
            try:
                if not copy_range(now.basis[0], now.fd, offset, length):
                    now.size = -1  # the old file was cut meanwhile
                now.hole = False
            except (OSError, IOError) as e:
                self._drop(now, e)

    def end(self, data):
        # type: (bytes) -> None
        now, self.now = self.now, None
        if now is None:
            raise Malformed("the end of no file")
        whole = data[1:2] == b"\0"
        try:
            if now.fd is None:
                return
            if now.basis is not None and not unchanged(
                now.basis[1], self.places[now.wanted.directory].fstat(now.basis[0], native(now.wanted.name))
            ):
                now.size = -1
            if not whole or now.done != now.size:
                self._discard(now)
                if now.size < 0:
                    self.wanted[now.number] = now.wanted
                    self.tell(b"R" + ID.pack(now.number))
                elif whole:
                    raise Malformed("fewer bytes than were announced")
                return
            self._finish(now)
        finally:
            if now.basis is not None:
                os.close(now.basis[0])

    def _finish(self, now):
        # type: (Unfinished) -> None
        wanted = now.wanted
        fd, now.fd = now.fd, None
        try:
            if now.hole and JAVA:  # whose ftruncate makes no file longer
                os.lseek(fd, now.size - 1, os.SEEK_SET)
                write_all(fd, b"\0")
            elif now.hole:
                os.ftruncate(fd, now.size)
            directory = self.places[wanted.directory]
            directory.finish(fd, now.temp, wanted.mode, now.mtime)
            directory.rename(now.temp, native(wanted.name))
        except (OSError, IOError, ValueError, AttributeError) as e:
            self.failed(now.number, wanted, e, now.temp)
            return
        self.written[now.number] = wanted.directory, wanted.name, now.size, now.mtime
        self.touched.add(wanted.directory)
        self.ack([now.number])

    def _discard(self, now):
        # type: (Unfinished) -> None
        fd, now.fd = now.fd, None
        try:
            os.close(fd)
            self.places[now.wanted.directory].unlink(now.temp)
        except (OSError, ValueError):
            pass

    def _drop(self, now, error):
        # type: (Unfinished, Exception) -> None
        """It cannot be written; what else comes of it is passed over."""
        self._discard(now)
        self.failed(now.number, now.wanted, error)

    # -- what is here already

    def describe(self, data):
        # type: (bytes) -> None
        """Say what the old file looks like; in a thread, for it takes long."""
        (number,) = ID.unpack_from(data, 1)
        wanted = self.wanted.get(number)
        if wanted is None or number in self.bases or len(self.bases) > 64 or self.now is not None:
            raise Malformed("a file %d whose changes cannot be sent" % number)
        try:
            fd, st = self._open_regular(wanted.directory, wanted.name)
        except (OSError, ValueError):
            self.tell(delta.no_description(number))
            return
        self.bases[number] = fd, st

        def run():
            # type: () -> None
            try:
                delta.describe(number, fd, st.st_size, self.tell)
            except (OSError, IOError):  # the other side notices that the connection is gone, or the file is
                pass

        import threading

        thread = threading.Thread(target=run)
        thread.daemon = True
        self.describing = [other for other in self.describing if other.is_alive()] + [thread]
        thread.start()

    def _open_regular(self, directory, name):
        # type: (bytes, bytes) -> Tuple[Any, Any]
        here = self.places[directory]
        fd = here.open(native(name))
        st = here.fstat(fd, native(name))
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "no regular file")
        return fd, st

    def digest(self, directory, name):
        # type: (bytes, bytes) -> bytes
        """SHA-256 of a file here."""
        fd, _ = self._open_regular(directory, name)
        try:
            return digest_of(fd)
        finally:
            os.close(fd)

    def same(self, data):
        # type: (bytes) -> None
        """These have the content that was offered."""
        for (number,) in each(ID, data, 1):
            wanted = self.take(number, 0)
            if wanted.offer is None:
                raise Malformed("a file %d for which nothing was offered" % number)
            directory, name, size, mtime = wanted.offer
            if (directory, name) == (wanted.directory, wanted.name):
                try:
                    here = self.places[directory]
                    if here.stat(native(name)).st_mode & 0o7777 != wanted.mode:
                        here.chmod(native(name), wanted.mode)
                    here.utime(native(name), wanted.mtime)
                    self.ack([number])
                except (OSError, ValueError) as e:
                    self.failed(number, wanted, e)
            else:
                self._clone(number, wanted, wanted.offer)

    def again(self, data):
        # type: (bytes) -> None
        """(number, other): a file with the content of one that was written before."""
        for number, other in each(struct.Struct("!II"), data, 1):
            wanted = self.take(number, 0)
            if other not in self.written:
                self.wanted[number] = wanted  # that one could not be written
                self.tell(b"R" + ID.pack(number))
            else:
                self._clone(number, wanted, self.written[other])

    def _clone(self, number, wanted, original):
        # type: (int, Wanted, Tuple[bytes, bytes, int, int]) -> None
        directory, name, size, mtime = original
        self.now = None
        try:
            fd, st = self._open_regular(directory, name)
        except (OSError, ValueError):
            st = None
        if st is None or st.st_size != size:
            self.wanted[number] = wanted
            self.tell(b"R" + ID.pack(number))
            return
        try:
            self.wanted[number] = wanted
            self.begin(b"B" + BEGIN.pack(number, size, wanted.mtime, PLAIN))
            now = self._writes(size)
            if now is not None:
                try:
                    if not copy_range(fd, now.fd, 0, size):
                        now.size = -1
                except (OSError, IOError) as e:
                    self._drop(now, e)
            self.end(b"e\0")
        finally:
            os.close(fd)

    def close(self):
        # type: () -> None
        """Leave no unfinished file."""
        if self.now is not None and self.now.fd is not None:
            self._discard(self.now)
        for thread in self.describing:
            thread.join()
        for fd, _ in self.bases.values():
            os.close(fd)
        self.bases.clear()
