"""Values come back as they were, what cannot travel is refused by its path, and damaged bytes are LoadErrors."""

from __future__ import annotations

import array
import collections
import enum
import pickle
import re
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from value_corpus import IDS, KINDS_OF_CONTAINER, LEVELS, PROTOCOLS, VALUES, nested, same, there_and_back, values

import execgw
from execgw.wire.codec import BUFFERS, BYTES, FLOAT, INT, TEXT, Codec
from execgw.wire.errors import DumpError, LoadError

# -- round trips


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trusted", LEVELS)
@pytest.mark.parametrize("value", VALUES, ids=IDS)
def test_every_kind_of_value_comes_back_equal_and_of_the_same_type(value: Any, trusted: bool, protocol: int) -> None:
    assert same(there_and_back(value, trusted, protocol), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trusted", LEVELS)
@given(value=values)
def test_any_value_comes_back_equal_and_of_the_same_type(value: Any, trusted: bool, protocol: int) -> None:
    assert same(there_and_back(value, trusted, protocol), value)


@given(value=values)
def test_a_value_in_pieces_is_the_same_value(value: Any) -> None:
    form, data = Codec().encode(value)
    joined = b"".join(data) if isinstance(data, list) else data

    pieces = [memoryview(joined)[at : at + 7] for at in range(0, len(joined), 7)] or [b""]

    assert same(Codec().decode(form, pieces), value)


def test_scalars_text_and_bytes_do_not_need_the_pickler() -> None:
    codec = Codec()

    forms = [codec.encode(value)[0] for value in (1, 1.5, "text", b"bytes")]

    assert forms == [INT, FLOAT, TEXT, BYTES]


def test_shared_objects_arrive_as_copies() -> None:
    shared = ["shared"]

    one, two = there_and_back([shared, shared])

    assert one == two == ["shared"]
    assert one is not two


@pytest.mark.parametrize("trusted", LEVELS)
@pytest.mark.parametrize("kind", KINDS_OF_CONTAINER)
def test_two_hundred_levels_of_nesting_are_no_problem(kind: Any, trusted: bool) -> None:
    value = nested(200, kind)

    assert there_and_back(value, trusted) == value


def test_a_codec_works_on_after_a_refusal() -> None:
    codec = Codec()

    with pytest.raises(DumpError):
        codec.encode([1, object()])

    form, data = codec.encode([1, 2])
    assert codec.decode(form, data) == [1, 2]


# -- buffers


@pytest.mark.parametrize("trusted", LEVELS)
@pytest.mark.parametrize(
    "view",
    [
        memoryview(b""),
        memoryview(b"abc"),
        memoryview(bytearray(b"x" * 100_000)),
        memoryview(array.array("d", [1.5, -2.5])),
        memoryview(b"abcdef").cast("B", (2, 3)),
    ],
    ids=["empty", "bytes", "big", "double", "matrix"],
)
def test_a_memoryview_keeps_its_format_and_shape(view: memoryview, trusted: bool) -> None:
    again = there_and_back({"view": view, "more": [view]}, trusted)

    assert again["view"] == view
    assert again["more"] == [view]
    assert (again["view"].format, again["view"].shape) == (view.format, view.shape)


def test_a_memoryview_with_gaps_arrives_as_its_bytes() -> None:
    view = memoryview(b"a-b-c-")[::2]

    assert there_and_back(view).tobytes() == b"abc"


@pytest.mark.parametrize("trusted", LEVELS)
@pytest.mark.parametrize("typecode", "bBhHiIlLqQfd")
def test_an_array_keeps_its_type(typecode: str, trusted: bool) -> None:
    value = array.array(typecode, [1, 2, 100])

    again = there_and_back([value, array.array(typecode)], trusted)

    assert again == [value, array.array(typecode)]
    assert again[0].typecode == typecode


@pytest.mark.parametrize("trusted", LEVELS)
def test_a_numpy_array_keeps_its_type_and_shape(trusted: bool) -> None:
    numpy = pytest.importorskip("numpy")
    value = numpy.arange(12, dtype=">i2").reshape(3, 4)[:, ::2]

    again = there_and_back([value], trusted)[0]

    assert again.dtype == value.dtype
    assert numpy.array_equal(again, value)


def test_a_big_buffer_is_not_copied_by_encoding() -> None:
    block = bytearray(100_000)

    form, pieces = Codec().encode([memoryview(block)])
    block[0] = 7

    assert form == BUFFERS
    assert pieces[-1][0] == 7


def test_one_buffer_cannot_be_asked_for_twice() -> None:
    """Each time would make another copy: a small frame, much memory."""
    form, pieces = Codec(trusted=False).encode([array.array("b", bytes(1000))])
    head = pieces[1]
    item = head[head.index(b"]") + 1 : head.rindex(b"a")]
    twice = b"\x80\x05](" + item[item.index(b"\x8c") :] * 2 + b"e."
    count = pieces[0][:4]
    data = b"".join([count, len(twice).to_bytes(8, "big"), pieces[0][12:], twice, *pieces[2:]])

    with pytest.raises(LoadError, match="buffer"):
        Codec(trusted=False).decode(form, data)


# -- what cannot travel


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Colour.RED, "int"),
        (Text("x"), "str"),
        (Point(1, 2), "tuple"),
        (collections.OrderedDict(a=1), "dict"),
        (collections.defaultdict(list), "dict"),
        (collections.Counter("a"), "dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_is_refused_and_the_message_says_how_to_send_it(value: Any, name: str, protocol: int) -> None:
    with pytest.raises(DumpError) as caught:
        Codec(protocol).encode({"rows": [0, value]})

    assert str(caught.value) == (
        f"value['rows'][1]: cannot send {type(value)!r}, a subclass of {name}; send {name}(it)"
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "thing",
    [
        object(),
        object,
        int,
        set,
        complex,
        bytes,
        len,
        lambda: 0,
        test_shared_objects_arrive_as_copies,
        pickle,
        range(3),
        iter([]),
        re.compile("x"),
        ValueError("x"),
        Ellipsis,
        slice(1),
        Codec,
        array.array("u"),
    ],
    ids=lambda thing: getattr(thing, "__name__", type(thing).__name__),
)
def test_other_objects_are_refused_with_their_path(thing: Any, protocol: int) -> None:
    with pytest.raises(DumpError) as caught:
        Codec(protocol).encode({"rows": [0, (1, thing)]})

    assert str(caught.value).startswith(f"value['rows'][1][1]: cannot send {type(thing)!r}")


def test_a_socket_in_a_table_is_named_by_its_exact_path() -> None:
    with socket.socket() as sock, pytest.raises(DumpError) as caught:
        Codec().encode({"rows": [1, 2, 3, sock]})

    assert str(caught.value) == "value['rows'][3]: cannot send <class 'socket.socket'>"


def test_the_bare_value_is_called_value() -> None:
    with pytest.raises(DumpError) as caught:
        Codec().encode(len)

    assert str(caught.value) == "value: cannot send <class 'builtin_function_or_method'>"


def test_a_bad_key_and_a_bad_set_item_are_named() -> None:
    with pytest.raises(DumpError, match=re.escape("value key <class 'int'>: cannot send <class 'type'>")):
        Codec().encode({int: 1})
    with pytest.raises(DumpError, match=re.escape("value[0] item <class 'int'>: cannot send <class 'type'>")):
        Codec().encode([{int}])


def test_the_first_bad_item_is_the_one_that_is_named() -> None:
    with pytest.raises(DumpError) as caught:
        Codec().encode([1, {"a": [len]}, object()])

    assert str(caught.value).startswith("value[1]['a'][0]: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hook_of_an_object_that_raises_is_a_dump_error(protocol: int) -> None:
    class Evil:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise KeyError("boom")

    with pytest.raises(DumpError, match=r"value\[0\]: cannot send .*Evil"):
        Codec(protocol).encode([Evil()])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cycle_is_refused_with_its_path(protocol: int) -> None:
    value: dict[str, Any] = {"a": [0]}
    value["a"].append(value)

    with pytest.raises(DumpError) as caught:
        Codec(protocol).encode(value)

    assert str(caught.value) == "value['a'][1]: a dict that contains itself"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS_OF_CONTAINER)
def test_a_hundred_thousand_levels_of_nesting_are_refused(kind: Any, protocol: int) -> None:
    with pytest.raises(DumpError, match="nested deeper than"):
        Codec(protocol).encode(nested(100_000, kind))


@pytest.mark.parametrize("kind", KINDS_OF_CONTAINER)
def test_what_is_not_too_deep_to_send_is_not_too_deep_to_read(kind: Any) -> None:
    deepest = 0
    for depth in (300, 390, 400, 410, 500, 900):
        try:
            data = execgw.dumps(nested(depth, kind))
        except DumpError:
            break
        value, again = nested(depth, kind), execgw.loads(data)
        while value is not None:  # comparing them at once would be too deep
            assert type(again) is type(value)
            (value,), (again,) = (list(v.values()) if isinstance(v, dict) else v for v in (value, again))
        assert again is None
        deepest = depth

    assert deepest >= 300


@given(number=st.integers(max_value=-(2**31) - 1))
@example(-(2**31) - 1)
def test_an_int_below_minus_two_to_the_31_can_be_sent(number: int) -> None:
    assert there_and_back(number) == number
    assert execgw.loads(execgw.dumps([number])) == [number]
