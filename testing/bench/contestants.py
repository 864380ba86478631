"""The contestants of bench.py: a bare child process (the limit that Python sets), execnet and execgw, same verbs.

start / echo(value) / sink(block, count) / source(block size, count) / post(count) / fetch(count) / call / stop
    sink, source    large blocks to the worker, and from it
    post, fetch     small messages to the worker, and from it
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
import time
from typing import Any

HEAD = struct.Struct("!cI")
BATCH = 512

RAW_WORKER = r"""
import pickle, socket, struct, sys
link = socket.socket(fileno=int(sys.argv[1]))
head = struct.Struct("!cI")
def take(size):
    data = bytearray(size)
    view = memoryview(data)
    while size:
        done = link.recv_into(view[-size:], size)
        if not done:
            sys.exit()
        size -= done
    return data
while True:
    verb, size = head.unpack(take(5))
    if verb == b"e":        # echo: the bytes as they came
        link.sendall(head.pack(b"e", size) + take(size))
    elif verb == b"d":      # data to swallow
        take(size)
    elif verb == b"a":      # acknowledge that it all came
        link.sendall(head.pack(b"a", 0))
    elif verb == b"b":      # send blocks
        length, count = struct.unpack("!II", take(size))
        block = bytes(length)
        for _ in range(count):
            link.sendall(head.pack(b"d", length))
            link.sendall(block)
    elif verb == b"m":      # send small messages
        count, = struct.unpack("!I", take(size))
        batch = []
        for number in range(count):
            data = pickle.dumps(number, 5)
            batch.append(head.pack(b"d", len(data)) + data)
            if len(batch) == 512:
                link.sendall(b"".join(batch))
                batch = []
        link.sendall(b"".join(batch))
"""


class Raw:
    """A child that echoes and swallows over a socket pair: no threads, no channels, no flow control, no checks."""

    name = "raw"

    def start(self) -> None:
        self.link, theirs = socket.socketpair()
        for end in (self.link, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        argv = [sys.executable, "-I", "-S", "-c", RAW_WORKER, str(theirs.fileno())]
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        theirs.close()

    def _take(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while size:
            done = self.link.recv_into(view[-size:], size)
            if not done:
                raise EOFError
            size -= done
        return data

    def _say(self, verb: bytes, data: bytes = b"") -> None:
        self.link.sendall(HEAD.pack(verb, len(data)) + data)

    def echo(self, value: Any) -> Any:
        self._say(b"e", pickle.dumps(value, 5))
        return pickle.loads(self._take(HEAD.unpack(self._take(5))[1]))

    def sink(self, block: bytes, count: int) -> None:
        for _ in range(count):
            self.link.sendall(HEAD.pack(b"d", len(block)))
            self.link.sendall(block)
        self._say(b"a")
        self._take(5)

    def source(self, size: int, count: int) -> None:
        self._say(b"b", struct.pack("!II", size, count))
        for _ in range(count):
            self._take(HEAD.unpack(self._take(5))[1])

    def post(self, count: int) -> None:
        batch = []
        for number in range(count):
            data = pickle.dumps(number, 5)
            batch.append(HEAD.pack(b"d", len(data)) + data)
            if len(batch) == BATCH:
                self.link.sendall(b"".join(batch))
                batch = []
        self.link.sendall(b"".join(batch))
        self._say(b"a")
        self._take(5)

    def fetch(self, count: int) -> None:
        self._say(b"m", struct.pack("!I", count))
        for _ in range(count):
            pickle.loads(self._take(HEAD.unpack(self._take(5))[1]))

    def call(self) -> int:
        answer: int = self.echo(2)
        return answer

    def stop(self) -> None:
        self.link.close()
        self.process.wait()


class Gateways:
    """What execnet and execgw have in common: the same script runs on both."""

    name = ""
    swallow = "for item in channel:\n    if item is None:\n        channel.send(None)"
    produce = (
        "for size, count in channel:\n"
        "    block = bytes(size) if size else None\n"
        "    for number in range(count):\n"
        "        channel.send(block or number)"
    )

    def __init__(self) -> None:
        self.library: Any = __import__(self.name)

    def start(self) -> None:
        self.group = self.library.Group()
        self.gateway = self.group.makegateway("popen")
        self.echoes = self.gateway.remote_exec("for item in channel: channel.send(item)")
        self.swallows = self.produces = None

    def echo(self, value: Any) -> Any:
        self.echoes.send(value)
        return self.echoes.receive()

    def _swallow(self, items: Any) -> None:
        if self.swallows is None:
            self.swallows = self.gateway.remote_exec(self.swallow)
        for item in items:
            self.swallows.send(item)
        self.swallows.send(None)
        self.swallows.receive()

    def _produce(self, size: int, count: int) -> None:
        if self.produces is None:
            self.produces = self.gateway.remote_exec(self.produce)
        self.produces.send((size, count))
        for _ in range(count):
            self.produces.receive()

    def sink(self, block: bytes, count: int) -> None:
        self._swallow(block for _ in range(count))

    def source(self, size: int, count: int) -> None:
        self._produce(size, count)

    def post(self, count: int) -> None:
        self._swallow(range(count))

    def fetch(self, count: int) -> None:
        self._produce(0, count)

    def call(self) -> Any:
        channel = self.gateway.remote_exec("channel.send(1+1)")
        answer = channel.receive()
        channel.waitclose()
        return answer

    def stop(self) -> None:
        self.group.terminate(timeout=2)


class Execnet(Gateways):
    name = "execnet"


class Execgw(Gateways):
    name = "execgw"


def start_times(kind: type[Any], count: int) -> list[float]:
    """Seconds from start to first echo of *count* workers, one after the other; execgw's come from a warm factory."""
    peers: list[Any] = []
    group: Any = None
    seconds = []
    if kind is not Raw:
        group = __import__(kind.name).Group()
    if kind is Execgw:
        group.setlocalfactory()
        group.makegateway("popen").remote_exec("channel.send(1)").receive()
    for _ in range(count):
        begun = time.perf_counter()
        if kind is Raw:
            peers.append(Raw())
            peers[-1].start()
            peers[-1].echo(1)
        else:
            group.makegateway("popen").remote_exec("channel.send(1)").receive()
        seconds.append(time.perf_counter() - begun)
    for peer in peers:
        peer.stop()
    if group is not None:
        group.terminate(timeout=5)
    return sorted(seconds)


def start_many(name: str, count: int) -> dict[str, float]:
    """Start *count* workers, echo on each, end them all.  In a process of its own: see bench.py."""
    from pathlib import Path

    def rss_kib() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    kinds: dict[str, type[Any]] = {kind.name: kind for kind in (Raw, Execnet, Execgw)}
    warm = kinds[name]()
    warm.start()
    warm.echo(1)
    warm.stop()
    before, begun = rss_kib(), time.perf_counter()
    if name == "execgw":
        library = __import__(name)
        group = library.Group()
        gateways = group.makegateways(["popen"] * count)
    elif name == "execnet":
        library = __import__(name)
        group = library.Group()
        gateways = [group.makegateway("popen") for _ in range(count)]
    else:
        workers = [Raw() for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.echo(1)
    found = {"start": time.perf_counter() - begun, "KiB": (rss_kib() - before) / count}
    found["threads"] = len(os.listdir("/proc/self/task"))
    if name != "raw":
        channels = [gateway.remote_exec("for item in channel: channel.send(item)") for gateway in gateways]
        for channel in channels:
            channel.send(1)
        for channel in channels:
            channel.receive()
    begun = time.perf_counter()
    if name == "raw":
        for worker in workers:
            worker.link.close()
        for worker in workers:
            worker.process.wait()
    else:
        group.terminate(timeout=5)
    found["end"] = time.perf_counter() - begun
    return found


if __name__ == "__main__":
    import json

    print(json.dumps(start_many(sys.argv[1], int(sys.argv[2]))))
