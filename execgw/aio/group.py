"""The asyncio face: groups of gateways; making, finding, broadcasting, ending."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import group as sync
from .._face import NearGroup
from ..spec import XSpec
from .gateway import Gateway
from .loop import like
from .multi import MultiChannel
from .session import AioHub, get_loop


class Group(NearGroup[Gateway]):
    """Gateways that belong together.  A container of them, in the order in which they were made.

    `async with Group() as group:` ends all gateways at the end.  *xspecs* are made as the block is entered; *execmodel*
    is 'thread' or 'main_thread_only', see set_execmodel.  A group may be made anywhere; its gateways belong to the
    event loop in which they are made, and end with that at the latest.
    """

    _gateway_class = Gateway

    def __init__(self, xspecs: Iterable[XSpec | str | None] = (), execmodel: str = "thread") -> None:
        super().__init__(AioHub(), execmodel)
        self._xspecs = list(xspecs)

    # -- making

    @like(sync.Group.makegateway)
    async def makegateway(self, spec: XSpec | str | None = None) -> Gateway:
        return (await self.makegateways([spec]))[0]

    @like(sync.Group.makegateways)
    async def makegateways(self, specs: Iterable[XSpec | str | None]) -> list[Gateway]:
        get_loop().groups.add(self)
        return await self._make(specs)

    # -- using

    @like(sync.Group.remote_exec)
    async def remote_exec(self, source: object, **kwargs: Any) -> MultiChannel:
        return MultiChannel([await gateway.remote_exec(source, **kwargs) for gateway in self])

    # -- ending

    @like(sync.Group.terminate)
    async def terminate(self, timeout: float | None = None) -> dict[str, str]:
        return await self._end_all(list(self._gateways), timeout)

    async def __aenter__(self) -> Group:
        specs, self._xspecs = self._xspecs, []
        await self.makegateways(specs)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.terminate()
