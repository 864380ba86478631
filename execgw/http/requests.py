"""What is read of a request, all of it with bounds: numbers in its URL, its body; and whether its client is there."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..peer.compat import clock
from .bodies import from_json
from .failures import Refusal

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request

    from .limits import ServerLimits
    from .waiting import Bell

MOST_WAIT = 60.0  # seconds of wait=; a client asks again
STEP = 64 * 1024  # bytes of a body that must come within the limit `slow`
LARGEST_NUMBER = 1 << 53  # what JSON numbers hold everywhere


class Bodies:
    """How much of requests' bodies is in memory, by who sent it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._sizes: Counter[str] = Counter()

    def add(self, owner: str, size: int) -> None:
        """So much more has come.  Raises Refusal (429)."""
        if self._sizes[owner] + size > self.most:
            why = f"requests of this token have {self.most} bytes under way already; wait for an answer to one"
            raise Refusal(429, "limit", why, 1.0)
        self._sizes[owner] += size

    def free(self, owner: str, size: int) -> None:
        """The request is answered."""
        self._sizes[owner] -= size
        if self._sizes[owner] <= 0:
            del self._sizes[owner]


async def body_of(request: Request, limits: ServerLimits) -> bytes:
    """The whole body.  Raises Refusal: 413 if it is too large, 408 if it comes too slowly, 400 if it does not end."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body:
        raise _too_large(limits)
    bodies: Bodies | None = request.scope.get("execgw.bodies")
    parts: list[bytes] = []
    size, next_step, deadline = 0, STEP, clock() + limits.slow
    while True:
        try:
            message = await asyncio.wait_for(request.receive(), max(deadline - clock(), 0.001))
        except asyncio.TimeoutError:
            raise Refusal(
                408, "slow", f"the body came too slowly: {STEP} bytes in {limits.slow:g} s are asked for"
            ) from None
        if message["type"] != "http.request":
            raise Refusal(400, "request", "the connection ended before the body did")
        part = message.get("body", b"")
        size += len(part)
        if size > limits.body:
            raise _too_large(limits)
        if bodies is not None:
            bodies.add(request.scope["execgw.caller"], len(part))
            request.scope["execgw.body"] = size
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        if size >= next_step:
            next_step, deadline = size + STEP, clock() + limits.slow


def _too_large(limits: ServerLimits) -> Refusal:
    return Refusal(413, "size", f"a body may have {limits.body} bytes; send values one by one", most=limits.body)


def options_of(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds; {} for none.  Raises Refusal (400)."""
    if not body.strip():
        return {}
    found = from_json(body)
    if not isinstance(found, dict):
        raise Refusal(
            400, "request", f"the body is a JSON object of options, or empty, and not {json.dumps(found)[:60]}"
        )
    return found


def whole(request: HTTPConnection, name: str, header: str | None = None, least: int = 0) -> int | None:
    """A whole number in the query, or in a header; None if it is not given.  Raises Refusal (400)."""
    text = request.query_params.get(name)
    if text is None and header is not None:
        name, text = header, request.headers.get(header)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= LARGEST_NUMBER):
        raise Refusal(400, "request", f"{name}={text!r:.40} is no whole number from {least} on")
    return int(text)


def seconds(query: Mapping[str, str], name: str, default: float, most: float = MOST_WAIT) -> float:
    """A time in the query, cut to *most*.  Raises Refusal (400)."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise Refusal(400, "request", f"{name}={text!r:.40} is no number of seconds")
    return min(value, most)


def duration(options: Mapping[str, Any], name: str, default: float) -> float:
    """A number of seconds in a JSON object.  Raises Refusal (400)."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise Refusal(400, "request", f"{name} is a number of seconds, and not {value!r:.40}")
    return float(value)


class Gone:
    """Whether the client of a request, whose body was read, has gone away; rings the bell when that happens.

    async with Gone(request, bell) as gone: ...; gone() tells.
    """

    def __init__(self, request: Request, bell: Bell) -> None:
        self._receive = request.receive
        self._bell = bell
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> bool:
        return self._gone

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._bell.ring()

    async def __aenter__(self) -> Gone:
        self._task = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
