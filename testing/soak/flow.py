"""Flow control: big producers into consumers that sleep; memory of every process, and what another channel feels.

    python testing/soak/flow.py [--gib 10] [--messages 1000000] [--items 1000000] [--only popen,via,items]

On each way (popen; popen -> via -> via) and in both directions, with blocks of 1 MiB and with small messages:
    asleep    the consumer never reads: memory may grow by less than 16 MiB in each process of the way, and the p99
              round trip of another channel of the gateway stays under twice its idle one
    bursts    the consumer reads all of it in bursts: the same limit for the memory
Then a million items go to a worker that echoes, before the first receive(): all arrive, or SendBlocked names the cure.
Exits with 1 if that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from processes import percentile, rss_kib, table

import execgw

MOST_KIB = 16 * 1024  # by which the memory of a process may grow
MOST_TIMES = 2.0  # p99 round trip beside a stalled producer, in idle ones
BLOCK = 1 << 20
SMALL = 64
BURST = 64  # of 1 MiB between two naps of the consumer
NAP = 0.02
ASLEEP_SECONDS = 3.0
ROUND_TRIPS = 3000
FEW = 200  # with --memory-only
GIVE_UP = 600.0

ECHO = "for item in channel: channel.send(item)"
PRODUCE = """
data = channel.receive()
size, count = channel.receive()
block = bytes(size)
for _ in range(count):
    data.send(block)
"""
CONSUME = """
import time
data = channel.receive()
nap, burst, count = channel.receive()
if burst == 0:
    time.sleep(nap)  # and never reads
else:
    for number in range(count):
        data.receive()
        if number % burst == burst - 1:
            time.sleep(nap)
channel.send('done')
"""


class Way:
    """A gateway, the processes that its bytes go through, and an echo beside the load."""

    def __init__(self, group: execgw.Group, hops: int, round_trips: int = ROUND_TRIPS) -> None:
        self.name = "popen" + " -> via" * hops
        self.gateway = group.makegateway("popen")
        self.processes = {"near": 0, "worker": self.gateway._rinfo().pid}
        for hop in range(hops):
            self.gateway = group.makegateway(f"popen//via={self.gateway.id}")
            self.processes[f"via {hop + 1}"] = self.gateway._rinfo().pid
        self.count = round_trips
        self.echo = self.gateway.remote_exec(ECHO)

    def rss(self) -> dict[str, int]:
        """Resident memory of each process, in KiB."""
        return {name: rss_kib(pid or "self") for name, pid in self.processes.items()}

    def round_trips(self) -> tuple[float, float]:
        """p50 and p99 of many round trips on the echo's channel, in microseconds."""
        taken = []
        for number in range(self.count):
            begun = time.perf_counter()
            self.echo.send(number)
            self.echo.receive()
            taken.append((time.perf_counter() - begun) * 1e6)
        return percentile(taken, 50), percentile(taken, 99)

    @contextlib.contextmanager
    def from_the_worker(self, size: int, count: int) -> Iterator[execgw.Channel]:
        """The worker sends *count* blocks on the channel that this gives."""
        data = self.gateway.newchannel()
        task = self.gateway.remote_exec(PRODUCE)
        task.send(data)
        task.send((size, count))
        try:
            yield data
        finally:
            data.close()
            with contextlib.suppress(execgw.RemoteError):  # the worker had more to send
                task.waitclose(GIVE_UP)

    @contextlib.contextmanager
    def to_the_worker(self, size: int, count: int, nap: float, burst: int) -> Iterator[execgw.Channel]:
        """A thread here sends *count* blocks; the channel that this gives hears of the consumer's end."""
        data = self.gateway.newchannel()
        task = self.gateway.remote_exec(CONSUME)
        task.send(data)
        task.send((nap, burst, count))
        block = bytes(size)

        def produce() -> None:
            with contextlib.suppress(OSError):  # closed: the consumer will not read
                for _ in range(count):
                    data.send(block)

        producer = threading.Thread(target=produce, daemon=True)
        producer.start()
        try:
            yield task
        finally:
            data.close()
            producer.join(10)
            if producer.is_alive():
                raise AssertionError("the producer hangs in send() though its channel is closed")
            task.close()


class Report:
    """The rows of the table, and what is wrong in them."""

    def __init__(self, memory_only: bool = False) -> None:
        self.memory_only = memory_only
        self.rows: list[tuple[str, ...]] = [
            ("way", "direction", "load", "seconds", "memory growth, KiB", "idle p50/p99 us", "loaded p50/p99 us")
        ]
        self.violations: list[str] = []

    def add(
        self,
        way: Way,
        case: tuple[str, str],
        seconds: float,
        before: dict[str, int],
        most: dict[str, int],
        idle: tuple[float, float],
        loaded: tuple[float, float] | None,
    ) -> None:
        growth = {name: most[name] - before[name] for name in before}
        shown = ", ".join(f"{name} {kib:+d}" for name, kib in growth.items())
        felt = "-" if loaded is None else f"{loaded[0]:.0f}/{loaded[1]:.0f}"
        row = (way.name, *case, f"{seconds:.1f}", shown, f"{idle[0]:.0f}/{idle[1]:.0f}", felt)
        self.rows.append(row)
        print(*row, sep="  ", flush=True)
        where = ", ".join((way.name, *case))
        for name, kib in growth.items():
            if kib >= MOST_KIB:
                self.violate(f"{where}: the memory of {name} grew by {kib} KiB")
        if loaded is not None and not self.memory_only and loaded[1] >= MOST_TIMES * idle[1]:
            self.violate(f"{where}: p99 of another channel is {loaded[1]:.0f} us, {loaded[1] / idle[1]:.1f} x idle")

    def violate(self, text: str) -> None:
        self.violations.append(text)
        print("VIOLATION:", text, flush=True)


class Watch:
    """Looks at the memory of a way's processes now and then; `most` has the highest of each."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.most = way.rss()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.stop.wait(0.1):
            self._note()

    def _note(self) -> None:
        for name, kib in self.way.rss().items():
            self.most[name] = max(self.most[name], kib)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop.set()
        self.thread.join()
        self._note()


def asleep(way: Way, report: Report, size: int, count: int, seconds: float) -> None:
    """The consumer never reads."""
    for direction, load in (
        ("worker to near", way.from_the_worker(size, count)),
        ("near to worker", way.to_the_worker(size, count, seconds * 3, 0)),
    ):
        way.round_trips()
        before = way.rss()
        with Watch(way):  # as beside the load
            idle = way.round_trips()
        begun = time.perf_counter()
        with Watch(way) as watch, load:
            time.sleep(seconds)  # it fills what it can
            loaded = way.round_trips()
        taken = time.perf_counter() - begun
        # Whether two processes share a CPU or not makes a round trip three times as long: the slower idle one counts.
        with Watch(way):
            idle = max(idle, way.round_trips(), key=lambda found: found[1])
        report.add(way, (direction, f"{_size(size)}, asleep"), taken, before, watch.most, idle, loaded)


def bursts(way: Way, report: Report, size: int, count: int) -> None:
    """The consumer reads all of it, with naps between."""
    burst = max(BURST * BLOCK // max(size, 8192), 1)
    idle = way.round_trips()
    for direction in ("worker to near", "near to worker"):
        way.round_trips()
        before = way.rss()
        begun = time.perf_counter()
        with Watch(way) as watch:
            if direction == "worker to near":
                with way.from_the_worker(size, count) as data:
                    for number in range(count):
                        data.receive(GIVE_UP)
                        if number % burst == burst - 1:
                            time.sleep(NAP)
            else:
                with way.to_the_worker(size, count, NAP, burst) as task:
                    task.receive(GIVE_UP)
        taken = time.perf_counter() - begun
        load = f"{count} x {_size(size)}, bursts"
        report.add(way, (direction, load), taken, before, watch.most, idle, None)


def many_items(report: Report, items: int) -> None:
    """Send a million items to an echo before the first receive(), as programs do that know no flow control."""
    with execgw.Group() as group:
        way = Way(group, 0)
        before = way.rss()
        begun = time.perf_counter()
        sent, how = 0, "all arrived, in order"
        with Watch(way) as watch:
            try:
                for number in range(items):
                    way.echo.send(number)
                    sent += 1
            except execgw.SendBlocked as e:
                how = f"SendBlocked after {sent}: {e}"
                if "receive()" not in str(e):
                    report.violate(f"SendBlocked names no cure: {e}")
            for number in range(sent):
                if way.echo.receive(GIVE_UP) != number:
                    how = f"item {number} is wrong"
                    report.violate(how)
                    break
        taken = time.perf_counter() - begun
        growth = ", ".join(f"{name} {watch.most[name] - before[name]:+d} KiB" for name in before)
        print(f"{items} items to an echo before the first receive(): {taken:.1f} s; {growth}; {how}", flush=True)


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= BLOCK else f"{size} B"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=10, help="of blocks of 1 MiB in each load")
    parser.add_argument("--messages", type=int, default=1_000_000, help="small messages in each load")
    parser.add_argument("--items", type=int, default=1_000_000, help="for the echo before the first receive()")
    parser.add_argument("--only", default="popen,via,items")
    parser.add_argument(
        "--asleep", type=float, default=ASLEEP_SECONDS, help="seconds that a load has to fill what it can"
    )
    parser.add_argument("--memory-only", action="store_true", help="round trips are shown, not judged: a busy machine")
    options = parser.parse_args()
    report = Report(options.memory_only)
    blocks = int(options.gib * 1024)
    chosen = options.only.split(",")
    for word, hops in (("popen", 0), ("via", 2)):
        if word in chosen:
            with execgw.Group() as group:
                way = Way(group, hops, FEW if options.memory_only else ROUND_TRIPS)
                asleep(way, report, BLOCK, blocks, options.asleep)
                asleep(way, report, SMALL, int(options.gib * (1 << 30)) // SMALL, options.asleep)
                bursts(way, report, BLOCK, blocks)
                bursts(way, report, SMALL, options.messages)
    print()
    if len(report.rows) > 1:
        print(table(report.rows), end="\n\n")
    if "items" in chosen:
        many_items(report, options.items)
    for text in report.violations:
        print("VIOLATION:", text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
