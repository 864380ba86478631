"""Many gateways from one script: started at the same time, threads, memory of the near side, and their end.

    python testing/soak/many.py [--gateways 200] [--json]

Exits with 1 if the near side's threads grow with their number, if a gateway costs the near side more than 64 KiB, if
ending them all takes 5 s or more, or if a process is left.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time

from processes import children, processes, rss_kib, table, thread_count

import execgw

MOST_KIB = 64  # near-side memory of one gateway
MOST_SECONDS = 5.0  # to end all
MOST_THREADS = 8  # of the near side, however many gateways: the loop, the script, a few that run callbacks
ECHO = "for item in channel: channel.send(item)"


def measure(count: int) -> dict[str, float]:
    """Start, use and end *count* gateways."""
    group = execgw.Group()
    with execgw.Group() as warm:  # what the first gateway of a process costs is not counted
        warm.makegateway().call(len, [])
    gc.collect()
    rss = rss_kib()
    begun = time.perf_counter()
    gateways = group.makegateways(["popen"] * count)
    started = time.perf_counter()
    gc.collect()
    found = {"gateways": count, "start s": started - begun, "KiB per gateway": (rss_kib() - rss) / count}
    pids = {gateway._rinfo().pid for gateway in gateways}
    channels = [gateway.remote_exec(ECHO) for gateway in gateways]
    echoed = time.perf_counter()
    for number, channel in enumerate(channels):
        channel.send(number)
    answers = [channel.receive(timeout=30) for channel in channels]
    found["echo on each s"] = time.perf_counter() - echoed
    found["wrong answers"] = sum(answer != number for number, answer in enumerate(answers))
    found["KiB per gateway in use"] = (rss_kib() - rss) / count
    found["threads"] = thread_count()
    del channels
    begun = time.perf_counter()
    how = group.terminate()
    found["end s"] = time.perf_counter() - begun
    found["had to be killed"] = sum(word != "asked" for word in how.values())
    alive = processes()
    found["processes left"] = len({pid for pid in pids if pid in alive} | set(children()))
    return found


def violations(found: dict[str, float]) -> list[str]:
    """What is not as it must be."""
    wrong = []
    if found["threads"] > MOST_THREADS:
        names = ", ".join(thread.name for thread in threading.enumerate())
        wrong.append(f"{found['threads']} threads on the near side, more than {MOST_THREADS}: {names}")
    if found["KiB per gateway"] > MOST_KIB:
        wrong.append(f"{found['KiB per gateway']:.0f} KiB of the near side for each gateway, more than {MOST_KIB}")
    if found["end s"] >= MOST_SECONDS:
        wrong.append(f"{found['end s']:.1f} s to end all, not under {MOST_SECONDS}")
    wrong += [
        f"{name}: {found[name]:.0f}"
        for name in ("wrong answers", "had to be killed", "processes left")
        if found[name] != 0
    ]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateways", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    found = measure(options.gateways)
    if options.json:
        print(json.dumps(found))
    else:
        print(table([("what", "measured"), *((name, f"{value:.4g}") for name, value in found.items())]))
    wrong = violations(found)
    for line in wrong:
        print("VIOLATION:", line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
