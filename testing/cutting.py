"""A proxy that cuts each connection after so many bytes, in one direction or both, half a frame or not."""

from __future__ import annotations

import random
import select
import socket
import threading
from contextlib import suppress

PIECE = 65536


class CuttingProxy:
    """Listens on 127.0.0.1 and passes on to *target*.  Each connection ends after *lengths*() bytes, both ways in all.

    limit   connections that are cut at most; later ones are passed on as they are
    """

    def __init__(self, target: tuple[str, int], low: int, high: int, limit: int = 1 << 30, seed: int = 1) -> None:
        self.target, self.low, self.high, self.limit = target, low, high, limit
        self.random = random.Random(seed)
        self.cuts = 0
        self.silent = threading.Event()  # nothing is passed on, and nothing is told
        self.refusing = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="proxy")
        self._thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.refusing or self._stop.is_set():
                near.close()
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._carry, args=(near,), name="proxy-line"))
            self._threads[-1].start()

    def _carry(self, near: socket.socket) -> None:
        left = self.random.randint(self.low, self.high) if self.cuts < self.limit else 1 << 60
        with near, socket.create_connection(self.target) as far:
            self._open |= {near, far}
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            other = {near: far, far: near}
            try:
                while left > 0 and not self._stop.is_set():
                    for sock in select.select([near, far], [], [], 0.2)[0]:
                        data = sock.recv(min(PIECE, left))
                        if not data:
                            return
                        if not self.silent.is_set():
                            other[sock].sendall(data)
                        left -= len(data)
                        if left <= 0:
                            self.cuts += 1
                            break
            except OSError:
                pass
            finally:
                self._open -= {near, far}

    def cut_all(self) -> None:
        """End the connections that there are."""
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listening.close()
        self.cut_all()
        self._thread.join()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
