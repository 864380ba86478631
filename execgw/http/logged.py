"""Counts and logs each request: its route and not its path, for that holds a PID; no header, no query, no body."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..peer.compat import clock

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics

    Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("execgw.http.access")


class Logged:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        begun, status = clock(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.note(scope, scope.get("method", "GET"), status or 500, clock() - begun)

    def note(self, scope: Scope, method: str, status: int, took: float) -> None:
        """One request is over."""
        route = pattern_of(scope)
        method = method if method in METHODS else "OTHER"  # a client may send any word, and each would be kept
        self.metrics.requested(route, method, status, took)
        client = (scope.get("client") or ("", 0))[0]
        told: dict[str, Any] = {"route": route, "method": method, "status": status, "ms": round(took * 1000, 1)}
        told |= {"client": client, "caller": scope.get("execgw.caller", "")}
        pid = scope.get("path_params", {}).get("pid")
        if pid:
            told["pid"] = pid[:8]
        quiet = route in QUIET and status == 200
        log.log(logging.DEBUG if quiet else logging.INFO, "%s %s %d", method, route, status, extra=told)


QUIET = {"/processes"}  # what each open page asks for, every other second
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}


def named(path: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, whose requests are logged under that path; Starlette itself tells it only from 1.8 on."""

    async def with_name(request: Request) -> Response:
        request.scope["execgw.route"] = path
        return await endpoint(request)

    return with_name


def pattern_of(scope: Scope) -> str:
    """The pattern of the route that was chosen, or 'none'."""
    route = scope.get("execgw.route") or getattr(scope.get("route"), "path", None)
    return str(route) if route else "none"
