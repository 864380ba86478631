"""Who reads the link: every interleaving of the threads of peer/turn.py, in the world of turn_model.py.

No bound on times or on preemptions is assumed: all schedules of each scenario are covered, 2*10**3 to 2*10**11 of them,
by a few hundred to a few thousand states.  `python test_turn.py` prints the numbers, and walks large scenarios, too.

In every state, not only at the end of a schedule:
    no thread reads while another does, or without the lock
    nobody leads => the keeper is ticking or watching, and knows it
    nobody leads and threads are parked => one of them is being woken
    a waiting thread whose item is here, or that could read it, goes on without a timeout and without a tick
and at the end every item has come to its port once, in order, and the keeper watches.  No schedule goes on for ever.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
from scheduler import Broken
from turn_model import END, FarKeeper, NearKeeper, PipeLink, Port, Scenario, SocketLink, World, got, receive

from execgw.peer import turn as turn_module
from execgw.peer.turn import Turn

A, B = ("a", "1"), ("b", "1")
ORDERS = {"a then b": [[A], [B]], "b then a": [[B], [A]], "both in one read": [[A, B]]}


# -- scenarios


def two_receivers(order: str) -> Scenario:
    return Scenario({"left": receive("a"), "right": receive("b")}, ORDERS[order], got(left="1", right="1"))


def one_receives_twice() -> Scenario:
    return Scenario({"left": receive("a", times=2)}, [[("a", "1")], [("a", "2")]], got(left="12"))


def one_receives_once() -> Scenario:
    return Scenario({"left": receive("a")}, [[A]], got(left="1"))


def a_timeout_and_data() -> Scenario:
    def expect(world: World) -> None:
        (result,) = world.results["left"]
        assert (result, world.ports["a"].items) in (("1", []), ("nothing", ["1"]))

    return Scenario({"left": receive("a", timeout=1.0)}, [[A]], expect)


def a_timeout_beside_a_waiter() -> Scenario:
    """The one with the timeout may lead or park, and must not take the other's wake-up along."""

    def expect(world: World) -> None:
        assert world.results["right"] == ["1"]
        (result,) = world.results["left"]
        assert (result, world.ports["a"].items) in (("1", []), ("nothing", ["1"]))

    return Scenario({"left": receive("a", timeout=1.0), "right": receive("b")}, [[A], [B]], expect)


def two_timeouts_and_a_waiter() -> Scenario:
    def expect(world: World) -> None:
        assert world.results == {"left": ["nothing"], "middle": ["nothing"], "right": ["1"]}

    bodies = {"left": receive("a", timeout=1.0), "middle": receive("a", timeout=2.0), "right": receive("b")}
    return Scenario(bodies, [[B]], expect)


def two_on_one_port() -> Scenario:
    def expect(world: World) -> None:
        assert sorted(world.results["left"] + world.results["right"]) == ["1", END]

    return Scenario({"left": receive("a"), "right": receive("a")}, [[A], [("a", END)]], expect)


def a_port_closed_here() -> Scenario:
    """Beside it another thread waits, which must go on whether it leads or not."""

    def expect(world: World) -> None:
        assert world.results == {"left": [END], "right": ["1"]}

    bodies = {"left": receive("a"), "right": receive("b"), "closer": lambda world: world.close(world.ports["a"])}
    return Scenario(bodies, [[B]], expect)


def a_port_closed_here_and_silence() -> Scenario:
    bodies = {"left": receive("a"), "right": receive("b"), "closer": lambda world: world.close(world.ports["a"])}
    expect = got(left=[END], right=[])
    return Scenario(bodies, [], expect, stay=("right",))


def the_session_ends() -> Scenario:
    bodies = {"left": receive("a"), "right": receive("b"), "loser": lambda world: world.lose()}
    return Scenario(bodies, [], got(left=[END], right=[END]))


def nobody_waits() -> Scenario:
    """A callback's items: some before and some after the keeper has begun to watch."""

    def take(world: World, port: Port) -> None:
        world.results.setdefault("callback", []).extend(port.items)
        port.items = []

    def attach(world: World) -> None:
        with world.lock:
            world.ports["a"].notify = lambda port: take(world, port)
            take(world, world.ports["a"])

    return Scenario({"attach": attach}, [[("a", "1")], [("a", "2")]], got(callback="12"))


def a_callback_beside_a_receiver() -> Scenario:
    scenario = nobody_waits()
    scenario.bodies["left"] = receive("b")
    scenario.deliveries = [[("a", "1")], [B], [("a", "2")]]
    scenario.expect = got(callback="12", left="1")
    return scenario


def woken_by_an_item_and_another_waits() -> Scenario:
    """Who finds an item when it is woken does not lead; then the third one must."""
    bodies = {"left": receive("a"), "middle": receive("a"), "right": receive("b")}

    def expect(world: World) -> None:
        assert sorted(world.results["left"] + world.results["middle"]) == ["1", "2"]
        assert world.results["right"] == []

    return Scenario(bodies, [[A, ("a", "2")]], expect, stay=("right",))


def three_receivers() -> Scenario:
    def expect(world: World) -> None:
        assert world.results["middle"] == ["1"]
        assert sorted(world.results["left"] + world.results["right"]) == ["1", "2"]

    bodies = {"left": receive("a"), "middle": receive("b"), "right": receive("a")}
    return Scenario(bodies, [[A, B, ("a", "2")]], expect)


def three_receivers_three_reads() -> Scenario:
    scenario = three_receivers()
    scenario.deliveries = [[A], [B], [("a", "2")]]
    return scenario


SCENARIOS: dict[str, Callable[[], Scenario]] = {  # the small ones first: a mutant should be found soon
    "nobody waits": nobody_waits,
    "a timeout and data": a_timeout_and_data,
    "one receives twice": one_receives_twice,
    "a port closed here, and silence": a_port_closed_here_and_silence,
    "the session ends": the_session_ends,
    **{f"two receivers, {order}": (lambda order=order: two_receivers(order)) for order in ORDERS},
    "a callback beside a receiver": a_callback_beside_a_receiver,
    "woken by an item, and another waits": woken_by_an_item_and_another_waits,
    "two on one port, an item and the end": two_on_one_port,
    "a timeout beside a waiter": a_timeout_beside_a_waiter,
    "a port closed here": a_port_closed_here,
}
LARGE = {  # about 3 minutes together: python testing/peer/test_turn.py
    "two timeouts and a waiter": two_timeouts_and_a_waiter,
    "three receivers": three_receivers,
    "three receivers, three reads": three_receivers_three_reads,
}
KEEPERS = {"near": NearKeeper, "far": FarKeeper}


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_schedule_delivers_every_item_once_and_ends(name: str, keeper: str) -> None:
    found = SCENARIOS[name]().search(keeper=KEEPERS[keeper])

    assert found.complete
    assert found.schedules() > 1000  # raises Broken if threads can go on for ever


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("make", [nobody_waits, one_receives_once], ids=["callback", "receiver"])
def test_stopping_at_known_states_misses_no_schedule(make: Callable[[], Scenario], keeper: str) -> None:
    short = make().search(keeper=KEEPERS[keeper])
    full = make().search(keeper=KEEPERS[keeper], prune=False)

    assert full.complete == short.schedules()
    assert full.ends == short.ends


# -- the search can fail

MUTANTS = {
    "a leader goes and wakes nobody": (
        "            if self.parked:\n                self.parked[0].wake()\n\n",
        "\n",
    ),
    "who was woken to lead and does not, tells nobody": (
        "            if self.leader is None and self.parked:\n                self.parked[0].wake()\n",
        "",
    ),
    "readiness is looked at before the lock is held": (
        "        me = self.waiter()\n",
        "        self.lock.release()\n        self.lock.acquire()\n        me = self.waiter()\n",
    ),
    "the keeper watches beside a leader": (
        "            elif self.leader is not None:\n                self.state = RESTING\n",
        "",
    ),
    "a leader lets the keeper go on watching": (
        "            self.state = RESTING\n            self.keeper.unwatch(self.owner)\n",
        "            pass\n",
    ),
    "a leader goes and leaves the keeper resting": (
        "                self.state = TICKING\n                self.keeper.tick_soon(self.owner)\n            if",
        "                pass\n            if",
    ),
    "a leader goes and does not tell the keeper": (
        "                self.keeper.tick_soon(self.owner)\n            if",
        "            if",
    ),
    "a change of its port does not reach the leader": (
        "        if self.leader is port:\n            self.link.wake()\n",
        "",
    ),
    "a change of its port does not reach who is parked": (
        "        for waiter in port.waiters:\n            waiter.wake()\n",
        "",
    ),
    "the end of the session does not reach the leader": (
        "        if self.leader is not None:\n            self.link.wake()\n",
        "",
    ),
    "reading is done without the lock": (
        "                    self.read()\n",
        "                    self.lock.release(); self.read(); self.lock.acquire()\n",
    ),
}


def mutant(old: str, new: str) -> type[Turn]:
    """The class Turn with one change in its text."""
    source = inspect.getsource(turn_module)
    assert source.count(old) == 1, "the text that this mutant changes is not there once: change the mutant, too"
    module = types.ModuleType("execgw.peer.mutant")
    module.__package__ = "execgw.peer"
    exec(compile(source.replace(old, new), "mutant of turn.py", "exec", dont_inherit=True), module.__dict__)
    changed: type[Turn] = module.__dict__["Turn"]
    return changed


def search_all(**changed: Any) -> None:
    for make in SCENARIOS.values():
        for keeper in KEEPERS.values():
            make().search(**{"keeper": keeper, **changed})


@pytest.mark.parametrize("name", MUTANTS)
def test_the_search_finds_a_lost_wake_up(name: str) -> None:
    changed = mutant(*MUTANTS[name])

    with pytest.raises(Broken, match="in this schedule"):
        search_all(turn=changed)


def test_the_search_finds_a_link_that_forgets_a_wake_up_before_the_wait() -> None:
    class Forgets(SocketLink):
        remembers = False

    with pytest.raises(Broken, match="a thread waits for what is on port a"):
        search_all(keeper=NearKeeper, link_type=Forgets)


def test_the_search_finds_a_standby_thread_that_no_poke_gets_out_of_the_link() -> None:
    class Deaf(PipeLink):
        def wake_keeper(self) -> None:
            pass

    with pytest.raises(Broken):
        search_all(keeper=FarKeeper, link_type=Deaf)


def test_the_search_finds_threads_that_go_on_for_ever() -> None:
    class Restless(NearKeeper):
        def options(self) -> list[str]:
            return ["again", *super().options()]

    with pytest.raises(Broken, match="circle"):
        nobody_waits().search(keeper=Restless).schedules()


if __name__ == "__main__":
    for title, make in {**SCENARIOS, **LARGE}.items():
        for side, its_keeper in KEEPERS.items():
            print(f"{title}, {side}: {make().search(keeper=its_keeper)}", flush=True)
