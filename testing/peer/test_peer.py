"""Peer: what send, receive and close do, with both sides in one process (pair.py)."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

import pytest
from pair import Pair

from execgw.peer import blocked
from execgw.wire.errors import ChannelClosed, ConnectionLost, RemoteError, SendBlocked, TimeoutError

PATIENCE = 5.0


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def narrow() -> Iterator[Pair]:
    """A pair whose channels take 16 KiB unread."""
    pair = Pair(window=16 * 1024)
    yield pair
    pair.close()


@pytest.fixture
def beside() -> Callable[..., Future[Any]]:
    """beside(function, *args) runs it in another thread and returns its future."""

    def submit(function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as e:
                future.set_exception(e)

        threading.Thread(target=run, daemon=True).start()
        return future

    return submit


# -- values


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 << 20], ids=str)
def test_bytes_of_every_size_arrive_both_ways(pair: Pair, beside: Any, size: int) -> None:
    here, there = pair.channels()
    value = bytes(range(251)) * (size // 251 + 1)

    sent = beside(here.send, value[:size])
    back = there.receive(PATIENCE)
    answered = beside(there.send, back)

    assert here.receive(PATIENCE) == value[:size]
    sent.result(PATIENCE)
    answered.result(PATIENCE)


def test_values_arrive_in_order_whatever_their_size(pair: Pair, beside: Any) -> None:
    here, there = pair.channels()
    values = [bytes([n % 256]) * size for n, size in enumerate([1, 200_000, 5, 70_000, 0, 1, 1_000_000, 2] * 5)]

    sent = beside(lambda: [here.send(value) for value in values])

    assert [there.receive(PATIENCE) for _ in values] == values
    sent.result(PATIENCE)


def test_a_large_value_leaves_room_for_small_ones_of_other_channels(pair: Pair, beside: Any) -> None:
    here, there = pair.channels()
    other_here, other_there = pair.channels()

    large = beside(here.send, bytes(8 << 20))
    for number in range(50):
        other_here.send(number)

    assert [other_there.receive(PATIENCE) for _ in range(50)] == list(range(50))
    assert len(there.receive(PATIENCE)) == 8 << 20
    large.result(PATIENCE)


def test_what_is_sent_does_not_change_with_the_callers_buffer(pair: Pair) -> None:
    here, there = pair.channels()
    buffer = bytearray(100_000)

    here.send(buffer)
    buffer[:] = b"x" * 100_000

    assert there.receive(PATIENCE) == bytearray(100_000)


def test_many_threads_sending_large_values_on_one_channel_do_not_mix_them(narrow: Pair, beside: Any) -> None:
    here, there = narrow.channels()
    values = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]

    sent = [beside(here.send, value) for value in values for _ in range(5)]
    got = [there.receive(PATIENCE) for _ in sent]

    for one in sent:
        one.result(PATIENCE)
    assert sorted(got) == sorted(values * 5)


# -- corking


def test_small_values_without_an_answer_between_go_out_without_another_call(pair: Pair) -> None:
    here, there = pair.channels()

    for number in range(5):
        here.send(number)

    assert [there.receive(PATIENCE) for _ in range(5)] == list(range(5))


def test_a_corked_value_of_the_far_side_goes_out_though_its_keeper_watches(pair: Pair, eventually: Any) -> None:
    here, there = pair.channels()
    here.send("the far side knows the channel")
    there.receive(PATIENCE)

    for _ in range(20):
        eventually(lambda: pair.far._peer.turn.state == "watching")
        for number in range(3):
            there.send(number)

        assert [here.receive(PATIENCE) for _ in range(3)] == [0, 1, 2]


# -- credit


def test_a_sender_waits_for_the_receiver(narrow: Pair, beside: Any, eventually: Any) -> None:
    here, there = narrow.channels()

    sent = beside(lambda: [here.send(bytes(1000)) for _ in range(100)])
    eventually(lambda: here._port.blocked)

    assert not sent.done()
    assert len(there._port.items) < 40
    assert [len(there.receive(PATIENCE)) for _ in range(100)] == [1000] * 100
    sent.result(PATIENCE)


def test_a_blocked_sender_delays_no_other_channel(narrow: Pair, beside: Any, eventually: Any) -> None:
    here, there = narrow.channels()
    other_here, other_there = narrow.channels()

    sent = beside(lambda: [here.send(bytes(1000)) for _ in range(100)])
    eventually(lambda: here._port.blocked)
    other_here.send("still")
    other_there.send("going")

    assert other_there.receive(PATIENCE) == "still"
    assert other_here.receive(PATIENCE) == "going"
    for _ in range(100):
        there.receive(PATIENCE)
    sent.result(PATIENCE)


def test_two_sides_that_send_much_before_they_receive_both_get_all(narrow: Pair, beside: Any) -> None:
    here, there = narrow.channels()

    def send_and_receive(end: Any) -> list[int]:
        for _ in range(500):
            end.send(bytes(1000))
        return [len(end.receive(PATIENCE)) for _ in range(500)]

    both = [beside(send_and_receive, end) for end in (here, there)]

    assert [one.result(PATIENCE) for one in both] == [[1000] * 500] * 2


def test_two_sides_that_send_without_end_are_told(narrow: Pair, beside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "GROWN_WINDOW", 64 * 1024)
    here, there = narrow.channels()

    def send(end: Any) -> None:
        while True:
            end.send(bytes(1000))

    both = [beside(send, end) for end in (here, there)]

    told = wait(both, PATIENCE, FIRST_EXCEPTION).done
    here.close()

    assert any(isinstance(one.exception(), SendBlocked) for one in told)
    for one in both:
        with pytest.raises(OSError, match=r"cannot send|receive\(\) between the sends"):
            one.result(PATIENCE)


# -- ending


def test_close_here_wakes_who_receives_here(pair: Pair, beside: Any, eventually: Any) -> None:
    for _ in range(50):
        here, _there = pair.channels()
        waiting = beside(here.receive)
        eventually(lambda port=here._port: pair.near._peer.turn.leader is port)

        here.close()

        with pytest.raises(ChannelClosed):
            waiting.result(PATIENCE)


def test_close_with_an_error_raises_it_on_the_other_side(pair: Pair) -> None:
    here, there = pair.channels()

    here.send(1)
    here.close("no more")

    assert there.receive(PATIENCE) == 1
    with pytest.raises(RemoteError, match="no more"):
        there.receive(PATIENCE)
    with pytest.raises(ChannelClosed):
        there.receive(PATIENCE)


def test_close_in_the_middle_of_a_large_value_ends_the_sender(narrow: Pair, beside: Any, eventually: Any) -> None:
    here, there = narrow.channels()
    there.send("known")  # so that what waits unread keeps the large value from being counted as taken
    here.send("first")

    sent = beside(here.send, bytes(1 << 20))
    eventually(lambda: here._port.blocked)
    there.close()

    with pytest.raises(OSError, match="cannot send"):
        sent.result(PATIENCE)
    other_here, other_there = narrow.channels()
    other_here.send("the session lives")
    assert other_there.receive(PATIENCE) == "the session lives"


def test_a_value_given_up_in_the_middle_is_forgotten(narrow: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = narrow.channels()
    peer = narrow.near._peer
    push = peer._push
    calls: list[Any] = []

    def interrupted() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        push()

    monkeypatch.setattr(peer, "_push", interrupted)

    with pytest.raises(KeyboardInterrupt):
        here.send(bytes(400_000))
    here.send("next")

    assert there.receive(PATIENCE) == "next"


def test_the_end_of_the_link_ends_every_waiter_on_both_sides(beside: Any, eventually: Any) -> None:
    pair = Pair()
    ends = [end for _ in range(4) for end in pair.channels()]
    waiting = [beside(end.receive) for end in ends]
    eventually(lambda: all(len(side._peer.turn.parked) == 3 for side in (pair.near, pair.far)))

    pair._theirs.shutdown(2)

    for one in waiting:
        with pytest.raises(ConnectionLost):
            one.result(PATIENCE)
    pair.close()


def test_a_dropped_channel_is_closed_on_both_sides(pair: Pair, eventually: Any) -> None:
    here, there = pair.channels()
    here.send("known")
    there.receive(PATIENCE)

    del here
    gc.collect()

    with pytest.raises(ChannelClosed):
        there.receive(PATIENCE)
    eventually(lambda: not pair.near._peer.mux.ports)


# -- receiving


def test_a_timeout_of_zero_only_looks(pair: Pair) -> None:
    here, _there = pair.channels()

    with pytest.raises(TimeoutError):
        here.receive(0)


def test_a_parked_thread_leads_when_the_leader_goes(pair: Pair, beside: Any, eventually: Any) -> None:
    first, first_there = pair.channels()
    second, second_there = pair.channels()
    turn = pair.near._peer.turn
    leads = beside(first.receive)
    eventually(lambda: turn.leader is first._port)
    parks = beside(second.receive)
    eventually(lambda: turn.parked)

    first_there.send(1)
    leads.result(PATIENCE)
    eventually(lambda: turn.leader is second._port)
    second_there.send(2)

    assert parks.result(PATIENCE) == 2


def test_the_keeper_reads_again_when_nobody_waits(pair: Pair, eventually: Any) -> None:
    here, there = pair.channels()
    there.send(1)
    here.receive(PATIENCE)

    there.send(2)

    eventually(lambda: here._port.items)
    assert pair.near._peer.turn.state == "watching"


def test_a_wake_that_comes_before_the_wait_is_not_lost(pair: Pair, beside: Any) -> None:
    link = pair.near._peer.link
    beside(link.wait, 0).result(PATIENCE)  # the thread that it would go to has gone

    link.wake()
    woken = threading.Event()
    beside(lambda: (link.wait(PATIENCE), woken.set()))

    assert woken.wait(PATIENCE / 2)
