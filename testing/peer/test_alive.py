"""peer/alive.py, look by look: who is silent, and who only did not look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pair import Pair

from execgw.peer import alive
from execgw.peer.alive import LOOKS, Watch
from execgw.wire import frames as f


class Clock:
    """A time that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(alive, "clock", clock)
    return clock


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def look(watch: Watch, pair: Pair, clock: Clock, times: int = 1) -> list[bool]:
    seen = []
    for _ in range(times):
        clock.now += watch.pause
        seen.append(watch.look(pair.near._peer))
    return seen


def test_silence_is_told_before_the_time_is_over(clock, pair):
    watch = Watch(8.0)

    assert look(watch, pair, clock, LOOKS) == [True] * (LOOKS - 1) + [False]


def test_a_byte_gives_the_whole_time_again(clock, pair, eventually):
    watch = Watch(8.0)
    look(watch, pair, clock, LOOKS - 1)

    pair.far._peer.control(f.ACK, 0)
    eventually(lambda: pair.near._peer.mux.received_seq == 1)

    assert look(watch, pair, clock, LOOKS) == [True] * (LOOKS - 1) + [False]


def test_a_piece_of_a_frame_counts(clock, pair, eventually):
    watch = Watch(8.0)
    near = pair.near._peer
    look(watch, pair, clock, LOOKS - 1)

    head = pair.far._peer.mux.header(f.DATA, 0, 1, 1, 1000)
    pair.far._peer.link.write([head + b"x" * 10])
    eventually(lambda: near.mux.reader._missing == 990)

    assert look(watch, pair, clock) == [True]


def test_who_did_not_look_for_long_gives_the_whole_time_again(clock, pair):
    watch = Watch(8.0)
    look(watch, pair, clock, LOOKS - 1)

    clock.now += 100

    assert look(watch, pair, clock, LOOKS) == [True] * (LOOKS - 1) + [False]


def test_something_is_said_at_every_second_look_and_not_while_others_speak(clock, pair, eventually):
    watch = Watch(8.0)
    near, far = pair.near._peer, pair.far._peer

    for said in (1, 2):
        look(watch, pair, clock, 2)
        # What still waits to be written is not said twice, and the keeper writes when it comes to it.
        eventually(lambda said=said: far.mux.received_seq == said)
    near.control(f.ACK, 0)
    look(watch, pair, clock)

    assert near.mux.seq == 3
