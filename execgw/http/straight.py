"""uvicorn's WebSocket, with a way past its queue: bytes go to whoever takes them in the call that has read them.

An ordinary ASGI application is woken for each message, which costs as much as all the rest of it.  One that knows the
extension "execgw.straight" of its scope may say `take`; without it, in another server say, it works as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

EXTENSION = "execgw.straight"


class Straight(WebSocketsSansIOProtocol):
    """For uvicorn.Config(ws=Straight)."""

    _take: Callable[[bytes], None] | None = None

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[EXTENSION] = self
        await super().run_asgi()

    def take(self, call: Callable[[bytes], None]) -> None:
        """From now on call(data) gets each binary message; unless some wait in the queue, which come before."""
        if self.queue.empty() and not self.disconnected:
            self._take = call

    def hold(self) -> None:
        """Read nothing for now."""
        self.read_paused = True
        self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def send_receive_event_to_app(self) -> None:
        if self._take is None or self.curr_msg_data_type != "bytes" or self.close_sent:
            super().send_receive_event_to_app()
            return
        frames, self.frames = self.frames, []
        self._take(frames[0] if len(frames) == 1 else b"".join(frames))
