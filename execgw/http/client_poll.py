"""The bytes of a worker over plain requests: a GET that waits brings what it sends, POSTs carry what it is to get.

For ways that cut or buffer WebSockets.  Two threads and a socket pair make a link of them, and a third brings the
worker's stderr.  Each request may be made again: frames have numbers.  So the link breaks only if the server is gone.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..peer.compat import clock
from ..transports.base import SocketTransport, _shared_sockets
from ..wire.frames import HEADER, HEADER_SIZE, HELLO, MARKER, MAX_FRAME
from .client_requests import Answer, Requests
from .client_server import told

if TYPE_CHECKING:
    from .._session import Session
    from ..transports.base import Ended
    from .client_server import Server

FRAMES = "application/x-execgw-frames"
WAIT = 20  # seconds that a GET waits: many proxies cut what is silent for 30
PATIENCE = 15.0  # seconds beyond it until an answer counts as lost
MOST_BODY = 512 * 1024  # bytes of a POST
PAUSES = (0.02, 1.0)  # seconds until a request that failed is made again: at first, and at most
BUSY_PAUSE = 0.2  # seconds until what was not taken is said again, or what was not there is asked for again

Tell = Callable[[dict[str, Any]], "Ended | None"]


class PollLink(SocketTransport):
    """One link; *tell* as in WebSocketLink.

    seen    the last frame that we have, None if not even the worker's HELLO
    offset  how much of the worker's stderr was told
    """

    def __init__(self, server: Server, path: str, keepalive: float, seen: int | None, offset: int, tell: Tell) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours)
        _shared_sockets.add(self._theirs)
        self._path, self._tell = path, tell
        self._seen, self._offset = seen, offset
        self._tail = b""  # of a frame that has not come wholly
        self._progress = 0  # bytes that have come
        self._waiting = b""  # to be sent
        self._most = MOST_BODY  # bytes of a POST; less where large ones do not come through
        self._stop = threading.Event()
        self._ended: Ended | None = None
        self._lines = [Requests(server, keepalive) for _ in range(3)]
        self._running = 0  # threads
        self._lock = threading.Lock()

    def attach(self, session: Session) -> None:
        """Begin to ask."""
        self._running = len(self._lines)
        for line, work in zip(self._lines, (self._bring, self._carry, self._bring_stderr), strict=True):
            threading.Thread(target=self._run, args=(work, line), name="execgw-http", daemon=True).start()

    def _run(self, work: Callable[[Requests], bool], line: Requests) -> None:
        """Do one request after the other, until one says that it was the last, or none comes through any more."""
        pause, since = PAUSES[0], clock()
        try:
            while not self._stop.is_set():
                before = self._progress
                try:
                    if not work(line):
                        break
                except (http.client.HTTPException, OSError, ValueError) as e:
                    line.close()
                    if self._progress != before:
                        pause, since = PAUSES[0], clock()
                    if isinstance(e, ConnectionRefusedError) or clock() - since > PATIENCE:
                        break
                    self._most = max(self._most // 2, 1)
                    self._stop.wait(pause * random.uniform(0.5, 1))
                    pause = min(pause * 2, PAUSES[1])
                else:
                    pause, since = PAUSES[0], clock()
        finally:
            line.close()
            self._give_up()
            with self._lock:
                self._running -= 1
                if not self._running:
                    _shared_sockets.discard(self._theirs)
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

    def _bring(self, line: Requests) -> bool:
        after = "" if self._seen is None else f"&after={self._seen}"
        self._tail = b""  # half a frame comes again
        answer = line.ask("GET", f"{self._path}?wait={WAIT}{after}", WAIT + PATIENCE, stream=self._came)
        return answer.status in (200, 204) or self._refused(answer)

    def _came(self, data: bytes) -> None:
        """Hand on what are whole frames by now, and note the number of the last one."""
        self._progress += len(data)
        data = self._tail + data
        at = start = len(MARKER) if self._seen is None else 0  # the marker goes with the HELLO, or comes again with it
        while len(data) - at >= HEADER_SIZE:
            kind, _, _, _, seq, _, size = HEADER.unpack_from(data, at)
            if size > MAX_FRAME:
                at = len(data)  # the session says what it thinks of that
                break
            if len(data) - at < HEADER_SIZE + size:
                break
            if seq or kind == HELLO:  # an ACK of the server's own has no number
                self._seen = seq
            at += HEADER_SIZE + size
        if at > start:
            self._tail = data[at:]
            self._theirs.sendall(data[:at])
        else:
            self._tail = data

    def _refused(self, answer: Answer) -> bool:
        """Nothing will help any more; unless it is the answer of a proxy, or a server that has too much to do."""
        said = told(answer.body)
        if answer.status in (429, 502, 503, 504):
            self._stop.wait(BUSY_PAUSE)
            return True
        self._ended = self._ended or self._tell({**said, "status": answer.status})
        return False

    def _bring_stderr(self, line: Requests) -> bool:
        answer = line.ask("GET", f"{self._path}/output?after={self._offset}&wait={WAIT}", WAIT + PATIENCE)
        if answer.status not in (200, 204):
            self._stop.wait()  # the other two hear why
            return False
        self._offset = int(answer.headers.get("Execgw-Offset", self._offset))
        if answer.body:
            self._tell({"stderr": answer.body.decode("utf-8", "replace"), "offset": self._offset})
        else:
            self._stop.wait(BUSY_PAUSE)
        return True

    # -- what goes

    def _carry(self, line: Requests) -> bool:
        size = _whole(self._waiting, self._most)
        if not size:
            data = self._theirs.recv(MOST_BODY)
            self._waiting += data
            return bool(data)
        # Frames that were had before are dropped there, so a POST may be said again.
        answer = line.ask("POST", self._path, PATIENCE, self._waiting[:size], {"Content-Type": FRAMES})
        if answer.status not in (200, 202):
            return self._refused(answer)
        self._waiting = self._waiting[size:]
        self._most = min(self._most * 2, MOST_BODY)
        return True

    # -- the end

    def ended(self) -> Ended | None:
        return self._ended

    def close_link(self) -> None:
        super().close_link()
        self._give_up()
        with self._lock:
            if not self._running:  # it was never begun, or has ended
                _shared_sockets.discard(self._theirs)
                self._theirs.close()


def _whole(data: bytes, most: int) -> int:
    """How many bytes at the start of *data* are whole frames; about *most*, but one frame at least."""
    at = 0
    while len(data) - at >= HEADER_SIZE and at < most:
        size = HEADER_SIZE + HEADER.unpack_from(data, at)[6]
        if len(data) - at < size:
            break
        at += size
    return at
