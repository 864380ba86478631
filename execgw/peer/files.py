"""File-like objects over a channel, for print(file=...), sys.stdout and the like."""

from ..wire.errors import ChannelClosed

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Iterator, List  # noqa: F401


class _File(object):
    """What both directions share: closing."""

    def __init__(self, channel, proxyclose):
        # type: (Any, bool) -> None
        self.channel = channel
        self._proxyclose = proxyclose
        self.closed = False

    def close(self):
        # type: () -> None
        """Close the file, and the channel if it was made with proxyclose."""
        self.closed = True
        if self._proxyclose:
            self.channel.close()

    def isatty(self):
        # type: () -> bool
        return False

    def __enter__(self):
        # type: () -> Any
        return self

    def __exit__(self, *exc_info):
        # type: (Any) -> None
        self.close()


class WriteFile(_File):
    """Sends each text or bytes that is written as one item."""

    def write(self, text):
        # type: (Any) -> int
        self.channel.send(text)
        return len(text)

    def writelines(self, lines):
        # type: (Any) -> None
        for line in lines:
            self.write(line)

    def flush(self):
        # type: () -> None
        """Nothing waits here: each write is sent at once."""

    def writable(self):
        # type: () -> bool
        return True


class ReadFile(_File):
    """Reads the text or bytes items of a channel as one stream; the end of the channel is the end of the file."""

    def __init__(self, channel, proxyclose):
        # type: (Any, bool) -> None
        _File.__init__(self, channel, proxyclose)
        self._parts = []  # type: List[Any]
        self._searched = 0  # parts in which there is no end of a line
        self._before = 0  # characters in those

    def _more(self):
        # type: () -> bool
        try:
            self._parts.append(self.channel.receive())
            return True
        except ChannelClosed:
            return False

    def _take(self, count):
        # type: (int) -> Any
        """The first *count* characters of what has arrived."""
        whole = self._parts[0][:0].join(self._parts) if self._parts else ""
        self._parts = [whole[count:]] if len(whole) > count else []
        self._searched = self._before = 0
        return whole[:count]

    def _size(self):
        # type: () -> int
        return sum([len(part) for part in self._parts])

    def _line(self):
        # type: () -> int
        """The size of the first line, or 0 while its end is not here."""
        while self._searched < len(self._parts):
            part = self._parts[self._searched]
            found = part.find(b"\n" if isinstance(part, bytes) and not isinstance(part, str) else "\n")
            if found >= 0:
                return int(self._before + found + 1)
            self._before += len(part)
            self._searched += 1
        return 0

    def read(self, size=-1):
        # type: (int) -> Any
        """Up to *size* characters, waiting until they have come or the channel has ended; all of it by default."""
        while (size < 0 or self._size() < size) and self._more():
            pass
        return self._take(size if size >= 0 else self._size())

    def readline(self):
        # type: () -> Any
        """The next line with its end, or what is left, or '' at the end."""
        while not self._line():
            if not self._more():
                return self._take(self._size())
        return self._take(self._line())

    def __iter__(self):
        # type: () -> Iterator[Any]
        line = self.readline()
        while line:
            yield line
            line = self.readline()

    def readable(self):
        # type: () -> bool
        return True
