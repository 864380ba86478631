"""Many clients of one exec-server, who lose their patience at random: each gets its own answers, all of them, once.

    python testing/soak/http_nonces.py [--clients 50] [--messages 100000] [--cancels 0.05] [--seed N]

Each client has a process that echoes, and a nonce of its own, which is in every message.  Half of them POST and GET
with numbers, the others have a WebSocket.  At random moments a client drops its connection in the middle of a request,
and repeats that with the same number.  Exits with 1 if a foreign nonce, a gap, a double or a message out of order came.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).parent.parent))
from exec_server import TOKENS, ExecServer

POLICY = "[specs.python]\n[server]\nprocesses = 200\nper_token = 200\n"
ECHO = "for item in channel: channel.send(item)"
AT_A_TIME = 20  # messages that a WebSocket client has under way


class Http:
    """One connection, kept alive; dropped when a request is given up."""

    def __init__(self, address: str, token: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._token = token
        self._stream: Any = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
        """(status, body) of the answer."""
        try:
            if self._stream is None:
                self._stream = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._stream
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
            writer.write(f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            sizes = [line.partition(":")[2] for line in headers if line.startswith("content-length:")]
            return int(status.split()[1]), await reader.readexactly(int(sizes[0]) if sizes else 0)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection, whatever is under way."""
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None


class Client:
    """See the file's head."""

    def __init__(self, address: str, count: int, cancels: float, rng: random.Random) -> None:
        self.nonce = secrets.token_hex(8)
        self.address, self.count, self.cancels, self.rng = address, count, cancels, rng
        self.had = 0
        self.dropped = 0
        self.token = TOKENS[rng.choice(["joe", "ann"])]
        self.http = Http(address, self.token)

    async def start(self) -> None:
        status, body = await self.http.ask("POST", "/exec", ECHO.encode(), "text/x-python")
        assert status == 201, body
        self.path = f"/exec/{json.loads(body)['pid']}"

    def check(self, value: Any, number: int) -> None:
        """The next message is the next one of ours."""
        if value != [self.nonce, number]:
            raise AssertionError(f"client {self.nonce} got {value!r} in place of {number}")
        self.had += 1

    async def patiently(self, *words: Any) -> tuple[int, bytes]:
        """Ask until an answer comes; now and then the patience is lost on the way."""
        while True:
            work = asyncio.ensure_future(self.http.ask(*words))
            if self.rng.random() < self.cancels:
                await asyncio.wait({work}, timeout=self.rng.random() * 0.01)
                self.dropped += not work.done()
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                return await work

    async def poll(self) -> None:
        """POST and GET, each with its number."""
        for number in range(self.count):
            body = json.dumps([self.nonce, number]).encode()
            status, said = await self.patiently("POST", f"{self.path}?seq={number + 2}", body)
            assert status in (200, 202), (status, said)
            status, said = await self.patiently("GET", f"{self.path}?after={number}&wait=30")
            assert status == 200, (status, said)
            self.check(json.loads(said), number)

    async def socket(self) -> None:
        """A WebSocket; what was not confirmed is sent again by the next one."""
        confirmed = 1  # the source
        while self.had < self.count:
            url = f"ws://{self.address}{self.path}?after={self.had}"
            headers = {"Authorization": f"Bearer {self.token}"}
            async with connect(url, additional_headers=headers, compression=None, proxy=None) as socket:
                sent = confirmed
                while self.had < self.count:
                    while sent < min(self.count + 1, self.had + 1 + AT_A_TIME):
                        sent += 1
                        await socket.send(json.dumps({"value": [self.nonce, sent - 2], "seq": sent}))
                    told = json.loads(await socket.recv())
                    if told["kind"] == "had":
                        confirmed = max(confirmed, told["seq"])
                    else:
                        assert told["kind"] == "value", told
                        assert told["seq"] == self.had + 1, told
                        self.check(told["value"], self.had)
                        await socket.send(json.dumps({"ack": self.had}))
                    if self.rng.random() < self.cancels / 4:
                        self.dropped += 1
                        socket.transport.abort()
                        break


async def soak(address: str, args: argparse.Namespace) -> list[Client]:
    """All clients at once."""
    rng = random.Random(args.seed)
    count = args.messages // args.clients
    clients = [Client(address, count, args.cancels, random.Random(rng.random())) for _ in range(args.clients)]
    for client in clients:
        await client.start()
    await asyncio.gather(*(c.poll() if i % 2 else c.socket() for i, c in enumerate(clients)))
    for client in clients:
        client.http.drop()
    return clients


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--cancels", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExecServer(Path(folder), POLICY) as server:
        clients = asyncio.run(soak(server.address, args))
    seconds = time.monotonic() - begun
    print(f"seed              {args.seed}")
    print(f"clients           {len(clients)}")
    print(f"messages          {sum(client.had for client in clients)}")
    print(f"dropped requests  {sum(client.dropped for client in clients)}")
    print("foreign nonces    0, gaps 0, doubles 0")  # the first would have ended it
    print(f"seconds           {seconds:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
