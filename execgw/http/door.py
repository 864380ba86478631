"""The server's door: HTTP/1.1 as uvicorn speaks it, and who is slow, or one too many, is sent away.

    head       must be complete `slow` seconds after its first byte, each 64 KiB of the body in as much again; else 408
    answer     who does not read it for a minute is cut off
    too many   the connection that has waited longest for its client to ask something makes room

A connection whose request runs, a long poll or a stream, is never sent away for others.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from .limits import ServerLimits

STEP = 64 * 1024  # bytes of a body that must come within `slow` seconds
IDLE_SECONDS = 60.0  # that a connection may wait for its next request, or its first
UNREAD_SECONDS = 60.0
AFTER_APP = 2.0  # seconds later than the application itself looks; it does not read the body of what it has refused
TURNED_AWAY = {
    408: ("slow", "Request Timeout", "the request did not come within {slow:g} s, or its body came too slowly"),
    503: (
        "full",
        "Service Unavailable",
        "this server has {connections} connections, and takes no more; try again later",
    ),
}


class Door(H11Protocol):
    """One connection.  Made by door(), which sets *limits* and *waiting*."""

    limits: ServerLimits
    waiting: dict[Door, None]  # those whose client has not yet asked something; who waits longest is first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._got = 0  # bytes since the timer was set
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._turn_away(503)
        else:
            self._look()

    def _make_room(self) -> bool:
        for other in self.waiting:
            other._leave()
            other.transport.close()
            return True
        return False

    def _turn_away(self, status: int) -> None:
        """Say why, where nothing was answered yet, and close."""
        self._leave()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            word, phrase, why = TURNED_AWAY[status]
            body = json.dumps({"error": word, "why": why.format(**vars(self.limits))}).encode()
            head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            retry = "Retry-After: 5\r\n" if status == 503 else ""
            self.transport.write(f"{head}{retry}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    # -- the time that a request may take to come

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._leave()
        self._phase = "upgraded"
        super().handle_websocket_upgrade(event)

    def _look(self) -> None:
        """What is awaited now, and for how long?"""
        phase = self._find_phase()
        if phase == self._phase and not (phase == "body" and self._got >= STEP):
            return
        self._leave()
        self._phase, self._got = phase, 0
        if phase in ("idle", "head"):
            self.waiting[self] = None
        if phase in ("idle", "head", "body"):
            self._timer = self.loop.call_later(self._seconds(), self._too_slow)

    def _find_phase(self) -> str:
        if self._phase == "upgraded" or self.transport.is_closing():
            return self._phase
        state = self.conn.their_state
        if state is h11.IDLE:
            return "head" if self.conn.trailing_data[0] else "idle"
        return "body" if state is h11.SEND_BODY else "asked"

    def _seconds(self) -> float:
        """How long what is awaited now may take."""
        return {"idle": IDLE_SECONDS, "body": self.limits.slow + AFTER_APP}.get(self._phase, self.limits.slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self._phase == "idle":  # it has asked nothing, so there is nothing to be answered
            self._leave()
            self.transport.close()
        elif self.flow.read_paused:  # it is the application that does not read
            self._timer = self.loop.call_later(self._seconds(), self._too_slow)
        else:
            self._turn_away(408)

    def _leave(self) -> None:
        """No longer wait for the client."""
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the time that an answer may take to go

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._unread is not None:
            self._unread.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)


def door(limits: ServerLimits) -> type[asyncio.Protocol]:
    """The class of a server's connections: what uvicorn takes as its `http`."""
    members: dict[str, Any] = {"limits": limits, "waiting": {}}
    return type("Door", (Door,), members)
