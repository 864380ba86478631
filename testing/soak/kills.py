"""Random kills: workers die by SIGKILL at random moments while channels talk both ways.

    python testing/soak/kills.py [--seconds 180] [--processes N] [--at-once 1] [--seed N]

Each near side (a process) starts gateways, lets a few talkers talk on each, and kills the workers one by one.  Every
talker must end within a second of the kill with ConnectionLost that carries the signal and the last lines of stderr.
After the run no descriptor, thread, process or session may be left.  Exits with 1 on any violation.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from processes import children, descriptors, rss_kib, table, thread_count

import execgw
from execgw._session import Session

MOST_SECONDS = 1.0  # from the kill to the end of a waiter
LAST_SECONDS = 10.0  # after that a waiter is said to hang
LONGEST_TALK = 0.01  # seconds from the first talk to the kill, at most
PROGRESS_SECONDS = 10.0
LARGE = bytes(1 << 20)
SPEAK = "import sys; sys.stderr.write('last words of %s\\n' % word); sys.stderr.flush()"

ECHO = "for item in channel: channel.send(item)"
PRODUCE = "while True: channel.send('item')"
PRODUCE_LARGE = "data = bytes(1 << 20)\nwhile True: channel.send(data)"
CONSUME = "for item in channel: pass"
DEAF = "import time\ntime.sleep(100)"


# -- talkers: each talks with a worker until its death, and then raises what told it so


def echo(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(ECHO)
    while True:
        channel.send([1, "two"])
        channel.receive()


def echo_large(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(ECHO)
    while True:
        channel.send(LARGE)
        channel.receive()


def receive_only(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(PRODUCE)
    while True:
        channel.receive()


def receive_large(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(PRODUCE_LARGE)
    while True:
        channel.receive()


def iterate(gateway: execgw.Gateway) -> None:
    for _ in gateway.remote_exec(PRODUCE):
        pass


def receive_nothing(gateway: execgw.Gateway) -> None:
    gateway.remote_exec(DEAF).receive(timeout=100)


def send_only(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(CONSUME)
    while True:
        channel.send("item")


def send_to_the_deaf(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(DEAF)
    while True:
        channel.send(LARGE)


def wait_for_the_end(gateway: execgw.Gateway) -> None:
    gateway.remote_exec(DEAF).waitclose(timeout=100)


def hear_in_a_callback(gateway: execgw.Gateway) -> None:
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()
    marker = object()

    def heard(item: object, error: Exception | None = None) -> None:
        if item is marker:
            ended.set_exception(error or AssertionError("the callback heard of the end, but of no error"))

    channel = gateway.remote_exec(PRODUCE)
    channel.setcallback(heard, endmarker=marker, pass_error=True)
    ended.result(timeout=100)


def wait_for_a_callback(gateway: execgw.Gateway) -> None:
    channel = gateway.remote_exec(PRODUCE)
    channel.setcallback(lambda item: None)
    channel.waitclose(timeout=100)


def wait_for_a_future(gateway: execgw.Gateway) -> None:
    gateway.submit(time.sleep, 100).result(timeout=100)


def call(gateway: execgw.Gateway) -> None:
    while True:
        gateway.call(abs, -1)


def ask(gateway: execgw.Gateway) -> None:
    while True:
        gateway.remote_status(timeout=100)


TALKERS: list[Callable[[execgw.Gateway], None]] = [
    echo,
    echo_large,
    receive_only,
    receive_large,
    iterate,
    receive_nothing,
    send_only,
    send_to_the_deaf,
    wait_for_the_end,
    hear_in_a_callback,
    wait_for_a_callback,
    wait_for_a_future,
    call,
    ask,
]


class Tally:
    """What all talkers have seen."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kills = 0
        self.ended: collections.Counter[str] = collections.Counter()
        self.slowest: dict[str, float] = {}
        self.violations: list[str] = []

    def violate(self, text: str) -> None:
        with self.lock:
            self.violations.append(text)
            print(f"VIOLATION: {text}", flush=True)

    def count(self, name: str, seconds: float) -> None:
        with self.lock:
            self.ended[name] += 1
            self.slowest[name] = max(seconds, self.slowest.get(name, 0.0))


class Victim:
    """One gateway, its talkers, and its death."""

    def __init__(self, gateway: execgw.Gateway, chance: random.Random, tally: Tally) -> None:
        self.gateway = gateway
        self.tally = tally
        self.killed_at = 0.0
        self.word = ""
        self.pid = gateway._rinfo().pid
        if chance.random() < 0.5:
            self.word = f"{chance.getrandbits(64):016x}"
            gateway.remote_exec(f"word = {self.word!r}\n{SPEAK}").waitclose()
        chosen = chance.sample(TALKERS, 3)
        self.threads = [
            threading.Thread(target=self._talk, args=(talker,), name=talker.__name__, daemon=True) for talker in chosen
        ]
        for thread in self.threads:
            thread.start()

    def _talk(self, talker: Callable[[execgw.Gateway], None]) -> None:
        try:
            talker(self.gateway)
            error: BaseException | None = None
        except BaseException as e:
            error = e
        ended = time.monotonic()
        name = talker.__name__
        problem = self._problem(error)
        if not self.killed_at:
            problem = f"ended before the kill: {problem or error!r}"
        seconds = ended - self.killed_at if self.killed_at else 0.0
        if problem is None and seconds > MOST_SECONDS:
            problem = f"ended {seconds:.2f} s after the kill"
        if problem is not None:
            shown = "".join(traceback.format_exception(error)) if error is not None else ""
            self.tally.violate(f"{name} on {self.gateway.id}: {problem}\n{shown}")
        self.tally.count(name, seconds)

    def _problem(self, error: BaseException | None) -> str | None:
        """Whether this is how a talker must hear of a kill."""
        if not isinstance(error, execgw.ConnectionLost):
            return f"ended with {error!r}"
        if error.signal != "SIGKILL":
            return f"the signal is {error.signal!r}: {error}"
        if self.word not in error.stderr or self.word not in str(error):
            return f"the last words {self.word!r} are missing: {error}"
        return None

    def kill(self) -> None:
        self.killed_at = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Wait for the talkers, and look at what is left of the gateway."""
        if not self.gateway.join(MOST_SECONDS):
            self.tally.violate(f"join on {self.gateway.id}: not over {MOST_SECONDS} s after the kill")
        for thread in self.threads:
            thread.join(max(self.killed_at + LAST_SECONDS - time.monotonic(), 0))
            if thread.is_alive():
                where = "".join(traceback.format_stack(sys._current_frames()[thread.ident or 0]))
                self.tally.violate(f"{thread.name} on {self.gateway.id}: hangs\n{where}")
        self._expect("remote_exec", lambda: self.gateway.remote_exec("pass"))
        self._expect("newchannel", self.gateway.newchannel)
        self.gateway.exit()

    def _expect(self, name: str, act: Callable[[], Any]) -> None:
        """What is tried after the death must fail at once, with the same reason."""
        begun = time.monotonic()
        try:
            act()
            error: BaseException | None = None
        except BaseException as e:
            error = e
        problem = self._problem(error)
        if problem is not None:
            self.tally.violate(f"{name} on {self.gateway.id}, after its death: {problem}")
        self.tally.count(f"{name} after it", time.monotonic() - begun)


def run_lane(group: execgw.Group, at_once: int, chance: random.Random, tally: Tally, until: float) -> None:
    """Start, kill and bury gateways until the time is over."""
    told = time.monotonic()
    while time.monotonic() < until:
        victims = [Victim(gateway, chance, tally) for gateway in group.makegateways(["popen"] * at_once)]
        chance.shuffle(victims)
        for victim in victims:
            time.sleep(chance.random() ** 2 * LONGEST_TALK)
            victim.kill()
        for victim in victims:
            victim.bury()
        with tally.lock:
            tally.kills += len(victims)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            slowest = max(tally.slowest.values()) * 1000
            left = max(until - told, 0)
            print(f"{left:4.0f} s left: {tally.kills:6d} kills, slowest waiter {slowest:.0f} ms", flush=True)


def settle(count: Callable[[], int], before: int, seconds: float) -> int:
    """Wait until *count* is down to what it was; idle threads of a pool live for a few seconds."""
    until = time.monotonic() + seconds
    while count() > before and time.monotonic() < until:
        time.sleep(0.05)
    return count()


def live_sessions() -> int:
    """Sessions that something still refers to."""
    gc.collect()
    return sum(isinstance(thing, Session) for thing in gc.get_objects())


def run(seconds: float, at_once: int, seed: int) -> dict[str, Any]:
    """One near side: kill for some seconds, then count what is left.  Returns the figures."""
    group = execgw.Group()
    tally = Tally()
    run_lane(group, at_once, random.Random(f"{seed} first"), tally, time.monotonic() + 0.01)  # what a first one costs
    tally = Tally()
    pooled = sum(thread.name == "execgw-callbacks" for thread in threading.enumerate())  # these go when they are idle
    threads_before, sessions_before, files_before = thread_count() - pooled, live_sessions(), descriptors()
    rss_before = rss_kib()

    begun = time.monotonic()
    lane = threading.Thread(
        target=run_lane, args=(group, at_once, random.Random(seed), tally, begun + seconds), name="lane", daemon=True
    )
    lane.start()
    lane.join(seconds + 60)
    if lane.is_alive():
        tally.violate("the lane hangs\n" + "".join(traceback.format_stack(sys._current_frames()[lane.ident or 0])))
    taken = time.monotonic() - begun

    left = {"threads": settle(thread_count, threads_before, 8) - threads_before}
    # The loop's own variables keep the last one; timers and threads that are about to end may keep others for a moment.
    left["sessions"] = settle(live_sessions, sessions_before + 1, 8) - sessions_before - 1
    files = {fd: what for fd, what in descriptors().items() if files_before.get(fd) != what}
    left["descriptors"] = len(descriptors()) - len(files_before)
    left["children"] = len(children())
    left["gateways"] = len(group)
    for what, number in left.items():
        if number > 0:
            tally.violate(f"{number} {what} left; {files}, {children()}, {threading.enumerate()}")
    return {
        "kills": tally.kills,
        "seconds": taken,
        "ended": dict(tally.ended),
        "slowest": tally.slowest,
        "left": left,
        "growth": rss_kib() - rss_before,
        "violations": len(tally.violations),
    }


def report(runs: list[dict[str, Any]]) -> int:
    """Print what all near sides have seen; the number of violations."""
    names = sorted({name for found in runs for name in found["ended"]})
    rows = [("waiter", "ended by a kill", "slowest ms")]
    for name in names:
        slowest = max(found["slowest"].get(name, 0) for found in runs)
        rows.append((name, str(sum(found["ended"].get(name, 0) for found in runs)), f"{slowest * 1000:.0f}"))
    print(table(rows), end="\n\n")
    kills = sum(found["kills"] for found in runs)
    violations = sum(found["violations"] for found in runs)
    slowest = max((seconds for found in runs for seconds in found["slowest"].values()), default=0)
    rows = [
        ("what", "measured"),
        ("kills", str(kills)),
        ("kills a second", f"{kills / max(found['seconds'] for found in runs):.1f}"),
        ("waiters ended", str(sum(sum(found["ended"].values()) for found in runs))),
        ("slowest waiter", f"{slowest * 1000:.0f} ms"),
        *((f"{what} left", str(sum(max(found["left"][what], 0) for found in runs))) for what in runs[0]["left"]),
        ("memory growth", f"{max(found['growth'] for found in runs)} KiB in a near side"),
        ("violations", str(violations)),
    ]
    print(table(rows), flush=True)
    return violations if kills else 1


def mute_workers() -> None:
    """Send descriptor 2 away, to which the workers' last words go; our own errors are still shown."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def start_near_side(number: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    """This script once more, as one of the processes that kill."""
    seed = str(options.seed + number)
    words = ["--near-side", "--seed", seed, "--seconds", str(options.seconds), "--at-once", str(options.at_once)]
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def follow(process: subprocess.Popen[str], runs: list[dict[str, Any]]) -> None:
    """Show what one of them says; its last line are its figures."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            runs.append(json.loads(line))
        else:
            print(line, end="", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="near sides at the same time")
    parser.add_argument("--at-once", type=int, default=1, help="gateways that a near side starts at the same time")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--near-side", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.near_side:
        mute_workers()
        print(json.dumps(run(options.seconds, options.at_once, options.seed)), flush=True)
        return 0
    print(f"seed {options.seed}, {options.processes} near sides", flush=True)
    runs: list[dict[str, Any]] = []
    started = [start_near_side(number, options) for number in range(options.processes)]
    followers = [threading.Thread(target=follow, args=(process, runs)) for process in started]
    for thread in followers:
        thread.start()
    for thread in followers:
        thread.join()
    failed = [process.args for process in started if process.wait() != 0]
    if failed or not runs:
        print(f"VIOLATION: a near side failed: {failed}", flush=True)
        return 1
    return 1 if report(runs) else 0


if __name__ == "__main__":
    sys.exit(main())
