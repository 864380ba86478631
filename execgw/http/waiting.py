"""What requests wait on: a bell that is rung when something of a process has changed, and what it has printed.

Everything here lives in the server's event loop.
"""

from __future__ import annotations

import asyncio

KEPT_OUTPUT = 64 * 1024  # bytes of what a process has printed


class Bell:
    """Wakes whoever waits; they look again themselves."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all who wait now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, set()
            for future in waiting:
                _resolve(future)

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the next ring; false after *timeout* seconds."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.add(future)
        timer = None if timeout is None else loop.call_later(timeout, _give_up, future)
        try:
            await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
            if timer is not None:
                timer.cancel()
        return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class Tail:
    """The end of what a process has printed, and where in all of it that is."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._data = bytearray()
        self.end = 0  # bytes that were printed in all

    def write(self, text: str) -> None:
        """As a file: what stdout= of a gateway may be."""
        self.feed(text.encode("utf-8", "replace"))

    def feed(self, data: bytes) -> None:
        """Bytes that were printed."""
        self._data += data
        self.end += len(data)
        if len(self._data) > 2 * KEPT_OUTPUT:
            del self._data[:-KEPT_OUTPUT]
        self._bell.ring()

    def read(self, after: int) -> bytes:
        """What was printed after so many bytes, as far as it is still there."""
        start = self.end - len(self._data)
        return bytes(self._data[max(after - start, 0) :])
