"""What execgw costs, beside a bare child process and execnet, on the same work in one run.

    python testing/bench/bench.py [--pin 0] [--repeat 5] [--gateways 200] [--only start,trip,...]

Prints a markdown table: medians of interleaved repeats, the ratio to raw, and whether the goal is reached.  Work and
goals are ratios within one run, for absolute times vary from machine to machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import over_http
from contestants import Execgw, Execnet, Raw, start_times

HERE = Path(__file__).parent
MIB = 1 << 20
NESTED = [
    {"id": i, "name": f"item-{i}", "tags": ["a", "b", i], "weight": i / 3, "ok": True, "none": None}
    for i in range(2000)
]
OVER_HTTP = {"raw": over_http.bare, "execgw": over_http.through_exec_server}
Figures = dict[str, dict[str, float]]  # row -> contestant -> median


@dataclass(frozen=True)
class Row:
    """One line of the table.  *goal* says it in words, *reached* looks at the row's medians and all others'."""

    key: str
    title: str
    unit: str
    goal: str
    reached: Callable[[dict[str, float], Figures], bool]
    more_is_better: bool = False


def _at_most(raw: float, execnet: float | None = None) -> Callable[[dict[str, float], Figures], bool]:
    def reached(row: dict[str, float], _: Figures) -> bool:
        return row["execgw"] <= raw * row["raw"] and (
            execnet is None or "execnet" not in row or row["execgw"] <= execnet * row["execnet"]
        )

    return reached


def _at_least(of: str, ratio: float) -> Callable[[dict[str, float], Figures], bool]:
    return lambda row, _: of not in row or row["execgw"] >= ratio * row[of]


def _started(row: dict[str, float], _: Figures) -> bool:
    return row["execgw"] <= 1.3 * row["python -c pass"] and row["execgw"] < 0.6 * row.get("execnet", 1e9)


ROWS = [
    Row("start", "popen: start to first echo", "ms", "<= 1.3 x python -c pass, < 0.6 x execnet", _started),
    Row("factory", "100 workers, of a warm factory here: median", "ms", "<= 3 ms", lambda row, _: row["execgw"] <= 3),
    Row(
        "factory_p99",
        "the same, slowest but one",
        "ms",
        "< execnet's median",
        lambda row, all: row["execgw"] < all.get("factory", row).get("execnet", 1e9),
    ),
    Row("trip", "round trip of a small value", "us", "<= 1.7 x raw, <= 1/3 execnet", _at_most(1.7, 1 / 3)),
    Row("nested", "echo of 2,000 dicts", "ms", "<= 2 x raw, <= 1/20 execnet", _at_most(2, 1 / 20)),
    Row("sink", "1 MiB blocks to the worker", "MB/s", ">= 0.55 x raw", _at_least("raw", 0.55), True),
    Row("source", "1 MiB blocks from the worker", "MB/s", ">= 0.55 x raw", _at_least("raw", 0.55), True),
    Row("sink-free", "the same to it, not pinned", "MB/s", ">= 3 x execnet", _at_least("execnet", 3), True),
    Row("source-free", "the same from it, not pinned", "MB/s", ">= 3 x execnet", _at_least("execnet", 3), True),
    Row("post", "small messages to the worker", "1000/s", ">= 0.5 x raw", _at_least("raw", 0.5), True),
    Row("fetch", "small messages from the worker", "1000/s", ">= 0.5 x raw", _at_least("raw", 0.5), True),
    Row(
        "call",
        'remote_exec("channel.send(1+1)")',
        "us",
        "<= 5 x the raw round trip",
        lambda row, all: row["execgw"] <= 5 * all.get("trip", row)["raw"],
    ),
    Row("http", "round trip through an exec-server", "us", "<= 2 x a bare WebSocket echo (raw)", _at_most(2)),
    Row("many-start", "{n} gateways: start", "s", "in parallel", lambda row, _: True),
    Row("many-end", "{n} gateways: end", "s", "< 5 s", lambda row, _: row["execgw"] < 5),
    Row("many-threads", "{n} gateways: near-side threads", "", "O(1)", lambda row, _: row["execgw"] <= 8),
    Row("many-KiB", "{n} gateways: near-side memory of each", "KiB", "<= 64", lambda row, _: row["execgw"] <= 64),
]


def timed(work: Callable[..., Any], *args: Any) -> float:
    """Seconds that work(*args) takes."""
    begun = time.perf_counter()
    work(*args)
    return time.perf_counter() - begun


def median_of(count: int, work: Callable[..., Any], *args: Any) -> float:
    return statistics.median(timed(work, *args) for _ in range(count))


def start_and_echo(kind: type[Any]) -> tuple[Any, float]:
    """A running contestant, and how long it took until the first answer."""
    peer = kind()
    begun = time.perf_counter()
    peer.start()
    peer.echo(1)
    return peer, time.perf_counter() - begun


def measure(kind: type[Any], keys: set[str]) -> dict[str, float]:
    """One contestant's figures for the rows whose keys are asked for."""
    found = {}
    if "start" in keys:
        starts = []
        for _ in range(3):
            peer, seconds = start_and_echo(kind)
            starts.append(seconds)
            peer.stop()
        found["start"] = statistics.median(starts) * 1e3
    if keys & {"factory", "factory_p99"}:
        starts = start_times(kind, 100)
        found["factory"], found["factory_p99"] = statistics.median(starts) * 1e3, starts[98] * 1e3
    if "http" in keys and kind.name in OVER_HTTP:
        found["http"] = OVER_HTTP[kind.name]()
    if not keys - {"start", "factory", "factory_p99", "http"}:
        return found
    peer, _ = start_and_echo(kind)
    try:
        if "trip" in keys:
            for _ in range(300):
                peer.echo(1)
            found["trip"] = median_of(1500, peer.echo, 1) * 1e6
        if "nested" in keys:
            peer.echo(NESTED)
            found["nested"] = min(timed(peer.echo, NESTED) for _ in range(5)) * 1e3
        if "call" in keys:
            peer.call()
            found["call"] = median_of(300, peer.call) * 1e6
        if "post" in keys:
            peer.post(1000)
            found["post"] = 20 / timed(peer.post, 20_000)
        if "fetch" in keys:
            peer.fetch(1000)
            found["fetch"] = 20 / timed(peer.fetch, 20_000)
        found.update(measure_blocks(peer, keys & {"sink", "source"}, ""))
    finally:
        peer.stop()
    return found


def measure_blocks(peer: Any, keys: set[str], suffix: str) -> dict[str, float]:
    """Megabytes (2**20) a second of large blocks."""
    found = {}
    block = os.urandom(MIB)
    if "sink" in keys:
        peer.sink(block, 4)
        found["sink" + suffix] = 128 / timed(peer.sink, block, 128)
    if "source" in keys:
        peer.source(MIB, 4)
        found["source" + suffix] = 128 / timed(peer.source, MIB, 128)
    return found


def measure_free(kind: type[Any], keys: set[str], cpus: set[int], pinned: set[int]) -> dict[str, float]:
    """The rows that are measured on all CPUs."""
    wanted = {key.removesuffix("-free") for key in keys if key.endswith("-free")}
    if not wanted:
        return {}
    os.sched_setaffinity(0, cpus)
    try:
        peer, _ = start_and_echo(kind)
        try:
            return measure_blocks(peer, wanted, "-free")
        finally:
            peer.stop()
    finally:
        os.sched_setaffinity(0, pinned)


def python_pass() -> float:
    """What any Python costs that is started as `python -c pass`, in ms."""
    return median_of(3, lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)) * 1e3


def measure_many(name: str, count: int, cpus: set[int]) -> dict[str, float]:
    """Many gateways in a fresh process, on all CPUs."""
    argv = [sys.executable, str(HERE / "contestants.py"), name, str(count)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    return {f"many-{what}": value for what, value in json.loads(done.stdout).items()}


def table(rows: list[Row], figures: Figures, names: list[str], gateways: int) -> str:
    """Markdown, one line a row."""
    lines = ["| work | " + " | ".join(names) + " | execgw / raw | goal | reached |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for row in rows:
        found = figures[row.key]
        unit = f" {row.unit}" if row.unit else ""
        cells = [f"{found[name]:.3g}{unit}" if found.get(name, 1000) < 1000 else f"{found[name]:.0f}{unit}"
                 if name in found else "-" for name in names]  # fmt: skip
        if row.key == "start" and "python -c pass" in found:
            cells[0] += f" (python -c pass: {found['python -c pass']:.3g} ms)"
        ratio = f"{found['execgw'] / found['raw']:.2f}" if found.get("raw", 0) > 0 and "execgw" in found else "-"
        reached = "-" if "execgw" not in found or "raw" not in found else "yes" if row.reached(found, figures) else "no"
        title = row.title.format(n=gateways)
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {ratio} | {row.goal} | {reached} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pin", default="0", help="CPUs for all but the unpinned rows, e.g. 0 or 0,1; '' for all")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--gateways", type=int, default=200)
    parser.add_argument("--only", default="", help=f"some of: {','.join(row.key for row in ROWS)}")
    parser.add_argument("--peers", default="raw,execnet,execgw")
    options = parser.parse_args()
    cpus = os.sched_getaffinity(0)
    pinned = {int(number) for number in options.pin.split(",")} if options.pin else cpus
    keys = set(options.only.split(",")) if options.only else {row.key for row in ROWS}
    kinds = [kind for kind in (Raw, Execnet, Execgw) if kind.name in options.peers.split(",")]
    try:
        import execnet  # noqa: F401
    except ImportError:
        kinds = [kind for kind in kinds if kind is not Execnet]

    samples: dict[str, dict[str, list[float]]] = {}

    def note(name: str, found: dict[str, float]) -> None:
        for key, value in found.items():
            samples.setdefault(key, {}).setdefault(name, []).append(value)

    os.sched_setaffinity(0, pinned)
    for number in range(options.repeat):
        print(f"repeat {number + 1} of {options.repeat}", file=sys.stderr, flush=True)
        if "start" in keys:
            note("python -c pass", {"start": python_pass()})
        for kind in kinds:  # interleaved, so that drift hits all alike
            if keys - {row.key for row in ROWS if "-" in row.key}:
                note(kind.name, measure(kind, keys))
            note(kind.name, measure_free(kind, keys, cpus, pinned))
    if any(key.startswith("many") for key in keys):
        for kind in kinds:
            print(f"{options.gateways} workers of {kind.name}", file=sys.stderr, flush=True)
            note(kind.name, measure_many(kind.name, options.gateways, cpus))
    figures = {key: {name: statistics.median(all) for name, all in found.items()} for key, found in samples.items()}
    rows = [row for row in ROWS if row.key in keys and row.key in figures]
    print(table(rows, figures, [kind.name for kind in kinds], options.gateways))
    words = " ".join(["python", "testing/bench/bench.py", *sys.argv[1:]])
    where = (
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {platform.system()}"
    )
    pin = f"pinned to CPU {options.pin}" if options.pin else "not pinned"
    print(f"\n`{words}` ({where}; {pin} where not said otherwise; medians of {options.repeat})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
