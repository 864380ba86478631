"""What is kept of written frames: any cuts, any link that takes any part, any acknowledgement; the stream is whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execgw.transports.resume import Ring
from execgw.wire import frames as f

HELLO = f.HEADER.pack(f.HELLO, 0, 0, 0, 0, 0, 3) + b"hey"


def frame(seq: int, size: int = 10) -> bytes:
    return f.HEADER.pack(f.DATA, 0, 1, 1, seq & 0xFFFFFFFF, 0, size) + bytes(seq % 251 for _ in range(size))


def taken(ring: Ring, size: int = 1 << 30) -> bytes:
    """What a link that takes at most *size* bytes gets."""
    out = b""
    while len(out) < size and (pieces := ring.next()):
        data = b"".join(pieces)[: size - len(out)]
        ring.sent(len(data))
        out += data
    return out


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    while data:
        size = sizes.pop(0) if sizes else len(data)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), max_size=12), st.lists(st.integers(1, 90), max_size=60))
def test_frames_go_out_as_they_were_written_however_they_were_cut(sizes: list[int], cuts: list[int]) -> None:
    stream = HELLO + b"".join(frame(1 + n, size) for n, size in enumerate(sizes))
    ring = Ring()

    for piece in cut(stream, cuts):
        assert ring.add([memoryview(piece)]) == len(piece)

    assert taken(ring) == stream


@settings(deadline=None)
@given(st.data())
def test_whatever_a_link_took_the_next_one_goes_on_behind_what_arrived(data: st.DataObject) -> None:
    frames = [frame(1 + n, data.draw(st.integers(0, 40))) for n in range(8)]
    ring = Ring()
    ring.add([HELLO, *frames])
    arrived = 0  # frames that the other side has
    for _ in range(data.draw(st.integers(0, 5))):
        there = taken(ring, data.draw(st.integers(0, 300)))[: data.draw(st.integers(0, 300))]
        if arrived or there.startswith(HELLO):
            there = there.removeprefix(HELLO)
            while arrived < 8 and there.startswith(frames[arrived]):
                there = there[len(frames[arrived]) :]
                arrived += 1
            assert arrived == 8 or frames[arrived].startswith(there)
        if data.draw(st.booleans()):
            ring.trim(data.draw(st.integers(0, arrived)))
        assert ring.rewind(arrived or None)

    rest = taken(ring)

    assert rest == (b"" if arrived else HELLO) + b"".join(frames[arrived:])


def test_what_is_acknowledged_is_forgotten_and_what_the_link_has_not_taken_is_not() -> None:
    ring = Ring()
    ring.add([HELLO, frame(1), frame(2), frame(3)])
    taken(ring, len(HELLO) + 2 * len(frame(1)))

    ring.trim(3)

    assert ring.size == len(frame(3)) + 96
    assert taken(ring) == frame(3)


def test_numbers_start_again_behind_the_largest() -> None:
    last = (1 << 32) - 1
    ring = Ring()
    ring.add([frame(last), frame(0x100000000), frame(1)][::2])
    taken(ring)

    assert ring.rewind(last - 1)
    assert taken(ring) == frame(last) + frame(1)


def test_a_full_ring_takes_the_rest_of_a_frame_that_it_has_begun_and_no_more() -> None:
    ring = Ring(most=500)
    whole = frame(1, 600)

    assert ring.add([whole[:100], whole[100:], frame(2)]) == len(whole)
    assert ring.add([frame(2)]) == 0

    taken(ring)
    ring.trim(1)
    assert ring.add([frame(2)]) == len(frame(2))


def test_a_side_that_has_less_than_what_was_forgotten_is_found_out() -> None:
    ring = Ring()
    ring.add([frame(1), frame(2), frame(3)])
    taken(ring)
    ring.trim(2)

    assert not ring.rewind(1)


def test_a_side_that_has_more_than_was_ever_written_is_found_out() -> None:
    ring = Ring()
    ring.add([frame(1), frame(2)])

    assert ring.rewind(2)
    assert not ring.rewind(3)


def test_a_session_that_was_taken_over_goes_on_behind_what_another_process_has_written() -> None:
    ring = Ring()

    assert ring.rewind(5)
    ring.add([frame(6)])
    assert ring.rewind(5)

    assert taken(ring) == frame(6)


def test_bytes_that_change_after_they_were_written_go_out_as_they_were() -> None:
    ring = Ring()
    owned = bytearray(frame(1))
    ring.add([memoryview(owned)])

    owned[-1] ^= 255

    assert taken(ring) == frame(1)


@pytest.mark.parametrize("had", [None, 0])
def test_the_hello_comes_again_until_the_other_side_has_it(had: int | None) -> None:
    ring = Ring()
    ring.add([HELLO, frame(1)])
    taken(ring)

    ring.rewind(had)

    assert taken(ring) == (HELLO if had is None else b"") + frame(1)
