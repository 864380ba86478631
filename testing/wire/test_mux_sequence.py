"""Sequence numbers and rubbish: what a Mux makes of frames that come again, out of order, or make no sense."""

from __future__ import annotations

from typing import Any

import mux_frames
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.errors import RemoteProtocolError
from execgw.wire.frames import MAX_FRAME
from execgw.wire.mux import FRAME_COST, HEARD, PART, PORT, REFUSED, TASK, Mux

near, far = mux_frames.near, mux_frames.far  # fixtures

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
                assert event[0] in (PORT, PART, TASK, HEARD, REFUSED)
                if event[0] == REFUSED:
                    near.drop(event[1])
    except RemoteProtocolError:
        pass

    assert 0 <= near.held <= 2000 + MAX_FRAME
