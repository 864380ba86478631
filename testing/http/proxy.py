"""What stands between a client and a server: carries bytes, cuts connections, speaks TLS, or knows no WebSocket."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

NO_LIMIT = 1 << 60
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Carries connections to *address* ("host:port"); `with` ends it.

    limit      called for each connection: after how many bytes, both ways together, it is cut
    websocket  False: a request to upgrade is refused, as by a proxy that knows none
    context    speaks TLS with the clients
    """

    def __init__(
        self,
        address: str,
        limit: Callable[[], int] = lambda: NO_LIMIT,
        websocket: bool = True,
        context: ssl.SSLContext | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self.to = (host, int(port))
        self.limit = limit
        self.websocket = websocket
        self.context = context
        self.cuts = 0
        self.budget = NO_LIMIT  # bytes that are carried in all, until everything is cut once
        self.carried = 0  # bytes
        self.accepted = 0
        self._frozen: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self.cut_all()
        for thread in self._threads:
            thread.join(10)
        self._server.close()

    def freeze(self) -> None:
        """The connections that there are stay open, and carry nothing any more."""
        self._frozen = set(self._open)

    def cut_all(self) -> int:
        """Cut every connection that there is; how many."""
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            return len(self._open) // 2

    def _start(self, run: Callable[..., Any], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self.accepted += 1
            self._start(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        far = None
        try:
            near.settimeout(20)
            if self.context is not None:
                near = self.context.wrap_socket(near, server_side=True)
            far = socket.create_connection(self.to, timeout=20)
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            self._carry(near, far, self.limit())
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {near, far}
            for sock in (near, far):
                if sock is not None:
                    self._drop(sock)

    def _carry(self, near: socket.socket, far: socket.socket, left: int) -> None:
        while True:
            ready = [near] if isinstance(near, ssl.SSLSocket) and near.pending() else []
            ready = ready or select.select([near, far], [], [])[0]
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                if sock in self._frozen:
                    continue
                if not self.websocket and sock is near and b"\r\nupgrade: websocket" in data.lower():
                    near.sendall(REFUSAL)
                    return
                piece = data[: self._allowed(min(len(data), left))]
                (far if sock is near else near).sendall(piece)
                left -= len(piece)
                if left <= 0 or len(piece) < len(data) or self.budget <= 0:
                    self.cuts += 1
                    if self.budget <= 0:
                        self.budget = NO_LIMIT
                        self.cut_all()
                    return

    def _allowed(self, size: int) -> int:
        with self._lock:
            size = min(size, self.budget)
            self.budget -= size
            self.carried += size
            return size

    def _drop(self, sock: socket.socket) -> None:
        """A cut is no orderly end: what is on its way is lost."""
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
