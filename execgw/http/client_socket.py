"""The bytes of a worker over a WebSocket: opening it, and a link of one that is open.

No thread of its own: the session's own reading and writing reads and writes the socket; websockets' sans-I/O layer
does the frames.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from ..transports.base import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._session import Session
    from ..transports.base import Ended
    from .client_requests import Dial
    from .client_server import Server

MOST_MESSAGE = 4 << 20  # bytes of one message; a server of ours sends at most one of 1 MiB
MOST_ANSWER = 64 * 1024  # bytes of a refusal
AT_A_TIME = 256 * 1024  # bytes of one message to the server
RECORD = 16 * 1024  # bytes of a record of TLS, at most
MOST_RECORDS = 16  # that are read at a time
SILENCE_LOOKS = 3  # in the time after which a link that is silent counts as cut

# Its own logger shows the headers of a request, and so the token, to whoever turns on debugging for all.
_quiet = logging.Logger("execgw.http", logging.CRITICAL + 1)


class Refused(Exception):
    """No WebSocket: the server, or what is between, answered *status* with *body*."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status, self.headers, self.body = status, headers, body


def open_socket(server: Server, dial: Dial, path: str, seconds: float) -> tuple[Any, ClientProtocol, Any]:
    """(the socket, the protocol, the headers of the answer) of a WebSocket to *path*.  OSError or Refused if not."""
    scheme = "wss" if server.context else "ws"
    uri = parse_uri(f"{scheme}://{server.authority}{server.prefix}{path}")
    protocol = ClientProtocol(uri, max_size=MOST_MESSAGE, logger=_quiet)
    request = protocol.connect()
    for name, value in server.headers().items():
        request.headers[name] = value
    protocol.send_request(request)
    sock = dial.socket(seconds)
    try:
        return sock, protocol, _shake(sock, protocol)
    except BaseException:
        sock.close()
        raise


def _shake(sock: socket.socket, protocol: ClientProtocol) -> Any:
    for data in protocol.data_to_send():
        sock.sendall(data)
    came = 0
    while protocol.state is not OPEN:
        data = sock.recv(65536)
        came += len(data)
        if data and came <= MOST_ANSWER:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        error = protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            answer = error.response
            raise Refused(answer.status_code, dict(answer.headers.raw_items()), bytes(answer.body or b""))
        if error is not None or not data:
            raise ConnectionResetError(0, f"the WebSocket was not opened: {error or 'the connection ended'}")
    first, *protocol.events = protocol.events_received()  # frames may have come in the same packet
    return first.headers  # type: ignore[union-attr]


class WebSocketLink(SocketTransport):
    """One open WebSocket.  Until it breaks, or the server says why it ends: see `tell`.

    tell  called with what the server says beside the worker's bytes: a JSON object, or {"code": N} when it closes; if
          it returns an Ended, that is how the worker ended, and there will be no other link
    """

    def __init__(
        self, sock: Any, protocol: ClientProtocol, keepalive: float, tell: Callable[[dict[str, Any]], Ended | None]
    ) -> None:
        super().__init__(sock)
        self._protocol = protocol
        self._tell = tell
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._sending = threading.Lock()  # who writes to the socket, or to _left; an SSLSocket serves one thread only
        self._left: list[bytes] = []  # what the socket has not taken
        self._wanted = False
        self._ended: Ended | None = None
        self._heard = 0  # looks since something was read
        self._pause = keepalive / SILENCE_LOOKS
        self._first = bool(protocol.events)  # the server began to speak with the very packet of its answer

    def attach(self, session: Session) -> None:
        """Look now and then whether the other side is still there; the loop must be known by now."""
        if self._pause:
            self.loop.later(self._pause, self._look)

    def _look(self) -> None:
        """In the loop.  Behind a proxy the connection lives as long as that does, whatever became of the server."""
        if self._fd < 0:
            return
        self._heard += 1
        if self._heard > SILENCE_LOOKS:
            with self.loop.lock:
                if self._fd >= 0:
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # who reads hears of it
            return
        self._put([Frame(Opcode.PING, b"").serialize(mask=True)])
        self.loop.later(self._pause, self._look)

    # -- reading; under the session's lock

    def read(self) -> bytes | None:
        if self._first:
            self._first = False
            data = self._taken()
            if data or self._at_end:
                return data
        raw = self._receive()
        if raw is None:
            return None
        self._heard = 0
        if raw:
            self._protocol.receive_data(raw)
        data = self._taken()
        if self._protocol.writes:  # the answer to a ping, or to a close
            self._put([part for part in self._protocol.data_to_send() if part])
        if not raw or (self._protocol.state is not OPEN and not data):
            self._at_end = True
            return b""
        return data or None

    def _receive(self) -> bytes | None:
        if not self._secure:
            return super().read()
        parts: list[bytes] = []
        try:
            while len(parts) < MOST_RECORDS:  # one at a time, wholly: a part of one would make no descriptor readable
                with self._sending:
                    part = self._recv(RECORD)
                if not part:
                    break
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b"".join(parts) or None
        except (OSError, ValueError):  # ssl.SSLError, or closed
            pass
        return b"".join(parts)

    def _taken(self) -> bytes:
        """What of it is for the session."""
        parts = []
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.BINARY or event.opcode is Opcode.CONT:
                parts.append(event.data)
            elif event.opcode is Opcode.TEXT:
                self._hear(bytes(event.data))
            elif event.opcode is Opcode.CLOSE and self._protocol.close_rcvd is not None:
                self._note(self._tell({"code": self._protocol.close_rcvd.code}))
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _hear(self, text: bytes) -> None:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(said, dict):
            self._note(self._tell(said))

    def _note(self, ended: Ended | None) -> None:
        self._ended = self._ended or ended

    def ended(self) -> Ended | None:
        return self._ended

    # -- writing

    def write(self, pieces: list[Any]) -> int:
        with self._sending:
            if not self._drain():
                return 0
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(data) > AT_A_TIME:
                data = data[:AT_A_TIME]
            self._left.append(Frame(Opcode.BINARY, data).serialize(mask=True))
            done = self._drain()
        if not done:
            self._when_room()  # who has written all asks for nothing more
        return len(data)

    def _put(self, parts: list[bytes]) -> None:
        with self._sending:
            self._left += parts
            done = self._drain()
        if not done:
            self._when_room()

    def _drain(self) -> bool:
        """Send what waits; whether all of it went.  The caller holds `_sending`."""
        while self._left:
            data = self._left[0]
            try:
                done = self.sock.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return False
            except (OSError, ValueError):  # it has ended: who reads hears of it
                self._left.clear()
                return True
            if done < len(data):
                self._left[0] = data[done:]
            else:
                del self._left[0]
        return True

    def want_write(self) -> None:
        self._wanted = True
        self._when_room()

    def _when_room(self) -> None:
        with self.loop.lock:
            if self._fd >= 0:
                self.loop.when_writable(self._fd, self._on_room)

    def _on_room(self) -> None:
        """In the loop."""
        with self._sending:
            done = self._drain()
        if not done:
            self._when_room()
            return
        wanted, self._wanted = self._wanted, False
        if wanted:
            self.on_writable()
