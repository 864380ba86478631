"""Callbacks of channels that raise: what both sides hear, and the call at the end."""

from __future__ import annotations

import queue

import pytest

from execgw import LoadError, RemoteError

END = object()
ECHO = "for item in channel: channel.send(item)"


def test_a_callback_that_raises_closes_its_channel_with_that_error_on_both_sides(gw):
    control = gw.newchannel()
    channel = gw.remote_exec("""
        control = channel.receive()
        channel.send("bad")
        try:
            channel.receive()
        except channel.RemoteError as e:
            control.send(str(e))
    """)

    def refuse(item: object) -> None:
        raise ValueError(f"no {item}")

    channel.setcallback(refuse)
    channel.send(control)

    assert "ValueError: no bad" in control.receive(10)
    with pytest.raises(ValueError, match="no bad"):
        channel.waitclose(10)
    assert channel.isclosed()


def test_a_callback_that_raises_disturbs_no_other_channel(gw):
    other = gw.remote_exec(ECHO)
    channel = gw.remote_exec("channel.send(1); channel.receive()")

    def refuse(item: object) -> None:
        raise ValueError("no")

    channel.setcallback(refuse)
    with pytest.raises(ValueError, match="no"):
        channel.waitclose(10)

    other.send(1)
    assert other.receive(10) == 1


def test_a_callback_that_raises_gets_no_further_item_and_still_the_end(gw):
    channel = gw.remote_exec("for n in range(10): channel.send(n)")
    got: list = []

    def refuse(item: object) -> None:
        got.append(item)
        if item is not END:
            raise ValueError("no")

    channel.setcallback(refuse, endmarker=END)
    with pytest.raises(ValueError, match="no"):
        channel.waitclose(10)

    assert got == [0, END]


def test_who_waits_for_the_end_of_a_callback_that_raised_hears_why(gw):
    channel = gw.remote_exec("for n in range(10): channel.send(n)")
    got: queue.Queue = queue.Queue()

    def refuse(item: object, error: Exception | None = None) -> None:
        got.put((item, error))
        if error is None:
            raise ValueError("no")

    channel.setcallback(refuse, endmarker=END, pass_error=True)

    assert got.get(timeout=10) == (0, None)
    marker, error = got.get(timeout=10)
    assert marker is END
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="no"):
        channel.waitclose(10)
    assert got.empty()


def test_a_value_that_cannot_be_read_brings_the_end_of_a_callback(sync_gw):
    channel = sync_gw.newchannel()
    got: queue.Queue = queue.Queue()
    channel.setcallback(lambda item, error=None: got.put((item, error)), endmarker=END, pass_error=True)

    sync_gw.remote_exec(
        """
        other = channel.receive()
        other._peer.send(other._port, 0, b"no value")
        channel.receive()
        """
    ).send(channel)

    marker, error = got.get(timeout=10)
    assert marker is END
    assert isinstance(error, LoadError)


def test_a_far_callback_that_raises_closes_the_channel_here_with_its_error(gw):
    channel = gw.remote_exec("""
        other = channel.receive()
        def refuse(item):
            raise ValueError("not wanted: %r" % (item,))
        other.setcallback(refuse)
        channel.receive()
    """)
    other = gw.newchannel()
    channel.send(other)

    other.send(5)

    with pytest.raises(RemoteError, match="not wanted: 5"):
        other.receive(10)
    channel.send(None)
    channel.waitclose(10)
