"""Kept: what is kept of a worker's session while its near side is away, and what another one needs to go on."""

from __future__ import annotations

import struct

import mux_frames
import pytest
from mux_frames import FAR, NEAR, frame, send, taken

from execgw.wire import frames as f
from execgw.wire.errors import RemoteProtocolError
from execgw.wire.frames import HEADER_SIZE
from execgw.wire.kept import ALL, MOST_NOISE, OWED, Kept, pack_taken
from execgw.wire.kept_mux import KeptMux
from execgw.wire.mux import FRAME_COST, HEARD, Mux, Port

far = mux_frames.far  # fixture

HELLO = f.pack_pairs({"version": "1", "pid": "7"})


@pytest.fixture
def near() -> KeptMux:
    return KeptMux(NEAR)


@pytest.fixture
def kept(near: Mux, far: Mux) -> Kept:
    """Both sides have said hello."""
    kept = Kept()
    kept.from_worker(f.MARKER + far.hello(HELLO))
    far.feed(kept.from_near(near.hello(f.pack_pairs({"window": "5000"}))))
    near.feed(kept.take(1 << 20)[len(f.MARKER) :])
    return kept


def opened(near: Mux, far: Mux, kept: Kept) -> tuple[Port, Port]:
    """A channel that the near side has opened, as both sides see it."""
    port = near.open()
    port.claimed = True
    far.feed(kept.from_near(frame(near, f.EXEC, port.number, b"code")))
    far.claim(port.number)
    return port, far.ports[port.number]


def tell(near: KeptMux, kept: Kept) -> bytes:
    return kept.from_near(frame(near, f.TAKEN, 0, near.take_untold()))


def successor(kept: Kept) -> KeptMux:
    """Another near side, which has got what was kept for it."""
    mux = KeptMux(NEAR)
    mux.restore(kept.adopt())
    mux.feed(kept.take(1 << 30))
    return mux


def values(mux: Mux, number: int) -> list[bytes]:
    port = mux.ports[number]
    return [taken(mux, port) for _ in range(len(port.items))]


# -- the same near side


def test_noise_before_the_start_marker_is_dropped_and_hello_kept(near: Mux, far: Mux) -> None:
    kept = Kept()

    kept.from_worker(b"banner\n" + f.MARKER[:5])
    assert not kept.pending
    kept.from_worker(f.MARKER[5:] + far.hello(HELLO))

    assert kept.about == {"version": "1", "pid": "7"}
    assert kept.take(1) == f.MARKER
    assert kept.take(1 << 20) == far.hello(HELLO)


def test_endless_noise_is_refused() -> None:
    kept = Kept()

    with pytest.raises(RemoteProtocolError, match="no worker's hello"):
        kept.from_worker(b"x" * (MOST_NOISE + 1))


def test_a_near_side_that_has_not_heard_hello_gets_it_again(kept: Kept, far: Mux) -> None:
    kept.from_worker(frame(far, f.ACK, 0))

    kept.resume(None)

    data = kept.take(1 << 20)
    assert data.startswith(f.MARKER + far.hello(HELLO))
    assert len(data) == len(f.MARKER + far.hello(HELLO)) + HEADER_SIZE


def test_hello_of_the_near_side_reaches_the_worker_once(near: Mux) -> None:
    kept = Kept()
    hello = near.hello(f.pack_pairs({"window": "5"}))

    assert kept.from_near(hello) == hello
    kept.resume(None)

    assert kept.from_near(hello) == b""
    assert kept.window == 5


def test_each_cut_of_the_way_down_is_mended() -> None:
    sent = [b"%d" % number * 40 for number in range(5)]

    for at in range(5 * (HEADER_SIZE + 40) + 1):
        near, far, kept = KeptMux(NEAR), Mux(FAR), Kept()
        kept.from_worker(f.MARKER + far.hello(HELLO))
        kept.take(1 << 20)
        port, theirs = opened(near, far, kept)
        kept.from_worker(b"".join(send(far, theirs, value) for value in sent))

        near.feed(kept.take(1 << 20)[:at])
        near.reader.clear()
        kept.resume(near.received_seq)
        near.feed(kept.take(1 << 20))

        assert values(near, port.number) == sent


def test_each_cut_of_the_way_up_is_mended(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    sent = [b"%d" % number * 40 for number in range(5)]
    frames = [send(near, port, value) for value in sent]
    first = near.seq - 5
    stream = b"".join(frames)
    got: list[bytes] = []

    far.feed(kept.from_near(stream[:150]))
    for at in range(150, len(stream) + 1):
        had = kept.resume(near.received_seq)
        far.feed(kept.from_near(b"".join(frames[had - first :])[: max(at - (had - first) * 60, 0)]))
        got += [taken(far, theirs) for _ in range(len(theirs.items))]

    assert got == sent


def test_a_repeated_frame_is_dropped_and_a_gap_is_an_error(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, _ = opened(near, far, kept)
    once = send(near, port, b"once")

    assert kept.from_near(once) == once
    assert kept.from_near(once) == b""
    send(near, port, b"lost")
    with pytest.raises(RemoteProtocolError, match="came after"):
        kept.from_near(send(near, port, b"next"))


def test_an_acknowledgement_of_what_never_was_is_an_error(kept: Kept, near: KeptMux) -> None:
    near.received_seq = 9

    with pytest.raises(RemoteProtocolError, match="acknowledged"):
        kept.from_near(frame(near, f.ACK, 0))


def test_what_the_near_side_has_acknowledged_is_not_sent_again(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(send(far, theirs, b"one") + send(far, theirs, b"two"))
    near.feed(kept.take(HEADER_SIZE + 3))
    kept.from_near(frame(near, f.ACK, 0))

    kept.resume(near.received_seq)

    near.feed(kept.take(1 << 20))
    assert values(near, port.number) == [b"one", b"two"]
    assert kept.unseen_size > 0


def test_the_worker_has_to_wait_when_too_much_is_unseen(near: KeptMux, far: Mux) -> None:
    kept = Kept(most_unseen=1000)
    kept.from_worker(f.MARKER + far.hello(HELLO))
    port = far.open()

    while not kept.full:
        kept.from_worker(send(far, port, b"x" * 100))
    near.feed(kept.take(1 << 20)[len(f.MARKER) :])
    assert kept.unseen_size <= 1000 + 300
    kept.from_near(frame(near, f.ACK, 0))

    assert not kept.full
    assert kept.unseen_size == 0


def test_the_near_side_hears_of_what_has_come_though_the_worker_is_silent(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, _ = opened(near, far, kept)
    assert not kept.pending

    kept.from_near(send(near, port, b"x" * OWED))
    assert kept.pending
    near.feed(kept.take(1))

    assert near.acked == near.seq
    assert not kept.pending


# -- what is taken


def test_the_worker_gets_an_ack_in_place_of_what_only_the_keeper_needs(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)

    for_worker = tell(near, kept) + kept.from_near(send(near, port, b"value"))
    far.feed(for_worker)

    assert taken(far, theirs) == b"value"
    assert far.received_seq == near.seq


def test_a_value_is_kept_until_it_is_taken(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(b"".join(send(far, theirs, b"%d" % number) for number in range(4)))
    near.feed(kept.take(1 << 20))

    assert [taken(near, port), taken(near, port)] == [b"0", b"1"]
    tell(near, kept)
    taken(near, port)  # and killed before it could say so

    assert values(successor(kept), port.number) == [b"2", b"3"]


def test_a_value_in_chunks_is_kept_whole(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(send(far, theirs, b"a", f.MORE) + send(far, theirs, b"b", f.MORE))
    near.feed(kept.take(1 << 20))
    tell(near, kept)

    mux = successor(kept)
    kept.from_worker(send(far, theirs, b"c"))
    mux.feed(kept.take(1 << 20))

    assert values(mux, port.number) == [b"abc"]


def test_an_end_is_kept_until_it_is_seen(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(send(far, theirs, b"last") + frame(far, f.CLOSE, theirs.number, b"why"))
    near.feed(kept.take(1 << 20))
    assert taken(near, port) == b"last"
    tell(near, kept)

    second = KeptMux(NEAR)
    second.restore(kept.adopt())
    mine = second.ports[port.number]
    mine.claimed = True
    second.feed(kept.take(1 << 20))
    assert (list(mine.items), mine.closed, mine.error) == ([], True, b"why")
    second.seen(mine)
    tell(second, kept)

    assert kept.lines == {}
    assert kept.adopt()["channels"] == {}


def test_nothing_is_kept_of_a_channel_that_the_near_side_has_closed(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(send(far, theirs, b"unread"))

    near.drop(port)
    kept.from_near(frame(near, f.CLOSE, port.number))
    kept.from_worker(send(far, theirs, b"late"))

    assert kept.adopt()["channels"] == {}
    assert kept.take(1 << 20) == b""


def test_nothing_is_kept_of_a_closed_channel_that_nobody_looks_at(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    kept.from_worker(send(far, theirs, b"unread") + frame(far, f.CLOSE, theirs.number))
    near.feed(kept.take(1 << 20))

    near.drop(port)
    tell(near, kept)

    assert kept.lines == {}


def test_closed_channels_that_the_near_side_never_knew_are_forgotten(kept: Kept, near: KeptMux, far: Mux) -> None:
    port = far.open()
    kept.from_worker(frame(far, f.CLOSE, port.number))
    near.feed(kept.take(1 << 20))

    tell(near, kept)

    assert kept.lines == {}


def test_a_question_is_kept_until_it_is_answered(kept: Kept, near: KeptMux, far: Mux) -> None:
    asked = f.pack_pairs({"number": "_execgw.x", "verb": "module"})
    kept.from_worker(frame(far, f.ASK, 0, asked))
    near.feed(kept.take(1 << 20))

    second = KeptMux(NEAR)
    second.restore(kept.adopt())
    assert second.feed(kept.take(1 << 20)) == [(HEARD, f.ASK, asked)]
    kept.from_near(frame(second, f.TELL, 0, f.pack_pairs({"number": "_execgw.x", "source": "1"})))

    assert kept.asked == {}


def test_answers_to_another_near_side_are_dropped(kept: Kept, near: KeptMux, far: Mux) -> None:
    kept.from_worker(frame(far, f.TELL, 0, f.pack_pairs({"number": "1"})))

    kept.adopt()

    assert kept.take(1 << 20) == b""


# -- what another near side must know


def test_credit_goes_on_where_it_was(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    far.feed(kept.from_near(send(near, port, b"x" * 100) + frame(near, f.CREDIT, 1, f.pack_credit(700))))
    kept.from_worker(frame(far, f.CREDIT, 1, f.pack_credit(900)) + send(far, theirs, b"y" * 10))

    state = kept.adopt()

    assert state["channels"][1] == {
        "sent": 4 + 100 + 2 * FRAME_COST,
        "allowed": 5000 + 900,
        "send_closed": False,
        "unfinished": False,
        "received": 0,
        "granted": 5000 + 700,
        "taken": 0,
        "ended": False,
    }
    assert state["window"] == 5000


def test_an_unfinished_value_of_the_last_near_side_is_told(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, _ = opened(near, far, kept)
    far.feed(kept.from_near(send(near, port, b"half", f.MORE)))

    assert kept.adopt()["channels"][1]["unfinished"]


def test_a_channel_that_was_opened_and_told_is_known_and_its_number_not_used_again(
    kept: Kept, near: KeptMux, far: Mux
) -> None:
    near.open()
    tell(near, kept)

    mux = successor(kept)

    assert list(mux.ports) == [1]
    assert mux.open().number == 3


def test_the_number_of_a_channel_that_was_closed_gives_a_closed_one(kept: Kept, near: KeptMux, far: Mux) -> None:
    first, second = far.open(), far.open()
    kept.from_worker(frame(far, f.CLOSE, second.number))
    near.feed(kept.take(1 << 20))
    tell(near, kept)

    mux = successor(kept)

    assert mux.claim(second.number).closed
    assert not mux.claim(first.number).closed


@pytest.mark.parametrize("before", [0, 2**32 - 4, 2**31 - 4])
def test_sequence_numbers_wrap_for_the_next_near_side_too(before: int) -> None:
    near, far, kept = KeptMux(NEAR), Mux(FAR), Kept()
    kept.from_worker(f.MARKER + far.hello(HELLO))
    near.seq = far.received_seq = kept.near_seq = before
    far.seq = near.received_seq = near.acked = kept.worker_seq = before
    port, theirs = opened(near, far, kept)
    sent = [b"%d" % number for number in range(6)]
    kept.from_worker(b"".join(send(far, theirs, value) for value in sent))
    near.feed(kept.take(1 << 20)[len(f.MARKER) :])
    assert taken(near, port) == b"0"
    far.feed(tell(near, kept))

    mux = successor(kept)
    assert taken(mux, mux.ports[1]) == b"1"
    kept.from_worker(send(far, theirs, b"more"))
    kept.resume(mux.received_seq)
    mux.feed(kept.take(1 << 20))
    far.feed(kept.from_near(send(mux, mux.ports[1], b"back")))

    assert values(mux, 1) == [*sent[2:], b"more"]
    assert taken(far, theirs) == b"back"


# -- rubbish


@pytest.mark.parametrize(
    "payload",
    [b"x", pack_taken({0: 2}), pack_taken({0: ALL}), pack_taken({0: 2**31 + 1})],
    ids=["cut", "even", "no number", "far away"],
)
def test_nonsense_in_what_was_taken_is_an_error(kept: Kept, near: KeptMux, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        kept.from_near(frame(near, f.TAKEN, 0, payload))


@pytest.mark.parametrize("kind", [f.TAKEN, f.ORDER, f.OVER, 0, 200])
def test_a_worker_has_nothing_to_say_in_the_keepers_place(kept: Kept, far: Mux, kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match="no frame"):
        kept.from_worker(frame(far, kind, 0))


def test_a_worker_that_leaves_out_a_frame_breaks_the_rules(kept: Kept, far: Mux) -> None:
    frame(far, f.ACK, 0)

    with pytest.raises(RemoteProtocolError, match="came after"):
        kept.from_worker(frame(far, f.ACK, 0))


def test_a_channel_number_far_away_costs_no_memory(kept: Kept, far: Mux) -> None:
    with pytest.raises(RemoteProtocolError, match="too far"):
        kept.from_worker(frame(far, f.END, 2**31))


def test_a_frame_larger_than_any_is_refused_before_it_has_come(kept: Kept) -> None:
    head = struct.pack("!BBHIIII", f.DATA, 0, 0, 1, 1, 0, f.MAX_FRAME + 1)

    with pytest.raises(RemoteProtocolError, match="no frame"):
        kept.from_worker(head)


def test_an_older_acknowledgement_of_the_worker_takes_nothing_back(kept: Kept, near: KeptMux, far: Mux) -> None:
    port, theirs = opened(near, far, kept)
    answer = send(far, theirs, b"answer")  # before the worker has what the keeper has already
    kept.from_near(send(near, port, b"1") + send(near, port, b"2"))
    kept.speak()
    ack = kept.take(1)
    kept.from_worker(answer)

    near.feed(ack + kept.take(1))

    assert near.newest_ack == near.seq == 3
    assert near.acked == 1


def test_over_is_heard_by_the_near_side_and_no_part_of_the_session(near: KeptMux) -> None:
    near.received_seq = 2**31 + 5
    over = f.HEADER.pack(f.OVER, 0, 0, 0, 0, 0, len(HELLO)) + HELLO

    assert near.feed(over + f.HEADER.pack(f.ACK, 0, 0, 0, 0, 0, 0)) == []

    assert near.over == {"version": "1", "pid": "7"}
