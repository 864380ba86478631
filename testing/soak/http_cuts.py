"""A proxy cuts every connection to an exec-server at random bytes, under load both ways: nothing lost, doubled or out
of order, and no code runs twice.

    python testing/soak/http_cuts.py --seconds 60 [--websocket yes|no] [--high BYTES] [--each-byte]

Both directions carry values of all sizes and are hashed on both sides; meanwhile code is run that says how often it
has run.  Says connections, cuts, values, bytes and the highest memory of this side, the server and the worker.
--each-byte cuts one exchange at each of its bytes instead.
"""

from __future__ import annotations

import argparse
import os
import random
import resource as limits
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "http"))

from exec_server import ExecServer
from proxy import NO_LIMIT, Proxy
from resume import FAR, SIZES, high_water, listen, talk

from execgw import Gateway, Group

RUN = """
import sys
sys.runs = getattr(sys, "runs", 0) + 1
channel.send((sys.runs, channel.receive()))
"""


def run_once(gateway: Gateway, number: int) -> None:
    """Run code that says how often it was run, and what came to it."""
    channel = gateway.remote_exec(RUN)
    channel.send(number)
    got = channel.receive(120)
    assert got == (number + 1, number), f"run {number} said {got}"
    channel.waitclose(120)


def under_load(gateway: Gateway, proxy: Proxy, seconds: float) -> dict[str, object]:
    """Both ways, for so long; what was seen."""
    channel = gateway.remote_exec(f"{FAR}\nboth_ways(channel, 1, {SIZES})")
    done, result = threading.Event(), []
    talker = threading.Thread(target=lambda: result.append(talk(channel, done, 2)))
    heard: list[object] = []
    listener = threading.Thread(target=lambda: heard.append(listen(channel)))
    end = time.monotonic() + seconds
    runs = 0
    talker.start()
    listener.start()
    while time.monotonic() < end:
        run_once(gateway, runs)
        runs += 1
    done.set()
    talker.join(300)
    listener.join(300)
    (said, said_digest, size), (count, digest, their_said, their_heard) = result[0], heard[0]  # type: ignore[misc]
    assert ("said", count, digest) == their_said, (count, digest, their_said)
    assert ("heard", said, said_digest) == their_heard, (said, said_digest, their_heard)
    return {
        "runs": runs, "values sent": said, "values received": count, "MiB sent": size >> 20,
        "connections": proxy.accepted, "cuts": proxy.cuts,
    }  # fmt: skip


def each_byte(gateway: Gateway, proxy: Proxy) -> dict[str, object]:
    """Cut one exchange at its first byte, the next at its second, ... until one is shorter than that."""
    at = 0
    while True:
        cuts = proxy.cuts
        proxy.budget = at
        run_once(gateway, at)
        if proxy.cuts == cuts:
            proxy.budget = NO_LIMIT
            return {"bytes of an exchange": at, "cuts": proxy.cuts, "violations": 0}
        at += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--websocket", choices=("yes", "no"), default="yes")
    parser.add_argument("--low", type=int, default=1, help="bytes that it lives for at least")
    parser.add_argument("--high", type=int, default=2_000_000, help="bytes that a connection may live for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each-byte", action="store_true")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        ExecServer(Path(folder)) as server,
        Proxy(server.address) as proxy,
        Group() as group,
    ):
        spec = server.spec(f"websocket={options.websocket}").replace(server.address, proxy.address)
        gateway = group.makegateway(spec)
        worker = gateway.call(os.getpid)
        if options.each_byte:
            found = each_byte(gateway, proxy)
        else:
            proxy.limit = lambda: dice.randrange(options.low, options.high)
            proxy.cut_all()
            found = under_load(gateway, proxy, options.seconds)
        memory = high_water([server.process.pid, worker])
        own = limits.getrusage(limits.RUSAGE_SELF).ru_maxrss // 1024
        found |= {"near MiB": own, "server MiB": memory[server.process.pid], "worker MiB": memory[worker]}
        proxy.limit = lambda: NO_LIMIT
    for name, value in found.items():
        print(f"{name:22}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
