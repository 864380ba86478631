"""Two peers in one process over a socket pair: near as a gateway is (the loop), far as a worker is (a keeper)."""

from __future__ import annotations

import socket
import threading
from typing import Any

from execgw._loop import get_loop
from execgw.channel import Channel
from execgw.peer.channel import number_of
from execgw.peer.gateway import BaseGateway
from execgw.peer.peer import Peer
from execgw.peer.pool import Pool
from execgw.transports.base import SocketTransport
from execgw.wire.codec import Codec
from execgw.wire.errors import ConnectionLost
from execgw.wire.mux import Mux
from execgw.worker.keeper import Keeper
from execgw.worker.link import FdLink


class Side(BaseGateway):
    """One side's gateway: newchannel(), and at(number) for a channel that the other side has opened."""

    _channel_class = Channel

    def __init__(self, name: str, link: Any, keeper: Any, first: int, window: int) -> None:
        super().__init__(name)
        codec = Codec()
        mux = Mux(first)
        mux.window = window
        self._peer = peer = Peer(link, keeper, mux, codec)
        codec.channel_type = Channel
        codec.number_of = number_of(peer)
        codec.channel_for = self._channel_for
        peer.on_link_end = self._on_link_end
        peer.on_task = peer.on_heard = None

    def at(self, number: int) -> Channel:
        return self._channel_for(number)

    def _on_link_end(self, reason: Any) -> None:
        # Under the lock, which lose() takes.
        threading.Thread(target=self._peer.lose, args=(reason or ConnectionLost("the link ended"),)).start()


class Pair:
    """`near` and `far`; with window, in bytes, for the channels of both."""

    def __init__(self, window: int = 1 << 20) -> None:
        ours, self._theirs = socket.socketpair()
        self.near = Side("near", SocketTransport(ours), get_loop(), 1, window)
        self.link = FdLink(self._theirs.fileno(), self._theirs.fileno())
        self.keeper = Keeper()
        self.far = Side("far", self.link, self.keeper, 2, window)
        self.near._callbacks = get_loop().callbacks
        self.far._callbacks = Pool(lambda run: threading.Thread(target=run, daemon=True).start())
        near, far = self.near._peer, self.far._peer
        near.link.on_writable = near.flush
        self.keeper.peer, self.keeper.link = far, self.link
        self._thread = threading.Thread(target=self.keeper.run)
        self._thread.start()
        with near.lock:
            near.turn.start()

    def channels(self) -> tuple[Channel, Channel]:
        channel = self.near.newchannel()
        return channel, self.far.at(channel.id)

    def close(self) -> None:
        self.keeper.stopped = True
        self.keeper.tick_soon(self.far._peer)
        self.near._peer.link.close_link()
        self._thread.join(10)
        assert not self._thread.is_alive()
        for side in (self.near, self.far):
            side._peer.lose(ConnectionLost("the pair is closed"))
        self.link.close()
        self._theirs.close()
