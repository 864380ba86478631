"""500 interrupts at random moments under load; after each the worker must answer the next call.

python testing/soak/interrupts.py [--count 500] [--spec SPEC] [--seed N]
"""

from __future__ import annotations

import argparse
import collections
import random
import threading

from execgw import Group, RemoteError
from execgw.peer.compat import clock

LOADS = {
    "computes": "n = 0\nwhile True: n += 1",
    "echoes": "while True: channel.send(channel.receive())",
    "sends": "while True: channel.send(b'x' * 5000)",
    "sends blocks": "while True: channel.send(b'x' * 300000)",
    "sleeps": "import time\nwhile True: time.sleep(0.001)",
    "opens channels": "while True:\n c = channel.gateway.newchannel(); channel.send(c); c.close()",
    "calls back": "c = channel.gateway.newchannel(); c.setcallback(lambda x: None); channel.send(c)\nwhile True: pass",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--spec", default="popen")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    pause = threading.Event()
    told: collections.Counter[tuple[str, str]] = collections.Counter()
    slowest = 0.0
    with Group() as group:
        gateway = group.makegateway(args.spec)
        for number in range(args.count):
            name = chance.choice(list(LOADS))
            # Three in ten run in another thread: the main thread is taken.
            holder = gateway.remote_exec("channel.receive()") if chance.random() < 0.3 else None
            channel = gateway.remote_exec(LOADS[name])
            if name == "echoes":
                for item in range(chance.randrange(20)):
                    channel.send(item)
            pause.wait(chance.random() / 100)
            outcome = channel.interrupt()
            told[name, outcome] += 1
            begun = clock()
            assert gateway.call(divmod, number, 7) == divmod(number, 7)
            slowest = max(slowest, clock() - begun)
            if outcome != "interrupted":
                assert channel.cancel(5) in ("interrupted", "exited", "ended"), (name, outcome)
            try:
                while True:
                    channel.receive(10)
            except RemoteError as e:
                assert e.type in ("KeyboardInterrupt", "SystemExit"), e
            except EOFError:
                pass
            if holder is not None:
                holder.send(None)
                holder.waitclose(10)
        status = gateway.remote_status()
    for (name, outcome), count in sorted(told.items()):
        print(f"{name:15} {outcome:12} {count}")
    print(f"{args.count} interrupts, each followed by a call; slowest call {slowest * 1e3:.1f} ms; at the end {status}")


if __name__ == "__main__":
    main()
