"""Real threads on real links: many receive with random timeouts, echo and call back, and every item arrives once.

    python testing/peer/test_turn_stress.py SECONDS [memory|popen]        or EXECGW_STRESS_SECONDS for the suite
A watchdog dumps all threads and fails if nothing has arrived for 5 seconds.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import threading
import time
from typing import Any

import pytest

from execgw import Group
from execgw.wire.errors import ChannelClosed, TimeoutError

SECONDS = float(os.environ.get("EXECGW_STRESS_SECONDS", "5"))
STALL_SECONDS = 5.0
ECHO = "for item in channel:\n    channel.send(item)"
BOTH = 3  # threads on each channel that is received from by more than one


class Stress:
    def __init__(self, gateway: Any, seconds: float, seed: int) -> None:
        self.gateway = gateway
        self.seconds = seconds
        self.seed = seed
        self.arrived = 0
        self.timeouts = 0
        self.problems: list[str] = []
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        bodies = [self.ping_pong] * 4 + [self.stream] * 4 + [self.shared] * 2 + [self.callback] * 3 + [self.closing] * 2
        threads = [threading.Thread(target=self._guarded, args=pair, daemon=True) for pair in enumerate(bodies)]
        end = time.monotonic() + self.seconds
        for thread in threads:
            thread.start()
        self._watch(lambda: time.monotonic() < end and not self.problems)
        self.stop.set()
        self._watch(lambda: any(thread.is_alive() for thread in threads) and not self.problems)
        assert not self.problems, self.problems

    def _watch(self, going_on: Any) -> None:
        last, since = -1, time.monotonic()
        while going_on():
            if self.arrived != last:
                last, since = self.arrived, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                faulthandler.dump_traceback(all_threads=True)
                turn = self.gateway._peer.turn
                self.problems.append(f"nothing moves: leader {turn.leader}, {len(turn.parked)} parked, {turn.state}")
            threading.Event().wait(0.05)

    def _guarded(self, number: int, body: Any) -> None:
        try:
            body(random.Random(self.seed * 100 + number))
        except BaseException as e:
            self.problems.append(f"{body.__name__}: {type(e).__name__}: {e}")

    def count(self) -> None:
        with self.lock:
            self.arrived += 1

    def receive(self, channel: Any, dice: random.Random) -> Any:
        """One item, however many timeouts that takes."""
        while True:
            try:
                item = channel.receive(dice.choice([None, 0, 0.0001, 0.001, 0.01]))
            except TimeoutError:  # noqa: PERF203
                self.timeouts += 1
            else:
                self.count()
                return item

    # -- what threads do

    def ping_pong(self, dice: random.Random) -> None:
        channel = self.gateway.remote_exec(ECHO)
        number = 0
        while not self.stop.is_set():
            number += 1
            channel.send(number)
            assert self.receive(channel, dice) == number
        channel.close()

    def stream(self, dice: random.Random) -> None:
        channel = self.gateway.remote_exec(ECHO)
        while not self.stop.is_set():
            items = [bytes(dice.choice([1, 10, 100, 70_000])) for _ in range(dice.randrange(40))]
            for item in items:
                channel.send(item)
            assert [self.receive(channel, dice) for _ in items] == items
        channel.close()

    def shared(self, dice: random.Random) -> None:
        """Several threads receive from one channel; what they get together is what was sent, each in order."""
        while not self.stop.is_set():
            count = dice.randrange(1, 200)
            channel = self.gateway.remote_exec(f"for n in range({count}): channel.send(n)")
            got: list[list[int]] = [[] for _ in range(BOTH)]

            def take(mine: list[int], dice: random.Random, channel: Any = channel) -> None:
                try:
                    while True:
                        mine.append(self.receive(channel, dice))
                except ChannelClosed:
                    pass

            threads = [
                threading.Thread(target=take, args=(mine, random.Random(dice.random())), daemon=True) for mine in got
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(number for mine in got for number in mine) == list(range(count)), got
            assert all(mine == sorted(mine) for mine in got)

    def callback(self, dice: random.Random) -> None:
        while not self.stop.is_set():
            count = dice.randrange(1, 100)
            channel = self.gateway.remote_exec(f"for n in range({count}): channel.send(n)")
            got: list[Any] = []
            over = threading.Event()

            def call(item: Any, got: list[Any] = got, over: threading.Event = over) -> None:
                got.append(item)
                self.count()
                if item == "end":
                    over.set()

            channel.setcallback(call, endmarker="end")
            if dice.random() < 0.5:
                channel.waitclose()
            else:
                over.wait()
            assert got == [*range(count), "end"]

    def closing(self, dice: random.Random) -> None:
        """Another thread closes the channel under the one that receives."""
        while not self.stop.is_set():
            channel = self.gateway.newchannel()
            timer = threading.Timer(dice.random() * 0.003, channel.close)
            timer.start()
            with pytest.raises(ChannelClosed):
                channel.receive()
            timer.join()
            self.count()


@pytest.mark.parametrize("spec", ["memory", "popen"])
def test_every_item_arrives_once_whoever_reads(spec: str) -> None:
    with Group() as group:
        stress = Stress(group.makegateway(spec), SECONDS / 2, seed=1)

        stress.run()

        assert stress.arrived > 100
        assert stress.timeouts


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    for spec in sys.argv[2:] or ["memory", "popen"]:
        with Group() as group:
            stress = Stress(group.makegateway(spec), seconds, seed=random.randrange(10**6))
            print(f"{spec}: seed {stress.seed} ...", flush=True)
            stress.run()
            print(f"{spec}: {stress.arrived} items, {stress.timeouts} timeouts in {seconds:g} s", flush=True)
