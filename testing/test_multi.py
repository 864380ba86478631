"""Many channels as one."""

from __future__ import annotations

import queue

import pytest

from execgw import ConnectionLost, MultiChannel, RemoteError


@pytest.fixture
def pair(group):
    group.makegateways(["popen//id=a", "popen//id=b"])
    return group


def test_it_is_a_container_of_its_channels_in_the_order_of_the_gateways(pair):
    multi = pair.remote_exec("channel.send(1)")

    assert len(multi) == 2
    assert [channel.gateway.id for channel in multi] == ["a", "b"]
    assert multi[1] in multi
    assert multi[0].gateway is pair["a"]
    assert pair["a"].newchannel() not in multi


def test_send_each_and_receive_each(pair):
    multi = pair.remote_exec("channel.send((channel.gateway.id, channel.receive()))")

    multi.send_each(5)

    assert multi.receive_each() == [("a", 5), ("b", 5)]


def test_receive_each_with_channel(pair):
    multi = pair.remote_exec("channel.send(channel.gateway.id)")

    assert multi.receive_each(withchannel=True) == [(multi[0], "a"), (multi[1], "b")]


def test_a_receive_queue_gives_what_comes_from_whichever_channel(pair):
    multi = pair.remote_exec("for n in range(3): channel.send(n)")

    received = multi.make_receive_queue(endmarker="end")
    items = [received.get(timeout=10) for _ in range(8)]

    for channel in multi:
        assert [item for of, item in items if of is channel] == [0, 1, 2, "end"]
    with pytest.raises(queue.Empty):
        received.get(block=False)


def test_the_receive_queue_is_made_once_and_takes_everything(pair):
    multi = pair.remote_exec("channel.send(1)")

    received = multi.make_receive_queue()

    assert multi.make_receive_queue() is received
    with pytest.raises(OSError, match="receive queue"):
        multi.receive_each()


def test_waitclose_waits_for_all_and_raises_the_first_error(pair):
    multi = MultiChannel([pair["a"].remote_exec("1/0"), pair["b"].remote_exec("{}['key']")])

    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        multi.waitclose()

    assert all(channel.isclosed() for channel in multi)


def test_a_lost_gateway_does_not_break_the_wait_for_the_others(pair):
    dead = pair["a"].remote_exec("import os; os._exit(1)")
    alive = pair["b"].remote_exec("channel.receive()")
    multi = MultiChannel([dead, alive])
    alive.send(1)

    with pytest.raises(ConnectionLost):
        multi.waitclose()

    assert alive.isclosed()


def test_functions_go_to_all_with_their_arguments(pair):
    def add(channel, a, b):
        channel.send(a + b)

    assert pair.remote_exec(add, a=1, b=2).receive_each() == [3, 3]
