"""How channels end: by the code, by either side, by an error, by a lost gateway, by being dropped."""

from __future__ import annotations

import gc
import os
import threading

import pytest

import execgw
from execgw import ChannelClosed, ClosedHere, ConnectionLost, LoadError, RemoteError, TimeoutError
from execgw.wire.codec import PICKLE

ECHO = "for item in channel: channel.send(item)"


# -- the code ends


def test_a_channel_closes_when_its_code_ends(gw):
    channel = gw.remote_exec("channel.receive()")
    assert not channel.isclosed()

    channel.send(1)
    channel.waitclose(10)

    assert channel.isclosed()


def test_items_come_before_the_end_and_then_eof_for_ever(gw):
    channel = gw.remote_exec("channel.send(1); channel.send(2)")
    channel.waitclose()

    assert [channel.receive(), channel.receive()] == [1, 2]
    for _ in range(3):
        with pytest.raises(EOFError):
            channel.receive()


def test_items_come_first_then_the_error_once_and_then_eof_for_ever(gw):
    channel = gw.remote_exec("channel.send(1); raise ValueError('no good')")

    assert channel.receive() == 1
    with pytest.raises(channel.RemoteError, match="no good"):
        channel.receive()
    for _ in range(3):
        with pytest.raises(ChannelClosed):
            channel.receive()


def test_iterating_gives_the_items_and_then_raises_the_error(gw):
    channel = gw.remote_exec("channel.send(1); channel.send(2); raise KeyError(3)")
    got = []

    with pytest.raises(RemoteError, match="KeyError"):
        got.extend(channel)

    assert got == [1, 2]


def test_waitclose_raises_what_the_code_raised(gw):
    channel = gw.remote_exec("1/0")

    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        channel.waitclose(10)


def test_waitclose_times_out_while_the_code_runs(gw):
    channel = gw.remote_exec("channel.receive()")

    with pytest.raises(TimeoutError):
        channel.waitclose(timeout=0.05)

    channel.send(1)
    channel.waitclose(10)


def test_waitclose_leaves_the_items_to_be_received(gw):
    channel = gw.remote_exec("for n in range(100): channel.send(n)")

    channel.waitclose(10)

    assert list(channel) == list(range(100))


def test_the_text_of_the_far_code_names_its_own_line(gw):
    channel = gw.remote_exec("x = 1\ny = 2\nraise ValueError(x + y)\n")

    with pytest.raises(RemoteError) as caught:
        channel.receive()

    assert caught.value.lineno == 3
    assert "ValueError: 3" in str(caught.value)
    assert "raise ValueError(x + y)" in str(caught.value)


def test_a_system_exit_in_the_code_is_an_error_and_the_worker_lives_on(gw):
    channel = gw.remote_exec("raise SystemExit(3)")

    with pytest.raises(RemoteError, match="SystemExit"):
        channel.waitclose(10)

    assert gw.remote_exec("channel.send(1)").receive() == 1


def test_an_eof_error_of_the_code_itself_is_an_error(gw):
    channel = gw.remote_exec("raise EOFError('of a file')")

    with pytest.raises(RemoteError, match="of a file"):
        channel.waitclose(10)


# -- one side closes


def test_closing_here_ends_the_loop_there(gw):
    control = gw.remote_exec("""
        other = channel.receive()
        channel.send("ready")
        channel.send(list(other))
    """)
    other = gw.newchannel()
    control.send(other)
    other.send(1)
    assert control.receive() == "ready"

    other.close()

    assert control.receive() == [1]


def test_closing_there_ends_the_loop_here(gw):
    control = gw.remote_exec("other = channel.receive(); other.send(1); other.close()")
    other = gw.newchannel()

    control.send(other)

    assert list(other) == [1]
    assert other.isclosed()


def test_after_close_neither_send_nor_receive_work(gw):
    channel = gw.remote_exec(ECHO)

    channel.close()

    with pytest.raises(OSError, match="cannot send to <Channel"):
        channel.send(1)
    with pytest.raises(EOFError):
        channel.receive()
    channel.waitclose(10)


def test_closing_twice_does_nothing(gw):
    channel = gw.remote_exec(ECHO)

    channel.close()
    channel.close()
    channel.close("with a text")

    assert channel.isclosed()


def test_send_to_a_channel_that_the_far_side_closed_raises_and_says_why(gw):
    channel = gw.remote_exec("channel.receive(); raise ValueError('broke there')")
    channel.send(1)
    with pytest.raises(TimeoutError):
        gw.newchannel().receive(timeout=0.0)
    control = gw.remote_exec("channel.send(1)")
    control.receive()
    _until_closed(channel)

    with pytest.raises(OSError, match="broke there"):
        channel.send(1)
    with pytest.raises(RemoteError, match="broke there"):
        channel.receive()
    with pytest.raises(OSError, match="cannot send"):
        channel.send(1)


def _until_closed(channel: execgw.Channel) -> None:
    """Wait without taking the error, as waitclose would."""
    channel._peer.wait_until(lambda port: port.ended, channel._port, 10)


def test_an_error_given_to_close_is_raised_on_the_other_side(gw):
    control = gw.remote_exec("""
        other = channel.receive()
        try:
            other.receive()
        except channel.RemoteError as e:
            channel.send((type(e).__name__, str(e)))
    """)
    other = gw.newchannel()
    control.send(other)

    other.close("had enough")

    assert control.receive() == ("RemoteError", "had enough")


def test_an_error_given_to_close_there_is_raised_here(gw):
    control = gw.remote_exec("channel.receive().close(error='had enough')")
    other = gw.newchannel()
    control.send(other)

    with pytest.raises(RemoteError, match=r"^had enough$"):
        other.receive()


def test_close_with_something_that_is_no_text_raises_here_and_harms_nothing(gw):
    channel = gw.remote_exec(ECHO)

    with pytest.raises(TypeError, match="error must be text"):
        channel.close(5)

    channel.send(1)
    assert channel.receive() == 1


def test_code_cannot_close_the_channel_that_it_runs_on(gw):
    channel = gw.remote_exec("""
        try:
            channel.close()
        except OSError as e:
            channel.send(str(e))
    """)

    assert "inside the code that owns it" in channel.receive()
    channel.waitclose(10)


def test_closing_the_channel_lets_waiting_code_end_without_an_error(gw):
    control = gw.newchannel()
    channel = gw.remote_exec("""
        control = channel.receive()
        try:
            channel.receive()
        finally:
            control.send("over")
    """)
    channel.send(control)

    channel.close()

    assert control.receive() == "over"


# -- damage stays in one channel


def test_a_value_that_cannot_be_decoded_closes_its_channel_on_both_sides_and_nothing_else(gw):
    control, broken = (
        gw.remote_exec("""
        other = channel.receive()
        channel.send("ready")
        try:
            other.receive()
        except Exception as e:
            channel.send(type(e).__name__)
        channel.receive()
    """),
        gw.newchannel(),
    )
    control.send(broken)
    assert control.receive() == "ready"

    broken._peer.send(broken._port, PICKLE, b"\x80\x04 no value.")

    assert control.receive() == "LoadError"
    with pytest.raises(RemoteError, match="LoadError"):
        broken.receive()
    control.send(None)
    control.waitclose(10)
    assert gw.remote_exec("channel.send(1)").receive() == 1


def test_a_value_that_cannot_be_decoded_here_closes_its_channel_and_nothing_else(gw):
    broken = gw.remote_exec(rf"""
        channel._peer.send(channel._port, {PICKLE}, b"\x80\x04 no value.")
        try:
            channel.receive()
        except channel.RemoteError:
            pass
    """)

    with pytest.raises(LoadError):
        broken.receive()

    assert broken.isclosed()
    assert gw.remote_exec("channel.send(1)").receive() == 1


# -- the gateway ends


def test_a_worker_that_dies_ends_its_channels_with_connection_lost_for_ever(popen):
    channel = popen.remote_exec("import os; channel.send(1); os._exit(7)")

    assert channel.receive() == 1
    for _ in range(2):
        with pytest.raises(ConnectionLost) as caught:
            channel.receive()
        assert caught.value.exit_code == 7
        assert caught.value.signal is None


def test_a_killed_worker_ends_every_waiting_thread_and_names_the_signal(popen):
    channels = [popen.remote_exec("channel.receive()") for _ in range(3)]
    errors = []

    def wait(channel: execgw.Channel) -> None:
        try:
            channel.receive(30)
        except EOFError as e:
            errors.append(e)

    threads = [threading.Thread(target=wait, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    os.kill(popen._rinfo().pid, 9)
    for thread in threads:
        thread.join()

    assert [(type(e), e.signal) for e in errors] == [(ConnectionLost, "SIGKILL")] * 3


def test_the_last_words_on_stderr_are_in_the_error(popen, capfd):
    channel = popen.remote_exec("import os; os.write(2, b'disk on fire'); os._exit(1)")

    with pytest.raises(ConnectionLost, match="disk on fire") as caught:
        channel.receive()

    assert "disk on fire" in caught.value.stderr


def test_send_to_a_dead_gateway_raises_connection_lost(popen):
    channel = popen.remote_exec("import os; os._exit(1)")
    with pytest.raises(ConnectionLost):
        channel.waitclose(10)

    with pytest.raises(ConnectionLost):
        channel.send(1)


def test_a_thread_that_waits_in_send_hears_that_the_worker_died(popen):
    channel = popen.remote_exec("channel.gateway.newchannel().receive()")
    pid = popen._rinfo().pid
    errors = []

    def produce() -> None:
        try:
            while True:
                channel.send(b"x" * 100_000)
        except OSError as e:
            errors.append(e)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join(0.3)
    os.kill(pid, 9)
    thread.join(10)

    assert [type(e) for e in errors] == [ConnectionLost]


def test_the_error_that_getremoteerror_tells_is_why_the_channel_ended(popen):
    fine = popen.remote_exec("pass")
    bad = popen.remote_exec("1/0")
    dead = popen.remote_exec("channel.receive(); import os; os._exit(1)")
    fine.waitclose(10)
    _until_closed(bad)

    assert fine._getremoteerror() is None
    assert isinstance(bad._getremoteerror(), RemoteError)
    dead.send(1)
    _until_closed(dead)
    assert isinstance(dead._getremoteerror(), EOFError)


def test_a_channel_of_an_ended_gateway_says_that_this_side_ended_it(gw):
    channel = gw.remote_exec("channel.receive()")

    gw.exit()
    gw.join(10)

    with pytest.raises(ClosedHere):
        channel.send(1)


# -- dropped


def test_a_dropped_channel_is_closed_there(gw):
    control = gw.remote_exec("""
        other = channel.receive()
        channel.send(1)
        channel.send(list(other))
    """)
    other = gw.newchannel()
    control.send(other)
    assert control.receive() == 1

    del other
    gc.collect()

    assert control.receive(10) == []


def test_a_channel_dropped_there_is_closed_here(gw):
    control = gw.remote_exec("""
        import gc
        other = channel.gateway.newchannel()
        channel.send(other)
        del other
        gc.collect()
        channel.receive()
    """)
    other = control.receive()

    with pytest.raises(EOFError):
        other.receive(10)
    control.send(1)


def test_a_dropped_channel_that_nobody_knows_leaves_no_port(gw, eventually):
    before = len(gw._session.mux.ports)

    for _ in range(100):
        gw.newchannel()
    gc.collect()

    eventually(lambda: len(gw._session.mux.ports) <= before)
