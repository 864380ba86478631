"""Mux: byte strings in, events out.  Channels, credit, chunks, sequence numbers; what a hostile peer may not do."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from execgw.wire import frames as f
from execgw.wire.codec import BYTES
from execgw.wire.errors import LocalProtocolError, RemoteProtocolError
from execgw.wire.frames import MAX_FRAME
from execgw.wire.mux import FRAME_COST, HEARD, LAST_CHANNEL, MOST_CHANNELS, PORT, REFUSED, TASK, WINDOW, Mux, Port

NEAR, FAR = 1, 2


def frame(mux: Mux, kind: int, number: int, payload: bytes = b"", flags: int = 0, form: int = BYTES) -> bytes:
    """The next frame of *mux*, as its owner would write it."""
    return mux.header(kind, flags, form, number, len(payload)) + payload


def send(mux: Mux, port: Port, payload: bytes, flags: int = 0) -> bytes:
    port.sent += len(payload) + FRAME_COST
    return frame(mux, f.DATA, port.number, payload, flags)


def taken(mux: Mux, port: Port) -> bytes:
    form, data = mux.take(port)
    assert form == BYTES
    return b"".join(data) if isinstance(data, list) else data


@pytest.fixture
def near() -> Mux:
    return Mux(NEAR)


@pytest.fixture
def far() -> Mux:
    return Mux(FAR)


# -- values and events


def test_a_value_arrives_on_its_channel(near: Mux, far: Mux) -> None:
    port = near.open()

    events = far.feed(send(near, port, b"one") + send(near, port, b"two"))

    theirs = far.ports[port.number]
    assert events == [(PORT, theirs)]  # once for both
    assert [taken(far, theirs), taken(far, theirs)] == [b"one", b"two"]


@given(data=st.data())
@settings(max_examples=50)
def test_any_split_of_the_stream_gives_the_same_events(data: st.DataObject) -> None:
    def story(cuts: list[int]) -> list[Any]:
        near, far = Mux(NEAR), Mux(FAR)
        one, two = near.open(), near.open()
        stream = near.hello(b"hi") + frame(near, f.EXEC, one.number, b"code")
        stream += send(near, two, b"a" * 100, f.MORE) + send(near, one, b"between") + send(near, two, b"b" * 5000)
        stream += send(near, two, b"lost", f.MORE) + send(near, two, b"", f.ABORT) + send(near, two, b"kept")
        stream += frame(near, f.ASK, 0, b"?") + frame(near, f.CREDIT, two.number, f.pack_credit(7))
        stream += frame(near, f.ACK, 0) + frame(near, f.END, one.number) + frame(near, f.CLOSE, two.number, b"why")
        limits = sorted({cut % (len(stream) + 1) for cut in cuts})
        ports: dict[int, Port] = {}
        heard: list[Any] = []
        for start, stop in itertools.pairwise([0, *limits, len(stream)]):
            for event in far.feed(stream[start:stop]):
                if event[0] in (PORT, TASK):
                    ports[event[1].number] = event[1]
                if event[0] != PORT:  # how often a change is told depends on the reads
                    heard.append([event[0], *(_flat(part) for part in event[1:])])
        state = [
            (
                p.number,
                [_flat(item[1]) for item in p.items],
                p.ended,
                p.closed,
                p.error,
                p.allowed,
                p.received,
                p.consumed,
            )
            for p in ports.values()
        ]
        return [heard, sorted(state), far.held, far.dropped, far.received_seq]

    assert story(data.draw(st.lists(st.integers(0, 10_000), max_size=25))) == story([])


def _flat(part: Any) -> Any:
    if isinstance(part, list):
        return b"".join(part)
    return part.number if isinstance(part, Port) else part


def test_half_a_frame_waits_for_the_rest(near: Mux, far: Mux) -> None:
    stream = send(near, near.open(), b"payload")

    assert far.feed(stream[:7]) == []
    assert far.feed(stream[7:25]) == []
    ((what, port),) = far.feed(stream[25:])

    assert what == PORT
    assert taken(far, port) == b"payload"


def test_code_to_run_is_a_task(near: Mux, far: Mux) -> None:
    ((what, port, form, data),) = far.feed(frame(near, f.EXEC, near.open().number, b"code"))

    assert (what, port.number, form, b"".join(data)) == (TASK, 1, BYTES, b"code")
    assert far.held == 0


def test_code_in_chunks_is_one_task(near: Mux, far: Mux) -> None:
    number = near.open().number

    first = far.feed(frame(near, f.EXEC, number, b"co", f.MORE))
    ((what, _, _, data),) = far.feed(frame(near, f.EXEC, number, b"de"))

    assert [event[0] for event in first] == [PORT]
    assert (what, b"".join(data)) == (TASK, b"code")


def test_a_value_in_chunks_is_one_value_and_others_go_between(near: Mux, far: Mux) -> None:
    big, small = near.open(), near.open()

    far.feed(send(near, big, b"a" * 10, f.MORE))
    far.feed(send(near, small, b"small"))
    assert not far.ports[big.number].items
    assert taken(far, far.ports[small.number]) == b"small"
    far.feed(send(near, big, b"b" * 10, f.MORE) + send(near, big, b"c"))

    assert taken(far, far.ports[big.number]) == b"a" * 10 + b"b" * 10 + b"c"
    assert far.held == 0


def test_abort_forgets_the_chunks_of_an_unfinished_value(near: Mux, far: Mux) -> None:
    port = near.open()

    far.feed(send(near, port, b"half", f.MORE) + send(near, port, b"", f.ABORT) + send(near, port, b"whole"))

    theirs = far.ports[port.number]
    assert taken(far, theirs) == b"whole"
    assert not theirs.items
    assert far.held == 0
    assert theirs.consumed == theirs.received


def test_abort_behind_a_waiting_value_forgets_its_cost_too(near: Mux, far: Mux) -> None:
    port = near.open()

    far.feed(send(near, port, b"first") + send(near, port, b"half", f.MORE) + send(near, port, b"", f.ABORT))

    theirs = far.ports[port.number]
    assert taken(far, theirs) == b"first"
    assert far.held == 0
    assert theirs.consumed == theirs.received


def test_questions_answers_hello_and_bye_are_heard(near: Mux, far: Mux) -> None:
    kinds = (f.ASK, f.TELL, f.BYE)

    events = far.feed(near.hello(b"hello") + b"".join(frame(near, kind, 0, b"text") for kind in kinds))

    assert events == [(HEARD, f.HELLO, b"hello"), *((HEARD, kind, b"text") for kind in kinds)]


# -- ends


def test_after_end_items_wait_and_this_side_may_still_send(near: Mux, far: Mux) -> None:
    port = near.open()

    far.feed(send(near, port, b"last") + frame(near, f.END, port.number))
    theirs = far.ports[port.number]
    near.feed(send(far, theirs, b"answer"))

    assert (theirs.ended, theirs.send_closed, taken(far, theirs)) == (True, False, b"last")
    assert taken(near, port) == b"answer"


def test_close_ends_both_ways_and_carries_its_reason(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(send(near, port, b"last"))
    theirs = far.claim(port.number)

    far.feed(frame(near, f.CLOSE, port.number, b"why"))

    assert (theirs.ended, theirs.closed, theirs.send_closed, theirs.error) == (True, True, True, b"why")
    assert taken(far, theirs) == b"last"
    assert port.number not in far.ports


def test_frames_for_a_closed_channel_are_dropped_and_counted(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(send(near, port, b"one"))
    far.drop(far.ports[port.number])

    events = far.feed(send(near, port, b"late") + frame(near, f.CREDIT, port.number, f.pack_credit(1)))
    events += far.feed(frame(near, f.END, port.number) + frame(near, f.CLOSE, port.number, b"why"))

    assert events == []
    assert far.dropped == 4
    assert port.number not in far.ports


def test_data_after_the_end_is_dropped_and_counted(near: Mux, far: Mux) -> None:
    port = near.open()

    far.feed(frame(near, f.END, port.number) + send(near, port, b"late"))

    assert not far.ports[port.number].items
    assert far.dropped == 1


def test_a_frame_for_a_channel_of_ours_that_never_was_is_dropped(near: Mux, far: Mux) -> None:
    assert near.feed(frame(far, f.DATA, 1, b"forged") + frame(far, f.EXEC, 7, b"forged")) == []
    assert near.dropped == 2
    assert near.ports == {}


def test_data_for_channel_0_is_dropped(near: Mux, far: Mux) -> None:
    assert near.feed(frame(far, f.DATA, 0, b"x")) == []
    assert far.feed(frame(near, f.DATA, 0, b"x")) == []
    assert (near.dropped, far.dropped) == (1, 1)


# -- numbers of channels


def test_near_numbers_are_odd_far_numbers_are_even_and_none_is_used_again(near: Mux, far: Mux) -> None:
    numbers: dict[int, list[int]] = {NEAR: [], FAR: []}
    for _ in range(100):
        for mux, first in ((near, NEAR), (far, FAR)):
            port = mux.open()
            numbers[first].append(port.number)
            mux.drop(port)

    assert numbers == {NEAR: list(range(1, 201, 2)), FAR: list(range(2, 202, 2))}


def test_when_all_numbers_are_used_up_it_is_said(near: Mux) -> None:
    near._next = LAST_CHANNEL

    assert near.open().number == LAST_CHANNEL
    with pytest.raises(LocalProtocolError, match="used up"):
        near.open()


def test_numbers_may_come_in_any_order_but_each_opens_once(near: Mux, far: Mux) -> None:
    ports = [near.open() for _ in range(3)]

    far.feed(b"".join(send(near, port, b"%d" % port.number) for port in reversed(ports)))
    for port in ports:
        theirs = far.ports[port.number]
        assert taken(far, theirs) == b"%d" % port.number
        far.drop(theirs)
    far.feed(b"".join(send(near, port, b"again") for port in ports))

    assert far.ports == {}
    assert far.dropped == 3


def test_a_far_away_channel_number_is_refused(near: Mux, far: Mux) -> None:
    with pytest.raises(RemoteProtocolError, match="too far"):
        far.feed(frame(near, f.DATA, 1 + 2 * (MOST_CHANNELS + 1), b"x"))


def test_leaps_that_are_each_short_enough_are_refused_in_sum(near: Mux, far: Mux) -> None:
    leap = MOST_CHANNELS // 2

    far.feed(frame(near, f.DATA, 1 + 2 * leap, b"x"))
    with pytest.raises(RemoteProtocolError, match="too far"):
        for times in range(2, 5):
            far.feed(frame(near, f.DATA, 1 + 2 * leap * times, b"x"))

    assert len(far._skipped) <= MOST_CHANNELS


def test_too_many_open_channels_are_refused(near: Mux, far: Mux) -> None:
    with pytest.raises(RemoteProtocolError, match="channels are open"):
        far.feed(b"".join(frame(near, f.DATA, near.open().number, b"") for _ in range(MOST_CHANNELS + 2)))


def test_a_claimed_number_is_the_port_on_which_its_items_wait(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(send(near, port, b"early"))

    assert taken(far, far.claim(port.number)) == b"early"


def test_a_number_may_be_claimed_before_its_first_frame(near: Mux, far: Mux) -> None:
    port = near.open()
    theirs = far.claim(port.number)

    far.feed(send(near, port, b"late"))

    assert taken(far, theirs) == b"late"


@pytest.mark.parametrize("number", [0, 1, 5, 3 - 4])
def test_claiming_a_number_that_is_no_more_gives_a_closed_port(near: Mux, number: int) -> None:
    port = near.claim(number)

    assert port.closed
    assert number not in near.ports


# -- credit


def test_a_sender_has_one_window_until_more_is_granted(near: Mux, far: Mux) -> None:
    port = near.open()
    chunk = b"x" * (64 * 1024)

    while port.credit > 0:
        far.feed(send(near, port, chunk))
    theirs = far.ports[port.number]
    assert far.grant(theirs) == 0
    while theirs.items:
        far.take(theirs)
    more = far.grant(theirs)
    near.feed(frame(far, f.CREDIT, port.number, f.pack_credit(more)))

    assert more == theirs.received == port.sent
    assert port.credit == WINDOW


def test_credit_is_given_back_half_a_window_at_a_time(near: Mux, far: Mux) -> None:
    port = near.open()
    grants = 0
    for _ in range(100):
        far.feed(send(near, port, b"x" * 50_000))
        theirs = far.ports[port.number]
        far.take(theirs)
        more = far.grant(theirs)
        assert more == 0 or more >= WINDOW // 2
        grants += bool(more)

    assert grants == 100 * (50_000 + FRAME_COST) // (WINDOW // 2) - 1 or grants == 9


def test_a_value_larger_than_the_window_gets_credit_as_it_comes(near: Mux, far: Mux) -> None:
    port = near.open()
    chunk = b"x" * (64 * 1024)
    for _ in range(100):
        assert port.credit > 0
        far.feed(send(near, port, chunk, f.MORE))
        more = far.grant(far.ports[port.number])
        if more:
            near.feed(frame(far, f.CREDIT, port.number, f.pack_credit(more)))
    far.feed(send(near, port, b"end"))

    assert len(taken(far, far.ports[port.number])) == 100 * len(chunk) + 3


def test_chunks_behind_a_waiting_value_get_no_credit_until_it_is_taken(near: Mux, far: Mux) -> None:
    port = near.open()
    chunk = b"x" * (64 * 1024)
    far.feed(send(near, port, b"first"))
    while port.credit > 0:
        far.feed(send(near, port, chunk, f.MORE))
    theirs = far.ports[port.number]
    assert far.grant(theirs) == 0

    far.take(theirs)

    assert far.grant(theirs) == theirs.received
    assert far.held == 0


def test_a_peer_that_sends_more_than_it_has_credit_for_is_refused(near: Mux, far: Mux) -> None:
    port = near.open()
    block = b"x" * (MAX_FRAME - FRAME_COST)

    far.feed(send(near, port, block) + send(near, port, block))  # the second one began with credit left, or could have
    with pytest.raises(RemoteProtocolError, match="credit"):
        far.feed(send(near, port, b""))


def test_empty_values_cost_credit_too(near: Mux, far: Mux) -> None:
    port = near.open()
    count = (WINDOW + MAX_FRAME) // FRAME_COST

    with pytest.raises(RemoteProtocolError, match="credit"):
        far.feed(b"".join(send(near, port, b"") for _ in range(count + 1)))


def test_an_ended_channel_gets_no_more_credit(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(send(near, port, b"x" * (WINDOW // 2)) + frame(near, f.END, port.number))
    theirs = far.ports[port.number]
    far.take(theirs)

    assert far.grant(theirs) == 0


# -- limits


def test_a_partial_value_of_more_than_max_value_is_refused_and_nothing_else() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_value=1000)
    big, other = near.open(), near.open()

    events = far.feed(
        send(near, big, b"x" * 600, f.MORE) + send(near, big, b"x" * 600, f.MORE) + send(near, other, b"y")
    )

    assert [event[0] for event in events] == [PORT, REFUSED, PORT]
    assert events[1][1].number == big.number
    assert "1000 bytes" in events[1][2]
    assert taken(far, far.ports[other.number]) == b"y"


def test_a_value_in_one_frame_is_bounded_by_the_frame_limit_alone() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_value=1000)

    events = far.feed(send(near, near.open(), b"x" * MAX_FRAME))

    assert [event[0] for event in events] == [PORT]


def test_more_than_max_held_in_all_channels_is_refused() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_held=1_000_000)
    block = b"x" * 60_000

    far.feed(b"".join(send(near, near.open(), block) for _ in range(16)))
    with pytest.raises(RemoteProtocolError, match="1000000 bytes"):
        far.feed(send(near, near.open(), block))


def test_what_is_taken_is_no_longer_held() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_held=200_000)
    for _ in range(100):
        port = near.open()
        far.feed(send(near, port, b"x" * 60_000, f.MORE) + send(near, port, b"x" * 60_000))
        theirs = far.ports[port.number]
        far.take(theirs)

    assert far.held == 0


def test_what_waits_on_a_channel_that_this_side_drops_is_no_longer_held() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_held=200_000)
    for _ in range(100):
        port = near.open()
        far.feed(send(near, port, b"x" * 60_000) + send(near, port, b"x" * 60_000, f.MORE))
        theirs = far.ports[port.number]
        far.drop(theirs)
        assert far.held == 0

    # What had come may still be taken, and is not counted twice.
    assert taken(far, theirs) == b"x" * 60_000
    assert far.held == 0


def test_what_is_refused_is_no_longer_held_once_dropped() -> None:
    near, far = Mux(NEAR), Mux(FAR, max_value=1000)
    ((what, port, _),) = far.feed(send(near, near.open(), b"x" * 1001, f.MORE))

    far.drop(port)

    assert (what, far.held) == (REFUSED, 0)


# -- sequence numbers


def at_sequence(mux: Mux, other: Mux, seq: int) -> None:
    mux.seq = other.received_seq = seq


def test_frames_are_numbered_from_1_and_hello_is_not_counted(near: Mux, far: Mux) -> None:
    port = near.open()

    far.feed(near.hello(b"") + send(near, port, b"") + near.hello(b"") + send(near, port, b""))

    assert (near.seq, far.received_seq) == (2, 2)


def test_each_frame_says_what_its_sender_has_received(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(b"".join(send(near, port, b"") for _ in range(5)))

    near.feed(send(far, far.ports[port.number], b"answer"))

    assert near.acked == 5


@pytest.mark.parametrize("before", [2**32 - 3, 2**32 - 2, 2**32 - 1, 2**31 - 1])
def test_sequence_numbers_wrap(near: Mux, far: Mux, before: int) -> None:
    at_sequence(near, far, before)
    port = near.open()

    far.feed(b"".join(send(near, port, b"%d" % i) for i in range(5)))

    theirs = far.ports[port.number]
    assert [taken(far, theirs) for _ in range(5)] == [b"%d" % i for i in range(5)]
    assert far.received_seq == near.seq == (before + 5) % 2**32


@pytest.mark.parametrize("before", [0, 2**32 - 3])
def test_replayed_frames_are_taken_once(near: Mux, far: Mux, before: int) -> None:
    at_sequence(near, far, before)
    port = near.open()
    frames = [send(near, port, b"%d" % i) for i in range(5)]

    far.feed(b"".join(frames[:4]))
    far.feed(b"".join(frames[1:]))

    theirs = far.ports[port.number]
    assert [taken(far, theirs) for _ in range(len(theirs.items))] == [b"%d" % i for i in range(5)]
    assert theirs.received == 5 * (1 + FRAME_COST)


@given(again=st.lists(st.integers(0, 9), max_size=10), before=st.sampled_from([0, 2**32 - 5, 2**31 - 4]))
def test_whatever_is_replayed_each_frame_counts_once(again: list[int], before: int) -> None:
    near, far = Mux(NEAR), Mux(FAR)
    at_sequence(near, far, before)
    port = near.open()
    frames = [send(near, port, b"%d" % i) for i in range(10)]

    for i, data in enumerate(frames):
        far.feed(data)
        for j in again:
            if j <= i:
                far.feed(frames[j])

    theirs = far.ports[port.number]
    assert [taken(far, theirs) for _ in range(len(theirs.items))] == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("before", [0, 2**32 - 2])
def test_a_missing_frame_is_a_remote_protocol_error(near: Mux, far: Mux, before: int) -> None:
    at_sequence(near, far, before)
    port = near.open()
    send(near, port, b"lost")

    with pytest.raises(RemoteProtocolError, match="came after"):
        far.feed(send(near, port, b"next"))


def test_an_old_ack_does_not_take_back_a_newer_one(near: Mux, far: Mux) -> None:
    port = near.open()
    far.feed(send(near, port, b"1"))
    theirs = far.ports[port.number]
    old = send(far, theirs, b"old")
    near.feed(old)
    far.feed(send(near, port, b"2"))
    near.feed(send(far, theirs, b"new"))

    near.feed(old)

    assert near.acked == 2


# -- rubbish


@given(
    junk=st.lists(
        st.tuples(
            st.integers(1, f.LAST_KIND),
            st.integers(0, 3),
            st.integers(0, 12) | st.integers(0, 2**32 - 1),
            st.binary(max_size=20),
        ),
        max_size=40,
    ),
)
def test_a_hostile_peer_gets_a_remote_protocol_error_and_nothing_else(junk: list[Any]) -> None:
    near, far = Mux(NEAR, max_value=100, max_held=2000), Mux(FAR)
    near.claim(near.open().number)
    try:
        for kind, flags, number, payload in junk:
            for event in near.feed(frame(far, kind, number, payload, flags)):
                assert event[0] in (PORT, TASK, HEARD, REFUSED)
                if event[0] == REFUSED:
                    near.drop(event[1])
    except RemoteProtocolError:
        pass

    assert 0 <= near.held <= 2000 + MAX_FRAME


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
            assert event[0] == PORT
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
            waiting = sum(
                sum(item[2] for item in port.items) + port.pending
                for port in ports.values()
                if not self._let_go(side, port)
            )
            assert side.mux.held == waiting

    def _let_go(self, side: Side, port: Port) -> bool:
        return port.number not in side.mux.ports and port.closed

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
