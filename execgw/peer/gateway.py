"""What the gateways of both sides share: making channels and knowing them again by number."""

from .channel import Channel

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

try:
    from _weakref import ref
except ImportError:
    from weakref import ref


class BaseGateway(object):
    """A gateway as its channels see it: `_peer` is its session, `_callbacks` runs their callbacks."""

    _peer = None  # type: Any
    _callbacks = None  # type: Any
    _channel_class = Channel

    def __init__(self, id):
        # type: (str) -> None
        self.id = id
        self._channels = {}  # type: Dict[int, Any]  # number -> weak reference

    def newchannel(self):
        # type: () -> Any
        """A new channel, not bound to any code; both sides may use it once it was sent over another channel."""
        peer = self._peer
        with peer.lock:
            port = peer.mux.open()
            if peer.lost is not None:
                port.error = peer.lost
                peer.mux.drop(port)
            return self._channel_of(port)

    def _channel_for(self, number):
        # type: (int) -> Any
        """The channel object for a number that came in a value: the same one while it is alive."""
        known = self._channels.get(number)
        channel = known() if known is not None else None
        if channel is None:
            with self._peer.lock:
                channel = self._channel_of(self._peer.mux.claim(number))
        return channel

    def _channel_of(self, port):
        # type: (Port) -> Any
        channel = self._channel_class(self, port)
        channels = self._channels
        number = port.number
        channels[number] = ref(channel, lambda _: channels.pop(number, None))
        return channel
