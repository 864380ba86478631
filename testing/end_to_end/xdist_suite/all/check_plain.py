"""What a test can come to: all outcomes, in all three phases."""

import warnings

import pytest
from own_warnings import NotForTheWire


@pytest.fixture
def broken_setup():
    raise LookupError("no setup today")


@pytest.fixture
def broken_teardown():
    yield 1
    raise LookupError("no teardown today")


def check_passes():
    pass


def check_fails():
    rows = [{"a": 1, "b": [1, 2, 3]}, {"a": 2, "b": [4, 5, 6]}]
    assert rows == [{"a": 1, "b": [1, 2, 3]}, {"a": 2, "b": [4, 5, 7]}]


def check_raises():
    def inner(depth):
        return inner(depth - 1) if depth else 1 / 0

    inner(3)


def check_setup_fails(broken_setup):
    pass


def check_teardown_fails(broken_teardown):
    print("before the teardown")


@pytest.mark.skip(reason="said so")
def check_skips():
    pass


def check_skips_inside():
    pytest.skip("changed its mind")


@pytest.mark.xfail(reason="known")
def check_fails_as_expected():
    assert 1 == 2


@pytest.mark.xfail(reason="unknown")
def check_passes_unexpectedly():
    pass


def check_warns():
    warnings.warn("plain words", UserWarning, stacklevel=1)
    warnings.warn(NotForTheWire(object), stacklevel=1)


def check_records(record_property):
    record_property("nested", [1, (2, 3), {"k": 1.5, "n": None}, True])
    record_property("long", 2**70)
    record_property("text", "\u00e4\u20ac\U0001f600\udc80".encode("utf-8", "replace").decode())
