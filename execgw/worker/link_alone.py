"""A worker's end of the link on Pyodide: worker/link.py for a Python without threads; alone.py is the rest of it.

What would run on another thread waits until this one waits: for an item, for credit, for the next task.  poll() says
that stdin is ready whenever it is asked, so nothing here can wait for a limited time.
"""

import os

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, List, Optional, Tuple  # noqa: F401

READ_SIZE = 256 * 1024


def open_link(readable, writable):
    # type: (int, int) -> Any
    """The link over two descriptors.  From now on a Server is one without threads."""
    from . import alone

    alone.take_part()
    return AloneLink(_take_over(readable, os.O_RDONLY), _take_over(writable, os.O_WRONLY), alone.later)


def _take_over(fd, mode):
    # type: (int, int) -> int
    copy = os.dup(fd)
    null = os.open(os.devnull, mode)
    os.dup2(null, fd)
    os.close(null)
    return copy


class AloneLink(object):
    """What link.FdLink is; reading waits, and wait() is where everything else is done."""

    chunk = 64 * 1024

    def __init__(self, readable, writable, later):
        # type: (int, int, Deque[Tuple[Callable[..., Any], Tuple[Any, ...]]]) -> None
        self.later = later
        self.readable = readable
        self.writable = writable
        self.data = None  # type: Optional[bytes]

    def wait(self, timeout):
        # type: (Optional[float]) -> bool
        """Run what waits to be run, or else wait until there is something to read (true)."""
        if self.later:
            function, args = self.later.popleft()
            function(*args)
            return False
        if self.data is None:
            self.data = os.read(self.readable, READ_SIZE)
        return True

    def read(self):
        # type: () -> Optional[bytes]
        """What wait() has read: bytes, b'' at the end, None if nothing is."""
        data, self.data = self.data, None
        return data

    def write(self, pieces):
        # type: (List[Any]) -> int
        """Write all of it, waiting as long as it takes.  A broken link takes everything: reading tells its end."""
        data = memoryview(b"".join(pieces))
        size = len(data)
        try:
            while len(data):
                data = data[os.write(self.writable, data) :]
        except OSError:
            pass
        return size

    def wake(self):
        # type: () -> None
        """Nobody else is there to be woken."""

    wake_keeper = want_write = close = wake

    def wait_writable(self, timeout):
        # type: (Optional[float]) -> None
        """write() takes everything."""
