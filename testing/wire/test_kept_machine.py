"""A worker's Mux, what is kept of its session, and near sides that are cut off and killed: a hypothesis state machine.

Whatever happens: each value of the worker is taken in order, once; again only if the near side was killed before it
could say that it had taken it.  Each value of a near side that the keeper has got arrives in order, once.
"""

from __future__ import annotations

import itertools
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.kept import Kept
from execgw.wire.kept_mux import KeptMux
from execgw.wire.mux import FRAME_COST, Mux, Port

WINDOW = 2000
NEVER = 1 << 40


def _closed() -> Port:
    port = Port(0)
    port.send_closed = port.ended = port.closed = True
    return port


class NearSide:
    """One process: its Mux, and what it must be able to write again."""

    def __init__(self) -> None:
        self.mux = KeptMux(NEAR)
        self.mux.window = WINDOW
        self.ring: deque[tuple[int, bytes]] = deque()
        self.up: deque[bytes] = deque()  # frames on their way to the keeper
        self.told: list[tuple[int, dict[int, int]]] = []  # (number of a TAKEN, what was taken of each channel then)

    def write(self, kind: int, number: int, payload: bytes = b"", flags: int = 0) -> None:
        self.put(frame(self.mux, kind, number, payload, flags))

    def put(self, data: bytes) -> None:
        self.ring.append((self.mux.seq, data))
        self.up.append(data)

    def feed(self, data: bytes) -> None:
        self.mux.feed(data)
        while self.ring and self.ring[0][0] <= self.mux.acked:
            self.ring.popleft()


class SessionWithCuts(RuleBasedStateMachine):
    channels = Bundle("channels")

    def __init__(self) -> None:
        super().__init__()
        self.worker = Mux(FAR)
        self.worker.window = WINDOW
        self.kept = Kept()
        self.near = NearSide()
        self.down = b""  # on their way to the near side
        self.count = itertools.count()
        self.by_worker: dict[int, list[bytes]] = {}
        self.at: dict[int, int] = {}  # of these, taken so far
        self.lowest: dict[int, int] = {}  # where the next near side may begin
        self.by_near: dict[int, list[tuple[int, bytes]]] = {}  # (number of the frame, value)
        self.got: dict[int, list[bytes]] = {}
        self.ports: dict[int, Port] = {}  # the worker's
        self.opened: dict[int, int] = {}  # by a near side, which said so in the frame of that number
        self.near_closed: dict[int, int] = {}  # by which frame
        marker = f.MARKER + self.worker.hello(f.pack_pairs({"version": "1"}))
        self.kept.from_worker(b"noise" + marker)
        hello = self.near.mux.hello(f.pack_pairs({"window": str(WINDOW)}))
        self.worker.feed(self.kept.from_near(hello))
        greeting = self.kept.take(1000)
        assert greeting == marker
        self.near.mux.feed(greeting[len(f.MARKER) :])

    # -- channels and values

    @rule(target=channels)
    def open_by_worker(self) -> int:
        port = self.worker.open()
        port.claimed = True
        assert port.number not in self.by_worker
        return self.new_channel(port.number)

    @rule(target=channels)
    def open_by_near(self) -> int:
        port = self.near.mux.open()
        port.claimed = True
        self.tell()
        assert port.number not in self.worker.ports
        self.opened[port.number] = self.near.mux.seq
        return self.new_channel(port.number)

    def new_channel(self, number: int) -> int:
        self.by_worker[number], self.by_near[number], self.got[number], self.at[number] = [], [], [], 0
        return number

    def near_port(self, number: int) -> Port | None:
        """A worker's channel comes in a value that is no part of this; so does its own to the worker."""
        known = number in self.near.mux.ports or not number % 2
        return None if not known or number in self.near_closed else self.near.mux.claim(number)

    def worker_port(self, number: int) -> Port:
        if number not in self.ports and self.opened.get(number, 0) <= self.kept.near_seq:
            self.ports[number] = self.worker.claim(number)
        return self.ports.get(number) or _closed()

    @rule(number=channels, size=st.integers(0, 900), more=st.booleans())
    def worker_sends(self, number: int, size: int, more: bool) -> None:
        port = self.worker_port(number)
        if port.send_closed or port.credit <= 0:
            return
        chunk = b"<%d:%d>" % (number, next(self.count)) + b"x" * size
        if more:
            self.kept.from_worker(send(self.worker, port, chunk, f.MORE))
            self.kept.from_worker(frame(self.worker, f.DATA, number, b"", f.MORE))
            port.sent += FRAME_COST
            self.kept.from_worker(send(self.worker, port, b"end"))
            self.by_worker[number].append(chunk + b"end")
        else:
            self.kept.from_worker(send(self.worker, port, chunk))
            self.by_worker[number].append(chunk)

    @rule(number=channels, size=st.integers(0, 900), more=st.booleans())
    def near_sends(self, number: int, size: int, more: bool) -> None:
        port = self.near_port(number)
        if port is None or port.send_closed or port.credit <= 0:
            return
        value = b"<%d:%d>" % (number, next(self.count)) + b"x" * size
        if more:
            self.near.put(send(self.near.mux, port, value, f.MORE))
            self.near.put(send(self.near.mux, port, b"end"))
            value += b"end"
        else:
            self.near.put(send(self.near.mux, port, value))
        self.by_near[number].append((self.near.mux.seq, value))

    @rule(number=channels)
    def near_takes(self, number: int) -> None:
        port = self.near_port(number)
        if port is None or not port.items:
            return
        value, values = taken(self.near.mux, port), self.by_worker[number]
        place = values.index(value)
        assert self.lowest.pop(number, self.at[number]) <= place <= self.at[number]
        self.at[number] = place + 1
        more = self.near.mux.grant(port)
        if more:
            self.near.write(f.CREDIT, number, f.pack_credit(more))

    @rule(number=channels)
    def worker_takes(self, number: int) -> None:
        port = self.worker_port(number)
        if port.items:
            self.got[number].append(taken(self.worker, port))
            more = self.worker.grant(port)
            if more and port.number in self.worker.ports:
                self.kept.from_worker(frame(self.worker, f.CREDIT, number, f.pack_credit(more)))

    @rule(number=channels, by_near=st.booleans())
    def end(self, number: int, by_near: bool) -> None:
        port = self.near_port(number) if by_near else self.worker_port(number)
        if port is None or port.send_closed:
            return
        port.send_closed = True
        if by_near:
            self.near.write(f.END, number)
        else:
            self.kept.from_worker(frame(self.worker, f.END, number))

    @rule(number=channels)
    def near_closes(self, number: int) -> None:
        port = self.near_port(number)
        if port is not None:
            self.near_closed[number] = self.near.mux.seq + 1
            self.near.mux.drop(port)
            self.near.write(f.CLOSE, number)

    @rule(number=channels)
    def near_sees_the_end(self, number: int) -> None:
        port = self.near_port(number)
        if port is not None and port.ended and not port.items:
            self.near.mux.seen(port)

    # -- links

    @rule()
    def tell(self) -> None:
        payload = self.near.mux.take_untold()
        if payload:
            self.near.write(f.TAKEN, 0, payload)
            self.near.told.append((self.near.mux.seq, {**self.at, **self.lowest}))

    @rule(size=st.integers(1, 3000))
    def move_up(self, size: int) -> None:
        data = b"".join(self.near.up)
        self.near.up = deque([data[size:]])
        for_worker = self.kept.from_near(data[:size])
        for event in self.worker.feed(for_worker):
            assert event[0] != "refused"

    @rule(size=st.integers(1, 3000))
    def move_down(self, size: int) -> None:
        if len(self.down) < size:
            self.down += self.kept.take(size)
        self.near.feed(self.down[:size])
        self.down = self.down[size:]

    @rule(up=st.integers(0, 3000), down=st.integers(0, 3000))
    def cut(self, up: int, down: int) -> None:
        """Some of what is on its way arrives, half a frame perhaps, and then the same near side has another link."""
        self.move_up(up + 1)
        self.move_down(down + 1)
        self.down = b""
        self.near.mux.reader.clear()
        had = self.kept.resume(self.near.mux.received_seq)
        self.near.up = deque(data for seq, data in self.near.ring if seq > had)
        missing = set(range(had + 1, self.near.mux.seq + 1)) - {seq for seq, _ in self.near.ring}
        assert not missing

    @rule(up=st.integers(0, 3000))
    def kill(self, up: int) -> None:
        """The near side is killed with all that it had; another one takes over."""
        self.move_up(up + 1)
        had = self.kept.near_seq
        told: dict[int, int] = {}
        for seq, at in self.near.told:
            if seq <= had:
                told.update(at)
        for number, sent in self.by_near.items():
            self.by_near[number] = [(seq, value) for seq, value in sent if seq <= had]
            self.lowest[number] = min(told.get(number, 0), self.at[number])
        self.near_closed = {number: seq for number, seq in self.near_closed.items() if seq <= had}
        for number, seq in self.opened.items():
            if seq > had:
                self.opened[number] = NEVER  # nobody has heard of it
        state = self.kept.adopt()
        self.near = NearSide()
        self.near.mux.restore(state)
        self.near.told = [(had, told)]
        self.down = b""
        for number, port in self.near.mux.ports.items():
            port.claimed = True
            if state["channels"][number]["unfinished"]:
                self.near.write(f.DATA, number, b"", f.ABORT)

    # -- what must hold

    @invariant()
    def what_arrives_was_sent_in_that_order(self) -> None:
        for number, values in self.got.items():
            known = [value for _, value in self.by_near[number]]
            assert values == known[: len(values)]

    def drain(self) -> None:
        for _ in range(200):
            before = (self.near.mux.received_seq, self.worker.received_seq, len(self.down))
            self.move_up(10**6)
            self.move_down(10**6)
            if before == (self.near.mux.received_seq, self.worker.received_seq, len(self.down)):
                return
        raise AssertionError("it never ends")

    def teardown(self) -> None:
        self.drain()
        assert not self.kept.pending
        for number in self.by_worker:
            theirs = self.worker_port(number)
            port = self.near_port(number)
            while theirs.items:
                self.got[number].append(taken(self.worker, theirs))
            if port is None or theirs.closed:
                continue
            assert self.got[number] == [value for _, value in self.by_near[number]]
            while port.items:
                self.near_takes(number)
            assert self.at[number] == len(self.by_worker[number])
            assert (port.received, port.ended) == (theirs.sent, theirs.send_closed)
            assert port.sent <= theirs.received  # an ABORT costs only its receiver
        self.tell()
        self.drain()
        assert not any(line.things for line in self.kept.lines.values() if not line.ended)


TestSessionWithCuts = SessionWithCuts.TestCase
TestSessionWithCuts.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
