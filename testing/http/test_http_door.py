"""The door of the server: the slow, the large and the many, with uvicorn and a small application behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from serve_command import read_all
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from execgw.http import door as door_module
from execgw.http.limits import ServerLimits
from execgw.http.serving import Listening, bind, make_server
from execgw.transports.address import Address


class Served:
    """uvicorn in a thread of its own; /wait answers once *go* is set there."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self.sock = bind(Address("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.asked = threading.Event()

    def run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self.go = asyncio.Event()
        app = Starlette(
            routes=[
                Route("/", self.hello, methods=["GET", "POST"]),
                Route("/wait", self.wait),
                Route("/large", self.large),
                Route("/unread", self.unread, methods=["POST"]),
                WebSocketRoute("/ws", self.echo),
            ]
        )
        self.server = make_server(app, Listening(Address("127.0.0.1", 0)), self.limits, ready.set)
        await self.server.serve(sockets=[self.sock])

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse(f"hello {len(await request.body())}")

    async def wait(self, request: Request) -> Response:
        self.asked.set()
        await self.go.wait()
        return PlainTextResponse("at last")

    async def large(self, request: Request) -> Response:
        async def pieces():
            for _ in range(1000):
                yield b"x" * 65536

        return StreamingResponse(pieces())

    async def unread(self, request: Request) -> Response:
        return PlainTextResponse("not wanted", 403)

    async def echo(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    def connect(self, text: str = "") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        sock.sendall(text.encode())
        return sock

    def connections(self) -> int:
        """How many there are, once the loop has seen all that has happened."""
        done: asyncio.Future[int] = asyncio.run_coroutine_threadsafe(self._count(), self.loop)  # type: ignore[assignment]
        return done.result(60)  # type: ignore[call-arg]

    async def _count(self) -> int:
        return len(self.server.server_state.connections)


@contextmanager
def served(**limits) -> Iterator[Served]:
    here = Served(ServerLimits(**limits))
    ready = threading.Event()
    thread = threading.Thread(target=here.run, args=(ready,))
    thread.start()
    assert ready.wait(60)
    try:
        yield here
    finally:
        here.loop.call_soon_threadsafe(here.go.set)
        here.server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"


def one_answer(sock: socket.socket) -> str:
    """The head and body of one answer; the connection stays."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += sock.recv(65536)
    return (head + b"\r\n\r\n" + body).decode()


def test_a_head_that_does_not_end_is_answered_by_408() -> None:
    with served(slow=0.3) as here, here.connect("GET / HTTP/1.1\r\nX-Slow: ") as sock:
        answer = read_all(sock).decode()

    assert answer.startswith("HTTP/1.1 408 ")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"] == "slow"


def test_bytes_one_by_one_do_not_win_time() -> None:
    with served(slow=0.3) as here, here.connect("GET / HTTP/1.1\r\n") as sock:
        sock.settimeout(0.02)
        data = b""
        while True:
            try:
                sock.sendall(b"X")
                piece = sock.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            data += piece

    assert b" 408 " in data


def test_a_body_that_stops_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "AFTER_APP", 0.1)
    head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"

    with served(slow=0.2) as here, here.connect(head + "x") as sock:
        answer = read_all(sock).decode()

    assert answer.startswith("HTTP/1.1 408 ")


def test_a_body_that_nobody_wants_cannot_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "AFTER_APP", 0.1)
    head = "POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"

    with served(slow=0.2) as here, here.connect(head + "x") as sock:
        assert " 403 " in one_answer(sock)
        read_all(sock)

        assert here.connections() == 0


def test_a_large_body_that_gets_on_is_taken() -> None:
    size = 3 << 20
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"

    with served(slow=5.0) as here, here.connect(head) as sock:
        sock.sendall(b"x" * size)
        answer = read_all(sock)

    assert answer.endswith(f"hello {size}".encode())


def test_a_head_that_is_too_large_is_refused() -> None:
    with served(header=4096) as here, here.connect("GET / HTTP/1.1\r\nX: " + "x" * 8000) as sock:
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_request_that_waits_long_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "AFTER_APP", 0.0)

    with served(slow=0.2) as here, here.connect(WAIT) as waiting, here.connect("GET /") as slow:
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")  # so the time is over for who is slow
        here.loop.call_soon_threadsafe(here.go.set)

        assert one_answer(waiting).endswith("at last")


def test_a_connection_may_rest_between_its_requests() -> None:
    with served(slow=0.2) as here, here.connect(GET) as sock, here.connect("GET /") as slow:
        assert one_answer(sock).endswith("hello 0")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")

        sock.sendall(GET.encode())

        assert one_answer(sock).endswith("hello 0")


def test_a_connection_that_never_asks_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "IDLE_SECONDS", 0.2)

    with served() as here, here.connect() as sock:
        assert read_all(sock) == b""


def test_requests_that_come_together_are_all_answered() -> None:
    with served(slow=0.5) as here, here.connect(GET * 5) as sock:
        sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)

    assert answer.count(b"hello 0") == 5


def test_who_asks_nothing_makes_room_for_who_does() -> None:
    with served(connections=4) as here:
        idle = [here.connect(GET) for _ in range(4)]
        for sock in idle:
            assert one_answer(sock).endswith("hello 0")

        with here.connect(GET) as sock:
            assert one_answer(sock).endswith("hello 0")
        with idle.pop(0) as oldest:
            assert read_all(oldest) == b""

        for sock in idle:
            sock.close()


def test_who_waits_for_an_answer_does_not_make_room() -> None:
    with served(connections=2) as here:
        waiting = []
        for _ in range(2):
            waiting.append(here.connect(WAIT))
            assert here.asked.wait(60)
            here.asked.clear()

        with here.connect(GET) as sock:
            answer = read_all(sock).decode()
        here.loop.call_soon_threadsafe(here.go.set)

        assert answer.startswith("HTTP/1.1 503 ") and "Retry-After: 5" in answer
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"] == "full"
        for sock in waiting:
            with sock:
                assert one_answer(sock).endswith("at last")


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "UNREAD_SECONDS", 0.3)

    with served() as here, here.connect("GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as sock, here.connect(WAIT) as other:
        assert sock.recv(10) and here.asked.wait(60)

        while here.connections() == 2:  # the test's timeout is the end of it
            pass

        here.loop.call_soon_threadsafe(here.go.set)
        assert one_answer(other).endswith("at last")


def test_a_websocket_outlives_the_times_of_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.sync.client import connect

    monkeypatch.setattr(door_module, "IDLE_SECONDS", 3.0)

    with (
        served(slow=3.2) as here,
        connect(f"ws://127.0.0.1:{here.port}/ws", proxy=None) as ws,
        here.connect("GET /") as slow,
    ):
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")

        ws.send("still here")

        assert ws.recv(60) == "still here"
