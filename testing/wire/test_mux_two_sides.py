"""Two Mux talk through byte queues, as a hypothesis state machine: no item ever reaches another or a later channel."""

from __future__ import annotations

import itertools
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.mux import FRAME_COST, PART, PORT, Mux, Port

# -- two of them talk


class Side:
    """A Mux and its owner, which keeps the rules; and what it knows of each of its channels."""

    def __init__(self, first: int) -> None:
        self.mux = Mux(first)
        self.mux.window = 2000
        self.to_send: deque[bytes] = deque()  # frames on their way to the other side
        self.sent: dict[int, list[bytes]] = {}  # channel -> values, in order
        self.got: dict[int, list[bytes]] = {}
        self.ports: dict[int, Port] = {}
        self.partial: dict[int, bytes] = {}
        self.opened: list[int] = []

    def write(self, kind: int, number: int, payload: bytes = b"", flags: int = 0) -> None:
        self.to_send.append(frame(self.mux, kind, number, payload, flags))

    def may_send(self, port: Port) -> bool:
        return not port.send_closed and port.credit > 0


class TwoTalk(RuleBasedStateMachine):
    """Values are named after their channel and their place, so that any that goes astray is known."""

    channels = Bundle("channels")

    def __init__(self) -> None:
        super().__init__()
        self.sides = [Side(NEAR), Side(FAR)]
        self.count = itertools.count()

    @rule(target=channels, who=st.integers(0, 1))
    def open(self, who: int) -> int:
        side = self.sides[who]
        port = side.mux.open()
        assert all(port.number not in other.opened for other in self.sides)
        side.opened.append(port.number)
        port.claimed = True
        side.ports[port.number] = port
        return port.number

    @rule(who=st.integers(0, 1), number=channels)
    def claim(self, who: int, number: int) -> None:
        """A channel number came in a value."""
        side = self.sides[who]
        if number not in side.ports:
            side.ports[number] = side.mux.claim(number)

    @rule(who=st.integers(0, 1), number=channels, size=st.integers(0, 900), more=st.booleans())
    def send(self, who: int, number: int, size: int, more: bool) -> None:
        side = self.sides[who]
        port = side.ports.get(number)
        if port is None or not side.may_send(port):
            return
        chunk = b"<%d:%d:%d>" % (number, who, next(self.count)) + b"x" * size
        side.to_send.append(send(side.mux, port, chunk, f.MORE if more else 0))
        whole = side.partial.pop(number, b"") + chunk
        if more:
            side.partial[number] = whole
        else:
            side.sent.setdefault(number, []).append(whole)

    @rule(who=st.integers(0, 1), number=channels)
    def abort(self, who: int, number: int) -> None:
        side = self.sides[who]
        port = side.ports.get(number)
        if port is not None and not port.send_closed and side.partial.pop(number, None) is not None:
            side.write(f.DATA, number, b"", f.ABORT)

    @rule(who=st.integers(0, 1), number=channels, how=st.sampled_from(["end", "close", "drop"]))
    def end(self, who: int, number: int, how: str) -> None:
        side = self.sides[who]
        port = side.ports.get(number)
        if port is None or port.closed:
            return
        if how == "end":
            if not port.send_closed:
                port.send_closed = True
                side.write(f.END, number)
        else:
            side.mux.drop(port)
            side.write(f.CLOSE, number)

    @precondition(lambda self: any(side.to_send for side in self.sides))
    @rule(who=st.integers(0, 1), frames=st.integers(1, 5), cut=st.integers(0, 60))
    def deliver(self, who: int, frames: int, cut: int) -> None:
        """Some bytes arrive, not always whole frames."""
        side, other = self.sides[who], self.sides[1 - who]
        data = b"".join(side.to_send.popleft() for _ in range(min(frames, len(side.to_send))))
        rest = data[len(data) - cut :] if cut and cut < len(data) else b""
        if rest:
            data = data[: len(data) - len(rest)]
            side.to_send.appendleft(rest)
        for event in other.mux.feed(data):
            assert event[0] in (PORT, PART)
            port = event[1]
            if port.number in other.ports:
                assert other.ports[port.number] is port
            self._grant(other, port, port.partial is not None and not port.items)

    @rule(who=st.integers(0, 1), number=channels)
    def take(self, who: int, number: int) -> None:
        side = self.sides[who]
        port = side.ports.get(number) or side.mux.ports.get(number)
        if port is not None and port.items:
            side.ports.setdefault(number, port)
            side.got.setdefault(number, []).append(taken(side.mux, port))
            self._grant(side, port, True)

    def _grant(self, side: Side, port: Port, may: bool) -> None:
        more = side.mux.grant(port) if may else 0
        if more and not port.closed:
            side.write(f.CREDIT, port.number, f.pack_credit(more))

    @invariant()
    def what_came_is_what_was_sent_on_that_channel_in_order(self) -> None:
        for side, other in (self.sides, self.sides[::-1]):
            for number, got in side.got.items():
                assert got == other.sent.get(number, [])[: len(got)]

    @invariant()
    def nobody_was_sent_more_than_was_allowed(self) -> None:
        for side in self.sides:
            for port in side.mux.ports.values():
                assert port.received <= port.granted + 1000 + FRAME_COST
                assert port.consumed <= port.received

    @invariant()
    def what_is_held_is_what_waits(self) -> None:
        for side in self.sides:
            ports = {id(port): port for port in [*side.mux.ports.values(), *side.ports.values()]}
            waiting = sum(sum(item[2] for item in port.items) + port.pending for port in ports.values())
            assert side.mux.held == waiting

    def teardown(self) -> None:
        """All that was sent on channels that nobody closed arrives."""
        while any(side.to_send for side in self.sides):
            self.deliver(0, 1000, 0)
            self.deliver(1, 1000, 0)
        for side, other in (self.sides, self.sides[::-1]):
            for number, sent in other.sent.items():
                port = side.mux.ports.get(number)
                if port is not None and not port.closed:
                    rest = [taken(side.mux, port) for _ in range(len(port.items))]
                    assert side.got.get(number, []) + rest == sent


TestTwoTalk = TwoTalk.TestCase
TestTwoTalk.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
