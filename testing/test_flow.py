"""Back-pressure: who sends waits for who does not read, nobody else does, and nothing hangs."""

from __future__ import annotations

import threading

import pytest

from execgw import Channel, TimeoutError

ECHO = "for item in channel: channel.send(item)"


def test_a_producer_of_small_values_waits_for_a_consumer_that_does_not_read(gw, eventually):
    channel = gw.remote_exec("""
        progress = channel.receive()
        for n in range(1000000):
            if n % 100 == 0:
                progress.append(n) if isinstance(progress, list) else progress.send(n)
            channel.send("x" * 1000)
    """)
    progress = gw.newchannel()
    channel.send(progress)

    seen = _last_before_it_stops(progress)

    # 1 kB each: a window of 4 MiB, some more in flight in pipes, relays and queues.
    assert seen < 20_000
    for _ in range(10_000):
        channel.receive()
    assert _last_before_it_stops(progress) > seen
    channel.close()


def test_a_producer_of_big_values_waits_for_a_consumer_that_does_not_read(gw):
    channel = gw.remote_exec("""
        progress = channel.receive()
        data = b"x" * 1000000
        for n in range(1000):
            progress.send(n)
            channel.send(data)
    """)
    progress = gw.newchannel()
    channel.send(progress)

    seen = _last_before_it_stops(progress)

    assert seen < 20
    for _ in range(10):
        assert len(channel.receive()) == 1_000_000
    assert _last_before_it_stops(progress) > seen
    channel.close()


def _last_before_it_stops(progress: Channel) -> int:
    """The last number on a channel before nothing comes for a while."""
    last = -1
    while True:
        try:
            last = progress.receive(timeout=0.3)
        except TimeoutError:  # noqa: PERF203
            return last


def test_a_near_producer_waits_for_a_far_consumer_that_does_not_read(gw):
    channel = gw.remote_exec("""
        start = channel.receive()
        start.receive()
        total = 0
        for item in channel:
            if item is None:
                break
            total += len(item)
        channel.send(total)
    """)
    start = gw.newchannel()
    channel.send(start)
    sent: list = []

    def produce() -> None:
        for _ in range(100):
            channel.send(b"x" * 1_000_000)
            sent.append(1)
        channel.send(None)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join(0.5)
    sent_before = len(sent)
    start.send("go")
    thread.join()

    assert sent_before < 40
    assert channel.receive() == 100_000_000


def test_a_consumer_that_does_not_read_delays_no_other_channel(gw):
    clogged = gw.remote_exec("while 1: channel.send(b'x' * 100000)")
    echo = gw.remote_exec(ECHO)

    for n in range(50):
        echo.send(n)
        assert echo.receive(10) == n

    clogged.close()


def test_a_million_items_to_an_echo_before_the_first_receive_arrive_all_or_an_error_names_the_cure(popen):
    channel = popen.remote_exec(ECHO)

    try:
        for n in range(1_000_000):
            channel.send(n)
    except OSError as e:
        assert "receive() between the sends" in str(e)
    else:
        assert [channel.receive() for _ in range(1_000_000)] == list(range(1_000_000))


def test_past_the_limit_a_send_that_nobody_receives_names_the_channel_and_the_cure(popen):
    channel = popen.remote_exec(ECHO)

    # Either side may be the first to find out; if it is the far one, its code ends with that error.
    with pytest.raises(OSError, match=rf"channel {channel.id}: .* receive\(\) between the sends"):
        for _ in range(1000):
            channel.send(b"x" * 1_000_000)

    assert len(channel.receive()) == 1_000_000
