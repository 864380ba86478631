"""A near side by hand: what a client of the frames protocol sends and understands, without its ways to resume."""

from __future__ import annotations

from typing import Any

from execgw.wire import frames as f
from execgw.wire.codec import Codec
from execgw.wire.mux import HEARD, Mux


class NearSide:
    """Its bytes are made by hello(), run() and send(); feed() what comes."""

    def __init__(self) -> None:
        self.mux = Mux(1)
        self.codec = Codec(trusted=False)
        self.greeted = False
        self.about: dict[str, str] = {}
        self.codec.channel_for = lambda number: number
        self._noise = b""

    def hello(self, window: int = 1 << 20) -> bytes:
        options = {"version": "1", "id": "test", "execmodel": "thread", "window": str(window), "chunk": str(1 << 16)}
        return self.mux.hello(f.pack_pairs({**options, "group": "1"}))

    def run(self, source: str) -> tuple[Any, bytes]:
        """(the channel, the frame that runs code behind it)"""
        port = self.mux.open()
        return port, self._frame(f.EXEC, port, source)

    def send(self, port: Any, value: object) -> bytes:
        return self._frame(f.DATA, port, value)

    def end(self, port: Any) -> bytes:
        return self.mux.header(f.END, 0, 0, port.number, 0)

    def bye(self) -> bytes:
        return self.mux.header(f.BYE, 0, 0, 0, 0)

    def ack(self) -> bytes:
        """What has come, is had; outside of the sequence."""
        return f.HEADER.pack(f.ACK, 0, 0, 0, 0, self.mux.received_seq, 0)

    def _frame(self, kind: int, port: Any, value: object) -> bytes:
        form, data = self.codec.encode(value)
        data = data if isinstance(data, bytes) else b"".join(data)
        return self.mux.header(kind, 0, form, port.number, len(data)) + data

    def feed(self, data: bytes) -> None:
        if not self.greeted:
            self._noise += data
            self._noise, marker, data = self._noise.partition(f.MARKER)
            if not marker:
                return
            self.greeted = True
        for event in self.mux.feed(data):
            if event[0] == HEARD and event[1] == f.HELLO:
                assert not self.about, "a second hello"
                self.about = f.unpack_pairs(event[2])

    @property
    def seen(self) -> int:
        return self.mux.received_seq

    def values(self, port: Any) -> list[Any]:
        """All that has come on a channel."""
        found = []
        while port.items:
            form, data = self.mux.take(port)
            found.append(self.codec.decode(form, data if isinstance(data, bytes) else b"".join(data)))
        return found
