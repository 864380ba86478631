"""A worker's end of the link: two file descriptors, one socket or the stdin and stdout of ssh."""

import errno
import os
import select

from ..peer.compat import PY2
from ..peer.peer import behind

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Optional  # noqa: F401

READ_SIZE = 256 * 1024
SMALL = 16 * 1024
# glibc serves a block from mmap, with page faults at every use, until one of that size has been freed once; after
# that it keeps up to twice as much (mallopt(3), M_MMAP_THRESHOLD).  Measured: 35 us for each read of 256 KiB without.
WARM_UP = 4 << 20
MOST_PIECES = 512  # IOV_MAX is 1024 on Linux
_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


def take_over(fd, mode):
    # type: (int, int) -> int
    """Move the protocol away from a standard descriptor, which becomes the null device.

    The copy is not inherited by processes that the user's code starts: the death of this one must be an end of file.
    """
    if fd > 2:
        set_inheritable(fd, False)
        return fd
    copy = os.dup(fd)
    null = os.open(os.devnull, mode)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)
    set_inheritable(copy, False)
    return copy


def set_inheritable(fd, on):
    # type: (int, bool) -> None
    """Whether children get the descriptor; Python 3 has this in os."""
    if hasattr(os, "set_inheritable"):
        os.set_inheritable(fd, on)
    else:
        import fcntl

        flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        fcntl.fcntl(fd, fcntl.F_SETFD, flags & ~fcntl.FD_CLOEXEC if on else flags | fcntl.FD_CLOEXEC)


def set_nonblocking(fd):
    # type: (int) -> None
    if hasattr(os, "set_blocking"):
        os.set_blocking(fd, False)
    else:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)


def open_link(readable, writable):
    # type: (int, int) -> FdLink
    """The link over two descriptors, which may be the same; link_jython.py and link_alone.py have one, too."""
    copy = take_over(readable, os.O_RDWR)
    return FdLink(copy, copy if writable == readable else take_over(writable, os.O_RDWR))


class FdLink(object):
    """Reading never blocks, writing does: the near side always reads, for its inboxes are bounded by credit."""

    chunk = 64 * 1024  # bytes of a large value between which other channels' frames may go

    def __init__(self, readable, writable):
        # type: (int, int) -> None
        self.readable = readable
        self.writable = writable
        set_nonblocking(readable)
        self._wake_end, self._wake = os.pipe()
        self._poke_end, self._poke = os.pipe()  # the standby thread's own
        for fd in (self._wake_end, self._wake, self._poke_end, self._poke):
            set_inheritable(fd, False)
            set_nonblocking(fd)
        # Nothing is there to read: this gets a block from malloc and gives it back untouched.  bytearray(WARM_UP) would
        # fill it, and that took 3 of the 16 ms of a worker's start.
        self._drain(self._wake_end, WARM_UP)
        # A leader and the standby thread may wait at the same time; a poll object serves one thread.
        self._reading = self._poller(readable, self._wake_end)
        self._keeping = self._poller(readable, self._poke_end)

    def _poller(self, *fds):
        # type: (int) -> Any
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        return poller

    def wait(self, timeout):
        # type: (Optional[float]) -> bool
        """Wait until there is something to read (true) or wake() is called."""
        return self._poll(self._reading, timeout)

    def wait_as_keeper(self, timeout):
        # type: (Optional[float]) -> bool
        """The same for the standby thread; wake_keeper() gets it out."""
        return self._poll(self._keeping, timeout)

    def wake_keeper(self):
        # type: () -> None
        """Get the standby thread out of wait_as_keeper()."""
        _write_byte(self._poke)

    def _poll(self, poller, timeout):
        # type: (Any, Optional[float]) -> bool
        try:
            ready = poller.poll() if timeout is None else poller.poll(int(timeout * 1000 + 0.999))
        except (OSError, select.error) as e:
            if e.args[0] != errno.EINTR:
                raise
            return False
        for fd, _ in ready:
            if fd == self.readable:
                return True
            self._drain(fd, 4096)
        return False

    def _drain(self, fd, size):
        # type: (int, int) -> None
        try:
            os.read(fd, size)
        except OSError:
            pass

    def wake(self):
        # type: () -> None
        _write_byte(self._wake)

    def read(self):
        # type: () -> Optional[bytes]
        """What is there: bytes, b'' at the end, None if nothing is."""
        try:
            return os.read(self.readable, READ_SIZE)
        except OSError as e:
            return None if e.errno in _AGAIN else b""

    def write(self, pieces):
        # type: (List[Any]) -> int
        """Write all of it, waiting as long as it takes.  A broken link takes everything: reading tells its end."""
        size = sum([len(piece) for piece in pieces])
        if len(pieces) > 1 and (size < SMALL or not hasattr(os, "writev")):
            pieces = [b"".join(_plain(pieces))]
        left = size
        while left:
            try:
                if len(pieces) == 1:
                    done = os.write(self.writable, pieces[0])
                else:
                    done = os.writev(self.writable, pieces[:MOST_PIECES])
            except OSError as e:
                if e.errno not in _AGAIN:
                    return size
                self._wait_writable()
                continue
            left -= done
            if left:
                pieces = behind(pieces, done)
        return size

    def _wait_writable(self):
        # type: () -> None
        poller = select.poll()
        poller.register(self.writable, select.POLLOUT)
        try:
            poller.poll(1000)
        except (OSError, select.error):
            pass

    def wait_writable(self, timeout):
        # type: (Optional[float]) -> None
        """Another thread is writing; it wakes nobody, but it always comes to an end."""
        self._wait_writable()

    def close(self):
        # type: () -> None
        """Close what is our own; the descriptors of the link are not."""
        for fd in (self._wake_end, self._wake, self._poke_end, self._poke):
            os.close(fd)

    def want_write(self):
        # type: () -> None
        """Never called: write() takes everything."""


def _write_byte(fd):
    # type: (int) -> None
    try:
        os.write(fd, b"!")
    except OSError:  # full: it will wake anyway
        pass


def _plain(pieces):
    # type: (List[Any]) -> List[Any]
    """Python 2 joins no memoryviews."""
    return pieces if not PY2 else [getattr(piece, "tobytes", lambda piece=piece: piece)() for piece in pieces]
