"""The near half of a gateway through an HTTP exec-server: asks for a process, connects to it as often as it takes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..errors import ExecgwError, HandshakeError
from ..peer.compat import clock
from ..transports.base import Ended, Transport
from ..transports.resume import Final, Resuming
from ..wire.printable import PrintableBytes, printable
from .client_poll import PollLink
from .client_requests import Requests
from .client_server import LONGEST_WHY, Server, refusal, text_of, told, unreached
from .client_socket import Refused, WebSocketLink, open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._loop import Loop

TAIL = 4096  # characters of stderr that are kept
MOST_STDERR = 64 * 1024  # characters of one message; a server of ours keeps no more
REFUSED_SECONDS = 0.25  # for which nobody listens there: a server that has ended, and its processes with it
END_SECONDS = 5.0  # for the answer to DELETE
SHORT_LINKS = 3  # WebSockets that broke before anything came: something between does not carry them
_WRONG = (OSError, http.client.HTTPException)

NO_TICKET = (
    "a worker behind an exec-server cannot be left to another process: its server ends it when this one is gone; "
    "what is to go on by itself is started by POST /popen, and asked for by GET /exec/PID: see docs/http-protocol.md"
)
_PLAIN = ("the process has ended", "the process was killed")  # as any worker's end is told; see _reasons.py

# What it means that the server closes a WebSocket, or answers to a request for the process, so; others are tried again.
_LAST = {
    400: "the server says that a frame breaks the rules of the protocol",
    401: "the server does not take the token any more",
    403: "the server does not allow it any more",
    404: "the server does not know the process any more: it was ended there, or the server was started anew",
    409: "another connection follows this process now",
    410: "",
}


@dataclass(frozen=True)
class Wish:
    """What the user wants, beside the server."""

    spec: str | None
    websocket: bool | None  # None: if the server offers one
    grace: float
    patient: bool  # waits all of it, though nobody listens there: a proxy may be started anew
    keepalive: float


class HttpConnector:
    """See transports.resume.Connector."""

    def __init__(self, server: Server, wish: Wish) -> None:
        self.server = server
        self.wish = wish
        self.pid: str | None = None
        self.offset = 0  # bytes of stderr that were told over plain requests
        self.tail = ""
        self.showing = threading.Event()  # the worker has said hello
        self._unseen: list[bytes] = []
        self._filter = PrintableBytes()
        self._show_lock = threading.Lock()
        self._websocket = wish.websocket
        self._short = 0  # WebSockets in a row over which nothing came
        self._refused_since: float | None = None
        self._requests = Requests(server, wish.keepalive)
        self.on_stderr: Callable[[], object] = lambda: None  # there is something to show
        self._starting = threading.Lock()  # held while the process is being asked for
        self._ended: Ended | None = None

    @property
    def path(self) -> str:
        return f"/exec/{self.pid}"

    # -- the process

    def _start(self, seconds: float) -> None:
        """Ask for the process."""
        body: dict[str, Any] = {"protocol": "frames", "version": __version__, "grace": self.wish.grace}
        if self.wish.spec is not None:
            body["spec"] = self.wish.spec
        where = f"{self.server.where}: {self.server}"
        with self._starting:
            try:
                with self._requests as requests:
                    data = json.dumps(body).encode()
                    answer = requests.ask("POST", "/popen", seconds, data, {"Content-Type": "application/json"})
            except _WRONG as e:
                raise unreached(self.server, e) from e
            said = told(answer.body)
            if answer.status != 201:
                raise refusal(self.server, answer.status, answer.headers, said, __version__)
            pid, protocol = said.get("pid"), said.get("protocol")
            if not isinstance(pid, str) or not re.fullmatch("[A-Za-z0-9_-]{1,128}", pid):
                raise HandshakeError(f"{where}: its answer names no process: {said!r}"[:LONGEST_WHY])
            self.pid = pid
        if protocol != "frames":
            raise HandshakeError(
                f"{where}: it is too old, and knows no frames; install execgw {__version__} there, as it is here"
            )
        if self._websocket is None:
            self._websocket = said.get("websocket") is True

    def end(self, force: bool) -> Ended | None:
        if not force and self.pid is None:
            return None
        with self._starting:  # a process whose name we do not know yet could not be ended
            if self.pid is None:
                return Ended()
            if self._ended is not None:
                return self._ended
            try:
                with Requests(self.server, self.wish.keepalive) as requests:
                    requests.ask("DELETE", f"{self.path}?timeout=0", END_SECONDS)
                    answer = requests.ask("GET", f"{self.path}/state", END_SECONDS)
            except _WRONG as e:
                return Ended(why=f"the server was not reached to end it: {e or type(e).__name__}")
            return self._ended_by(told(answer.body))

    # -- connections to it

    def connect(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]:
        if self.pid is None:
            self._start(seconds)
        try:
            found = self._open(seen, seconds)
        except ConnectionRefusedError as e:
            now = clock()
            self._refused_since = self._refused_since or now
            if not self.wish.patient and now - self._refused_since >= REFUSED_SECONDS:
                raise Final(Ended(why=f"the server has gone: {self.server.authority}: {e.strerror}")) from e
            raise
        self._refused_since = None
        return found

    def _open(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]:
        if self.wish.websocket or (self._websocket and self._short < SHORT_LINKS):
            self._short += 1  # until something comes
            try:
                return self._open_socket(seen, seconds)
            except Refused as e:
                said = told(e.body)
                if e.status in _LAST and "error" in said:
                    raise Final(self._last(e.status, said)) from e
                if e.status in (502, 503, 504) or "error" in said:
                    raise
                if self.wish.websocket:
                    why = f"no WebSocket there: it answers with status {e.status}; leave out websocket=yes"
                    raise Final(Ended(why=why)) from e
                self._websocket = False  # a proxy that knows none
        return self._open_requests(seen, seconds)

    def _open_socket(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]:
        after = "" if seen is None else f"?after={seen}"
        sock, protocol, headers = open_socket(self.server, self._requests.dial, self.path + after, seconds)
        try:
            had = int(headers.get("Execgw-Had", "0"))
            link = WebSocketLink(sock, protocol, self.wish.keepalive, self.tell)
        except ValueError:
            sock.close()
            raise
        finally:
            self._requests.dial.release()
        return link, had if headers.get("Execgw-Greeted") == "1" else None

    def _open_requests(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]:
        """A POST without frames tells what the server has."""
        with self._requests as requests:
            headers = {"Content-Type": "application/x-execgw-frames"}
            answer = requests.ask("POST", self.path, min(seconds, END_SECONDS), b"", headers)
        said = told(answer.body)
        if answer.status in _LAST and "error" in said:
            raise Final(self._last(answer.status, said))
        if answer.status not in (200, 202):
            raise ConnectionError(0, f"the server answers with status {answer.status}")
        had = int(answer.headers.get("Execgw-Had", "0"))
        link = PollLink(self.server, self.path, self.wish.keepalive, seen, self.offset, self.tell)
        return link, had if answer.headers.get("Execgw-Greeted") == "1" else None

    # -- what the server says beside the worker's bytes

    def heard(self) -> None:
        """Something has come over the present link."""
        self._short = 0

    def tell(self, said: dict[str, Any]) -> Ended | None:
        """See WebSocketLink; in whichever thread reads."""
        if "stderr" in said and "error" not in said:
            self._on_stderr(str(said["stderr"]), said.get("offset"))
            return None
        if "error" in said and said["error"] == "ended":
            return self._ended_by(said)
        status, code = said.get("status"), said.get("code")
        if status is None and isinstance(code, int):
            status = code - 4000
        return self._last(status, said) if isinstance(status, int) and status in _LAST else None

    def _last(self, status: int, said: dict[str, Any]) -> Ended:
        if self._ended is not None:
            return self._ended
        if status == 410:
            return self._ended_by(said)
        why = printable(str(said.get("why", ""))[:LONGEST_WHY])
        return Ended(why=f"{_LAST[status]}{f' ({why})' if why and why not in _LAST[status] else ''}")

    def _ended_by(self, said: dict[str, Any]) -> Ended:
        """How the worker ended, as the server tells it."""
        code = said.get("exit_code")
        if not isinstance(code, int) or not 0 <= code < 1 << 32:
            number = getattr(signal, str(said.get("signal")), None)
            code = -number if isinstance(number, signal.Signals) else None
        why = text_of(said, "why")
        if why.startswith(_PLAIN):
            why = ""
        self._ended = Ended(code, (str(said.get("stderr") or "") or self.tail)[-TAIL:], why)
        return self._ended

    def _on_stderr(self, text: str, offset: Any) -> None:
        if isinstance(offset, int):
            self.offset = offset
        text = text[-MOST_STDERR:]
        self.tail = (self.tail + text)[-TAIL:]
        with self._show_lock:
            self._unseen.append(self._filter.feed(text.encode("utf-8", "replace")))
            del self._unseen[:-64]  # before the start nothing is shown
        self.on_stderr()

    def show(self) -> None:
        """Write to our own stderr what the worker has written, once it has said hello; it may block."""
        with self._show_lock:
            while self._unseen and self.showing.is_set():
                data = self._unseen.pop(0)
                try:
                    while data:
                        data = data[os.write(2, data) :]
                except OSError:
                    pass

    def close(self) -> None:
        if not self._starting.locked():
            self._requests.dial.abort()


class HttpTransport(Resuming):
    """A worker behind an HTTP exec-server."""

    group = 1
    hears_of_death = True

    def __init__(self, server: Server, wish: Wish, loop: Loop, seconds: float) -> None:
        self._http = connector = HttpConnector(server, wish)
        super().__init__(connector, loop, f"http={server}", seconds, wish.grace)
        self.remoteaddress = server.authority
        connector.on_stderr = self._show

    def _show(self) -> None:
        if self._http.showing.is_set():
            self.loop.callbacks.submit(self._http.show)  # our own stderr may block

    async def let_go(self, timeout: float | None) -> str:
        raise ExecgwError(NO_TICKET)

    def ticket(self) -> str:
        raise ExecgwError(NO_TICKET)

    def started(self) -> None:
        self._http.showing.set()
        self._show()

    def last_words(self) -> str:
        return self._http.tail
