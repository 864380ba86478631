"""The ways of frames: a WebSocket, and POST and GET for where there is none.  See docs/http-protocol.md.

What a worker says goes out in the very call that reads it, if the WebSocket takes it: a task that had to be woken for
it would cost a third of a round trip.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocketDisconnect, WebSocketState

from ..peer.compat import clock
from .access import Denied
from .bodies import FRAMES, kind_of
from .carrying import frames_in
from .failures import Refusal, body_of
from .requests import Gone, seconds, whole

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from .access import Caller
    from .app import Server
    from .carrying import Carrying
    from .processes import Table
    from .straight import Straight

POST_WAIT = 10.0  # seconds that a POST waits for a worker that does not read
AT_A_TIME = 256 * 1024  # bytes of one WebSocket message; more only if it is one frame
MOST_ANSWER = 1 << 20  # bytes of one answer to a GET; more only if it is one frame
CHECK_SECONDS = 15.0  # between looks at the token of a WebSocket
LAST_SEQ = 0xFFFFFFFF


def _after(request: Any) -> int | None:
    after = whole(request, "after")
    if after is not None and after > LAST_SEQ:
        raise Refusal(400, "request", f"after={after}: no frame has such a number")
    return after


def _headers(process: Carrying, had: int) -> dict[str, str]:
    return {"Execgw-Had": str(had), **({"Execgw-Greeted": "1"} if process.kept.options is not None else {})}


# -- POST and GET


class _Poller:
    """One GET after the other, and the POSTs between them."""

    def __init__(self, process: Carrying) -> None:
        self.process = process

    def pushed(self) -> None:
        self.process.bell.ring()

    def taken_over(self) -> None:
        self.process.bell.ring()


async def post(process: Carrying, request: Request, body: bytes) -> Response:
    """POST /exec/PID"""
    kind = kind_of(request.headers.get("content-type", ""))
    if kind != FRAMES:
        raise Refusal(409, "protocol", f"this process speaks frames: send {FRAMES}, and not {kind!r:.100}")
    if process.over is not None:
        raise process.over.refusal()
    kept = process.kept
    numbers = [seq for kind, seq in frames_in(body) if seq]
    ahead = (numbers[0] - kept.near_seq) & LAST_SEQ if numbers else 0
    if 1 < ahead <= LAST_SEQ // 2:
        why = f"frame {numbers[0]} came, and {kept.near_seq + 1} was not yet had; send that first"
        raise Refusal(409, "gap", why, expected=kept.near_seq + 1)
    if process.link is not None and not isinstance(process.link, _Poller):
        process.take_link(_Poller(process), None)
    with process.followed():
        if not await process.unclogged(POST_WAIT):
            return _busy(process)
        if process.over is not None:
            raise process.over.refusal()
        process.from_client(body)
    return Response(status_code=202, headers=_headers(process, kept.near_seq))


def _busy(process: Carrying) -> Response:
    why = f"the worker has read nothing for {POST_WAIT:g} s; what was had before waits for it"
    headers = {**_headers(process, process.kept.near_seq), "Retry-After": "1"}
    return JSONResponse({"error": "busy", "why": why}, 503, headers)


async def get(process: Carrying, request: Request, table: Table) -> Response:
    """GET /exec/PID"""
    after = _after(request)
    deadline = clock() + seconds(request.query_params, "wait", 0.0)
    link = _Poller(process)
    kept = process.kept
    with process.followed():
        had = process.take_link(link, after)
        async with Gone(request, process.bell) as gone:
            while not (kept.pending or process.over is not None or gone() or table.draining):
                left = deadline - clock()
                if left <= 0 or not await process.bell.wait(left):
                    break
                if process.link is not link:
                    raise Refusal(409, "taken", "another connection follows this process now")
        if process.link is not link:
            raise Refusal(409, "taken", "another connection follows this process now")
        data = b"" if gone() else kept.take(MOST_ANSWER)
    headers = _headers(process, max(had, kept.near_seq))
    if data:
        return Response(data, 200, headers, FRAMES)
    if process.nothing_more is not None:
        raise process.nothing_more
    table.check_open()
    return Response(status_code=204, headers=headers)


# -- WebSocket


class _Rest:
    """What is left of a coroutine that has begun, for a task to finish."""

    def __init__(self, steps: Generator[Any, Any, Any], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                got = yield waits_for
            except BaseException as e:  # noqa: PERF203  # a coroutine gets its exceptions one by one
                try:
                    waits_for = self._steps.throw(e)
                except StopIteration:
                    return
            else:
                try:
                    waits_for = self._steps.send(got)
                except StopIteration:
                    return


class FramesSocket:
    """A WebSocket that carries frames, both ways."""

    def __init__(self, socket: WebSocket, process: Carrying, server: Server, caller: Caller) -> None:
        self._socket = socket
        self._process = process
        self._server = server
        self._caller = caller
        self._straight: Straight | None = socket.scope.get("extensions", {}).get("execgw.straight")
        self._send: Any = socket.send if self._straight is None else self._straight.send
        self._sending = False
        self._closed = False
        self._close_with: tuple[int, str] | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None  # that finishes what could not be sent at once
        self._holding: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """From the handshake to the end.  Raises Denied before it."""
        process = self._process
        after = _after(self._socket)
        if process.nothing_more is not None and after is not None:
            raise process.nothing_more
        with process.followed():
            await self._carry(process.take_link(self, after))

    async def _carry(self, had: int) -> None:
        process, socket = self._process, self._socket
        self._sending = True  # not before the handshake
        timer = self._loop.call_later(CHECK_SECONDS, self._check)
        try:
            headers = [(name.lower().encode(), value.encode()) for name, value in _headers(process, had).items()]
            await socket.accept(headers=headers)
            self._sending = False
            self.pushed()
            await self._receive()
        except (WebSocketDisconnect, OSError, RuntimeError):  # the client has gone, at whatever moment
            pass
        finally:
            self._closed = True
            process.drop_link(self)
            timer.cancel()
            for task in (self._task, self._holding):
                if task is not None:
                    task.cancel()

    async def _receive(self) -> None:
        process, receive = self._process, self._socket.receive
        while True:
            if self._straight is not None:
                self._straight.take(self._take)
            message = await receive()
            data = message.get("bytes")
            if data:
                self._take(data)
                if process.clogged:
                    await process.unclogged()
            elif message["type"] != "websocket.receive":
                return
            elif data is None:
                self._end(4400, "frames come as binary messages")

    def _take(self, data: bytes) -> None:
        process = self._process
        if process.link is not self:
            return
        try:
            process.from_client(data)
        except Refusal as e:
            self._end(4000 + e.status, e.why)
        holds = self._holding is not None and not self._holding.done()
        if self._straight is not None and process.clogged and not holds:
            self._straight.hold()
            self._holding = self._loop.create_task(self._go_on())

    async def _go_on(self) -> None:
        await self._process.unclogged()
        if self._straight is not None:
            self._straight.go_on()

    # -- to the client

    def pushed(self) -> None:
        if self._sending or self._closed:
            return
        self._sending = True
        steps: Any = self._push()
        try:
            waits_for = steps.send(None)
        except StopIteration:
            return
        except (WebSocketDisconnect, OSError, RuntimeError):
            self._closed = True
            return
        self._task = self._loop.create_task(self._finish(_Rest(steps, waits_for)))

    async def _finish(self, rest: _Rest) -> None:
        try:
            await rest
        except (WebSocketDisconnect, OSError, RuntimeError):
            self._closed = True

    async def _push(self) -> None:
        """Send what there is.  Run by hand: most often it never has to wait."""
        process = self._process
        kept = process.kept
        try:
            while self._close_with is None:
                if kept.pending and process.link is self:
                    await self._send({"type": "websocket.send", "bytes": kept.take(AT_A_TIME)})
                elif process.shown < process.output.end and process.link is self:
                    text = process.output.read(process.shown).decode("utf-8", "replace")
                    process.shown = process.output.end
                    await self._send({"type": "websocket.send", "text": json.dumps({"stderr": text})})
                elif process.over is not None and process.link is self:
                    ended = process.over.refusal()
                    await self._send({"type": "websocket.send", "text": json.dumps(body_of(ended))})
                    self._close_with = 4410, ended.why
                else:
                    return
            code, why = self._close_with
            self._closed = True
            reason = why.encode("utf-8")[:120].decode("utf-8", "ignore")
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            self._sending = False

    def taken_over(self) -> None:
        self._end(4409, "another connection follows this process now")

    def _end(self, code: int, why: str) -> None:
        if self._close_with is None:
            self._close_with = code, why
            self.pushed()

    def _check(self) -> None:
        """The token may be over by now."""
        if self._closed:
            return
        try:
            self._server.access.check(self._caller)
        except Denied as e:
            self._end(4000 + e.status, e.why)
            return
        self._loop.call_later(CHECK_SECONDS, self._check)
