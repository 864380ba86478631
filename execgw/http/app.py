"""The exec-server: an ASGI application.  See docs/http-protocol.md for what its routes mean.

app = make_app(access, policy)          -> uvicorn
await app.state.drain()                 ends all processes, bounded in time
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from .._version import __version__
from ..aio import Group
from ..errors import ExecgwError
from ..peer.compat import clock
from . import frames_routes, metrics, openapi, streams, values_routes
from .access import Denied
from .bodies import FORM, SOURCE, TEXT, kind_of
from .carrying import GRACE, Carrying
from .failures import Refusal, answer
from .limits import Places
from .logged import Logged, named
from .policy import Policy
from .processes import END_SECONDS, Process, Table, log
from .purposes import purpose_of
from .requests import Bodies, Gone, body_of, duration, options_of, seconds, whole
from .talking import PATIENCE, Talking

if TYPE_CHECKING:
    from .access import Access, Caller
    from .policy import Start

BODIES = 4  # of the largest size that requests of one token may have under way at a time

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Request, "Caller"], Awaitable[Response]]


class Server:
    """What the routes share: who may do what, and the processes."""

    def __init__(self, access: Access, policy: Policy, places: Places | None = None) -> None:
        self.access = access
        self.policy = policy
        self.limits = policy.server
        self.places = places or Places(policy.server)
        self.table = Table()
        self.metrics = metrics.Metrics(self.table)
        self.group = Group()
        self.bodies = Bodies(BODIES * policy.server.body)

    # -- who calls

    def guarded(self, path: str, scope: str, handler: Handler) -> Endpoint:
        """The handler, for callers who have that scope."""

        async def endpoint(request: Request) -> Response:
            request.scope["execgw.route"] = path
            caller = self.access.identify(request.headers)
            request.scope["execgw.caller"] = caller.name
            caller.need(scope)
            request.scope["execgw.bodies"] = self.bodies
            try:
                return await handler(request, caller)
            finally:
                self.bodies.free(caller.name, request.scope.get("execgw.body", 0))

        return endpoint

    def process_of(self, request: Request, caller: Caller) -> Process:
        """The process that a path names, if it is the caller's."""
        return self.table.find(request.path_params["pid"], caller)

    # -- starting

    async def start(self, options: Mapping[str, Any], caller: Caller) -> Process:
        """Start what was asked for.  Raises Denied."""
        self.table.check_open()
        protocol = options.get("protocol", "values")
        if protocol not in ("values", "frames"):
            raise Refusal(400, "request", f"protocol is 'values' or 'frames', and not {protocol!r:.60}")
        start = self.policy.choose(options, caller)
        place = self.places.reserve(caller)
        begun = clock()
        self.table.starting += 1
        try:
            process = await self._begin(protocol, options, caller, start, place)
        except BaseException as e:
            place.free()
            self.metrics.started(start.name, "failed", clock() - begun)
            if isinstance(e, ExecgwError):
                log.warning("start failed", extra={"spec": start.name, "owner": caller.name, "why": str(e)})
                raise Refusal(502, "start", f"the process could not be started: {e}") from e
            raise
        finally:
            self.table.starting -= 1
            self.table.calm.ring()
        self.metrics.started(start.name, "started", clock() - begun)
        self.table.add(process)
        log.info("process started", extra={"pid": process.name, "spec": start.name, "owner": caller.name})
        return process

    async def _begin(
        self, protocol: str, options: Mapping[str, Any], caller: Caller, start: Start, place: Any
    ) -> Process:
        if protocol == "frames":
            if options.get("version") != __version__:
                theirs = f"{options.get('version')!r:.60}"
                why = f"the server has execgw {__version__}, the client {theirs}; install the same on both"
                raise Refusal(409, "version", why, server=__version__)
            carrying = Carrying(caller.name, start, place, duration(options, "grace", GRACE))
            await carrying.begin(start.spec)
            return carrying
        patience = None if options.get("patience", PATIENCE) is None else duration(options, "patience", PATIENCE)
        process = Talking(caller.name, start, place, patience)
        await process.begin(self.group, start.spec)
        return process

    async def _started(self, process: Process, request: Request) -> None:
        """Nobody else will ever know its PID: end it, if the client has not waited for it."""
        if await request.is_disconnected():
            await process.end("its client went away before it was started")
            raise Refusal(400, "request", "the client went away during the start")
        if self.table.draining:
            await process.end("the server is ending")
            self.table.check_open()

    async def popen(self, request: Request, caller: Caller) -> Response:
        """POST /popen"""
        caller.need("popen")
        options = options_of(await body_of(request, self.limits))
        process = await self.start(options, caller)
        await self._started(process, request)
        told: dict[str, Any] = {"pid": process.pid, "protocol": process.protocol, "spec": process.spec}
        told["version"] = __version__
        told |= {"websocket": True} if process.protocol == "frames" else {}
        return JSONResponse(told, 201, {"Location": request.url_for("exec", pid=process.pid).path})

    async def exec_alias(self, request: Request, caller: Caller) -> Response:
        """POST /exec: start a process, and run the body in it."""
        caller.need("popen")
        kind = kind_of(request.headers.get("content-type", ""))
        if not (kind.startswith("text/") or kind in (FORM, "")):
            raise Refusal(415, "type", f"the body is source, as {SOURCE} or {TEXT}, and not {kind!r:.100}")
        body = await body_of(request, self.limits)
        spec = request.query_params.get("spec")
        process = await self.start({} if spec is None else {"spec": spec}, caller)
        await self._started(process, request)
        assert isinstance(process, Talking)
        try:
            channel, seq = await values_routes.run(process, body)
        except Denied:
            await process.end("its source could not be run")
            raise
        told = {"pid": process.pid, "protocol": "values", "spec": process.spec, "channel": channel, "seq": seq}
        return JSONResponse(told, 201, {"Location": request.url_for("exec", pid=process.pid).path})

    # -- one process

    async def post(self, request: Request, caller: Caller) -> Response:
        """POST /exec/PID"""
        process = self.process_of(request, caller)
        body = await body_of(request, self.limits)
        if isinstance(process, Carrying):
            return await frames_routes.post(process, request, body)
        assert isinstance(process, Talking)
        return await values_routes.post(process, request, body)

    async def get(self, request: Request, caller: Caller) -> Response:
        """GET /exec/PID"""
        process = self.process_of(request, caller)
        if isinstance(process, Carrying):
            return await frames_routes.get(process, request, self.table)
        assert isinstance(process, Talking)
        return await values_routes.get(process, request, self.table)

    async def stream(self, request: Request, caller: Caller) -> Response:
        """GET /exec/PID/stream"""
        process = self.process_of(request, caller)
        if not isinstance(process, Talking):
            raise Refusal(409, "protocol", "this process speaks frames, which are no events; see GET /exec/PID")
        return streams.server_sent_events(process, request, self, caller)

    async def state(self, request: Request, caller: Caller) -> Response:
        """GET /exec/PID/state"""
        return JSONResponse(self.process_of(request, caller).state())

    async def output(self, request: Request, caller: Caller) -> Response:
        """GET /exec/PID/output"""
        process = self.process_of(request, caller)
        after = whole(request, "after") or 0
        deadline = clock() + seconds(request.query_params, "wait", 0.0)
        with process.followed():
            await self._printed(request, process, after, deadline)
        headers = {"Execgw-Offset": str(process.output.end), "X-Content-Type-Options": "nosniff"}
        data = process.output.read(after)
        if not data and process.over is not None and after:
            raise process.over.refusal()
        return Response(data, 200, headers, "text/plain; charset=utf-8")

    async def _printed(self, request: Request, process: Process, after: int, deadline: float) -> None:
        """Wait until more than that was printed."""
        async with Gone(request, process.bell) as gone:
            while process.output.end <= after and process.over is None and not (gone() or self.table.draining):
                left = deadline - clock()
                if left <= 0 or not await process.bell.wait(left):
                    break

    async def interrupt(self, request: Request, caller: Caller) -> Response:
        """POST /exec/PID/interrupt"""
        process = self.process_of(request, caller)
        process.used = clock()
        try:
            outcomes = await process.interrupt()
        except ExecgwError as e:
            raise Refusal(503, "busy", f"the process does not answer: {e}", 1.0) from None
        return JSONResponse({"interrupted": outcomes})

    async def delete(self, request: Request, caller: Caller) -> Response:
        """DELETE /exec/PID"""
        process = self.process_of(request, caller)
        timeout = seconds(request.query_params, "timeout", END_SECONDS)
        how = await process.end(f"{caller.name!r} asked for it", timeout)
        return JSONResponse({"how": how})

    async def listing(self, request: Request, caller: Caller) -> Response:
        """GET /exec"""
        return JSONResponse({"processes": [process.state() for process in self.table.seen_by(caller)]})

    # -- the server itself

    async def ticket(self, request: Request, caller: Caller) -> Response:
        """POST /ticket"""
        body = options_of(await body_of(request, self.limits))
        pid = body.get("pid")
        if not isinstance(pid, str):
            raise Refusal(400, "request", 'the body says which process the ticket is for: {"pid": PID}')
        self.table.find(pid, caller)
        return JSONResponse({"ticket": self.access.ticket(caller, purpose_of(pid))}, 201)

    async def health(self, request: Request) -> Response:
        """GET /healthz"""
        self.table.check_open()
        return JSONResponse({"ok": True, "version": __version__, "processes": len(self.table.live)})

    async def figures(self, request: Request, caller: Caller) -> Response:
        """GET /metrics"""
        return Response(self.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def description(self, request: Request) -> Response:
        """GET /openapi.json"""
        return JSONResponse(openapi.description(self.limits))

    def routes(self) -> list[BaseRoute]:
        """All of them."""

        def route(path: str, method: str, scope: str | None, handler: Any, name: str | None = None) -> Route:
            endpoint = named(path, handler) if scope is None else self.guarded(path, scope, handler)
            made = Route(path, endpoint, methods=[method], name=name)
            if made.methods is not None:
                made.methods.discard("HEAD")  # which would take a message
            return made

        return [
            route("/popen", "POST", "popen", self.popen),
            route("/exec", "POST", "popen", self.exec_alias),
            route("/exec", "GET", "exec", self.listing),
            route("/exec/{pid}", "POST", "exec", self.post, "exec"),
            route("/exec/{pid}", "GET", "exec", self.get),
            route("/exec/{pid}", "DELETE", "exec", self.delete),
            WebSocketRoute("/exec/{pid}", streams.Sockets(self).endpoint),
            route("/exec/{pid}/stream", "GET", "exec", self.stream),
            route("/exec/{pid}/state", "GET", "exec", self.state),
            route("/exec/{pid}/output", "GET", "exec", self.output),
            route("/exec/{pid}/interrupt", "POST", "exec", self.interrupt),
            route("/ticket", "POST", "exec", self.ticket),
            route("/healthz", "GET", None, self.health),
            route("/metrics", "GET", "admin", self.figures),
            route("/openapi.json", "GET", None, self.description),
        ]


async def _denied(request: Request, denied: Any) -> Response:
    return answer(denied)


async def _http_error(request: Request, error: Any) -> Response:
    words = {404: ("unknown", "there is no such route; see GET /openapi.json")}
    words[405] = ("method", f"{request.method} is no method of this route; see Allow")
    word, why = words.get(error.status_code, ("request", str(error.detail)))
    response = answer(Denied(error.status_code, word, why))
    response.headers.update(error.headers or {})
    return response


async def _bug(request: Request, error: Exception) -> Response:
    return answer(Denied(500, "bug", "something went wrong in the server; its log says what"))


def make_app(
    access: Access,
    policy: Policy | None = None,
    *,
    places: Places | None = None,
    routes: Iterable[BaseRoute] = (),
) -> Starlette:
    """The application of one server; *routes* come besides its own."""
    server = Server(access, policy or Policy(), places)
    drained = asyncio.Event()

    async def drain(timeout: float | None = None) -> None:
        """Start nothing more, tell who waits, and end all processes within *timeout* seconds."""
        if not server.table.draining:
            await server.table.drain(server.limits.drain if timeout is None else timeout)
            await server.group.terminate(1.0)
            drained.set()
        await drained.wait()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await drain()

    handlers: Mapping[Any, Any] = {Denied: _denied, HTTPException: _http_error, Exception: _bug}
    app = Starlette(routes=[*server.routes(), *routes], exception_handlers=handlers, lifespan=lifespan)
    app.add_middleware(Logged, metrics=server.metrics)
    app.state.server = server
    app.state.drain = drain
    return app
