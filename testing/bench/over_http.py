"""The round trip of a small value through an HTTP exec-server, beside a bare echo of Starlette over a WebSocket.

Both servers are uvicorn processes with the same settings; both clients read and write the socket themselves.

    python testing/bench/over_http.py      serves the bare echo
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM_UP, TRIPS = 300, 1500


def serve_echo() -> None:
    """Serve on any port, and print it."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(await websocket.receive_bytes())
        except WebSocketDisconnect:
            pass

    app = Starlette(routes=[WebSocketRoute("/", echo)])
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio", ws_per_message_deflate=False)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run([listening])


def median_trip(trip: Callable[[], Any]) -> float:
    """Microseconds."""
    for _ in range(WARM_UP):
        trip()
    times = []
    for _ in range(TRIPS):
        begun = time.perf_counter()
        trip()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


@contextmanager
def running(argv: list[str]) -> Iterator[Iterator[str]]:
    """A process; the lines that it prints."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.kill()


def bare() -> float:
    """Of the echo: a message as large as the frame of a small value."""
    from websockets.client import ClientProtocol
    from websockets.frames import Frame, Opcode
    from websockets.protocol import OPEN
    from websockets.uri import parse_uri

    with running([sys.executable, __file__]) as server:
        port = int(next(server))
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"))
            protocol.send_request(protocol.connect())
            sock.sendall(b"".join(protocol.data_to_send()))
            while protocol.state is not OPEN:
                protocol.receive_data(sock.recv(65536))
            protocol.events_received()
            message = bytes(28)

            def trip() -> None:
                sock.sendall(Frame(Opcode.BINARY, message).serialize(mask=True))
                while True:
                    protocol.receive_data(sock.recv(65536))
                    if protocol.events_received():
                        return

            return median_trip(trip)


def through_exec_server() -> float:
    """Of a channel of a worker behind `execgw serve`."""
    import execgw

    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "execgw", "serve", "--listen", "127.0.0.1:0"]
        argv += ["--token-file", str(Path(folder) / "tokens")]
        with running(argv) as server, execgw.Group() as group:
            spec = next(line for line in server if line.startswith("clients: ")).split()[1]
            channel = group.makegateway(spec).remote_exec("for item in channel: channel.send(item)")

            def trip() -> None:
                channel.send(1)
                channel.receive()

            return median_trip(trip)


if __name__ == "__main__":
    serve_echo()
