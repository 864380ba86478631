"""The asyncio face: file-like objects over a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from ..errors import ChannelClosed
from ..peer import files


class WriteFile(files.WriteFile):
    """Sends each text or bytes that is written as one item."""

    __enter__ = __exit__ = None  # type: ignore[assignment]  # `async with`, as for all else in this face

    async def __aenter__(self) -> WriteFile:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def write(self, text: Any) -> int:  # type: ignore[override]  # this face awaits
        """Send *text*; return its size."""
        await self.channel.send(text)
        return len(text)

    async def writelines(self, lines: Iterable[Any]) -> None:  # type: ignore[override]
        """Send each of *lines*."""
        for line in lines:
            await self.write(line)


class ReadFile(files.ReadFile):
    """Reads the text or bytes items of a channel as one stream; the end of the channel is the end of the file."""

    __enter__ = __exit__ = __iter__ = None  # type: ignore[assignment]  # `async with`, as for all else in this face

    async def __aenter__(self) -> ReadFile:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def _more(self) -> bool:  # type: ignore[override]
        try:
            self._parts.append(await self.channel.receive())
            return True
        except ChannelClosed:
            return False

    async def read(self, size: int = -1) -> Any:
        """Up to *size* characters, waiting until they have come or the channel has ended; all of it by default."""
        while (size < 0 or self._size() < size) and await self._more():
            pass
        return self._take(size if size >= 0 else self._size())

    async def readline(self) -> Any:
        """The next line with its end, or what is left, or '' at the end."""
        while not self._line():
            if not await self._more():
                return self._take(self._size())
        return self._take(self._line())

    async def __aiter__(self) -> AsyncIterator[Any]:
        line = await self.readline()
        while line:
            yield line
            line = await self.readline()
