"""The live page of a server: its processes, for people with a browser.

    GET /             the page, or the question for a token
    POST /login       a token for a session, whose key is in a cookie that scripts cannot read and other sites not send
    GET /processes    the part that changes; page.js asks for it again and again, and without scripts the page reloads
    POST /act         the buttons; it needs the session's form key, too, which another site cannot know

All of it is rendered here, all texts are escaped, and nothing is loaded from elsewhere: the content security policy
allows the two files beside this one, and no script in the page.  A session ends with its token.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..errors import ExecgwError
from ..wire.printable import COLOUR, printable
from .access import Caller, Denied, check_origin, hash_of
from .logged import named
from .requests import body_of

if TYPE_CHECKING:
    from .app import Server
    from .processes import Process

LONGEST_FORM = 8192  # bytes; who sends one need not have shown a token
SESSION_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_SHOWN = 200  # processes on the page; the rest is counted
TAIL_LINES = 16
TAIL_BYTES = 4096
ENDED_SHOWN = 20  # of those that are over, the newest

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would not tell the origin of our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COLOURS = re.compile(COLOUR)

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Session:
    """Somebody who has shown a token in a browser."""

    caller: Caller
    until: float
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class Page:
    """The routes, and the sessions."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sessions: dict[str, Session] = {}

    # -- sessions

    def _session(self, request: Request) -> Session | None:
        """Whose browser it is, if the session is known and its token still good."""
        found = self._sessions.get(_key(request))
        if found is None:
            return None
        try:
            if self._now() >= found.until:
                raise Denied(401, "token", "the session is over")
            found.caller = _server(request).access.check(found.caller)
        except Denied:
            self._sessions.pop(_key(request), None)
            return None
        return found

    def _begin(self, caller: Caller) -> str:
        """A new session; returns what goes into its cookie."""
        now = self._now()
        for key in [key for key, session in self._sessions.items() if session.until <= now]:
            del self._sessions[key]
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        text = secrets.token_urlsafe(32)
        self._sessions[hash_of(text)] = Session(caller, now + SESSION_SECONDS)
        return text

    # -- routes

    async def home(self, request: Request) -> Response:
        """GET /"""
        session = self._session(request)
        return _html(_question("")) if session is None else _html(_page(_server(request), session))

    async def processes(self, request: Request) -> Response:
        """GET /processes"""
        session = self._session(request)
        if session is None:
            return Response("", 401, HEADERS)
        return _html(_listing(_server(request), session))

    async def login(self, request: Request) -> Response:
        """POST /login"""
        form = await _form(request)
        try:
            caller = _server(request).access.knows(form.get("token", "").strip())
        except Denied as e:
            return _html(_question(e.why), e.status)
        response = _home()
        response.set_cookie(
            _cookie(request),
            self._begin(caller),
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    async def act(self, request: Request) -> Response:
        """POST /act"""
        session = self._session(request)
        if session is None:
            return _home()
        form = await _form(request)
        if not hmac.compare_digest(form.get("key", "").encode(), session.key.encode()):
            return _html(
                _document("Refused", "<p>This form is not of your session; <a href='./'>go back</a>.</p>"), 403
            )
        what = form.get("do", "")
        if what == "logout":
            self._sessions.pop(_key(request), None)
            response = _home()
            response.delete_cookie(_cookie(request), path="/", httponly=True, samesite="strict")
            return response
        session.caller.need("exec")
        process = _server(request).table.find(form.get("pid", ""), session.caller)
        try:
            if what == "interrupt":
                await process.interrupt()
            elif what == "end":
                await process.end(f"{session.caller.name!r} asked for it on the page")
        except ExecgwError:
            pass  # it has just ended; the page shows that
        return _home()


def page_routes() -> list[Route]:
    """What make_app(routes=) takes."""
    page = Page()
    return [
        _route("/", "GET", _shown(page.home)),
        _route("/processes", "GET", _shown(page.processes)),
        _route("/login", "POST", _shown(page.login)),
        _route("/act", "POST", _shown(page.act)),
        _route("/page.css", "GET", _file("page.css", "text/css")),
        _route("/page.svg", "GET", _file("page.svg", "image/svg+xml")),
        _route("/page.js", "GET", _file("page.js", "text/javascript")),
    ]


def _route(path: str, method: str, handler: Handler) -> Route:
    return Route(path, named(path, handler), methods=[method])


def _shown(handler: Handler) -> Handler:
    """The handler; what it refuses is said on a page, and not in JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except Denied as e:
            back = "<p><a href='./'>Back to the processes</a></p>"
            return _html(_document("Refused", f"<h1>Refused</h1><p>{escape(e.why)}</p>{back}"), e.status)

    return endpoint


def _file(name: str, kind: str) -> Handler:
    data = (STATIC / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(data, 200, {**HEADERS, "Cache-Control": "max-age=300"}, kind)

    return endpoint


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


def _cookie(request: Request) -> str:
    """The name of the cookie: browsers send those of one host to all of its ports."""
    return f"execgw_session_{(request.scope.get('server') or ('', 0))[1]}"


def _key(request: Request) -> str:
    """What a session is kept by: a hash, so that how long it takes to look for one tells nothing."""
    return hash_of(request.cookies.get(_cookie(request), ""))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent from a page of ours."""
    server = _server(request)
    check_origin(request.headers, server.policy.origins)
    body = await body_of(request, replace(server.limits, body=min(server.limits.body, LONGEST_FORM)))
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=16)
    return {key: values[0] for key, values in fields.items()}


def _home() -> Response:
    return RedirectResponse("./", 303, HEADERS)  # wherever a proxy has put it


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, HEADERS, "text/html; charset=utf-8")


# -- what is shown


def _document(title: str, body: str) -> str:
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)} - execgw</title><link rel='stylesheet' href='page.css'>"
        "<link rel='icon' href='page.svg'></head>"
        f"<body>{body}</body></html>"
    )


def _question(why: str) -> str:
    said = f"<p class='why' role='alert'>{escape(why)}</p>" if why else ""
    return _document(
        "Token",
        "<main class='ask'><h1>execgw</h1><p>This server starts processes for those who have a token.</p>"
        "<form method='post' action='login'><input name='name' value='execgw' autocomplete='username' hidden>"
        "<label for='token'>Token</label>"
        "<input id='token' name='token' type='password' autocomplete='current-password' required autofocus>"
        f"{said}<button class='go'>Show the processes</button></form>"
        "<p class='hint'>The server has said at its first start in which file the first one is; further ones come from "
        "<code>execgw token new</code>.</p></main>",
    )


def _page(server: Server, session: Session) -> str:
    name = escape(session.caller.name)
    return _document(
        "Processes",
        "<header><h1>execgw</h1><p id='live' role='status'>live</p>"
        f"<form method='post' action='act'>{_hidden(session)}<span class='who'>{name}</span>"
        "<button name='do' value='logout'>Leave</button></form></header>"
        f"<main id='processes'>{_listing(server, session)}</main>"
        "<noscript><meta http-equiv='refresh' content='5'></noscript><script src='page.js'></script>",
    )


def _hidden(session: Session, pid: str = "") -> str:
    named = f"<input type='hidden' name='pid' value='{escape(pid)}'>" if pid else ""
    return f"<input type='hidden' name='key' value='{escape(session.key)}'>{named}"


def _listing(server: Server, session: Session) -> str:
    """The part that changes."""
    seen = server.table.seen_by(session.caller)
    live = [process for process in seen if process.over is None]
    over = [process for process in seen if process.over is not None][-ENDED_SHOWN:]
    states = [process.state() for process in live]
    memory = sum(state["memory"] for state in states)
    waits = sum(state["queue"].get("bytes", 0) for state in states)
    facts = [
        ("processes", f"{len(live)} <small>of {server.limits.processes}</small>"),
        ("memory", _size(memory)),
        ("queues", _size(waits)),
        ("busy", str(sum(state["state"] == "busy" for state in states))),
    ]
    top = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    drain = (
        "<p class='why' role='alert'>The server is ending: it starts nothing more.</p>" if server.table.draining else ""
    )
    shown = "".join(_card(process, session) for process in [*live, *reversed(over)][:MOST_SHOWN])
    hidden = len(live) + len(over) - MOST_SHOWN
    more = f"<p class='hint'>and {hidden} more: execgw ps</p>" if hidden > 0 else ""
    nothing = "<p class='none'>No process runs.</p>" if not seen else ""
    return f"<dl class='facts'>{top}</dl>{drain}{nothing}<div class='list'>{shown}</div>{more}"


def _card(process: Process, session: Session) -> str:
    state = process.state()
    queue = state["queue"]
    waits = _size(queue.get("bytes", 0))
    if queue.get("messages"):
        waits = f"{queue['messages']} in {waits}"
    dropped = f", <b>{queue['dropped']} dropped</b>" if queue.get("dropped") else ""
    facts = [("age", _duration(state["age"])), ("owner", escape(state["owner"])), ("queue", waits + dropped)]
    if process.over is None:
        facts += [
            ("memory", _size(state["memory"])),
            ("followed by", str(state["followers"])),
            ("speaks", escape(state["protocol"])),
        ]
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    name = escape(process.name)
    end = f"<p class='end'>{escape(state['why'])}</p>" if process.over is not None else ""
    tail = _tail(process)
    output = f"<pre id='out-{name}' tabindex='0' aria-label='output'>{escape(tail)}</pre>" if tail else ""
    return (
        f"<article class='{state['state']}' id='p-{name}'><h2><span class='state'>{state['state']}</span> "
        f"{escape(state['spec'])} <code>{name}</code></h2>{_buttons(process, session)}<dl>{told}</dl>{end}{output}"
        "</article>"
    )


def _buttons(process: Process, session: Session) -> str:
    if process.over is not None or "exec" not in session.caller.scopes:
        return ""
    return (
        f"<form method='post' action='act'>{_hidden(session, process.pid)}"
        "<button name='do' value='interrupt'>Interrupt</button>"
        "<button name='do' value='end' class='danger'>End</button></form>"
    )


def _tail(process: Process) -> str:
    """The last lines that it has printed, of what can be seen."""
    data = process.output.read(max(process.output.end - TAIL_BYTES, 0))
    if not data and process.over is not None:
        data = process.over.stderr.encode()
    text = COLOURS.sub("", data.decode("utf-8", "replace").replace("\r\n", "\n"))
    return "\n".join(printable(text).splitlines()[-TAIL_LINES:])


def _size(number: int) -> str:
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def _duration(seconds: Any) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
