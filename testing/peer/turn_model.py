"""The world around one Turn, for test_turn.py: lock, links, waiters, clock, keepers and threads on the scheduler.

Turn and worker/keeper.py's Keeper are the real ones.  Every operation of the models is a scheduling point.  A wait with
a timeout may end by it at any moment, whatever else is ready, and a tick of the keeper may come at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler import Run, Search

from execgw.peer.turn import RESTING, TICKING, WATCHING, Turn
from execgw.worker.keeper import Keeper

END = "end"


class Port:
    def __init__(self, name: str) -> None:
        self.known_as = name
        self.items: list[str] = []
        self.ended = False
        self.waiters: list[Waiter] = []
        self.notify: Callable[[Port], None] | None = None


class Lock:
    known_as = "lock"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.holder: str | None = None
        self.pause_after = ""  # a thread that does more after a release than wait

    def acquire(self) -> None:
        self.run.point("lock.acquire", lambda: [] if self.holder else ["lock"])
        self.holder = self.run.me

    def release(self) -> None:
        if not self.run.over:
            assert self.holder == self.run.me, "a lock is released by who holds it"
        self.holder = None
        if self.run.me == self.pause_after and not self.run.over:
            self.run.point("lock released")

    __enter__ = acquire

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Waiter:
    def __init__(self, world: World) -> None:
        self.world = world
        self.owner = world.run.me
        self.known_as = f"waiter of {self.owner}"
        self.woken = False

    def wake(self) -> None:
        self.woken = True

    def park(self, timeout: float | None) -> None:
        world = self.world
        end = None if timeout is None else world.now + timeout
        option = world.run.point("park", lambda: ["woken"] * self.woken + ["timeout"] * (timeout is not None))
        world.time_is(option, end)


class PipeLink:
    """A worker's link: wake() writes into a pipe, and one byte of it stays until somebody drains it."""

    known_as = "link"

    def __init__(self, world: World) -> None:
        self.world = world
        self.poked = self.keeper_poked = False

    def wake(self) -> None:
        self.poked = True

    def wait(self, timeout: float | None) -> bool:
        world = self.world
        end = None if timeout is None else world.now + timeout
        option = world.run.point("link.wait", lambda: self.options(timeout))
        world.time_is(option, end)
        if option == "woken":
            self.poked = False
        return option == "data"

    def options(self, timeout: float | None) -> list[str]:
        ready = ["data"] if self.world.buffer else ["woken"] if self.poked else []
        return ready + ["timeout"] * (timeout is not None)

    def wait_as_keeper(self, timeout: float | None) -> bool:
        assert timeout is None, "no timers here"
        option = self.world.run.point("link.wait_as_keeper", self.keeper_options)
        if option == "poked":
            self.keeper_poked = False
        return option == "data"

    def keeper_options(self) -> list[str]:
        return ["data"] if self.world.buffer else ["poked"] * self.keeper_poked

    def wake_keeper(self) -> None:
        self.keeper_poked = True

    def state(self) -> Any:
        return self.poked, self.keeper_poked


class SocketLink(PipeLink):
    """The near side's link: wake() goes to the socket of the thread that said last that it waits."""

    remembers = True  # a wake() that comes before the wait

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: str | None = None
        self.sockets: set[str] = set()
        self.woken = False

    def wake(self) -> None:
        self.woken = self.remembers
        if self.waiting is not None:
            self.sockets.add(self.waiting)

    def wait(self, timeout: float | None) -> bool:
        world, me = self.world, self.world.run.me
        end = None if timeout is None else world.now + timeout
        world.run.point("link.wait, not yet registered")
        self.waiting = me
        if self.woken:
            self.woken = False
            return False
        option = world.run.point("link.wait", lambda: self.options_of(me, timeout))
        world.time_is(option, end)
        self.sockets.discard(me)
        if option == "woken":
            self.woken = False
        return option == "data"

    def options_of(self, me: str, timeout: float | None) -> list[str]:
        ready = ["data"] if self.world.buffer else ["woken"] if me in self.sockets else []
        return ready + ["timeout"] * (timeout is not None)

    def state(self) -> Any:
        return self.waiting, tuple(sorted(self.sockets)), self.woken


class NearKeeper:
    """The near side's loop, as far as it is a keeper (_loop.py)."""

    known_as = "keeper"
    link_type = SocketLink

    def __init__(self, world: World) -> None:
        self.world = world
        self.watching = self.ticking = False

    def watch(self, owner: Any) -> None:
        self.watching = True

    def unwatch(self, owner: Any) -> None:
        self.watching = False

    def tick_soon(self, owner: Any) -> None:
        self.ticking = True

    def run(self) -> None:
        world = self.world
        while True:
            option = world.run.point("select", self.options)
            if option == "data":
                world.read_now()
            if self.ticking:
                with world.lock:
                    if world.turn.tick() != TICKING:
                        self.ticking = False

    def options(self) -> list[str]:
        return ["data"] * (self.watching and bool(self.world.buffer)) + ["tick"] * self.ticking

    def check(self, state: str) -> None:
        assert self.watching == (state == WATCHING), "the loop watches when Turn says so"
        assert self.ticking or state != TICKING, "the loop ticks when Turn says so"

    def state(self) -> Any:
        return self.watching, self.ticking


class Bell:
    """The lock on which a FarKeeper sleeps."""

    known_as = "bell"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rung = False

    def acquire(self, wait: bool = True, timeout: float = -1) -> bool:
        if wait:
            self.run.point("sleep", lambda: ["rung"] if self.rung else ["tick"] * (timeout >= 0))
        else:
            self.run.point("a look at the bell")
        rung, self.rung = self.rung, False
        return rung

    def release(self) -> None:
        self.run.point("before the bell rings")
        self.rung = True
        self.run.point("the bell has rung")


class FarKeeper(Keeper):
    """A worker's standby thread, the real one on a Bell."""

    known_as = "keeper"
    link_type = PipeLink

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = self.peer = world
        self.link = world.link
        self.bell = Bell(world.run)
        world.lock.pause_after = "keeper"

    def check(self, state: str) -> None:
        pass

    def state(self) -> Any:
        return self.bell.rung, self.watching


class World:
    """One session's reading side, its ports a and b, and what the scenario makes of them."""

    known_as = "world"
    dropped = ()
    out = ()
    flush_asked = False

    def __init__(self, run: Run, scenario: Scenario) -> None:
        self.run = run
        self.scenario = scenario
        self.now = 0.0
        self.lock = Lock(run)
        self.buffer: list[tuple[str, str]] = []
        self.reading = False
        self.ports = {name: Port(name) for name in "ab"}
        self.results: dict[str, list[str]] = {}
        self.delivered = 0
        self.link = scenario.link_type(self) if scenario.link_type else scenario.keeper.link_type(self)
        self.keeper = scenario.keeper(self)
        flush, waiter = self.flush, lambda: Waiter(self)
        self.turn = scenario.turn(self, self.lock, self.link, self.keeper, self._read, flush, waiter, lambda: self.now)
        self.turn.known_as = "turn"
        self.turn.state = TICKING
        self.keeper.ticking = True

    def flush(self) -> None:
        assert self.lock.holder != self.run.me, "what may block is done without the lock"

    def time_is(self, option: str, end: float | None) -> None:
        if option == "timeout":
            assert end is not None
            self.now = max(self.now, end)

    def _read(self) -> None:
        assert self.lock.holder == self.run.me, "reading is done under the lock"
        assert not self.reading, "one thread reads at a time"
        self.reading = True
        data, self.buffer = self.buffer, []
        for name, item in data:
            self.arrive(self.ports[name], item)
        self.reading = False

    def read_now(self) -> None:
        """What Peer.read_now does."""
        with self.lock:
            if self.turn.state == WATCHING:
                self._read()

    def arrive(self, port: Port, item: str) -> None:
        if item == END:
            port.ended = True
        elif not port.ended:
            port.items.append(item)
        for waiter in port.waiters:
            waiter.wake()
        if port.notify is not None:
            port.notify(port)

    # -- the bodies of threads

    def receive(self, port: Port, timeout: float | None = None) -> None:
        """What Peer.receive does."""
        mine = self.results.setdefault(self.run.me, [])
        with self.lock:
            if not port.items and not port.ended and not self.turn.until(has_item, port, timeout):
                mine.append("nothing")
            elif port.items:
                mine.append(port.items.pop(0))
            else:
                mine.append(END)

    def deliver(self) -> None:
        """The network: each delivery is what one read may find, or several together."""
        while self.delivered < len(self.scenario.deliveries):
            self.run.point("the network")
            self.buffer += self.scenario.deliveries[self.delivered]
            self.delivered += 1

    def close(self, port: Port) -> None:
        """What Peer.close does here."""
        with self.lock:
            port.ended = True
            self.turn.changed(port)

    def lose(self) -> None:
        """What Peer.lose does."""
        with self.lock:
            for port in self.ports.values():
                self.arrive(port, END)
            self.turn.all_changed()

    # -- what the search asks

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        bodies = [(name, (lambda body=body: body(self))) for name, body in self.scenario.bodies.items()]
        network = [("network", self.deliver)] if self.scenario.deliveries else []
        return [*bodies, *network, ("keeper", self.keeper.run)]

    def state(self) -> Any:
        turn = self.turn
        parked = tuple((waiter.owner, waiter.woken) for waiter in turn.parked)
        ports = tuple(
            (tuple(port.items), port.ended, tuple(waiter.owner for waiter in port.waiters))
            for port in self.ports.values()
        )
        results = tuple(sorted((name, tuple(items)) for name, items in self.results.items()))
        return (
            (turn.leader and turn.leader.known_as, turn.state, turn.touched, parked, ports, tuple(self.buffer)),
            (self.link.state(), self.keeper.state(), self.lock.holder, self.now, self.delivered, results),
        )

    def check(self, choices: list[tuple[str, str]]) -> None:
        turn = self.turn
        if self.lock.holder is not None:
            return
        self.keeper.check(turn.state)
        if turn.leader is None:
            assert turn.state in (TICKING, WATCHING), "nobody leads, and the keeper rests"
            woken = any(waiter.woken for waiter in turn.parked)
            assert woken or not turn.parked, "nobody leads, and nobody who is parked is being woken"
        else:
            assert turn.state != WATCHING, "a leader and the keeper both read"
        if all(option in ("tick", "timeout") for _, option in choices):
            for port in self.ports.values():
                waiting = turn.leader is port or port.waiters
                assert not (waiting and has_item(port)), f"a thread waits for what is on port {port.known_as}"
            assert not (self.buffer and (turn.leader or turn.parked)), "bytes are there, threads wait, nobody reads"

    def check_end(self) -> None:
        finished = [one.name for one in self.run.threads if one.finished]
        late = [name for name in self.scenario.bodies if name not in finished and name not in self.scenario.stay]
        assert not late, f"for ever in the middle: {late}"
        assert not self.buffer, "bytes that nobody has read"
        assert self.turn.state == (RESTING if self.turn.leader is not None else WATCHING)
        self.scenario.expect(self)


def has_item(port: Port) -> Any:
    return port.items or port.ended


class Scenario:
    """Bodies of threads by name, what the network delivers, and what must hold at the end."""

    link_type: type[PipeLink] | None = None
    keeper: Any = NearKeeper
    turn = Turn

    def __init__(
        self,
        bodies: dict[str, Callable[[World], None]],
        deliveries: list[list[tuple[str, str]]],
        expect: Callable[[World], None],
        stay: tuple[str, ...] = (),
    ) -> None:
        self.bodies = bodies
        self.deliveries = deliveries
        self.expect = expect
        self.stay = stay  # threads that may be waiting still

    def search(self, prune: bool = True, **changed: Any) -> Search:
        for name, value in changed.items():
            setattr(self, name, value)
        return Search(lambda run: World(run, self), prune).go()


def got(**results: Any) -> Callable[[World], None]:
    """At the end each thread has received exactly this."""

    def expect(world: World) -> None:
        assert world.results == {name: list(items) for name, items in results.items()}
        assert not world.ports["a"].items
        assert not world.ports["b"].items

    return expect


def receive(name: str, timeout: float | None = None, times: int = 1) -> Callable[[World], None]:
    def body(world: World) -> None:
        while len(world.results.get(world.run.me, ())) < times:
            world.receive(world.ports[name], timeout)

    return body
