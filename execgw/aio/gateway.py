"""The asyncio face: a gateway, on which code is run in the worker behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .. import _source
from .. import gateway as sync
from .._face import ASK_SECONDS, INFO, NearGateway, RemoteStatus, RInfo
from .channel import Channel
from .loop import like
from .output import Lines

if TYPE_CHECKING:
    from .._status import Status
    from ..spec import XSpec
    from .group import Group
    from .session import AioSession

CANCEL_SECONDS = 5.0  # for the code of a call whose task was cancelled to end

P = ParamSpec("P")
T = TypeVar("T")


class Gateway(NearGateway):
    """A live connection to a worker process.  Made by Group.makegateway().

    `async with gateway:` ends the worker at the end, and waits for that.  It belongs to the event loop in which it was
    made, and ends with that at the latest.
    """

    _channel_class = Channel
    _lines_class = Lines
    stdout: Lines | None  # type: ignore[assignment]  # this face awaits
    stderr: Lines | None  # type: ignore[assignment]
    _group: Group
    _session: AioSession

    def __init__(self, group: Group, session: AioSession, spec: XSpec, execmodel: str) -> None:
        super().__init__(group, session, spec, execmodel)
        self._callbacks = _InLoop(session)

    # -- running code

    @like(sync.Gateway.remote_exec)
    async def remote_exec(self, source: object, **kwargs: Any) -> Channel:
        if isinstance(source, str) and sync.SCRIPT_BLOCK in source:
            raise ValueError("a script with requirements takes steps that block: use execgw.Group in asyncio.to_thread")
        channel: Channel = await self._exec(source, kwargs)
        return channel

    async def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call func(*args, **kwargs) in the worker and return its value.

        A function of the standard library (time.sleep) goes by its name, any other by its source.  Raises RemoteError
        if it raised there, DumpError for arguments that cannot travel, ConnectionLost if the worker dies.
        If the task that awaits this is cancelled, the far code is, too: Channel.cancel, without *kill*, goes on behind
        the scenes.
        """
        channel = await self._run(_source.call_task(func, args, kwargs))
        try:
            value: T = await channel.receive()
        except asyncio.CancelledError:
            self._session.loop.spawn(channel._cancel(CANCEL_SECONDS, kill=False))
            raise
        return value

    def submit(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Task[T]:
        """The same as call(), but at once: returns an asyncio.Task of the value, which may be cancelled."""
        task: asyncio.Task[T] = self._session.loop.spawn(self.call(func, *args, **kwargs))
        return task

    @like(sync.Gateway.newchannel)
    def newchannel(self) -> Channel:
        channel: Channel = super().newchannel()
        return channel

    @like(sync.Gateway.forward_logging)
    async def forward_logging(self, level: int | str = "INFO") -> None:
        await self._forward_logging(level)

    # -- steering

    @like(sync.Gateway.interrupt)
    async def interrupt(self, timeout: float | None = ASK_SECONDS) -> dict[int, str]:
        return await self._interrupt(timeout)

    @like(sync.Gateway.stacks)
    async def stacks(self, timeout: float | None = ASK_SECONDS) -> dict[str, str]:
        return await self._stacks(timeout)

    @like(sync.Gateway.status)
    async def status(self, timeout: float | None = ASK_SECONDS) -> Status:
        return await self._status(timeout)

    # -- asking

    @like(sync.Gateway.remote_status)
    async def remote_status(self, timeout: float | None = None) -> RemoteStatus:
        return await self._remote_status(timeout)

    @like(sync.Gateway._rinfo)
    async def _rinfo(self, update: bool = False) -> RInfo:
        if update or self._info is None:
            async with await self.remote_exec(INFO) as channel:
                self._info = self._checked_info(await channel.receive())
        return self._info

    @like(sync.Gateway.reconfigure)
    async def reconfigure(self, py2str_as_py3str: bool = True, py3str_as_py2str: bool = False) -> None:
        await self._reconfigure(py2str_as_py3str, py3str_as_py2str)

    # -- ending

    @like(sync.Gateway.detach)
    async def detach(self, timeout: float | None = 10.0) -> str:
        return await self._detach(timeout)

    @like(sync.Gateway.join)
    async def join(self, timeout: float | None = None) -> bool:
        return await self._session.ended_within(timeout)

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._group._end_all([self], None)


class _InLoop:
    """Where the sync face has a pool of threads for callbacks."""

    def __init__(self, session: AioSession) -> None:
        self.session = session

    def submit(self, job: Callable[[], None]) -> None:
        self.session.loop.call_soon(job)
