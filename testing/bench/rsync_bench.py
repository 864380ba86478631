"""rsync: execgw beside the rsync command, as medians of ratios; four targets beside one; bytes on the wire.

python testing/bench/rsync_bench.py [--rounds 5] [--files 3000] [--big 128] [--at DIR]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import execgw


def make(root: str, files: int, big: int) -> None:
    rnd = random.Random(1)
    for number in range(files):
        directory = os.path.join(root, f"d{number % 50:02}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"f{number:05}.txt"), "wb") as file:
            file.write(rnd.randbytes(rnd.randrange(200, 8000)))
    with open(os.path.join(root, "big.bin"), "wb") as file:
        for _ in range(big):
            file.write(rnd.randbytes(1 << 20))


def with_execgw(source: str, dests: list[str]) -> int:
    group = execgw.Group()
    rsync = execgw.RSync(source, verbose=False)
    for gateway, dest in zip(group.makegateways(["popen"] * len(dests)), dests, strict=True):
        rsync.add_target(gateway, dest)
    report = rsync.send()
    for gateway in list(group):
        gateway.exit()
    return sum(target.bytes_sent + target.bytes_received for target in report)


def with_rsync(source: str, dests: list[str]) -> int:
    subprocess.run(["rsync", "-a", "--no-whole-file", f"{source}/", dests[0]], check=True)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--big", type=int, default=128)
    parser.add_argument("--at", default=None)
    options = parser.parse_args()
    top = tempfile.mkdtemp(dir=options.at)
    source = os.path.join(top, "source")
    make(source, options.files, options.big)
    big = os.path.join(source, "big.bin")
    with open(big, "rb") as file:
        content = file.read()
    times: dict[tuple[str, str], list[float]] = {}
    wire = 0

    def take(what: str, who: str, go: Callable[[str, list[str]], int], dests: list[str]) -> int:
        begun = time.perf_counter()
        sent = go(source, dests)
        times.setdefault((what, who), []).append(time.perf_counter() - begun)
        return sent

    places = {who: os.path.join(top, who) for who in ("execgw", "rsync", "one", "two", "three", "four")}
    try:
        for number in range(options.rounds):
            for place in places.values():
                shutil.rmtree(place, ignore_errors=True)
            sides = [("execgw", with_execgw), ("rsync", with_rsync)]
            sides = sides[::-1] if number % 2 else sides
            for what in ("first copy", "nothing changed", "one byte in front"):
                if what == "one byte in front":
                    with open(big, "wb") as file:
                        file.write(b"!" + content)
                for who, go in sides:
                    sent = take(what, who, go, [places[who]])
                    if what == "one byte in front" and who == "execgw":
                        wire = sent
            with open(big, "wb") as file:
                file.write(content)
            shutil.rmtree(places["one"], ignore_errors=True)
            take("four targets", "one", with_execgw, [places["one"]])
            shutil.rmtree(places["one"], ignore_errors=True)
            take("four targets", "four", with_execgw, [places[who] for who in ("one", "two", "three", "four")])
    finally:
        shutil.rmtree(top)
    for what in ("first copy", "nothing changed", "one byte in front"):
        ours, theirs = times[what, "execgw"], times[what, "rsync"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{what:18} execgw {statistics.median(ours):.3f} s, rsync {statistics.median(theirs):.3f} s, "
            f"ratio {ratio:.2f} (of the fastest {min(ours) / min(theirs):.2f})"
        )
    one, four = times["four targets", "one"], times["four targets", "four"]
    ratio = statistics.median(a / b for a, b in zip(four, one, strict=True))
    print(
        f"{'four targets':18} {statistics.median(four):.3f} s, one {statistics.median(one):.3f} s, "
        f"ratio {ratio:.2f} (of the fastest {min(four) / min(one):.2f})"
    )
    print(
        f"{'on the wire':18} {wire:,} bytes for one byte in front, {100 * wire / (len(content) + 1):.3f} % of the file"
    )


main()
