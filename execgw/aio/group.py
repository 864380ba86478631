"""The asyncio face: groups of gateways; making, finding, broadcasting, ending."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from .. import _rooms
from .. import group as sync
from .._dispatch import batched
from .._face import NearGroup
from ..errors import ConnectionLost, SpecError
from ..spec import XSpec
from .gateway import Gateway
from .loop import like
from .multi import MultiChannel
from .session import AioHub, get_loop

T = TypeVar("T")

Job = tuple[
    list[Any], "asyncio.Future[list[Any]]", int
]  # a chunk, the future of its values, how often it may be run again


class Jobs:
    """The chunks of one map(), and the futures of their values."""

    def __init__(self, func: Callable[..., Any], chunks: Iterable[list[Any]], retries: int, workers: int) -> None:
        self.func = func
        loop = asyncio.get_running_loop()
        self.waiting: collections.deque[Job] = collections.deque(
            (chunk, loop.create_future(), retries) for chunk in chunks
        )
        self.futures = [future for _, future, _ in self.waiting]
        self.total = sum(len(chunk) for chunk, _, _ in self.waiting)
        self.workers = workers
        self.running = 0
        self.changed = asyncio.Event()

    async def work(self, gateway: Gateway) -> None:
        """Run chunks on one gateway, until all have been run or it dies."""
        try:
            while job := await self._next():
                self.running += 1
                try:
                    if not await self._run(gateway, *job):
                        return
                finally:
                    self.running -= 1
                    self.changed.set()
        finally:
            self.workers -= 1

    async def _next(self) -> Job | None:
        # What runs elsewhere may come back, from a gateway that dies: whoever left before would be missed then.
        while not self.waiting and self.running:
            self.changed.clear()
            await self.changed.wait()
        return self.waiting.popleft() if self.waiting else None

    async def _run(self, gateway: Gateway, chunk: list[Any], future: asyncio.Future[list[Any]], left: int) -> bool:
        """Give the chunk its values.  False if the gateway died of it."""
        try:
            future.set_result([await gateway.call(self.func, item) for item in chunk])
        except ConnectionLost as e:
            if left and self.workers > 1:
                self.waiting.appendleft((chunk, future, left - 1))
            else:
                future.set_exception(e)
            if self.workers == 1:  # nobody is left to run the rest
                for _, waiting, _ in self.waiting:
                    waiting.set_exception(e)
                self.waiting.clear()
            return False
        except Exception as e:
            future.set_exception(e)
        return True


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
    async def makegateway(self, spec: XSpec | str | None = None, *, stdout: Any = None, stderr: Any = None) -> Gateway:
        gateway = (await self.makegateways([spec]))[0]
        try:
            await gateway._set_output(stdout, stderr)
        except BaseException:
            await self._end_all([gateway], 0)
            raise
        return gateway

    @like(sync.Group.makegateways)
    async def makegateways(self, specs: Iterable[XSpec | str | None]) -> list[Gateway]:
        get_loop().groups.add(self)
        made = [self._as_spec(spec) for spec in specs]
        for spec in made:
            if _rooms.wrapper_of(spec) is not None:
                raise SpecError(f"{str(spec)!r}: venv= takes steps that block: use execgw.Group in asyncio.to_thread")
        return await self._make(made)

    @like(sync.Group.attach)
    async def attach(self, ticket: str) -> Gateway:
        get_loop().groups.add(self)
        return await self._attach(ticket)

    # -- using

    @like(sync.Group.remote_exec)
    async def remote_exec(self, source: object, **kwargs: Any) -> MultiChannel:
        return MultiChannel([await gateway.remote_exec(source, **kwargs) for gateway in self])

    async def map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        *,
        ordered: bool = True,
        progress: Callable[[int, int], object] | None = None,
        retries: int = 0,
        chunksize: int = 1,
    ) -> AsyncIterator[T]:
        """The values of func(item) for each item, computed by the gateways; whoever is free takes the next one.

        To be used with `async for`.  Values come in the order of the items, or, not *ordered*, as they are ready.
        *progress*(done, total) is called after each.  Items of a gateway that dies run again elsewhere, up to *retries*
        times each; then ConnectionLost.
        """
        jobs = Jobs(func, batched(iterable, chunksize), retries, len(self))
        loop = asyncio.get_running_loop()
        workers = [loop.create_task(jobs.work(gateway)) for gateway in self]
        if not workers:
            raise ValueError("no workers: give at least one gateway")
        done = 0
        try:
            for future in jobs.futures if ordered else asyncio.as_completed(jobs.futures):
                for value in await future:
                    done += 1
                    if progress is not None:
                        progress(done, jobs.total)
                    yield value
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

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
