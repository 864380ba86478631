"""What a Mux grants and what it refuses: credit, limits of values and of what may wait."""

from __future__ import annotations

import mux_frames
import pytest
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.errors import RemoteProtocolError
from execgw.wire.frames import MAX_FRAME
from execgw.wire.mux import FRAME_COST, PART, PORT, REFUSED, WINDOW, Mux

near, far = mux_frames.near, mux_frames.far  # fixtures

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

    assert [event[0] for event in events] == [PART, REFUSED, PORT]
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
