"""Callbacks of channels: in order, in another thread, once more at the end; and the errors that reach them."""

from __future__ import annotations

import gc
import queue
import threading

import pytest

from execgw import ConnectionLost, RemoteError, TimeoutError

END = object()
ECHO = "for item in channel: channel.send(item)"


def _until(got: queue.Queue, last: object) -> list:
    """All that comes before *last*."""
    items = []
    while (item := got.get(timeout=20)) is not last:
        items.append(item)
    return items


# -- items


def test_a_callback_gets_the_items_in_order_and_the_endmarker_last(gw):
    channel = gw.remote_exec("for n in range(500): channel.send(n)")
    got: queue.Queue = queue.Queue()

    channel.setcallback(got.put, endmarker=END)

    assert _until(got, END) == list(range(500))
    channel.waitclose(10)
    assert got.empty()


def test_items_that_wait_are_delivered_before_setcallback_returns(sync_gw):
    channel = sync_gw.remote_exec("for n in range(10): channel.send(n)\nchannel.receive()")
    channel.gateway.remote_exec("channel.send(1)").receive()
    first = channel.receive()
    sync_gw._session.wait_until(lambda port: len(port.items) == 9, channel._port, 10)
    got: list = []

    channel.setcallback(got.append)

    assert first == 0
    assert got == list(range(1, 10))
    channel.send(None)


def test_items_and_end_that_wait_are_delivered_before_setcallback_returns(sync_gw):
    channel = sync_gw.remote_exec("for n in range(10): channel.send(n)")
    channel.waitclose(10)
    got: list = []

    channel.setcallback(got.append, endmarker=END)

    assert got == [*range(10), END]


@pytest.mark.parametrize("marker", [None, 0, "", 999, (), END], ids=["none", "0", "empty", "999", "tuple", "object"])
def test_the_endmarker_is_the_very_object_and_comes_once(popen, marker):
    channel = popen.remote_exec("channel.send(1)")
    got: queue.Queue = queue.Queue()

    channel.setcallback(got.put, endmarker=marker)
    channel.waitclose(10)

    assert got.get(timeout=10) == 1
    assert got.get(timeout=10) is marker
    channel.close()
    assert got.empty()


def test_without_an_endmarker_nothing_comes_at_the_end(gw):
    channel = gw.remote_exec("channel.send(1)")
    got: list = []

    channel.setcallback(got.append)
    channel.waitclose(10)

    assert got == [1]


def test_waitclose_waits_for_the_last_callback(gw):
    channel = gw.remote_exec("for n in range(3): channel.send(n)")
    got: list = []
    pause = threading.Event()

    def slow(item: object) -> None:
        pause.wait(0.05)
        got.append(item)

    channel.setcallback(slow)
    channel.waitclose(10)

    assert got == [0, 1, 2]


def test_callbacks_after_the_first_items_run_in_a_thread_that_is_not_ours(gw):
    channel = gw.remote_exec("channel.receive(); channel.send(1)")
    threads: queue.Queue = queue.Queue()

    channel.setcallback(lambda item: threads.put(threading.current_thread()))
    channel.send(None)

    assert threads.get(timeout=10) is not threading.current_thread()


def test_a_second_callback_and_receive_are_refused(gw):
    channel = gw.remote_exec(ECHO)
    channel.setcallback(lambda item: None)

    with pytest.raises(OSError, match="has a callback"):
        channel.setcallback(lambda item: None)
    with pytest.raises(OSError, match="has a callback"):
        channel.receive()


def test_the_far_side_has_callbacks_too(gw):
    channel = gw.remote_exec("""
        other = channel.receive()
        other.setcallback(lambda item: channel.send(("got", item)), endmarker="end")
        other.waitclose()
    """)
    other = gw.newchannel()
    channel.send(other)

    for n in range(5):
        other.send(n)
    other.close()

    assert list(channel) == [*(("got", n) for n in range(5)), ("got", "end")]


# -- the end


def test_pass_error_tells_an_ordinary_end_as_none(gw):
    channel = gw.remote_exec("channel.send(1)")
    got: queue.Queue = queue.Queue()

    channel.setcallback(lambda item, error=None: got.put((item, error)), endmarker=END, pass_error=True)

    assert got.get(timeout=10) == (1, None)
    assert got.get(timeout=10) == (END, None)


def test_pass_error_tells_the_far_exception(gw):
    channel = gw.remote_exec("channel.send(1); raise ValueError('there')")
    got: queue.Queue = queue.Queue()

    channel.setcallback(lambda item, error=None: got.put((item, error)), endmarker=END, pass_error=True)

    assert got.get(timeout=10) == (1, None)
    marker, error = got.get(timeout=10)
    assert marker is END
    assert isinstance(error, RemoteError)
    assert (error.type, error.message) == ("ValueError", "there")


def test_pass_error_tells_a_lost_connection(popen):
    channel = popen.remote_exec("channel.receive(); import os; os.kill(os.getpid(), 9)")
    got: queue.Queue = queue.Queue()
    channel.setcallback(lambda item, error=None: got.put((item, error)), endmarker=END, pass_error=True)

    channel.send(None)

    marker, error = got.get(timeout=10)
    assert marker is END
    assert isinstance(error, ConnectionLost)
    assert error.signal == "SIGKILL"


def test_pass_error_without_an_endmarker_tells_the_end_with_none(gw):
    channel = gw.remote_exec("1/0")
    got: queue.Queue = queue.Queue()

    channel.setcallback(lambda item, error=None: got.put((item, error)), pass_error=True)

    item, error = got.get(timeout=10)
    assert item is None
    assert error.type == "ZeroDivisionError"


def test_without_pass_error_a_lost_connection_brings_the_endmarker_and_waitclose_raises(popen):
    channel = popen.remote_exec("channel.receive(); import os; os._exit(3)")
    got: queue.Queue = queue.Queue()
    channel.setcallback(got.put, endmarker=END)

    channel.send(None)

    assert got.get(timeout=10) is END
    with pytest.raises(ConnectionLost):
        channel.waitclose(10)


def test_waitclose_raises_the_far_error_although_there_is_a_callback(gw):
    channel = gw.remote_exec("1/0")
    channel.setcallback(lambda item: None)

    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        channel.waitclose(10)


# -- callbacks that take their time


def test_a_slow_callback_stalls_no_other_channel(gw):
    gate, entered = threading.Event(), threading.Event()
    slow = gw.remote_exec("channel.send(1)")
    echo = gw.remote_exec(ECHO)

    def wait(item: object) -> None:
        entered.set()
        gate.wait(20)

    starter = threading.Thread(target=lambda: slow.setcallback(wait))
    starter.start()
    assert entered.wait(10)
    for n in range(20):
        echo.send(n)
        assert echo.receive(10) == n
    gate.set()
    starter.join()
    slow.waitclose(10)


def test_many_blocked_callbacks_stall_no_further_one(sync_gw):
    gate = threading.Event()
    channels = [sync_gw.remote_exec("channel.receive(); channel.send(1)") for _ in range(12)]
    entered: queue.Queue = queue.Queue()
    for n, channel in enumerate(channels):
        channel.setcallback(lambda item, n=n: (entered.put(n), gate.wait(20)))

    for channel in channels:
        channel.send(None)

    assert sorted(entered.get(timeout=10) for _ in channels) == list(range(12))
    gate.set()
    for channel in channels:
        channel.waitclose(10)


def test_a_callback_may_receive_send_and_call(gw):
    other = gw.remote_exec(ECHO)
    channel = gw.remote_exec("channel.receive(); channel.send(20)")
    got: queue.Queue = queue.Queue()

    def use_the_gateway(item: int) -> None:
        other.send(item)
        echoed = other.receive(10)
        got.put((echoed, gw.call(divmod, item, 7), gw.remote_exec("channel.send(1)").receive(10)))

    channel.setcallback(use_the_gateway)
    channel.send(None)

    assert got.get(timeout=20) == (20, (2, 6), 1)


def test_a_callback_may_send_on_its_own_channel(gw):
    channel = gw.remote_exec("channel.send(0)\nfor item in channel: channel.send(item + 1)")
    got: queue.Queue = queue.Queue()

    def again(item: int) -> None:
        if item < 50:
            channel.send(item)
        else:
            got.put(item)

    channel.setcallback(again)

    assert got.get(timeout=20) == 50
    channel.close()


def test_a_callback_may_close_its_own_channel(gw):
    channel = gw.remote_exec("channel.send(1); channel.receive()")
    got: list = []

    def once(item: object) -> None:
        got.append(item)
        channel.close()

    channel.setcallback(once, endmarker=END)
    channel.waitclose(10)

    assert got == [1, END]


def test_remote_status_can_be_asked_from_a_callback(gw):
    channel = gw.remote_exec("channel.receive(); channel.send(1); channel.receive()")
    got: queue.Queue = queue.Queue()

    channel.setcallback(lambda item: got.put(gw.remote_status(timeout=10)))
    channel.send(None)

    assert got.get(timeout=10).numexecuting == 1
    channel.send(None)


def test_a_callback_does_not_let_the_queue_grow(popen):
    gate = threading.Event()
    channel = popen.remote_exec("""
        progress = channel.receive()
        for n in range(200):
            progress.send(n)
            channel.send(b"x" * 1000000)
    """)
    progress = popen.newchannel()
    first = threading.Event()

    def wait(item: object) -> None:
        first.set()
        gate.wait(30)

    channel.setcallback(wait)
    channel.send(progress)
    assert first.wait(10)
    last = -1
    with pytest.raises(TimeoutError):
        while True:
            last = progress.receive(timeout=0.3)

    assert last < 20
    gate.set()
    assert list(progress)[-1] == 199
    channel.waitclose(20)


# -- dropped


def test_a_dropped_channel_with_a_callback_lives_on(gw):
    channel = gw.remote_exec("""
        ready = channel.receive()
        ready.receive()
        for n in range(3):
            channel.send(n)
    """)
    ready, got = gw.newchannel(), queue.Queue()
    channel.setcallback(got.put, endmarker=END)
    channel.send(ready)

    del channel
    gc.collect()
    ready.send(None)

    assert _until(got, END) == [0, 1, 2]


def test_a_far_channel_with_a_callback_lives_on_after_its_code_has_dropped_it(gw):
    control = gw.remote_exec("""
        import gc
        other, back = channel.receive()
        other.setcallback(lambda item: back.send(item * 2))
        del other
        gc.collect()
        channel.send("ready")
        channel.receive()
    """)
    other, back = gw.newchannel(), gw.newchannel()
    control.send((other, back))
    assert control.receive() == "ready"

    other.send(21)

    assert back.receive(10) == 42
    control.send(None)
