"""POST and GET of a process that speaks values: from requests to what talking.py does, and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse, Response

from .bodies import FORM, SOURCE, kind_of, rendered, text_of, value_of
from .failures import Refusal
from .messages import END, RAISED, Hole, Message
from .requests import Gone, seconds, whole

if TYPE_CHECKING:
    from starlette.requests import Request

    from .processes import Table
    from .talking import Talking

POST_WAIT = 10.0  # seconds that data waits for the code to take it
LARGE = 64 * 1024  # bytes from which a value is read or written in another thread, so that others need not wait

T = TypeVar("T")


async def aside(size: int, function: Callable[..., T], *args: Any) -> T:
    """Call function(*args), in another thread if it has much to do."""
    return function(*args) if size < LARGE else await asyncio.to_thread(function, *args)


# -- POST


async def run(process: Talking, body: bytes) -> tuple[int, int]:
    """Run the first source of a process; (channel, seq)."""
    source = text_of(body)
    channel, seq, _ = await process.post(None, body, POST_WAIT, lambda wait: process.run(source))
    return channel, seq


async def post(process: Talking, request: Request, body: bytes) -> Response:
    """POST /exec/PID"""
    query = request.query_params
    seq = whole(request, "seq", "execgw-seq", least=1)
    number = whole(request, "channel", least=1)
    wait = seconds(query, "wait", POST_WAIT)
    content_type = request.headers.get("content-type", "")
    kind = kind_of(content_type)
    is_end = "end" in query

    async def act(left: float) -> int:
        # Whether it is source is known only now: the request before may have been the first.
        if kind == SOURCE or (not process.has_code and number is None and not is_end):
            if not (kind.startswith("text/") or kind in (FORM, "")):
                why = f"nothing runs in it yet, so this is source: send it as {SOURCE}, and not as {kind!r:.100}"
                raise Refusal(415, "type", why)
            return await process.run(text_of(body))
        channel = process.channel(number)
        if is_end:
            return process.end_data(channel)
        value = await aside(len(body), value_of, body, content_type)
        return await process.send(channel, value, left)

    # What makes two requests the same one: with another type the same bytes are another value.
    same = b"\0".join([kind.encode("utf-8", "replace"), str(number).encode(), b"end" if is_end else b"", body])
    channel, had, new = await process.post(seq, same, wait, act)
    headers = {"Execgw-Seq": str(had), "Execgw-Channel": str(channel)}
    return JSONResponse({"channel": channel, "seq": had}, 202 if new else 200, headers)


# -- GET


async def get(process: Talking, request: Request, table: Table) -> Response:
    """GET /exec/PID"""
    after = whole(request, "after")
    wait = seconds(request.query_params, "wait", 0.0)
    found = await process.next(after, 0.0, lambda: table.draining)
    if found is None and wait > 0 and not table.draining:
        async with Gone(request, process.bell) as gone:
            found = await process.next(after, wait, lambda: gone() or table.draining)
    if found is None:
        table.check_open()
        return Response(status_code=204)
    if isinstance(found, Refusal):
        raise found
    if isinstance(found, Hole):
        raise dropped(found)
    try:
        return await _answer(found, request.headers.get("accept", ""))
    except Refusal as e:
        if e.status == 406 and after is None:
            process.messages.put_back(found)
        raise
    except BaseException:  # the server ends
        if after is None:
            process.messages.put_back(found)
        raise


async def _answer(message: Message, accept: str) -> Response:
    headers = {"Execgw-Seq": str(message.seq), "Execgw-Channel": str(message.channel)}
    if message.kind in (RAISED, END):
        refusal = refusal_of(message)
        body = {"error": refusal.word, "why": refusal.why, **refusal.more}
        return JSONResponse(body, refusal.status, headers)
    try:
        data, kind = await aside(len(message.data), rendered, message.form, message.data, accept)
    except Refusal as e:
        if e.status != 422:
            raise
        return JSONResponse({"error": e.word, "why": e.why}, 422, headers)
    return Response(data, 200, headers, kind)


def refusal_of(message: Message) -> Refusal:
    """What the end of a channel is told as."""
    if message.kind == END:
        why = "the code has ended; POST other source to this PID, or DELETE it"
        return Refusal(410, "ended", why, of="channel", channel=message.channel)
    told = json.loads(message.data)
    name = f"{told['type']}: " if told.get("type") else ""
    return Refusal(422, "raised", f"{name}{told['message']}"[:2000], channel=message.channel, **told)


def dropped(hole: Hole) -> Refusal:
    """The answer to who comes too late."""
    many = "a message was" if hole.dropped == 1 else f"{hole.dropped} messages were"
    why = f"{many} dropped, for nobody took them in time; the queue goes on with {hole.first}"
    return Refusal(416, "dropped", why, dropped=hole.dropped, first=hole.first)
