"""What the tests of Mux share: the two sides, and frames as their owners would write them."""

from __future__ import annotations

import pytest

from execgw.wire import frames as f
from execgw.wire.codec import BYTES
from execgw.wire.mux import FRAME_COST, Mux, Port

NEAR, FAR = 1, 2


def frame(mux: Mux, kind: int, number: int, payload: bytes = b"", flags: int = 0, form: int = BYTES) -> bytes:
    """The next frame of *mux*, as its owner would write it."""
    return mux.header(kind, flags, form, number, len(payload)) + payload


def send(mux: Mux, port: Port, payload: bytes, flags: int = 0) -> bytes:
    port.sent += len(payload) + FRAME_COST
    return frame(mux, f.DATA, port.number, payload, flags)


def taken(mux: Mux, port: Port) -> bytes:
    form, data = mux.take(port)
    assert form == BYTES
    return b"".join(data) if isinstance(data, list) else data


@pytest.fixture
def near() -> Mux:
    return Mux(NEAR)


@pytest.fixture
def far() -> Mux:
    return Mux(FAR)
