"""Starts of a good client on a listener that 200 slow strangers keep busy, against those on an idle one.

    python testing/soak/halfopen.py --starts 30 --strangers 200

Each stranger sends one byte of the handshake a second, and comes again when it is sent away.  The starts with and
without them alternate in one run; the medians are compared.  The limit is twice the idle time.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from listener import Listener

from execgw import Group
from execgw.transports.guard import MAGIC

HELLO = MAGIC + bytes(32)


class Strangers:
    """So many half-open connections, kept up by one thread."""

    def __init__(self, listener: Listener, count: int) -> None:
        self.listener, self.count = listener, count
        self.open: dict[socket.socket, int] = {}
        self.came = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.all_there = threading.Event()

    def _run(self) -> None:
        while not self.stopped.is_set():
            while len(self.open) < self.count:
                self.open[socket.create_connection(self.listener.port())] = 0
                self.came += 1
            self.all_there.set()
            for sock in list(self.open):
                self._trickle(sock)
            self.stopped.wait(1)

    def _trickle(self, sock: socket.socket) -> None:
        """One more byte; forget it if it was sent away."""
        sent = self.open[sock]
        try:
            sock.send(HELLO[sent : sent + 1])
            sock.setblocking(False)
            if sock.recv(1) == b"":
                raise ConnectionError
        except BlockingIOError:
            self.open[sock] = sent + 1
        except OSError:
            del self.open[sock]
            sock.close()

    def __enter__(self) -> Strangers:
        self.thread.start()
        self.all_there.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped.set()
        self.thread.join()
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.close()


def start_ms(spec: str) -> float:
    """Milliseconds until a gateway is there."""
    with Group() as group:
        begun = time.perf_counter()
        group.makegateway(spec)
        return (time.perf_counter() - begun) * 1e3


def main() -> int:
    """Run it; 1 if the limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--strangers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    idle: list[float] = []
    busy: list[float] = []
    came = 0
    with tempfile.TemporaryDirectory() as folder, Listener(Path(folder), "127.0.0.1:0") as listener:
        start_ms(listener.spec())  # warm
        for _ in range(args.rounds):
            idle += [start_ms(listener.spec()) for _ in range(args.starts // args.rounds)]
            with Strangers(listener, args.strangers) as strangers:
                busy += [start_ms(listener.spec()) for _ in range(args.starts // args.rounds)]
                came += strangers.came
    ratio = statistics.median(busy) / statistics.median(idle)
    print(f"idle     median {statistics.median(idle):6.1f} ms  worst {max(idle):6.1f} ms  of {len(idle)} starts")
    print(f"busy     median {statistics.median(busy):6.1f} ms  worst {max(busy):6.1f} ms  {came} strangers came")
    print(f"ratio    {ratio:.2f}  limit 2")
    return int(ratio >= 2)


if __name__ == "__main__":
    sys.exit(main())
