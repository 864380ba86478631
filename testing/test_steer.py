"""Interrupting far code, ending it, limiting its time, and asking where it is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import find_python

from execgw import Gateway, Group, RemoteError, RemoteTimeout
from execgw.wire import frames as f

COMPUTES = """
def forever():
    n = 0
    while True:
        n += 1
channel.send("started")
forever()
"""
SLEEPS = "import time; channel.send('started'); time.sleep(3600)"
RECEIVES = "channel.send('started'); channel.receive()"
WAITS_FOR_A_PROCESS = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
try:
    channel.send("started")
    process.wait()
finally:
    process.stdin.close()
"""
SENDS = """
channel.send("started")
while True:
    channel.send(b"x" * 100000)
"""
CATCHES = """
channel.send("started")
while True:
    try:
        while True:
            pass
    except KeyboardInterrupt:
        channel.send("caught")
"""
CATCHES_EVERYTHING = """
def forever():
    while True:
        pass
while True:
    try:
        forever()
    except BaseException:
        pass
"""
IN_A_C_FUNCTION = "channel.send('started'); sum(range(10**12))"


def started(gw: Gateway, source: str, **options: object):
    channel = gw.remote_exec(source, **options)
    assert channel.receive(10) == "started"
    return channel


def cannot(gw: Gateway, source: str, main: bool) -> bool:
    """Whether the guide's table calls this impossible: code that computes, on interpreters without such exceptions."""
    about = gw._session.about  # no call: it would take the main thread, for a moment longer than it lasts
    jython, pypy = about["platform"].startswith("java"), "pypy" in about["executable"]
    return source in (COMPUTES, CATCHES) and (jython or (pypy and not main))


def ends_with(channel, kind: str) -> None:
    with pytest.raises(RemoteError) as caught:
        channel.waitclose(10)
    assert caught.value.type == kind


# -- interrupt


@pytest.mark.parametrize("source", [COMPUTES, RECEIVES, SENDS])
def test_an_interrupt_raises_keyboard_interrupt_in_the_code(gw: Gateway, source: str) -> None:
    impossible = cannot(gw, source, main=True)
    channel = started(gw, source)

    outcome = channel.interrupt()

    assert outcome == ("impossible" if impossible else "interrupted")
    if not impossible:
        ends_with(channel, "KeyboardInterrupt")
    assert gw.call(abs, -1) == 1


@pytest.mark.parametrize("kind", ["popen", "2.7.18", "3.6.15", "3.13.0"])
@pytest.mark.parametrize("source", [SLEEPS, WAITS_FOR_A_PROCESS])
def test_an_interrupt_ends_what_the_main_thread_sleeps_in(group: Group, kind: str, source: str) -> None:
    gw = group.makegateway("popen" if kind == "popen" else f"popen//python={find_python(kind)}")
    channel = started(gw, source)

    outcome = channel.interrupt()

    assert outcome == "interrupted"
    ends_with(channel, "KeyboardInterrupt")


@pytest.mark.parametrize("source", [COMPUTES, RECEIVES, SENDS])
def test_code_in_another_thread_is_interrupted_too(gw: Gateway, source: str) -> None:
    impossible = cannot(gw, source, main=False)
    holder = started(gw, RECEIVES)  # has the main thread
    channel = started(gw, source)

    outcome = channel.interrupt()

    assert outcome == ("impossible" if impossible else "interrupted")
    if not impossible:
        ends_with(channel, "KeyboardInterrupt")
    holder.send(None)
    holder.waitclose(10)


def test_a_thread_in_a_c_function_is_told_to_be_pending_and_is_interrupted_when_that_returns(popen: Gateway) -> None:
    holder = started(popen, RECEIVES)
    channel = popen.remote_exec(
        """
        import os
        r, w = os.pipe()
        channel.send(w)
        os.read(r, 1)
        while True: pass
        """
    )
    descriptor = channel.receive()

    assert channel.interrupt() == "pending"

    popen.remote_exec(f"import os; os.write({descriptor}, b'!')").waitclose(10)
    ends_with(channel, "KeyboardInterrupt")
    holder.send(None)


def test_code_in_a_c_function_that_holds_the_interpreter_is_told_not_hung(popen: Gateway) -> None:
    channel = started(popen, IN_A_C_FUNCTION)

    with pytest.raises(TimeoutError):
        channel.interrupt(timeout=0.5)

    assert channel.cancel(timeout=0.5) == "running"
    assert channel.cancel(timeout=0.2, kill=True) in ("terminated", "killed")


def test_an_interrupt_of_code_that_has_ended_says_so(gw: Gateway) -> None:
    channel = gw.remote_exec("channel.send(1)")
    channel.waitclose(10)

    assert channel.interrupt() == "ended"


def test_an_interrupt_goes_through_two_hops(group: Group) -> None:
    group.makegateway("popen//id=a")
    group.makegateway("popen//id=b//via=a")
    gw = group.makegateway("popen//via=b")
    channel = started(gw, COMPUTES)

    assert channel.interrupt() == "interrupted"
    ends_with(channel, "KeyboardInterrupt")


def test_a_gateway_interrupts_all_that_runs_in_it(popen: Gateway) -> None:
    channels = [started(popen, source) for source in (COMPUTES, RECEIVES, COMPUTES)]

    outcomes = popen.interrupt()

    assert outcomes == {channel.id: "interrupted" for channel in channels}
    for channel in channels:
        ends_with(channel, "KeyboardInterrupt")


def test_the_traceback_of_an_interrupt_says_where_the_code_was_and_nothing_of_ours(popen: Gateway) -> None:
    channel = started(popen, COMPUTES)
    channel.interrupt()

    with pytest.raises(RemoteError) as caught:
        channel.waitclose(10)

    assert "in forever" in caught.value.formatted
    assert "execgw" not in caught.value.formatted


@pytest.mark.parametrize("kind", ["popen", "2.7.18", "3.6.15", "3.13.0"])
def test_a_c_function_that_is_called_by_its_name_is_interrupted(group: Group, kind: str) -> None:
    gw = group.makegateway("popen" if kind == "popen" else f"popen//python={find_python(kind)}")
    future = gw.submit(time.sleep, 3600)
    while not gw.remote_status().numexecuting:
        pass

    told = gw.interrupt()

    assert list(told.values()) == ["interrupted"]
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        future.result(20)


def test_code_may_catch_the_interrupt_and_go_on(gw: Gateway) -> None:
    if cannot(gw, CATCHES, main=True):
        assert started(gw, CATCHES).cancel(timeout=1) == "running"
        return
    channel = started(gw, CATCHES)

    for _ in range(3):
        assert channel.interrupt() == "interrupted"
        assert channel.receive(10) == "caught"

    assert channel.cancel(timeout=1) == "exited"


def test_code_with_a_handler_of_its_own_gets_the_signal(popen: Gateway) -> None:
    channel = popen.remote_exec(
        """
        import asyncio
        async def main():
            channel.send("started")
            await asyncio.sleep(3600)
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            channel.send("ended in order")
        """
    )
    assert channel.receive(10) == "started"

    channel.interrupt()

    assert channel.receive(10) == "ended in order"


@pytest.mark.parametrize("kind", ["popen", "2.7.18", "3.13.0"])
def test_after_an_interrupt_at_any_moment_the_worker_answers_the_next_call(group: Group, kind: str) -> None:
    """The whole of it is testing/soak/interrupts.py."""
    gw = group.makegateway("popen" if kind == "popen" else f"popen//python={find_python(kind)}")
    chance = random.Random(20)
    pause = threading.Event()
    for number in range(40):
        channel = gw.remote_exec("while True: channel.send(channel.receive())")
        for item in range(chance.randrange(4)):
            channel.send(item)
            assert channel.receive(10) == item
        pause.wait(chance.random() / 500)

        channel.interrupt()

        assert gw.call(divmod, number, 7) == divmod(number, 7)
        with pytest.raises(RemoteError):
            channel.waitclose(10)


# -- cancel


def test_cancel_says_what_it_took(gw: Gateway) -> None:
    if cannot(gw, COMPUTES, main=True):
        assert started(gw, RECEIVES).cancel() == "interrupted"
        return
    assert started(gw, COMPUTES).cancel() == "interrupted"
    if not cannot(gw, CATCHES, main=False):  # where it comes, the main thread may not quite be free
        assert started(gw, CATCHES).cancel(timeout=1) == "exited"

    channel = gw.remote_exec("pass")
    channel.waitclose(10)
    assert channel.cancel() == "ended"


def test_cancel_kills_a_worker_only_if_asked_to(popen: Gateway) -> None:
    channel = popen.remote_exec(
        """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel.send("started")
"""
        + CATCHES_EVERYTHING
    )
    channel.receive(10)

    assert channel.cancel(timeout=0.5) == "running"
    assert popen.hasreceiver()
    assert channel.cancel(timeout=0.2, kill=True) == "killed"
    assert not popen.hasreceiver()


# -- time limits


def test_code_that_runs_too_long_ends_with_remote_timeout(gw: Gateway) -> None:
    source = RECEIVES if cannot(gw, COMPUTES, main=True) else COMPUTES
    channel = started(gw, source, timeout=0.2)

    with pytest.raises(RemoteTimeout, match=r"the code ran longer than 0.2 s") as caught:
        channel.receive(10)

    assert isinstance(caught.value, TimeoutError)
    assert ("in forever" if source is COMPUTES else "channel.receive()") in caught.value.formatted


def test_code_that_catches_everything_is_given_up_on(popen: Gateway) -> None:
    channel = popen.remote_exec(CATCHES_EVERYTHING, timeout=0.1)

    with pytest.raises(RemoteTimeout, match="does not end"):
        channel.waitclose(20)

    assert channel.cancel(timeout=0.1, kill=True) == "ended"  # as far as this side knows
    popen._session.transport.kill(force=True)


def test_code_that_ends_in_time_is_left_alone(popen: Gateway) -> None:
    assert popen.remote_exec("channel.send(1)", timeout=30).receive() == 1


def test_a_function_with_an_argument_called_timeout_gets_it(popen: Gateway) -> None:
    def far(channel, timeout):
        channel.send(timeout)

    assert popen.remote_exec(far, timeout=3).receive() == 3


# -- Ctrl-C on the near side

SCRIPT = """
import execgw, os, signal, threading
gw = execgw.makegateway("popen")
channel = gw.remote_exec('''
try:
    channel.send("started")
    {code}
except KeyboardInterrupt:
    channel.send("interrupted there")
''')
channel.receive()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    channel.{wait}()
except KeyboardInterrupt:
    print("interrupted here")
print(channel.receive(10))
print(gw.call(abs, -3))
"""


@pytest.mark.parametrize("wait", ["receive", "waitclose"])
@pytest.mark.parametrize("code", ["while True: pass", "channel.receive()"])
def test_ctrl_c_interrupts_the_far_code_that_is_waited_for_and_leaves_the_gateway_usable(wait: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(wait=wait, code=code)], capture_output=True, text=True, timeout=60
    )

    assert done.stdout.split("\n")[:3] == ["interrupted here", "interrupted there", "3"], done.stderr


def test_a_worker_that_gets_sigint_from_elsewhere_raises_it_in_its_main_thread(group: Group) -> None:
    gw = group.makegateway("popen//execmodel=main_thread_only")
    channel = started(gw, COMPUTES)
    gw.interrupt()  # from now on the handler tells the two apart
    ends_with(channel, "KeyboardInterrupt")
    channel = started(gw, COMPUTES)

    os.kill(int(gw._session.about["pid"]), signal.SIGINT)

    ends_with(channel, "KeyboardInterrupt")


# -- asking


def test_status_says_where_each_task_is_while_it_computes(gw: Gateway) -> None:
    busy, waiting = started(gw, COMPUTES), started(gw, RECEIVES)

    status = gw.status()

    assert sorted(status.running) == [busy.id, waiting.id]
    assert status.running[busy.id].function == "forever"
    assert status.running[busy.id].filename == "<remote exec>"
    assert status.running[busy.id].lineno in (4, 5)
    assert status.channels[waiting.id].waiting == 0
    assert status.queued == 0
    assert status.round_trip > 0
    assert gw.status().cpu > 0
    gw.interrupt()


def test_status_counts_memory(popen: Gateway) -> None:
    before = popen.status().memory

    channel = popen.remote_exec("data = b'x' * 50000000; channel.send(1); channel.receive()")
    channel.receive()

    assert popen.status().memory - before > 40_000_000


def test_stacks_show_the_code_of_every_thread(gw: Gateway) -> None:
    channel = started(gw, COMPUTES)

    stacks = gw.stacks()

    (text,) = [text for name, text in stacks.items() if name.startswith(f"channel {channel.id}:")]
    assert "forever()" in text
    channel.cancel()


@pytest.mark.parametrize("kind", ["2.7.18", "3.13.0"])
def test_a_worker_that_is_ended_while_it_fetches_what_answers_says_nothing(group: Group, kind: str, our_stderr) -> None:
    with our_stderr() as read:
        gw = group.makegateway(f"popen//python={find_python(kind)}")
        peer = gw._session
        with peer.writing:  # both come in one read
            peer._queue(f.ASK, 0, f.pack_pairs({"number": "1", "verb": "report"}))
            peer._queue(f.BYE, 0)
        peer.flush()

        assert gw.join(20)
        assert read() == ""
