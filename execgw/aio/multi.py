"""The asyncio face: many channels as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal, overload

from .. import multi as sync
from .._face import ManyChannels
from ..errors import ExecgwError
from ..peer.peer import NO_ENDMARKER
from .channel import Channel
from .loop import like


class MultiChannel(ManyChannels[Channel]):
    """What Group.remote_exec returns: the channels of the same code on many gateways."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        super().__init__(channels)
        self._queue: asyncio.Queue[tuple[Channel, Any]] | None = None

    @like(sync.MultiChannel.send_each)
    async def send_each(self, item: object) -> None:
        for channel in self._channels:
            await channel.send(item)

    @overload
    async def receive_each(self, withchannel: Literal[False] = False) -> list[Any]: ...
    @overload
    async def receive_each(self, withchannel: Literal[True]) -> list[tuple[Channel, Any]]: ...
    @like(sync.MultiChannel.receive_each)
    async def receive_each(self, withchannel: bool = False) -> list[Any]:
        if self._queue is not None:
            raise OSError("receive_each: a receive queue was made for these channels, and takes all values")
        items = [await channel.receive() for channel in self._channels]
        return list(zip(self._channels, items, strict=True)) if withchannel else items

    def make_receive_queue(self, endmarker: object = NO_ENDMARKER) -> asyncio.Queue[tuple[Channel, Any]]:
        """An asyncio.Queue of (channel, value) as they come, whichever channel they come from.

        With *endmarker*, (channel, endmarker) is the last of each channel.  Made once; later calls return the same.
        """
        if self._queue is None:
            made: asyncio.Queue[tuple[Channel, Any]] = asyncio.Queue()
            self._queue = made
            for channel in self._channels:

                def put(item: Any, channel: Channel = channel) -> None:
                    made.put_nowait((channel, item))

                channel.setcallback(put, endmarker)
        return self._queue

    @like(sync.MultiChannel.waitclose)
    async def waitclose(self) -> None:
        first: Exception | None = None
        for channel in self._channels:
            try:
                await channel.waitclose()
            except ExecgwError as e:  # noqa: PERF203  # each of them is asked
                first = first or e
        if first is not None:
            raise first
