"""Random frames, random values, random nonsense from a worker, for as long as asked; what the near side does with them.

    python hostile.py [--seconds S] [--seed SEED] [--most-mib M]

Each round starts a worker that speaks the protocol by hand (testing/hostile) and does it wrong in ways that its seed
says, and uses its gateway in every way there is.  Violations: an exception that is none of execgw's or an OSError, an
error in the I/O loop or in a thread, a session that does not end, a slow echo of the honest worker beside it, memory.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import select
import shlex
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from processes import rss_kib, table

HOSTILE = Path(__file__).parent.parent / "hostile"
sys.path.insert(0, str(HOSTILE))

SLOWEST_ECHO = 2.0  # seconds
LONGEST_ROUND = 3.0  # seconds in which a worker may go on


# -- the worker


def work(seed: str) -> None:
    """Speak at random until the near side has had enough."""
    import payloads
    from speak import ASK, BYTES, CLOSE, CREDIT, DATA, EXEC, HEADER, MORE, TELL, Wire, pairs, raw, unpairs

    chance = random.Random(seed)
    wire = Wire()
    wire.read_bundle()
    if chance.random() < 0.03:
        wire.write(chance.randbytes(chance.randrange(100_000)))
    wire.greet()
    opened: list[int] = [1]
    careful = chance.choice((0.5, 0.99, 0.999, 1.0))  # some break the rules at once, some seldom

    def channel() -> int:
        near = chance.choice(opened)
        return chance.choice((near, near, near, near + 1, chance.randrange(0, 200, 2), chance.randrange(1 << 32) | 1))

    def payload() -> tuple[int, bytes]:
        dice = chance.random()
        if dice < 0.3:
            _, form, data = chance.choice(payloads.REFUSED)
            return form, data[: 1 << 20]
        if dice < 0.6:
            return BYTES, chance.randbytes(chance.randrange(3000))
        if dice < 0.7:
            return chance.randrange(10), chance.choice(payloads.FAULTS)[1]
        return chance.randrange(10), payloads.P4 + chance.randbytes(chance.randrange(30)) + b"."

    def one() -> bytes:
        dice = chance.random()
        form, data = payload()
        if dice < 0.45:
            flags = chance.choice((0, 0, 0, 1, 1, 2, 3, 255))
            return wire.frame(DATA, channel(), data, flags, form)
        if dice < 0.55:
            return wire.frame(CREDIT, channel(), struct.pack("!Q", chance.choice((0, 1, 50_000, (1 << 64) - 1))))
        if dice < 0.65:
            fault = chance.choice(payloads.FAULTS)[1]
            return wire.frame(CLOSE, channel(), chance.choice((b"", fault, data[:100])))
        if dice < 0.75:
            name = chance.choice(("_execgw.wire.scan", "_execgw.spec", "../x"))
            return wire.frame(ASK, payload=pairs("number", name, "verb", "module"))
        if dice < 0.85:
            texts = (str(chance.randrange(9)), "numchannels", "x")
            return wire.frame(TELL, payload=pairs("number", *texts))
        if chance.random() < careful:
            return wire.frame(chance.choice((5, 9, 10, CREDIT + 1)), channel())
        return chance.choice(
            (
                raw(chance.randrange(256), channel(), chance.randrange(1 << 32), chance.randrange(1 << 32)),
                wire.frame(EXEC, channel(), b"open(%r, 'w')" % payloads.CANARY, form=2),
                wire.frame(chance.randrange(1, 11), channel(), data[: chance.randrange(40)], chance.randrange(8)),
                wire.frame(DATA, channel(), bytes(chance.randrange(1 << 20)), MORE, BYTES),
                chance.randbytes(30),
            )
        )

    ends = time.monotonic() + LONGEST_ROUND / 2
    while time.monotonic() < ends:
        data = b"".join(one() for _ in range(chance.randrange(1, 30)))
        while data:
            size = chance.choice((len(data), len(data), chance.randrange(1, 50), chance.randrange(1, 5000)))
            wire.write(data[:size])
            data = data[size:]
        if select.select([0], [], [], chance.choice((0, 0, 0.002)))[0]:
            wire.buffer += os.read(0, 1 << 16) or sys.exit()
            while len(wire.buffer) >= HEADER.size:
                kind, _, _, number, _, _, size = HEADER.unpack_from(wire.buffer)
                if len(wire.buffer) < HEADER.size + size:
                    break
                body = wire.buffer[HEADER.size : HEADER.size + size]
                wire.buffer = wire.buffer[HEADER.size + size :]
                if kind == EXEC:
                    opened.append(number)
                elif kind == ASK and chance.random() < 0.8:
                    answer = pairs("number", unpairs(body)["number"], "numchannels", "1")
                    wire.write(wire.frame(TELL, payload=answer))


# -- the near side


class Tally:
    """What was seen, and what must not have been."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.violations: list[str] = []
        self.slowest = 0.0
        self.going = True

    def violate(self, what: str) -> None:
        self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)

    def outcome(self, error: BaseException) -> None:
        from execgw import ExecgwError

        if not isinstance(error, (ExecgwError, OSError, EOFError)):
            import traceback

            self.violate("".join(traceback.format_exception(error)))
        self.seen[type(error).__name__] += 1


def echo(channel: Any, tally: Tally) -> None:
    """Talk to the honest worker all the while."""
    pause = threading.Event()
    while tally.going:
        begun = time.monotonic()
        channel.send(b"x")
        channel.receive(60)
        tally.slowest = max(tally.slowest, time.monotonic() - begun)
        pause.wait(0.005)


def one_round(gateway: Any, chance: random.Random, tally: Tally) -> None:
    """Use a gateway in every way, until it has ended or the time is over."""
    ends = time.monotonic() + LONGEST_ROUND
    kept: list[Any] = []
    while gateway.hasreceiver() and time.monotonic() < ends:
        try:
            channel = gateway.remote_exec("pass")
            what = chance.randrange(6)
            if what == 0:
                channel.setcallback(kept.append, endmarker=None, pass_error=False)
            elif what == 1:
                kept.append(channel.receive(timeout=0.05))
            elif what == 2:
                gateway.remote_status(timeout=0.05)
            elif what == 3:
                channel.send(chance.randbytes(chance.randrange(1000)))
                channel.waitclose(timeout=0.05)
            elif what == 4:
                channel.close(chance.choice((None, "no")))
            else:
                kept.append(repr(channel.receive(timeout=0.02)))
                kept.append(channel)
        except Exception as error:
            tally.outcome(error)
        else:
            tally.seen["value"] += 1
        if len(kept) > 50:
            kept.clear()
    if gateway._session.lost is not None:
        why = str(gateway._session.lost).partition("protocol: ")[2].partition(";")[0]
        tally.seen["session: " + re.sub(r"\d+", "N", why)[:60]] += 1


def run(options: argparse.Namespace, canary: Path) -> Tally:
    import execgw

    tally = Tally()
    handler = logging.Handler()
    handler.emit = lambda record: tally.violate(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("execgw").addHandler(handler)
    threading.excepthook = lambda told: tally.violate(f"in a thread: {told.exc_value!r}")
    chance = random.Random(options.seed)
    until = time.monotonic() + options.seconds
    with execgw.Group() as group:
        channel = group.makegateway("popen//id=honest").remote_exec("for item in channel: channel.send(item)")
        beside = threading.Thread(target=echo, args=(channel, tally))
        beside.start()
        rounds = 0
        before = 0
        while time.monotonic() < until:
            seed = f"{options.seed}.{rounds}"
            words = f"{shlex.quote(sys.executable)} -S -E {shlex.quote(__file__)} --worker {seed}"
            via = chance.choice(("", "", "//via=honest"))
            try:
                gateway = group.makegateway(f"cmd={words}{via}//start_timeout=20")
            except execgw.StartError as error:
                tally.outcome(error)
            else:
                one_round(gateway, chance, tally)
                gateway.exit()
                gateway._session.transport.kill(True)
                if not gateway.join(10):
                    tally.violate(f"round {seed} does not end")
            rounds += 1
            before = before or rss_kib()
            if canary.exists():
                tally.violate(f"round {seed}: code ran")
        tally.going = False
        beside.join()
    tally.seen["rounds"] = rounds
    grown = (rss_kib() - before) >> 10
    tally.seen["MiB grown"] = max(grown, 0)
    if grown > options.most_mib:
        tally.violate(f"{grown} MiB of memory more than after the first round")
    if tally.slowest > SLOWEST_ECHO:
        tally.violate(f"an echo took {tally.slowest:.1f} s")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--most-mib", type=int, default=400)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.worker:
        work(options.worker)
        return 0
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        canary = Path(place) / "canary"
        os.environ["EXECGW_CANARY"] = str(canary)
        tally = run(options, canary)
    rows = [("what", "seen"), *((what, str(count)) for what, count in sorted(tally.seen.items()))]
    rows += [("slowest echo", f"{tally.slowest * 1000:.0f} ms"), ("violations", str(len(tally.violations)))]
    print(table(rows), flush=True)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
