"""Changes of a file: whatever the two versions are, the second comes out; what is the same does not travel."""

from __future__ import annotations

import io
import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import noise

from execgw.peer.trees import delta


class Rebuilt:
    """What a receiver makes of copies and literals."""

    def __init__(self, old: bytes) -> None:
        self.old = old
        self.parts: list[bytes] = []
        self.literals = 0

    def copy(self, offset: int, length: int) -> None:
        assert offset >= 0 and length > 0 and offset + length <= len(self.old)
        self.parts.append(self.old[offset : offset + length])

    def literal(self, data: bytes) -> None:
        self.parts.append(data)
        self.literals += len(data)


def described(old: bytes) -> list[bytes]:
    messages: list[bytes] = []
    with tempfile.TemporaryFile() as file:
        file.write(old)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        delta.describe(7, file.fileno(), len(old), messages.append)
    return messages


def rebuild(old: bytes, new: bytes) -> Rebuilt:
    messages = described(old)
    blocks = delta.Blocks(1 << 20)
    rest = iter(messages)

    def want(index: int) -> bool:
        while index >= len(blocks.anchors) and not blocks.complete:
            blocks.add(next(rest))
        return index < len(blocks.anchors)

    rebuilt = Rebuilt(old)
    delta.Search(blocks, io.BytesIO(new).read, want, rebuilt).run()
    assert b"".join(rebuilt.parts) == new
    return rebuilt


# Pieces that repeat, so that blocks match in many places, and wrongly.
pieces = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.tuples(st.integers(0, 3), st.integers(1, 9000)).map(lambda seed: noise(seed[1], seed[0])),
        st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 4000)).map(lambda run: run[0] * run[1]),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(pieces, pieces)
def test_the_new_file_comes_out_whatever_the_old_one_was(old: bytes, new: bytes) -> None:
    rebuild(old, new)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5), st.data())
def test_the_new_file_comes_out_after_any_edits(seed: int, data: st.DataObject) -> None:
    old = noise(60_000, seed)
    new = old
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(new)))
        cut = data.draw(st.integers(0, 5000))
        new = new[:at] + data.draw(st.binary(max_size=60)) + new[at + cut :]

    rebuild(old, new)


BIG = noise(24 << 20)


@pytest.mark.parametrize(
    ("what", "new", "most"),
    [
        ("nothing", BIG, 0),
        ("a byte at the front", b"!" + BIG, 1),
        ("a byte in the middle", BIG[: 12 << 20] + b"!" + BIG[12 << 20 :], 40_000),
        ("a cut at the front", BIG[12345:], 40_000),
        ("three megabytes taken out", BIG[: 8 << 20] + BIG[(11 << 20) + 77 :], 80_000),
        ("halves that changed places", BIG[13 << 20 :] + BIG[: 13 << 20], 80_000),
        ("a replaced block", BIG[: 5 << 20] + noise(70_000, 1) + BIG[(5 << 20) + 70_000 :], 140_000),
        ("two megabytes put in", BIG[: 8 << 20] + noise(2 << 20, 1) + BIG[8 << 20 :], 4 << 20),
        ("more at the end", BIG + noise(100, 1), 40_000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_the_same_does_not_travel(what: str, new: bytes, most: int) -> None:
    rebuilt = rebuild(BIG, new)

    assert rebuilt.literals <= most, what


def test_the_descriptions_of_a_big_file_are_below_a_tenth_of_a_percent() -> None:
    messages = described(BIG)

    assert sum(map(len, messages)) < len(BIG) / 500
    assert delta.block_size(4 << 30) == 256 * 1024


def test_descriptions_that_cannot_be_are_refused() -> None:
    message = described(noise(50_000))[0]
    blocks = delta.Blocks(1 << 20)

    with pytest.raises(ValueError, match="does not follow"):
        blocks.add(message[:-1])
    blocks.add(message)
    with pytest.raises(ValueError, match="does not follow"):
        blocks.add(message)


def test_no_more_descriptions_are_kept_than_are_of_use() -> None:
    blocks = delta.Blocks(100)

    for message in described(noise(1 << 20)):
        blocks.add(message)

    assert (blocks.complete, blocks.count, len(blocks.anchors), len(blocks.hashes)) == (True, 256, 100, 100)
