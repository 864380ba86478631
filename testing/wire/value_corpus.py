"""Values for tests of the wire: a fixed list of awkward ones, a hypothesis strategy, and equality that minds types."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import strategies as st

from execgw.wire.codec import Codec

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**31 - 1,
    -(2**31),
    -(2**31) - 1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**2040,
    -(2**5000),
    0.0,
    -0.0,
    1e-320,
    float("inf"),
    float("-inf"),
    float("nan"),
    0j,
    complex(-0.0, float("inf")),
    b"",
    b"\x80\x02.",
    bytes(range(256)),
    b"x" * 70_000,
    bytearray(),
    bytearray(b"\x00\xff" * 200),
    bytearray(70_000),
    "",
    "plain",
    "grüße \u20ac \U0001f600 \x00",
    "x" * 70_000,
    "\u20ac" * 300,
    "\ud800 a lone surrogate \udfff",
    [],
    (),
    {},
    set(),
    frozenset(),
    [[]],
    ((),),
    (1,),
    (1, "a"),
    (1, 2, 3),
    (1, 2, 3, 4),
    [None, True, 1, 2.0, 3j, b"b", bytearray(b"c"), "d", [1], (2,), {3: 4}, {5}, frozenset([6])],
    {"key": {"key": [{"key": ()}]}},
    {1: "int", "1": "text", (1, 2): "tuple", None: "none", 2.5: "float", frozenset([1]): "frozen"},
    {(1, (2, frozenset([(3, "x")]))): 1},
    {b"bytes", 1, 2.5, None, (1,), frozenset([2])},
    list(range(3000)),
    {str(i): [i, float(i)] for i in range(500)},
]

IDS = [f"{i}-{type(value).__name__}" for i, value in enumerate(VALUES)]

# -- for hypothesis

# Keys are drawn without NaN: it equals nothing, so two dicts with it cannot be compared.
keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.binary()
    | st.text(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
surrogates = st.text(st.characters(min_codepoint=0xD780, max_codepoint=0xE080), min_size=1)
scalars = keys | st.floats() | st.complex_numbers() | st.binary().map(bytearray) | surrogates
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(keys, inner, max_size=6)
        | st.sets(keys, max_size=6)
        | st.frozensets(keys, max_size=6)
    ),
    max_leaves=20,
)


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal in value and type, at every depth; NaN is the same as NaN, and 0.0 is not -0.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(two)) or (one == two and math.copysign(1, one) == math.copysign(1, two))
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        # Dicts keep their order; equal keys may differ in type (1 and 1.0), so the pairs are compared.
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (set, frozenset)):
        return one == two and sorted(map(_shape, one)) == sorted(map(_shape, two))
    return bool(one == two)


def _shape(value: Any) -> str:
    if isinstance(value, frozenset):
        return "frozenset(" + ",".join(sorted(map(_shape, value))) + ")"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_shape, value)) + ")"
    return f"{type(value).__name__} {value!r}"


LEVELS = [pytest.param(True, id="trusted"), pytest.param(False, id="untrusted")]
PROTOCOLS = [2, 4, 5]
KINDS_OF_CONTAINER = [list, tuple, lambda inner: {1: inner[0]}]


def there_and_back(value: Any, trusted: bool = True, protocol: int = 5) -> Any:
    form, data = Codec(protocol).encode(value)
    joined = b"".join(data) if isinstance(data, list) else data
    return Codec(protocol, trusted=trusted).decode(form, joined)


def nested(depth: int, kind: Any = list) -> Any:
    value: Any = None
    for _ in range(depth):
        value = kind([value])
    return value
