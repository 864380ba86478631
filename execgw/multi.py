"""The sync face: many channels as one."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import Any, Literal, overload

from ._face import ManyChannels
from .channel import Channel
from .errors import ExecgwError
from .peer.peer import NO_ENDMARKER


class MultiChannel(ManyChannels[Channel]):
    """What Group.remote_exec returns: the channels of the same code on many gateways."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        super().__init__(channels)
        self._queue: queue.Queue[tuple[Channel, Any]] | None = None

    def send_each(self, item: object) -> None:
        """Send the same value on every channel."""
        for channel in self._channels:
            channel.send(item)

    @overload
    def receive_each(self, withchannel: Literal[False] = False) -> list[Any]: ...
    @overload
    def receive_each(self, withchannel: Literal[True]) -> list[tuple[Channel, Any]]: ...
    def receive_each(self, withchannel: bool = False) -> list[Any]:
        """One value from every channel, in the channels' order; with *withchannel* as (channel, value)."""
        if self._queue is not None:
            raise OSError("receive_each: a receive queue was made for these channels, and takes all values")
        return [(ch, ch.receive()) if withchannel else ch.receive() for ch in self._channels]

    def make_receive_queue(self, endmarker: object = NO_ENDMARKER) -> queue.Queue[tuple[Channel, Any]]:
        """A queue of (channel, value) as they come, whichever channel they come from.

        With *endmarker*, (channel, endmarker) is the last of each channel.  Made once; later calls return the same.
        """
        if self._queue is None:
            made: queue.Queue[tuple[Channel, Any]] = queue.Queue()
            self._queue = made
            for channel in self._channels:

                def put(item: Any, channel: Channel = channel) -> None:
                    made.put((channel, item))

                channel.setcallback(put, endmarker)
        return self._queue

    def waitclose(self) -> None:
        """Wait until every channel is closed; then raise the first error that one of them ended with, if any."""
        first: Exception | None = None
        for channel in self._channels:
            try:
                channel.waitclose()
            except ExecgwError as e:  # noqa: PERF203  # each of them is asked
                first = first or e
        if first is not None:
            raise first
