"""FrameReader: byte strings in, frames out, however the stream is cut."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execgw.wire import frames as f
from execgw.wire.errors import RemoteProtocolError
from execgw.wire.frames import HEADER, HEADER_SIZE, MAX_FRAME, FrameReader

u32 = st.integers(0, 2**32 - 1)
frames = st.lists(
    st.tuples(
        st.integers(1, f.LAST_KIND),
        st.integers(0, 255),
        st.integers(0, 2**16 - 1),
        u32,
        u32,
        u32,
        st.binary(max_size=50) | st.integers(4000, 9000).map(lambda size: b"x" * size),
    ),
    max_size=8,
)


def pack(kind: int, flags: int, form: int, channel: int, seq: int, ack: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, flags, form, channel, seq, ack, len(payload)) + payload


def joined(found: list[Any]) -> list[Any]:
    """Frames with their payloads in one piece."""
    return [(*frame[:6], b"".join(frame[6]) if isinstance(frame[6], list) else frame[6]) for frame in found]


@given(sent=frames, data=st.data())
def test_any_split_of_the_stream_gives_the_same_frames(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(pack(*frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    reader = FrameReader()

    got = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:stop])

    assert joined(got) == sent


def test_one_byte_at_a_time_gives_the_same_frames() -> None:
    sent = [(f.DATA, 0, 3, 1, 1, 0, b"payload"), (f.END, 0, 0, 1, 2, 0, b""), (f.DATA, 1, 0, 3, 3, 0, b"x")]
    reader = FrameReader()

    got = [frame for byte in b"".join(pack(*frame) for frame in sent) for frame in reader.feed(bytes([byte]))]

    assert joined(got) == sent


def test_half_a_header_waits_for_the_rest() -> None:
    frame = (f.DATA, 0, 3, 1, 1, 0, b"payload")
    stream = pack(*frame)
    reader = FrameReader()

    assert reader.feed(stream[:10]) == []
    assert reader.feed(b"") == []
    assert joined(reader.feed(stream[10:])) == [frame]


def test_half_a_payload_waits_for_the_rest() -> None:
    frame = (f.DATA, 0, 3, 1, 1, 0, b"payload")
    stream = pack(*frame)
    reader = FrameReader()

    assert reader.feed(stream[:HEADER_SIZE]) == []
    assert reader.feed(stream[HEADER_SIZE:-1]) == []
    assert joined(reader.feed(stream[-1:])) == [frame]


def test_a_large_payload_is_not_joined_again_and_again() -> None:
    payload = bytes(MAX_FRAME)
    stream = pack(f.DATA, 0, 1, 1, 1, 0, payload)
    reader = FrameReader()

    tracemalloc.start()
    got = [frame for at in range(0, len(stream), 1000) for frame in reader.feed(stream[at : at + 1000])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert joined(got)[0][6] == payload
    assert peak < 1.5 * MAX_FRAME


def test_the_largest_frame_is_let_in() -> None:
    (frame,) = FrameReader().feed(pack(f.DATA, 0, 1, 1, 1, 0, bytes(MAX_FRAME)))

    assert len(frame[6]) == MAX_FRAME


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_anything_is_allocated(size: int) -> None:
    header = HEADER.pack(f.DATA, 0, 1, 1, 1, 0, size)
    reader = FrameReader()

    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
        reader.feed(header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 64 * 1024


@pytest.mark.parametrize("kind", [0, f.LAST_KIND + 1, 0x48, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"kind {kind}"):
        FrameReader().feed(HEADER.pack(kind, 0, 0, 0, 1, 0, 0))


@given(data=st.binary(max_size=200))
def test_rubbish_is_a_remote_protocol_error_or_waits(data: bytes) -> None:
    reader = FrameReader()
    try:
        for _ in range(3):
            reader.feed(data)
    except RemoteProtocolError:
        pass


# -- names and texts of a HELLO, and credit


@given(pairs=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
def test_pairs_come_back_as_they_were(pairs: dict[str, str]) -> None:
    assert f.unpack_pairs(f.pack_pairs(pairs)) == pairs


@given(data=st.binary())
def test_rubbish_pairs_are_a_remote_protocol_error_and_nothing_else(data: bytes) -> None:
    try:
        f.unpack_pairs(data)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize("size", [0, 1, 3, 5])
def test_truncated_pairs_are_refused(size: int) -> None:
    whole = f.pack_pairs({"version": "1", "id": "gw0"})

    if size:
        with pytest.raises(RemoteProtocolError):
            f.unpack_pairs(whole[:-size])
    else:
        assert f.unpack_pairs(whole) == {"version": "1", "id": "gw0"}


@given(amount=st.integers(0, 2**64 - 1))
def test_credit_comes_back_as_it_was(amount: int) -> None:
    assert f.unpack_credit(f.pack_credit(amount)) == amount


@pytest.mark.parametrize("payload", [b"", b"1234567", b"123456789"])
def test_credit_of_another_size_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="CREDIT"):
        f.unpack_credit(payload)


def test_the_start_marker_shows_what_a_terminal_does() -> None:
    assert f.MARKER.startswith(f.MANGLED)
    assert f.MARKER not in f.MARKER.replace(b"\n", b"\r\n")
    assert f.MANGLED in f.MARKER.replace(b"\n", b"\r\n")
