"""The asyncio face: channels, and steering the code that runs behind one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import channel as sync
from .._face import ASK_SECONDS, NearChannel
from ..errors import ChannelClosed, TimeoutError
from ..peer.callbacks import Callback
from ..peer.peer import NO_ENDMARKER
from ..wire import frames as f
from .loop import AT_A_TIME, like
from .output import Lines

if TYPE_CHECKING:
    from ..wire.mux import Port
    from .files import ReadFile, WriteFile
    from .session import AioSession


class Channel(NearChannel):
    """An ordered, typed, flow-controlled two-way stream of values between two processes.

    `async for item in channel` gives its items until the other side ends.  `async with channel:` closes it at the end.
    A task that is cancelled while it waits here leaves the channel as it was: no item is lost.
    """

    _peer: AioSession
    stdout: Lines | None  # type: ignore[assignment]  # this face awaits
    stderr: Lines | None  # type: ignore[assignment]

    @like(sync.Channel.send)
    async def send(self, item: Any) -> None:  # type: ignore[override]  # this face awaits
        form, data = self._codec.encode(item)
        port = self._port
        if port.send_closed:
            self._raise_closed()
        try:
            await self._peer.loop.send(self._peer, port, form, data, f.DATA)
        except OSError:
            if port.send_closed:
                self._raise_closed()
            raise

    @like(sync.Channel.receive)
    async def receive(self, timeout: float | None = None) -> Any:
        port = self._port
        await self._peer.loop.breathe()
        if not (port.items or port.ended or self._callback) and not await self._peer.loop.until(
            self._peer, _has_item, port, timeout
        ):
            raise TimeoutError(f"{self!r}: no item within {timeout} seconds")
        return super().receive(0)

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Any:
        """The next item, as receive() gives it; the end of the channel is the end of the iteration."""
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    __iter__ = __next__ = next = None  # type: ignore[assignment]  # `for` would have to block the event loop

    def setcallback(
        self, callback: Callable[..., Any], endmarker: Any = NO_ENDMARKER, pass_error: bool = False
    ) -> None:
        """Call *callback(item)* for each item from now on, instead of receive().

        *callback* is a function or a coroutine function.  It runs in the event loop, so a plain function must not
        block.  Calls come one at a time, in order, and each is awaited before the next.  Items that have arrived
        already are delivered before this returns, as far as there is nothing to await.  If *endmarker* is given,
        callback(endmarker) is the last call.  With *pass_error* the calls are callback(item, error=None) and, once
        at the end, callback(endmarker, error=why), where why is None, a RemoteError, ConnectionLost or what it raised.
        A callback that raises closes this channel, on both sides, with that error; only the call at the end follows.
        """
        if self._callback is not None:
            raise OSError(f"{self!r} has a callback already")
        self._callback = hook = AioCallback(self, callback, endmarker, pass_error)
        hook.attach()

    @like(sync.Channel.waitclose)
    async def waitclose(self, timeout: float | None = None) -> None:  # type: ignore[override]
        hook = self._callback
        if hook is None:
            ended = await self._peer.until(lambda port: port.ended, self._port, timeout)
        else:
            ended = await self._peer.until(lambda port: hook.finished, self._port, timeout)
        if not ended:
            raise TimeoutError(f"{self!r}: not closed within {timeout} seconds")
        await self._output_handed_on()
        super().waitclose(0)

    def makefile(self, mode: str = "w", proxyclose: bool = False) -> WriteFile | ReadFile:
        """A file-like object over this channel: 'w' sends what is written, 'r' reads text or bytes that come.

        Its write, writelines, read and readline are awaited, and `async for` gives its lines.  With *proxyclose*
        closing the file closes the channel.
        """
        from .files import ReadFile, WriteFile

        made = super().makefile(mode, proxyclose)  # which says what is wrong with the mode
        made.__class__ = WriteFile if mode == "w" else ReadFile
        return made  # type: ignore[no-any-return]

    @like(sync.Channel.interrupt)
    async def interrupt(self, timeout: float | None = ASK_SECONDS) -> str:
        return await self._steer("interrupt", timeout)

    @like(sync.Channel.cancel)
    async def cancel(self, timeout: float = 5.0, kill: bool = False) -> str:
        return await self._cancel(timeout, kill)

    __enter__ = __exit__ = None  # type: ignore[assignment]  # `async with`, as for all else here

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


def _has_item(port: Port) -> Any:
    return port.items or port.ended


class AioCallback(Callback):
    """Runs a callback in a task of the event loop."""

    def attach(self) -> None:
        with self.peer.lock:
            self.port.notify = self.changed
        self.run()

    def run(self) -> None:
        """In the event loop: deliver what is here; in a task, if there is something to await, or much to do."""
        calls = self.calls()
        for done, result in enumerate(calls):
            if done == AT_A_TIME or inspect.isawaitable(result):
                self.peer.loop.spawn(self._go_on(calls, result))
                return

    async def _go_on(self, calls: Any, result: Any) -> None:
        try:
            while True:
                try:
                    if inspect.isawaitable(result):
                        await result
                    await self.peer.loop.breathe()
                except BaseException as e:  # noqa: PERF203  # each call may raise
                    result = calls.throw(e)
                else:
                    result = next(calls)
        except StopIteration:
            pass
