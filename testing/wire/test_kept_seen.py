"""Kept for a near side that nobody will ever follow: what it has seen is forgotten, whatever its code has taken."""

from __future__ import annotations

import mux_frames
from mux_frames import NEAR, frame, send

from execgw.wire import frames as f
from execgw.wire.kept import Kept
from execgw.wire.mux import Mux

far = mux_frames.far  # fixture


def test_a_near_side_that_never_says_what_is_taken_makes_nothing_be_kept_but_what_it_has_not_seen(far: Mux) -> None:
    near, kept = Mux(NEAR), Kept(adoptable=False)
    kept.from_worker(f.MARKER + far.hello(f.pack_pairs({"version": "1"})))
    port = near.open()
    kept.from_near(frame(near, f.EXEC, port.number, b"code"))
    theirs = far.claim(port.number)
    near.feed(kept.take(1 << 20)[len(f.MARKER) :])
    for _ in range(9):
        kept.from_worker(send(far, theirs, b"value"))
        near.feed(kept.take(1 << 20))
        kept.from_near(frame(near, f.ACK, 0))

    assert kept.unseen_size == 0
    assert not kept.lines


def test_channels_and_questions_without_end_cost_nothing_once_they_are_seen(far: Mux) -> None:
    near, kept = Mux(NEAR), Kept(adoptable=False)
    kept.from_worker(f.MARKER + far.hello(f.pack_pairs({"version": "1"})))
    near.feed(kept.take(1 << 20)[len(f.MARKER) :])
    for number in range(9):
        kept.from_worker(send(far, far.open(), b"value"))
        kept.from_worker(frame(far, f.ASK, 0, f.pack_pairs({"number": str(number), "verb": "module"})))
        near.feed(kept.take(1 << 20))
        kept.from_near(frame(near, f.ACK, 0))

    assert (kept.unseen_size, kept.lines, kept.asked) == (0, {}, {})
