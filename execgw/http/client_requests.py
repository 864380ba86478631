"""Connected sockets to a server, and plain requests over them; what waits for it can be given up at any time."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from .._version import __version__
from ..peer.compat import clock
from ..transports.tcp import stay_alive
from .client_server import Server

MOST_BODY = 4 << 20  # bytes of an answer that is kept as a whole
AT_A_TIME = 64 * 1024  # bytes of an answer that are handed on as they come


_dials: WeakSet[Dial] = WeakSet()


def _close_in_child() -> None:
    """A forked child must not hold our connections open.  close() would wait for whoever reads them, in no thread."""
    for dial in list(_dials):
        if dial._sock is not None and dial._sock.fileno() >= 0:
            os.close(dial._sock.detach())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Dial:
    """Makes connections to one server; abort() ends the one that is being made or used, whatever waits for it."""

    def __init__(self, server: Server, keepalive: float) -> None:
        self.server = server
        self.keepalive = keepalive
        self._lock = threading.Lock()
        self._aborted = False
        self._sock: socket.socket | None = None
        _dials.add(self)

    def _use(self, sock: socket.socket | None) -> None:
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError(0, "this side does not wait for it any more")
            self._sock = sock

    def abort(self) -> None:
        """Make whoever waits give up."""
        with self._lock:
            self._aborted = True
            if self._sock is not None:
                try:
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # of the connection, and not of its TLS
                except OSError:
                    pass

    def release(self) -> None:
        """The socket is another's from now on: abort() does not touch it."""
        with self._lock:
            self._sock = None

    def socket(self, seconds: float) -> socket.socket:
        """A connected socket, with TLS if there is to be any.  OSError, as it comes."""
        server = self.server
        deadline = clock() + seconds
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        last: OSError | None = None
        for number, (family, _, _, _, address) in enumerate(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:  # one that is silent leaves time for the others
                sock.settimeout(max((deadline - clock()) / (len(found) - number), 0.01))
                self._use(sock)
                sock.connect(address)
                stay_alive(sock, self.keepalive)
                sock.settimeout(max(deadline - clock(), 0.01))
                if server.context is not None:
                    sock = server.context.wrap_socket(sock, server_hostname=server.host)
                    self._use(sock)
                return sock
            except OSError as e:
                self.release()
                sock.close()
                last = e
                if isinstance(e, (ssl.SSLError, ConnectionAbortedError)):
                    break
        raise last or OSError(0, "no address")


@dataclass(frozen=True)
class Answer:
    """What a server said; *headers* by their names, whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Requests:
    """Requests one after the other, over a connection that is kept; for one thread, but for abort()."""

    def __init__(self, server: Server, keepalive: float) -> None:
        self.dial = Dial(server, keepalive)
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        seconds: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        stream: Callable[[bytes], Any] | None = None,
    ) -> Answer:
        """One request.  The body of an answer 200 goes to *stream*, as it comes, if that is given.

        Where a kept connection has ended the request is made again, so it must be one that may come twice.
        """
        given = {**self.dial.server.headers(), "User-Agent": f"execgw/{__version__}", **(headers or {})}
        url = self.dial.server.prefix + path
        answer = None
        connection = self._connection
        if connection is not None:
            try:
                connection.sock.settimeout(seconds)
                connection.request(method, url, body, given)
                answer = connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionError, AttributeError):
                self.close()
        if answer is None:
            connection = self._connection = self._connect(seconds)
            connection.request(method, url, body, given)
            answer = connection.getresponse()
        if stream is not None and answer.status == 200:
            while data := answer.read1(AT_A_TIME):
                stream(data)
            if answer.length:  # read1 does not tell that the rest is missing
                raise http.client.IncompleteRead(b"", answer.length)
        content = answer.read(MOST_BODY)  # and only this makes the connection ready for the next one
        if answer.length or (content and len(content) >= MOST_BODY):
            raise ConnectionError(0, f"an answer of more than {MOST_BODY} bytes")
        return Answer(answer.status, answer.headers, content)  # type: ignore[arg-type]

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        server = self.dial.server
        connection = http.client.HTTPConnection(server.host, server.port)
        connection.sock = self.dial.socket(seconds)
        connection.auto_open = 0
        return connection

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        connection, self._connection = self._connection, None
        self.dial.release()
        if connection is not None:
            connection.close()

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
