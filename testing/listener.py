"""A real `execgw listen` for tests, its token, and certificates of an authority of our own."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def write_token(folder: Path, name: str = "token") -> Path:
    """A file with a fresh token that only we may read."""
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32) + "\n")
    return path


class Certificates:
    """An authority, and a certificate for 127.0.0.1, ::1 and localhost that it has signed."""

    def __init__(self, folder: Path) -> None:
        try:
            import trustme
        except ImportError:
            if os.environ.get("CI"):
                pytest.fail("there is no trustme; pip install -e .[dev]")
            pytest.skip("there is no trustme; pip install -e .[dev]")
        folder.mkdir(exist_ok=True)
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "::1", "localhost")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        server.cert_chain_pems[0].write_to_path(str(self.cert))
        server.private_key_pem.write_to_path(str(self.key))

    def words(self) -> list[str]:
        """The arguments that give them to a listener."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]


class Listener:
    """A process that listens; `with` ends it.  *address* is the real one, *fingerprint* that of its certificate."""

    def __init__(
        self, folder: Path, address: str, *words: str, python: str | None = None, on: tuple[str, ...] = ()
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.token = folder / "token"
        if not self.token.exists():
            write_token(folder)
        self.log = folder / "log"
        argv = [*on, sys.executable, "-m", "execgw", "listen", address, "--token-file", str(self.token), *words]
        if python:
            argv += ["--python", python]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.match(r"execgw listens on (\S+)", first)
        if found is None:
            self.end()
            raise AssertionError(first + self.log.read_text())
        self.address = found[1]
        self.fingerprint = ""
        if words and words[0] == "--tls-cert":
            pinned = re.search(r"tls=sha256:(\w+)", self.process.stdout.readline())
            self.fingerprint = pinned[1] if pinned else ""

    def spec(self, *more: str) -> str:
        """The spec of a gateway that it starts."""
        return "//".join([f"socket={self.address}", f"token=file:{self.token}", *more])

    def port(self) -> tuple[str, int]:
        """Where to connect by hand."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self.process.poll() is None:
            self.end()
        elif self.process.stdout is not None:
            self.process.stdout.close()


# -- clients


ECHO = "for item in channel: channel.send(item)"


def echoes(gateway, value) -> bool:
    """Whether a value comes back as it was."""
    with gateway.remote_exec(ECHO) as channel:
        channel.send(value)
        return channel.receive(30) == value


def start(group, address: str, token: Path, *more: str) -> None:
    group.makegateway("//".join([f"socket={address}", f"token=file:{token}", *more]))


# -- by hand


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.port(), timeout=20)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end of the connection, be that orderly or not."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the end came after {data!r}"
        data += piece
    return data


@contextmanager
def serving(answer: Callable[[socket.socket], object], host: str = "127.0.0.1") -> Iterator[str]:
    """A false listener, which does answer(socket) for each client; yields its address."""
    server = socket.create_server((host, 0))
    clients: list[socket.socket] = []

    def one(client: socket.socket) -> None:
        try:
            answer(client)
        except (OSError, AssertionError):  # the client has gone
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            clients.append(client)
            threads.append(threading.Thread(target=one, args=(client,)))
            threads[-1].start()

    threads = [threading.Thread(target=serve)]
    threads[0].start()
    try:
        yield f"{host}:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        threads[0].join()
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()


def forward(near: socket.socket, listener: Listener) -> None:
    """Carry bytes between a client and a listener, both ways, unchanged."""
    with connect(listener) as far:

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                for data in iter(lambda: source.recv(65536), b""):
                    target.sendall(data)

        thread = threading.Thread(target=carry, args=(far, near))
        thread.start()
        carry(near, far)
        far.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def kept(sockets: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Close all of them at the end."""
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()
