"""dumps, loads, dump and load: values as bytes, whatever the bytes; and two kinds of value with rules of their own."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from value_corpus import IDS, LEVELS, PROTOCOLS, VALUES, same, there_and_back, values

import execgw
from execgw.wire.codec import PICKLE, Codec
from execgw.wire.errors import DumpError, LoadError

# -- dumps, loads, dump, load


@given(value=values)
def test_loads_undoes_dumps(value: Any) -> None:
    assert same(execgw.loads(execgw.dumps(value)), value)


@given(items=st.lists(values, max_size=4))
def test_load_reads_one_after_the_other_what_dump_wrote(items: list[Any]) -> None:
    file = io.BytesIO()
    for item in items:
        execgw.dump(file, item)
    file.seek(0)

    again = [execgw.load(file) for _ in items]

    assert same(again, items)
    with pytest.raises(LoadError):
        execgw.load(file)


def test_dumps_refuses_what_send_refuses() -> None:
    with pytest.raises(DumpError, match=r"value\[1\]: cannot send"):
        execgw.dumps([1, object()])


@given(value=values, data=st.data())
def test_truncated_data_is_a_load_error(value: Any, data: st.DataObject) -> None:
    whole = execgw.dumps(value)
    size = data.draw(st.integers(0, len(whole) - 1))

    try:
        again = execgw.loads(whole[:size])
    except LoadError:
        return

    # Text and bytes have no end of their own: a shorter one is another value, not a damaged one.
    assert type(value) in (str, bytes)
    assert type(again) is type(value)


@pytest.mark.parametrize("value", VALUES[:13] + [VALUES[-8]], ids=IDS[:13] + [IDS[-8]])
def test_every_prefix_of_a_number_or_a_tree_is_a_load_error(value: Any) -> None:
    whole = execgw.dumps(value)

    for size in range(len(whole)):
        with pytest.raises(LoadError):
            execgw.loads(whole[:size])


@given(value=values, changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_data_is_a_load_error_and_nothing_else(value: Any, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(execgw.dumps(value))
    for at, byte in changes:
        damaged[at % len(damaged)] = byte

    try:
        execgw.loads(bytes(damaged))  # a changed digit may well be a value
    except LoadError:
        pass


@given(data=st.binary())
@example(b"")
@example(b"\x80\x04.")
@example(b"execgw\x01")
def test_garbage_is_a_load_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(LoadError):
        execgw.loads(data)


@pytest.mark.parametrize("form", range(12))
@pytest.mark.parametrize("trusted", LEVELS)
@given(data=st.binary())
def test_garbage_of_any_format_is_a_value_or_a_load_error(form: int, trusted: bool, data: bytes) -> None:
    if form == PICKLE and trusted:
        return  # a child of our own may crash us anyway
    try:
        Codec(trusted=trusted).decode(form, data)
    except LoadError:
        pass


@given(value=values)
def test_every_prefix_in_a_file_is_a_load_error(value: Any) -> None:
    file = io.BytesIO()
    execgw.dump(file, value)
    whole = file.getvalue()

    for size in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1} - {len(whole)}:
        with pytest.raises(LoadError):
            execgw.load(io.BytesIO(whole[:size]))


def test_a_length_that_lies_does_not_allocate_it() -> None:
    with pytest.raises(LoadError, match="announced"):
        execgw.load(io.BytesIO((1 << 60).to_bytes(8, "big") + b"execgw\x01"))


# -- strings of Python 2


def test_a_string_of_python_2_is_bytes_or_text_as_asked() -> None:
    for written in (b"execgw\x01\x07caf\xe9", b"execgw\x01\x00\x80\x02U\x04caf\xe9."):
        assert execgw.loads(written) == b"caf\xe9"
        assert execgw.loads(written, py2str_as_py3str=True) == "caf\xe9"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_string_of_python_2_in_a_value_with_many_risky_keys_follows_the_same_rule(as_text: bool) -> None:
    table = {float(i): 0 for i in range(3000)}
    form, data = Codec(2).encode(table)
    assert form == PICKLE
    joined = b"".join(data) if isinstance(data, list) else data
    pair = joined[:-1] + b"U\x04caf\xe9\x86."

    again = Codec(trusted=False).coercing(as_text, False).decode(PICKLE, pair)

    assert again == (table, "caf\xe9" if as_text else b"caf\xe9")


# -- frozensets: the pickler in C loses count of them in fast mode


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trusted", LEVELS)
def test_a_value_may_hold_many_frozensets(trusted: bool, protocol: int) -> None:
    value = [frozenset([i, frozenset([i, (frozenset(), "x")])]) for i in range(100)]
    table = {"list": value, frozenset([1]): {frozenset([2]): set(value)}, "tuple": tuple(value)}

    assert same(there_and_back(table, trusted, protocol), table)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_values_with_frozensets_may_follow_each_other(protocol: int) -> None:
    codec = Codec(protocol)

    for i in range(300):
        value = [[frozenset([i])], {i: frozenset(["x"])}]
        form, data = codec.encode(value)
        assert codec.decode(form, b"".join(data) if isinstance(data, list) else data) == value


def test_what_is_refused_after_many_frozensets_is_still_named() -> None:
    value: list[Any] = [frozenset([i]) for i in range(100)]

    with pytest.raises(DumpError, match=r"value\[100\]: cannot send"):
        Codec().encode([*value, object()])
    value.append(value)
    with pytest.raises(DumpError, match=r"value\[100\]: a list that contains itself"):
        Codec().encode(value)
