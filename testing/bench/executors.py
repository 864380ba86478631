"""Executor beside ProcessPoolExecutor and loky: 10,000 small calls and 20 big ones, on two workers each, in one run.

    python testing/bench/executors.py [--repeat 5]

Prints a markdown table of medians, and the ratio to loky; the goal is to be no slower than it on both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import execgw

WORKERS = 2
SMALL, BIG = 10_000, 20


def small(number):
    return number * number


def big(count):
    total = 0
    for number in range(count):
        total += number
    return total


def _loky() -> Any:
    import loky

    return loky.ProcessPoolExecutor(WORKERS)


KINDS: dict[str, Callable[[], Executor]] = {
    "execgw": lambda: execgw.Executor(WORKERS),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(WORKERS),
    "loky": _loky,
}


def measure(make: Callable[[], Executor]) -> dict[str, float]:
    """Seconds for each kind of work, on workers that are warm."""
    found = {}
    with make() as executor:
        for future in [executor.submit(big, 1000) for _ in range(4 * WORKERS)]:
            future.result()
        begun = time.perf_counter()
        futures = [executor.submit(small, number) for number in range(SMALL)]
        assert [future.result() for future in futures] == [number * number for number in range(SMALL)]
        found[f"{SMALL:,} small calls, one by one"] = time.perf_counter() - begun
        begun = time.perf_counter()
        assert sum(executor.map(small, range(SMALL), chunksize=100)) == sum(n * n for n in range(SMALL))
        found[f"{SMALL:,} in chunks of 100"] = time.perf_counter() - begun
        begun = time.perf_counter()
        assert len({future.result() for future in [executor.submit(big, 1_000_000) for _ in range(BIG)]}) == 1
        found[f"{BIG} big calls"] = time.perf_counter() - begun
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    kinds = dict(KINDS)
    try:
        import loky  # noqa: F401
    except ImportError:
        del kinds["loky"]
    samples: dict[str, dict[str, list[float]]] = {}
    for number in range(repeat):
        print(f"repeat {number + 1} of {repeat}", file=sys.stderr, flush=True)
        for name, make in kinds.items():  # interleaved, so that drift hits all alike
            for work, seconds in measure(make).items():
                samples.setdefault(work, {}).setdefault(name, []).append(seconds)
    last = list(kinds)[-1]
    print(f"| work | {' | '.join(kinds)} | execgw / {last} |")
    print("|---" * (len(kinds) + 2) + "|")
    for work, found in samples.items():
        medians = {name: statistics.median(all) for name, all in found.items()}
        cells = " | ".join(f"{medians[name]:.3f} s" for name in kinds)
        print(f"| {work} | {cells} | {medians['execgw'] / medians[last]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
