"""A proxy cuts a gateway's link at random bytes, under load both ways: nothing lost, doubled or out of order.

    python testing/soak/resume.py --cuts 2000 [--kind socket]

Both directions carry values of all sizes and are hashed on both sides.  Says cuts, values, bytes and the highest
memory of the near side, the keeper and the worker.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cutting import CuttingProxy
from listener import Listener

from execgw import Channel, Group

FAR = """
import hashlib, random
def both_ways(channel, seed, sizes):
    import threading
    said = hashlib.sha256()
    stop = []
    def talk():
        numbers = random.Random(seed)
        count = 0
        while not stop:
            value = b"%d:" % count + numbers.randbytes(numbers.choice(sizes))
            said.update(value)
            channel.send(value)
            count += 1
        channel.send(("said", count, said.hexdigest()))
    thread = threading.Thread(target=talk)
    thread.start()
    heard = hashlib.sha256()
    count = 0
    for value in channel:
        if value is None:
            break
        assert value.startswith(b"%d:" % count), (value[:20], count)
        heard.update(value)
        count += 1
    stop.append(1)
    thread.join()
    channel.send(("heard", count, heard.hexdigest()))
"""
SIZES = [0, 1, 10, 100, 100, 1000, 1000, 5000, 20_000, 100_000, 300_000]


def talk(channel: Channel, done: threading.Event, seed: int) -> tuple[int, str, int]:
    """Send until it is done: (values, hash, bytes)."""
    numbers, said, count, size = random.Random(seed), hashlib.sha256(), 0, 0
    while not done.is_set():
        value = b"%d:" % count + numbers.randbytes(numbers.choice(SIZES))
        said.update(value)
        channel.send(value)
        count += 1
        size += len(value)
    channel.send(None)
    return count, said.hexdigest(), size


def listen(channel: Channel) -> tuple[int, str, tuple[str, int, str], tuple[str, int, str]]:
    """Receive until both last words have come."""
    heard, count = hashlib.sha256(), 0
    last = {}
    while len(last) < 2:
        value = channel.receive(120)
        if type(value) is tuple:
            last[value[0]] = value
            continue
        assert value.startswith(b"%d:" % count), (value[:20], count)
        heard.update(value)
        count += 1
    return count, heard.hexdigest(), last["said"], last["heard"]


def high_water(pids: list[int]) -> dict[int, int]:
    """MiB that each process has had at most."""
    found = {}
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        found[pid] = int(text.partition("VmHWM:")[2].split()[0]) // 1024
    return found


def run(cuts: int, low: int = 1, high: int = 2_000_000, seed: int = 1, patience: float = 3600) -> dict[str, object]:
    """Until the link was cut so often: what was seen."""
    with tempfile.TemporaryDirectory() as folder, Listener(Path(folder), "127.0.0.1:0") as listener:
        host, _, port = listener.address.rpartition(":")
        with CuttingProxy((host, int(port)), low, high, seed=seed) as proxy, Group() as group:
            spec = listener.spec("resume=60").replace(listener.address, f"127.0.0.1:{proxy.port}")
            proxy.limit = 0
            gateway = group.makegateway(spec)
            proxy.limit = cuts
            pid = gateway._rinfo().pid
            keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            proxy.cut_all()
            channel = gateway.remote_exec(f"{FAR}\nboth_ways(channel, {seed}, {SIZES})")
            done, result = threading.Event(), []
            talker = threading.Thread(target=lambda: result.append(talk(channel, done, seed + 1)))
            begun = time.monotonic()

            def watch() -> None:
                while proxy.cuts < cuts and time.monotonic() - begun < patience and gateway.hasreceiver():
                    time.sleep(0.05)
                done.set()

            watcher = threading.Thread(target=watch)
            talker.start()
            watcher.start()
            try:
                count, digest, their_said, their_heard = listen(channel)
            finally:
                done.set()
            talker.join()
            watcher.join()
            said, said_digest, size = result[0]
            assert ("said", count, digest) == their_said, (count, digest, their_said)
            assert ("heard", said, said_digest) == their_heard, (said, said_digest, their_heard)
            memory = high_water([keeper, pid])
            return {
                "cuts": proxy.cuts, "seconds": round(time.monotonic() - begun, 1), "sent": said, "received": count,
                "MiB sent": size >> 20, "near MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "keeper MiB": memory[keeper], "worker MiB": memory[pid],
            }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument("--high", type=int, default=2_000_000, help="bytes that a connection may live for")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(run(options.cuts, high=options.high, seed=options.seed))
