"""The asyncio face with the manners of the sync one, so that the same tests run on both.

Each method runs in an event loop of a thread of its own, and its caller waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

from execgw import aio


class Bridge:
    """An event loop in a thread, and in it a group of the asyncio face."""

    def __init__(self) -> None:
        started: threading.Event = threading.Event()

        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            async with Group() as group:
                group.bridge = self
                self.group = group
                started.set()
                await self._stop.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(main(),), name="bridge")
        self._thread.start()
        started.wait()

    def do(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it there, and wait here."""
        assert threading.current_thread() is not self._thread

        async def steps() -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(steps(), self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def bridged(cls: type[Any]) -> type[Any]:
    """A class whose public methods wait in the caller's thread."""
    base = cls.__mro__[1]
    for name in dir(base):
        method = getattr(base, name)
        if inspect.isfunction(method) and name not in cls.__dict__ and (name == "_rinfo" or not name.startswith("_")):
            setattr(cls, name, _bridged(method))
    return cls


def _bridged(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        bridge = self._bridge()
        if threading.current_thread() is bridge._thread:  # another method of the face itself
            return method(self, *args, **kwargs)
        return bridge.do(method, self, *args, **kwargs)

    return waiting


@bridged
class Channel(aio.Channel):
    def _bridge(self) -> Bridge:
        return self.gateway._group.bridge  # type: ignore[no-any-return]

    def setcallback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        async def in_a_thread(*args: Any, **kwargs: Any) -> None:
            await asyncio.to_thread(callback, *args, **kwargs)

        self._bridge().do(super().setcallback, in_a_thread, *args, **kwargs)

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        return File(self._bridge(), super().makefile(*args, **kwargs))

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        try:
            return self._bridge().do(aio.Channel.__anext__, self)
        except StopAsyncIteration:
            raise StopIteration from None

    next = __next__

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bridge().do(self.__aexit__)


class File:
    """A file over a channel."""

    def __init__(self, bridge: Bridge, file: Any) -> None:
        self._bridge, self._file = bridge, file

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._file, name)
        return functools.partial(self._bridge.do, value) if callable(value) else value

    def __iter__(self) -> Iterator[Any]:
        async def lines() -> list[Any]:
            return [line async for line in self._file]

        return iter(self._bridge.do(lines))

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bridge.do(self._file.__aexit__)


@bridged
class Gateway(aio.Gateway):
    _channel_class = Channel

    def _bridge(self) -> Bridge:
        return self._group.bridge  # type: ignore[attr-defined,no-any-return]

    def submit(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(aio.Gateway.call(self, func, *args, **kwargs), self._bridge().loop)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bridge().do(self.__aexit__)


class Group(aio.Group):
    _gateway_class = Gateway
    bridge: Bridge
