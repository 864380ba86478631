"""Mux: byte strings in, events out.  Channels, credit, chunks, sequence numbers; what a hostile peer may not do."""

from __future__ import annotations

import itertools
from typing import Any

import mux_frames
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.codec import BYTES
from execgw.wire.errors import LocalProtocolError, RemoteProtocolError
from execgw.wire.mux import HEARD, LAST_CHANNEL, MOST_CHANNELS, PART, PORT, TASK, Mux, Port

near, far = mux_frames.near, mux_frames.far  # fixtures

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
                if event[0] in (PORT, PART, TASK):
                    ports[event[1].number] = event[1]
                if event[0] not in (PORT, PART):  # how often a change is told depends on the reads
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

    assert [event[0] for event in first] == [PART]
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


def test_channels_of_this_side_do_not_count_against_the_other(near: Mux) -> None:
    far = Mux(first=2, max_channels=3)
    for _ in range(10):
        far.open()

    for _ in range(3):
        far.feed(send(near, near.open(), b"x"))

    assert len(far.ports) == 13
    with pytest.raises(RemoteProtocolError, match="more than 3 channels are open"):
        far.feed(send(near, near.open(), b"x"))


def test_channels_that_are_over_do_not_count(near: Mux) -> None:
    far = Mux(first=2, max_channels=2)

    for _ in range(10):
        port = near.open()
        far.feed(send(near, port, b"x"))
        far.drop(far.ports[port.number])
        far.drop(far.claim(port.number))
    for kind in (f.CLOSE, f.END, f.CLOSE, f.CLOSE, f.CLOSE):
        port = near.open()
        far.feed(frame(near, kind, port.number, b""))
        far.drop(far.claim(port.number))

    assert far.ports == {}
    assert far._theirs == 0


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
