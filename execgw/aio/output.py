"""The asyncio face: the lines of captured output."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine
from typing import Any

from .. import _output as sync
from .._output import MOST_LINES
from ..errors import TimeoutError
from ..peer.compat import clock
from .loop import like


class Lines:
    """The lines of a stream as they come: `async for`, or `await receive(timeout)`."""

    def __init__(self) -> None:
        self._lines: collections.deque[str | None] = collections.deque()
        self._some = asyncio.Event()  # there is a line, or the end
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put(self, line: str | None) -> None:
        """Add a line.  None is the end."""
        self._lines.append(line)
        self._some.set()
        if len(self._lines) >= MOST_LINES:
            self._has_room.clear()

    def _room(self) -> Coroutine[Any, Any, object] | None:
        """What to await before more is put, while nobody takes any; see AioCallback."""
        return None if self._has_room.is_set() else self._has_room.wait()

    @like(sync.Lines.receive)
    async def receive(self, timeout: float | None = None) -> str:
        end = None if timeout is None else clock() + timeout
        while not self._lines:
            self._some.clear()
            try:
                await asyncio.wait_for(self._some.wait(), None if end is None else end - clock())
            except asyncio.TimeoutError:
                raise TimeoutError(f"no line within {timeout} s") from None
        if self._lines[0] is None:  # it stays, for whoever asks again
            raise EOFError("no more lines")
        line = self._lines.popleft()
        if len(self._lines) < MOST_LINES:
            self._has_room.set()
        assert line is not None
        return line

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        try:
            return await self.receive()
        except EOFError:
            raise StopAsyncIteration from None
