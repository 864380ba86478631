"""Messages pushed as they come: server-sent events, and WebSockets, on which clients send as well.

What was pushed stays in the queue while there is room, so that a client whose connection broke can go on with
after=N; see messages.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..peer.compat import clock
from . import values_routes
from .access import Denied, check_origin
from .bodies import JSON, as_object, from_json, value_in
from .carrying import Carrying
from .failures import Refusal, answer, body_of
from .frames_routes import FramesSocket
from .messages import VALUE, Hole, Message
from .purposes import purpose_of
from .requests import Gone, whole
from .talking import Talking

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from .access import Caller
    from .app import Server
    from .processes import Process, Table

HEARTBEAT = 15.0  # seconds of silence after which something is sent, and the token is looked at again
MOST_UNREAD = 1 << 20


async def events(
    process: Talking, after: int, table: Table, gone: Callable[[], bool]
) -> AsyncGenerator[dict[str, Any] | None, None]:
    """What a client that has all up to *after* is to be told; None now and then, when there is nothing to tell."""
    while not gone():
        found = process.messages.after(after)
        if isinstance(found, Message):
            event = await values_routes.aside(len(found.data), event_of, found)
            yield event
            after = found.seq
            process.messages.pushed(after)
            process.reads()
            continue
        if isinstance(found, Hole):
            yield {"kind": "dropped", "dropped": found.dropped, "first": found.first}
            after = found.first - 1
            continue
        if process.over is not None and process.nothing_more() is not None:
            yield {"kind": "ended", "why": process.over.why, **process.over.told()}
            return
        if table.draining:
            return
        if not await process.wait(clock() + HEARTBEAT):
            yield None


def event_of(message: Message) -> dict[str, Any]:
    """A message as a JSON object."""
    event: dict[str, Any] = {"kind": message.kind, "seq": message.seq, "channel": message.channel}
    if message.kind != VALUE:
        return {**event, **json.loads(message.data)}
    try:
        return {**event, **as_object(message.form, message.data)}
    except Refusal as e:
        return {**event, **body_of(e), "kind": "raised", "type": None, "message": e.why, "traceback": ""}


def _text(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=True, separators=(",", ":"))


# -- server-sent events


def server_sent_events(process: Talking, request: Request, server: Server, caller: Caller) -> Response:
    """GET /exec/PID/stream"""
    after = whole(request, "after", "last-event-id")
    after = start_at(process, after)
    return _Events(process, after, request, server, caller)


def start_at(process: Talking, after: int | None) -> int:
    """Where a stream goes on: behind what the client has, which is thereby acknowledged, or with the oldest."""
    if after is None:
        return process.messages.oldest - 1
    process.acknowledge(after)
    return after


class _Events(Response):
    media_type = "text/event-stream"

    def __init__(self, process: Talking, after: int, request: Request, server: Server, caller: Caller) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._process, self._after, self._request = process, after, request
        self._server, self._caller = server, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._process.followed():
            await self._stream(send)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def body(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode("utf-8"), "more_body": more})

        await body(": execgw\n\n")  # so that the client knows that it is connected
        process, table = self._process, self._server.table
        async with (
            Gone(self._request, process.bell) as gone,
            aclosing(events(process, self._after, table, gone)) as told,
        ):
            async for event in told:
                if event is None:
                    try:
                        self._server.access.check(self._caller)
                    except Denied:
                        break
                    await body(": still here\n\n")
                    continue
                kind = event.pop("kind")
                number = f"id: {event['seq']}\n" if "seq" in event else ""
                await body(f"{number}event: {kind}\ndata: {_text(event)}\n\n")
            if not gone():
                await body("", more=False)


# -- WebSockets


class Sockets:
    """GET /exec/PID, upgraded."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def endpoint(self, socket: WebSocket) -> None:
        """One WebSocket, from its handshake to its end."""
        socket.scope["execgw.route"] = "/exec/{pid}"
        try:
            process, caller = self._process_of(socket)
            if isinstance(process, Carrying):
                await FramesSocket(socket, process, self._server, caller).serve()
                return
            assert isinstance(process, Talking)
            after = start_at(process, whole(socket, "after"))
            with process.followed():
                await socket.accept()
                await _Talk(socket, process, self._server, caller).serve(after)
        except Denied as denied:
            await socket.send_denial_response(answer(denied))

    def _process_of(self, socket: WebSocket) -> tuple[Process, Caller]:
        server, pid = self._server, socket.path_params["pid"]
        check_origin(socket.headers, server.policy.origins)
        ticket = socket.query_params.get("ticket")
        if ticket is not None:
            caller = server.access.redeem(ticket, purpose_of(pid))
        else:
            caller = server.access.identify(socket.headers)
        socket.scope["execgw.caller"] = caller.name
        caller.need("exec")
        return server.table.find(pid, caller), caller


class _Talk:
    """A WebSocket that carries messages as JSON."""

    def __init__(self, socket: WebSocket, process: Talking, server: Server, caller: Caller) -> None:
        self._socket, self._process = socket, process
        self._server, self._caller = server, caller
        self._gone = False

    async def serve(self, after: int) -> None:
        """Both ways, until the client goes, or there is nothing more."""
        reading = asyncio.get_running_loop().create_task(self._read())
        try:
            code, why = await self._push(after)
            if not self._gone:
                await self._close(code, why)
        except WebSocketDisconnect:
            pass
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _close(self, code: int, why: str) -> None:
        try:
            await self._socket.close(code, why.encode("utf-8")[:120].decode("utf-8", "ignore"))
        except RuntimeError:  # the client was faster
            pass

    async def _push(self, after: int) -> tuple[int, str]:
        async with aclosing(events(self._process, after, self._server.table, lambda: self._gone)) as told:
            async for event in told:
                if event is None:
                    try:
                        self._server.access.check(self._caller)
                    except Denied as e:
                        return 4000 + e.status, e.why
                    continue
                await self._socket.send_text(_text(event))
                if event["kind"] == "ended":
                    return 4410, event["why"]
        return 1012, "the server is ending"

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] != "websocket.receive":
                    break
                try:
                    told = await self._do(message.get("text"))
                except Denied as e:
                    told = {"kind": "refused", **body_of(e)}
                if told is not None:
                    await self._socket.send_text(_text(told))
        except (WebSocketDisconnect, RuntimeError):
            pass
        self._gone = True
        self._process.bell.ring()

    async def _do(self, text: str | None) -> dict[str, Any] | None:
        """What one message of the client asks for."""
        process = self._process
        if text is None:
            raise Refusal(400, "request", "messages are texts of JSON, and no bytes")
        message = from_json(text.encode("utf-8", "replace"))
        if not isinstance(message, dict):
            raise Refusal(400, "request", "a message is a JSON object")
        if "ack" in message:
            process.acknowledge(_number(message, "ack") or 0)
            return None
        kinds = [kind for kind in ("value", "execgw", "source", "end") if kind in message]
        if len(kinds) != 1:
            raise Refusal(400, "request", "a message has one of: value, execgw, source, end, ack")
        seq, number = _number(message, "seq"), _number(message, "channel")

        async def act(left: float) -> int:
            if kinds == ["source"]:
                if not isinstance(message["source"], str):
                    raise Refusal(400, "request", "source is a text")
                return await process.run(message["source"])
            channel = process.channel(number)
            if kinds == ["end"]:
                return process.end_data(channel)
            return await process.send(channel, value_in(message), left)

        same = f"{JSON}\0{kinds[0]}\0{number}\0{_text({'': message[kinds[0]]})}".encode()
        channel, had, new = await process.post(seq, same, values_routes.POST_WAIT, act)
        return {"kind": "had", "seq": had, "channel": channel, "new": new}


def _number(message: dict[str, Any], name: str) -> int | None:
    number = message.get(name)
    if number is not None and (type(number) is not int or number < 0):
        raise Refusal(400, "request", f"{name} is a whole number, and not {number!r:.40}")
    return number
