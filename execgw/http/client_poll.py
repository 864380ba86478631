"""The bytes of a worker over plain requests: a GET that waits brings what it sends, POSTs carry what it is to get.

For ways that cut or buffer WebSockets.  Two threads and a socket pair make a link of them, and a third brings the
worker's stderr.  A request that fails breaks the link, and the session goes on over the next (transports/resume.py).
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..transports.base import SocketTransport
from ..wire.frames import HEADER, HEADER_SIZE, MARKER
from .client_requests import Requests
from .client_server import told

if TYPE_CHECKING:
    from .._session import Session
    from ..transports.base import Ended
    from .client_server import Server

FRAMES = "application/x-execgw-frames"
WAIT = 20  # seconds that a GET waits: many proxies cut what is silent for 30
PATIENCE = 15.0  # seconds beyond it until an answer counts as lost
MOST_BODY = 512 * 1024  # bytes of a POST
BUSY_PAUSE = 0.2  # seconds until a POST that the worker does not take now is said again

Tell = Callable[[dict[str, Any]], "Ended | None"]


class PollLink(SocketTransport):
    """One link; *tell* as in WebSocketLink.

    seen    the last frame that we have, None if not even the worker's HELLO
    offset  how much of the worker's stderr was told
    """

    def __init__(self, server: Server, path: str, keepalive: float, seen: int | None, offset: int, tell: Tell) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours)
        self._path, self._tell = path, tell
        self._seen, self._offset = seen, offset
        self._behind = len(MARKER) if seen is None else 0  # bytes that come before the first frame
        self._tail = b""  # of a frame that has not come wholly
        self._stop = threading.Event()
        self._ended: Ended | None = None
        self._lines = [Requests(server, keepalive) for _ in range(3)]
        self._running = len(self._lines)
        self._lock = threading.Lock()

    def attach(self, session: Session) -> None:
        """Begin to ask."""
        for line, work in zip(self._lines, (self._bring, self._carry, self._bring_stderr), strict=True):
            threading.Thread(target=self._run, args=(work, line), name="execgw-http", daemon=True).start()

    def _run(self, work: Callable[[Requests], None], line: Requests) -> None:
        try:
            with line:
                work(line)
        except (http.client.HTTPException, OSError, ValueError):
            pass
        finally:
            self._give_up()
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._theirs.close()

    def _give_up(self) -> None:
        """One of them has ended, or we are closed: so do the others."""
        self._stop.set()
        try:  # who reads at the other end hears of it
            self._theirs.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        for line in self._lines:
            line.dial.abort()

    # -- what comes

    def _bring(self, line: Requests) -> None:
        while not self._stop.is_set():
            after = "" if self._seen is None else f"&after={self._seen}"
            self._tail = b""  # half a frame comes again
            answer = line.ask("GET", f"{self._path}?wait={WAIT}{after}", WAIT + PATIENCE, stream=self._came)
            if answer.status not in (200, 204):
                self._refused(answer.status, answer.body)
                return

    def _came(self, data: bytes) -> None:
        """Hand on what are whole frames by now, and note the number of the last one."""
        data = self._tail + data
        at = 0
        if self._behind and len(data) >= self._behind:
            at, self._behind = self._behind, 0
        while not self._behind and len(data) - at >= HEADER_SIZE:
            _, _, _, _, seq, _, size = HEADER.unpack_from(data, at)
            if len(data) - at < HEADER_SIZE + size:
                break
            self._seen = seq
            at += HEADER_SIZE + size
        self._tail = data[at:]
        if at:
            self._theirs.sendall(data[:at])

    def _refused(self, status: int, body: bytes) -> None:
        self._ended = self._ended or self._tell({**told(body), "status": status})

    def _bring_stderr(self, line: Requests) -> None:
        while not self._stop.is_set():
            path = f"{self._path}/output?after={self._offset}&wait={WAIT}"
            answer = line.ask("GET", path, WAIT + PATIENCE)
            if answer.status not in (200, 204):
                self._stop.wait()  # the other two hear why
                return
            self._offset = int(answer.headers.get("Execgw-Offset", self._offset))
            if answer.body:
                self._tell({"stderr": answer.body.decode("utf-8", "replace"), "offset": self._offset})

    # -- what goes

    def _carry(self, line: Requests) -> None:
        waiting = b""
        while data := self._theirs.recv(MOST_BODY):
            waiting += data
            size = _whole(waiting)
            if size:
                if not self._post(line, waiting[:size]):
                    return
                waiting = waiting[size:]

    def _post(self, line: Requests, body: bytes) -> bool:
        while not self._stop.is_set():
            # Frames that were had before are dropped there, so a POST may be said again.
            answer = line.ask("POST", self._path, PATIENCE, body, {"Content-Type": FRAMES})
            if answer.status in (200, 202):
                return True
            if told(answer.body).get("error") != "busy":
                self._refused(answer.status, answer.body)
                return False
            self._stop.wait(BUSY_PAUSE)
        return False

    # -- the end

    def ended(self) -> Ended | None:
        return self._ended

    def close_link(self) -> None:
        super().close_link()
        self._give_up()


def _whole(data: bytes) -> int:
    """How many bytes at the start of *data* are whole frames."""
    at = 0
    while len(data) - at >= HEADER_SIZE:
        size = HEADER_SIZE + HEADER.unpack_from(data, at)[6]
        if len(data) - at < size:
            break
        at += size
    return at
