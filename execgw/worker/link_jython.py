"""A worker's end of the link on Jython: worker/link.py for a Python that can neither poll its stdin nor duplicate it.

A thread reads, with the C library's read(), and who waits for bytes waits for that thread.  Jython's own files will not
do: they are Java streams on descriptors 0, 1 and 2, which every child process inherits.
"""

import os
import sys
import threading

from java.lang import Class, InterruptedException, Thread  # type: ignore[import-not-found]

from ..peer.compat import clock, deque, start_new_thread

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Deque, List, Optional  # noqa: F401

READ_SIZE = 256 * 1024
MOST_UNREAD = 1 << 20  # bytes; then the reading thread waits, and so does the near side
EINTR = 4

_module = Class.forName("org.python.modules.posix.PosixModule")
POSIX = _module.getMethod("getPOSIX", []).invoke(None, [])


def _take_over(fd):
    # type: (int) -> int
    """See link.take_over.  No flag is needed: Java closes all but 0, 1 and 2 in the processes that it starts."""
    copy = POSIX.dup(fd)
    null = POSIX.open(os.devnull, os.O_RDWR, 0)
    POSIX.dup2(null, fd)
    POSIX.close(null)
    return copy  # type: ignore[no-any-return]


def open_link(readable, writable):
    # type: (int, int) -> Any
    """The link over two descriptors, which may be the same."""
    _prepare()
    copy = _take_over(readable)
    return ThreadLink(copy, copy if writable == readable else _take_over(writable))


def _prepare():
    # type: () -> None
    """Give this Jython what serve.py takes from a Python 2.7."""
    import signal

    main = Thread.currentThread()
    # Without it SIGINT ends the JVM at once.  What waits or sleeps gets KeyboardInterrupt; what computes goes on.
    signal.signal(signal.SIGINT, lambda number, frame: main.interrupt())

    def join_all():
        # type: () -> None
        for thread in threading.enumerate():
            if not thread.isDaemon() and thread is not threading.currentThread():
                thread.join()

    threading._shutdown = join_all  # type: ignore[attr-defined]


class ThreadLink(object):
    """What link.FdLink is, and behaves like it."""

    chunk = 64 * 1024

    def __init__(self, readable, writable):
        # type: (int, int) -> None
        self.readable = readable
        self.writable = writable
        self._news = threading.Condition()
        self._read = deque()  # type: Deque[bytes]
        self._unread = 0
        self._ended = False
        self._woken = False
        self._keeper_woken = False
        start_new_thread(self._fill, ())

    def _fill(self):
        # type: () -> None
        from jarray import zeros  # type: ignore[import-not-found]

        space = zeros(READ_SIZE, "b")
        while not self._ended:
            size = POSIX.read(self.readable, space, READ_SIZE)
            if size < 0 and POSIX.errno() == EINTR:
                continue
            data = space[: max(size, 0)].tostring()
            with self._news:
                if data:
                    self._read.append(data)
                    self._unread += size
                else:
                    self._ended = True
                self._news.notifyAll()
                while self._unread > MOST_UNREAD:
                    self._news.wait()

    def wait(self, timeout):
        # type: (Optional[float]) -> bool
        """Wait until there is something to read (true) or wake() is called."""
        return self._wait("_woken", timeout)

    def wait_as_keeper(self, timeout):
        # type: (Optional[float]) -> bool
        """The same for the standby thread; wake_keeper() gets it out."""
        return self._wait("_keeper_woken", timeout)

    def _wait(self, flag, timeout):
        # type: (str, Optional[float]) -> bool
        end = None if timeout is None else clock() + timeout
        with self._news:
            try:
                while not self._read and not self._ended and not getattr(self, flag):
                    left = None if end is None else end - clock()
                    if left is not None and left <= 0:
                        return False
                    self._news.wait(left)
            except InterruptedException:
                raise KeyboardInterrupt
            setattr(self, flag, False)
            return bool(self._read) or self._ended

    def wake(self):
        # type: () -> None
        with self._news:
            self._woken = True
            self._news.notifyAll()

    def wake_keeper(self):
        # type: () -> None
        with self._news:
            self._keeper_woken = True
            self._news.notifyAll()

    def read(self):
        # type: () -> Optional[bytes]
        """What is there: bytes, b'' at the end, None if nothing is."""
        with self._news:
            if not self._read:
                return b"" if self._ended else None
            data = b"".join(self._read)
            self._read.clear()
            self._unread = 0
            self._news.notifyAll()
            return data

    def write(self, pieces):
        # type: (List[Any]) -> int
        """Write all of it, waiting as long as it takes.  A broken link takes everything: reading tells its end."""
        data = b"".join([getattr(piece, "tobytes", lambda piece=piece: piece)() for piece in pieces])
        size = at = len(data)
        at = 0
        while at < size:
            part = data[at : at + READ_SIZE]
            done = POSIX.write(self.writable, part, len(part))
            if done > 0:
                at += done
            elif POSIX.errno() != EINTR:
                break
        return size

    def wait_writable(self, timeout):
        # type: (Optional[float]) -> None
        """Another thread is writing, and it always comes to an end."""
        with self._news:
            self._news.wait(0.002)

    def close(self):
        # type: () -> None
        """Nothing here is our own."""

    def want_write(self):
        # type: () -> None
        """Never called: write() takes everything."""


if not POSIX.isNative():
    sys.exit("execgw: this Jython cannot call the C library (jnr-posix), which a worker needs")
