"""Channels carry values both ways, in order and many at once, on every kind of gateway."""

from __future__ import annotations

import queue
import threading

import pytest

from execgw import DumpError, TimeoutError

ECHO = "for item in channel: channel.send(item)"

VALUES = [
    None,
    True,
    0,
    -1,
    2**31,
    -(2**31) - 1,
    2**70,
    -(2**70),
    1.5,
    float("inf"),
    1 + 2j,
    b"",
    b"\x00\xff" * 10,
    bytearray(b"abc"),
    "",
    "grüße \U0001f600\x00",
    [],
    (),
    {},
    [1, [2, [3, None]]],
    (1, (2,), "x"),
    {"a": 1, 2: b"b", None: [1.0], (1, 2): {"deep": ()}},
    {1, 2, 3},
    frozenset([1, 2]),
]


# -- values


@pytest.mark.parametrize("value", VALUES, ids=[ascii(value)[:20] for value in VALUES])
def test_a_value_comes_back_as_it_was_sent(popen, value):
    channel = popen.remote_exec(ECHO)

    channel.send(value)

    back = channel.receive()
    assert back == value
    assert type(back) is type(value)


def test_values_of_all_types_come_back_equal_from_every_kind(gw):
    channel = gw.remote_exec(ECHO)
    channel.reconfigure(py2str_as_py3str=False)  # Python 2 sends bytes back as its str

    channel.send(VALUES)

    assert channel.receive() == VALUES


def test_the_far_side_sees_the_types_that_were_sent(gw):
    channel = gw.remote_exec("channel.send([type(item).__name__ for item in channel.receive()])")

    channel.send([None, True, 1, 1.0, 1j, [], (), {}, set(), frozenset()])

    names = ["NoneType", "bool", "int", "float", "complex", "list", "tuple", "dict", "set", "frozenset"]
    assert channel.receive() == names


def test_a_value_that_cannot_travel_raises_where_it_is_sent_and_harms_nothing(gw):
    channel = gw.remote_exec(ECHO)

    with pytest.raises(DumpError, match=r"value\['rows'\]\[1\]"):
        channel.send({"rows": [1, object()]})

    channel.send("still there")
    assert channel.receive() == "still there"


def test_the_far_side_gets_the_same_error_for_a_value_that_cannot_travel(gw):
    channel = gw.remote_exec("""
        try:
            channel.send([object()])
        except Exception as e:
            channel.send((type(e).__name__, str(e)))
    """)

    name, text = channel.receive()

    assert name == "DumpError"
    assert "value[0]" in text


def test_a_big_value_travels_both_ways(gw):
    channel = gw.remote_exec(ECHO)
    channel.reconfigure(py2str_as_py3str=False)  # Python 2 sends bytes back as its str
    big = b"0123456789abcdef" * (20 * 1024 * 1024 // 16)

    channel.send(big)

    assert channel.receive(60) == big


def test_a_big_text_and_a_big_list_travel_both_ways(gw):
    channel = gw.remote_exec(ECHO)
    text = "ä€" * 500_000
    rows = [{"n": n, "name": str(n)} for n in range(20_000)]

    channel.send(text)
    channel.send(rows)

    assert channel.receive(60) == text
    assert channel.receive(60) == rows


# -- receiving


def test_items_come_in_the_order_in_which_they_were_sent(gw):
    channel = gw.remote_exec("for n in range(2000): channel.send(n)")

    items = [channel.receive() for _ in range(2000)]

    assert items == list(range(2000))


def test_iterating_gives_the_items_until_the_code_ends(gw):
    channel = gw.remote_exec("for n in range(10): channel.send(n)")

    assert list(channel) == list(range(10))
    assert list(channel) == []


def test_next_gives_one_item(gw):
    channel = gw.remote_exec("channel.send(1)")

    assert next(channel) == 1
    with pytest.raises(StopIteration):
        next(channel)


def test_receive_with_timeout_0_only_looks(gw):
    channel = gw.remote_exec("channel.receive(); channel.send(1)")

    with pytest.raises(TimeoutError):
        channel.receive(timeout=0)

    channel.send(None)
    assert channel.receive() == 1


def test_receive_with_timeout_0_takes_what_has_arrived(gw, eventually):
    channel = gw.remote_exec("channel.send(1)")
    channel.waitclose()

    assert channel.receive(timeout=0) == 1


def test_receive_times_out_and_can_be_tried_again(gw):
    channel = gw.remote_exec("channel.receive(); channel.send(1)")

    with pytest.raises(channel.TimeoutError) as caught:
        channel.receive(timeout=0.05)

    assert isinstance(caught.value, OSError)
    channel.send(None)
    assert channel.receive(timeout=10) == 1


def test_the_far_side_can_time_out_too(gw):
    channel = gw.remote_exec("""
        try:
            channel.receive(timeout=0.05)
        except channel.TimeoutError:
            channel.send("timeout")
        channel.send(channel.receive(timeout=10))
    """)

    assert channel.receive() == "timeout"
    channel.send(2)
    assert channel.receive() == 2


def test_two_threads_that_receive_share_the_items(gw):
    channel = gw.remote_exec("for n in range(200): channel.send(n)")
    got = queue.Queue()

    threads = [threading.Thread(target=lambda: [got.put(item) for item in channel]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got.queue) == list(range(200))


# -- many at once


def test_many_channels_at_once_keep_their_items_apart(gw):
    channels = [gw.newchannel() for _ in range(100)]
    control = gw.remote_exec("""
        channels = channel.receive()
        for n, ch in enumerate(channels):
            ch.send(n)
        for ch in channels:
            ch.send(ch.receive() * 2)
    """)
    control.send(channels)

    for n, ch in enumerate(channels):
        ch.send(n * 10)

    assert [ch.receive() for ch in reversed(channels)] == list(reversed(range(100)))
    assert [ch.receive() for ch in channels] == [n * 20 for n in range(100)]


def test_several_tasks_run_at_the_same_time(gw):
    channels = [gw.remote_exec("channel.send(channel.receive() + 1)") for _ in range(8)]

    for n, channel in reversed(list(enumerate(channels))):
        channel.send(n)

    assert [channel.receive() for channel in channels] == list(range(1, 9))


def test_threads_that_use_channels_of_one_gateway_do_not_disturb_each_other(gw):
    def ping(n: int, results: list) -> None:
        channel = gw.remote_exec(ECHO)
        for k in range(100):
            channel.send((n, k))
            results.append(channel.receive() == (n, k))
        channel.close()

    results: list = []
    threads = [threading.Thread(target=ping, args=(n, results)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 600


# -- channels over channels


def test_a_channel_travels_to_the_far_side_and_is_the_same_channel_there(gw):
    control = gw.remote_exec("channel.receive().send('through the other')")
    other = gw.newchannel()

    control.send(other)

    assert other.receive() == "through the other"


def test_a_channel_made_there_travels_to_the_near_side(gw):
    control = gw.remote_exec("""
        other = channel.gateway.newchannel()
        channel.send(other)
        channel.send(other.receive() + 1)
    """)

    other = control.receive()
    other.send(1)

    assert type(other) is type(control)
    assert control.receive() == 2


def test_channels_travel_inside_of_containers(gw):
    control = gw.remote_exec("""
        value = channel.receive()
        value["list"][0].send("first")
        value["tuple"][1][0].send("second")
        made = channel.gateway.newchannel()
        channel.send([{"made": (made,)}])
        made.send("third")
        channel.receive()
    """)
    first, second = gw.newchannel(), gw.newchannel()

    control.send({"list": [first], "tuple": (0, [second])})
    made = control.receive()[0]["made"][0]

    assert first.receive() == "first"
    assert second.receive() == "second"
    assert made.receive() == "third"
    control.send(None)


def test_a_channel_that_travels_there_and_back_is_the_same_object(gw):
    control = gw.remote_exec(ECHO)
    other = gw.newchannel()

    control.send(other)

    assert control.receive() is other


def test_a_channel_of_another_gateway_cannot_be_sent(group, gw):
    foreign = group.makegateway("popen").newchannel()
    channel = gw.remote_exec(ECHO)

    with pytest.raises(DumpError, match="belongs to another gateway"):
        channel.send([foreign])

    channel.send(1)
    assert channel.receive() == 1


# -- the rest


def test_a_channel_says_its_number_and_its_state(gw):
    channel = gw.remote_exec("channel.receive()")

    assert repr(channel) == f"<Channel id={channel.id} open>"
    channel.send(1)
    channel.waitclose()
    assert repr(channel) == f"<Channel id={channel.id} closed>"


def test_with_closes_a_channel(gw):
    with gw.remote_exec(ECHO) as channel:
        channel.send(1)
        assert channel.receive() == 1

    assert channel.isclosed()


def test_reconfigure_says_what_8_bit_strings_of_python_2_become(group, python):
    gateway = group.makegateway(f"popen//python={python('2.7.18')}")
    channel = gateway.remote_exec("channel.send('a'); channel.send('a')")

    assert channel.receive() == "a"
    channel.reconfigure(py2str_as_py3str=False)
    assert channel.receive() == b"a"


def test_a_gateway_can_be_reconfigured_for_channels_to_come(group, python):
    gateway = group.makegateway(f"popen//python={python('2.7.18')}")

    gateway.reconfigure(py2str_as_py3str=False, py3str_as_py2str=True)
    channel = gateway.remote_exec("item = channel.receive(); channel.send(type(item).__name__); channel.send('a')")
    channel.send("text")

    assert channel.receive() == b"str"
    assert channel.receive() == b"a"
