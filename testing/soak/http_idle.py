"""Thousands of connections that say nothing, or too little: what another client of an exec-server feels of them.

    python testing/soak/http_idle.py [--idle 5000] [--slow 500] [--requests 2000] [--rounds 3] [--times 2]

The client sends a value to code that echoes and gets it back, again and again: alone; then beside connections that say
nothing, one half of them after a first request, and beside such as send their request byte by byte.  Exits with 1 if
the p99 of that is more than twice (--times) the one alone, or if the slow ones are not sent away.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from exec_server import TOKENS, ExecServer
from processes import percentile

TRICKLE = 0.5  # seconds between two bytes of a slow one
POLICY = "[specs.python]\n[server]\nconnections = 8192\nslow = '5 s'\n"
ECHO = "for item in channel: channel.send(item)"


class Client:
    """What is measured."""

    def __init__(self, server: ExecServer) -> None:
        self.client = server.client()
        self.path = self.client.post("/exec", content=ECHO).headers["location"]

    def p99(self, requests: int) -> float:
        times = []
        for number in range(requests):
            begun = time.perf_counter()
            self.client.post(self.path, json=number)
            answer = self.client.get(self.path, params={"wait": 10})
            times.append(time.perf_counter() - begun)
            assert answer.json() == number
        return percentile(times, 99)


class Crowd:
    """Connections of which nobody has anything, in a process of their own: its work is not in what is measured."""

    def __init__(self, address: str, idle: int, slow: int) -> None:
        words = [sys.executable, __file__, "--crowd", address, "--idle", str(idle), "--slow", str(slow)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "connected\n"

    def end(self) -> int:
        """Wait until all slow ones were sent away, for some time; how many were."""
        said, _ = self.process.communicate(timeout=60)
        return int(said)


def crowd(address: str, idle: int, slow: int) -> None:
    """What that process does."""
    host, _, port = address.partition(":")
    quiet = [socket.create_connection((host, int(port))) for _ in range(idle)]
    for sock in quiet[::2]:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    left = [socket.create_connection((host, int(port))) for _ in range(slow)]
    selector = selectors.DefaultSelector()
    for sock in left:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    print("connected", flush=True)
    head = f"POST /exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['ann']}\r\nX: {'x' * 60}"
    for byte in head.encode():
        for key, _ in selector.select(0):
            selector.unregister(key.fileobj)
            left.remove(key.fileobj)
            key.fileobj.close()  # a 408, and the end
        for sock in left:
            with contextlib.suppress(OSError):
                sock.send(bytes([byte]))
        if not left:
            break
        time.sleep(TRICKLE)  # it is what a slow client does
    sys.stdin.read()
    print(slow - len(left))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, default=2.0, help="the p99 beside them may be that of alone so often")
    parser.add_argument("--crowd", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.crowd:
        crowd(args.crowd, args.idle, args.slow)
        return 0
    alone, beside = [], []
    sent_away = 0
    with tempfile.TemporaryDirectory() as folder, ExecServer(Path(folder), POLICY) as server:
        client = Client(server)
        client.p99(200)
        for _ in range(args.rounds):  # turn by turn: other work on this machine is in both
            alone.append(client.p99(args.requests))
            crowds = Crowd(server.address, args.idle, args.slow)
            beside.append(client.p99(args.requests))
            sent_away += crowds.end()
    times = sorted(beside)[len(beside) // 2] / sorted(alone)[len(alone) // 2]
    print("p99 alone   ", "  ".join(f"{seconds * 1000:6.1f} ms" for seconds in alone))
    print("p99 beside  ", "  ".join(f"{seconds * 1000:6.1f} ms" for seconds in beside))
    print(f"times        {times:.2f}, at most {args.times:g}")
    print(f"sent away    {sent_away} of {args.slow * args.rounds} slow ones")
    return 0 if times <= args.times and sent_away == args.slow * args.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
