"""Figures about the server, as Prometheus reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .processes import Process, Table

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
Labels = tuple[tuple[str, str], ...]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counted as it happens; what can be seen at any time is looked at when somebody asks."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.starts: Counter[Labels] = Counter()
        self.ends: Counter[Labels] = Counter()
        self.requests: Counter[Labels] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._start_buckets: list[int] = [0] * (len(BUCKETS) + 1)
        self._start_seconds = 0.0
        self._forgotten = 0
        table.on_start.append(self._watch)
        table.on_forget.append(self._forget)

    def started(self, spec: str, outcome: str, seconds: float) -> None:
        """A start was tried."""
        self.starts[("spec", spec), ("outcome", outcome)] += 1
        if outcome == "started":
            self._start_buckets[bisect_left(BUCKETS, seconds)] += 1
            self._start_seconds += seconds

    def requested(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; *route* is its pattern, for its path is a secret."""
        self.requests[("route", route), ("method", method), ("status", str(status))] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(BUCKETS) + 1))
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]  # a float counts as well

    def _watch(self, process: Process) -> None:
        if process.over is not None:  # as fast as that
            self._over(process)
        process.on_over.append(self._over)

    def _over(self, process: Process) -> None:
        assert process.over is not None
        code = process.over.exit_code
        how = "asked" if process.ending else "exit" if code is not None and code >= 0 else "killed"
        self.ends[(("how", how),)] += 1

    def _forget(self, process: Process) -> None:
        self._forgotten += process.queue()["dropped"]

    def text(self) -> str:
        """All of it."""
        processes = list(self._table.processes.values())
        queues = [process.queue() for process in processes]
        live: Counter[Labels] = Counter({(("protocol", name),): 0 for name in ("values", "frames")})
        live.update((("protocol", process.protocol),) for process in self._table.live)
        out: list[str] = []
        _family(out, "execgw_starts_total", "counter", "Starts of processes that were tried.", self.starts)
        _family(out, "execgw_ends_total", "counter", "Processes that have ended.", self.ends)
        _family(out, "execgw_processes", "gauge", "Processes that live.", live)
        followers = sum(process.followers for process in processes)
        _family(out, "execgw_followers", "gauge", "Requests that wait, streams and WebSockets.", {(): followers})
        waiting = sum(queue["messages"] for queue in queues)
        _family(out, "execgw_queue_messages", "gauge", "Messages that wait to be read.", {(): waiting})
        size = sum(queue["bytes"] for queue in queues)
        _family(out, "execgw_queue_bytes", "gauge", "Bytes of these.", {(): size})
        dropped = self._forgotten + sum(queue["dropped"] for queue in queues)
        _family(out, "execgw_dropped_total", "counter", "Messages that nobody read in time.", {(): dropped})
        _family(out, "execgw_requests_total", "counter", "Requests that were answered.", self.requests)
        _head(out, "execgw_start_seconds", "histogram", "Time from a request to a process that is ready.")
        _histogram(out, "execgw_start_seconds", "", self._start_buckets, self._start_seconds)
        _head(
            out, "execgw_request_seconds", "histogram", "Time to the end of an answer, waiting for messages included."
        )
        for route, buckets in sorted(self._buckets.items()):
            _histogram(out, "execgw_request_seconds", f'route="{_escaped(route)}",', buckets, self._seconds[route])
        return "\n".join(out) + "\n"


def _head(out: list[str], name: str, kind: str, about: str) -> None:
    out += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _family(out: list[str], name: str, kind: str, about: str, values: Counter[Labels] | dict[Labels, int]) -> None:
    _head(out, name, kind, about)
    for labels, value in sorted(values.items()):
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        out.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")


def _histogram(out: list[str], name: str, labels: str, buckets: list[int], seconds: float) -> None:
    for bound, count in zip([*map(str, BUCKETS), "+Inf"], accumulate(buckets), strict=True):
        out.append(f'{name}_bucket{{{labels}le="{bound}"}} {count}')
    braces = f"{{{labels.rstrip(',')}}}" if labels else ""
    out += [f"{name}_sum{braces} {seconds:.6f}", f"{name}_count{braces} {sum(buckets)}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
