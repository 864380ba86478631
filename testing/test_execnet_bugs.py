"""The bugs and weaknesses of execnet 2 that a drop-in must not have: one test each, named after what it must not do."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import threading
import time

import pytest

import execgw
from execgw import DumpError, LoadError, RemoteError, StartError, TimeoutError

ECHO = "for item in channel: channel.send(item)"


# -- values


@pytest.mark.parametrize("number", [-(2**31) - 1, -(2**63), -(2**63) - 1, -(2**200), 2**31, 2**63, 2**200])
def test_ints_beyond_32_bits_travel(gw, number):
    channel = gw.remote_exec(ECHO)

    channel.send(number)

    assert channel.receive() == number == execgw.loads(execgw.dumps(number))


def test_truncated_data_is_a_load_error():
    data = execgw.dumps({"a": [1, 2.5, "text", (None, True)], "b": b"bytes"})

    for size in range(len(data)):
        with pytest.raises(LoadError):
            execgw.loads(data[:size])


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02garbage", b"\0" * 100, os.urandom(1000), b"execgw\x01\x00garbage"],
    ids=["empty", "execnet", "zeros", "random", "head"],
)
def test_garbage_data_is_a_load_error(data):
    with pytest.raises(LoadError):
        execgw.loads(data)
    with pytest.raises(LoadError):
        execgw.load(io.BytesIO(data))


def test_a_deep_value_is_a_dump_error_and_no_recursion_error(popen):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(DumpError):
        execgw.dumps(deep)
    with pytest.raises(DumpError):
        popen.remote_exec(ECHO).send(deep)


def test_a_class_that_is_merely_called_list_or_channel_is_refused():
    for name in ("list", "Channel", "int"):
        impostor = type(name, (), {})()
        with pytest.raises(DumpError):
            execgw.dumps(impostor)


def test_dumps_refuses_exactly_what_send_refuses(popen):
    channel = popen.remote_exec(ECHO)
    for value in (object(), {1: [open]}, sys.stdout, (1, {2: {3: lambda: 0}})):
        with pytest.raises(DumpError) as first:
            execgw.dumps(value)
        with pytest.raises(DumpError) as second:
            channel.send(value)
        assert str(first.value) == str(second.value)


def test_lone_surrogates_travel_or_are_a_dump_error(popen):
    channel = popen.remote_exec(ECHO)

    try:
        channel.send("\ud800")
    except DumpError:
        return
    assert channel.receive() == "\ud800"


# -- one bad message must not end the connection


def test_close_with_a_number_does_not_end_the_far_receiver(popen):
    channel = popen.remote_exec(ECHO)

    with pytest.raises(TypeError):
        channel.close(5)

    channel.send(1)
    assert channel.receive() == 1


def test_a_callback_that_raises_gives_waitclose_its_error_and_no_type_error(popen):
    channel = popen.remote_exec("channel.receive(); channel.send(1)")

    def refuse(item):
        raise KeyError("mine")

    channel.setcallback(refuse)
    channel.send(None)

    with pytest.raises(KeyError, match="mine"):
        channel.waitclose(10)


def test_a_channel_of_another_gateway_is_not_mapped_by_its_number(group):
    first, second = group.makegateways(["popen", "popen"])

    with pytest.raises(DumpError, match="another gateway"):
        first.remote_exec(ECHO).send(second.newchannel())


# -- flow and callbacks


def test_a_fast_producer_does_not_fill_our_memory(popen):
    channel = popen.remote_exec("while 1: channel.send(b'x' * 100000)")
    popen.call(len, "")
    with pytest.raises(TimeoutError):
        popen.newchannel().receive(timeout=0.5)

    waiting = sum(len(data) if isinstance(data, bytes) else sum(map(len, data)) for _, data, _ in channel._port.items)

    assert waiting < 8 << 20
    channel.close()


def test_a_blocked_callback_does_not_stop_other_channels_and_may_ask_the_gateway(popen):
    gate, asked = threading.Event(), threading.Event()
    channel = popen.remote_exec("channel.receive(); channel.send(1)")

    def use(item):
        popen.remote_status(timeout=10)
        popen.remote_exec("channel.send(1)").receive(10)
        asked.set()
        gate.wait(20)

    channel.setcallback(use)
    channel.send(None)

    assert asked.wait(20)
    assert popen.call(len, "ab") == 2
    gate.set()
    channel.waitclose(10)


def test_two_threads_that_send_big_values_do_not_mix_them(gw):
    channels = [gw.remote_exec("channel.send(channel.receive() == channel.receive() * 300000)") for _ in range(3)]

    def send(channel, letter):
        channel.send(letter * 300000)
        channel.send(letter)

    threads = [threading.Thread(target=send, args=pair) for pair in zip(channels, "abc", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [channel.receive(20) for channel in channels] == [True] * 3


def test_dropping_channels_in_a_garbage_collection_while_sending_does_no_harm(popen):
    channel = popen.remote_exec(ECHO)
    for n in range(2000):
        loop = [popen.newchannel()]
        loop.append(loop)
        channel.send(n)
    gc.collect()

    assert [channel.receive(20) for _ in range(2000)] == list(range(2000))


# -- starting


@pytest.mark.parametrize("via", ["", "//via=master"])
def test_python_false_does_not_return_a_gateway_that_looks_alive(group, via):
    group.makegateway("popen//id=master")

    with pytest.raises(StartError):
        group.makegateway(f"popen//python=false{via}")


def test_a_duplicate_id_leaks_no_child(group, processes):
    group.makegateway("popen//id=a")

    with pytest.raises(ValueError):
        group.makegateway("popen//id=a")

    assert len(processes()) == 1


def test_an_unknown_execmodel_does_not_return_a_dying_gateway(group, processes):
    with pytest.raises(ValueError):
        group.makegateway("popen//execmodel=nonsense")

    assert not processes()


def test_an_empty_spec_is_no_index_error():
    with pytest.raises(ValueError, match="empty spec"):
        execgw.XSpec("")


def test_a_second_env_of_the_same_name_does_not_win_silently():
    with pytest.raises(ValueError, match="given twice"):
        execgw.XSpec("popen//env:A=1//env:A=2")


def test_bad_values_of_nice_and_env_leave_no_child(group, processes):
    for spec in ("popen//nice=x", "popen//env:A"):
        with pytest.raises(ValueError):
            group.makegateway(spec)

    assert not processes()


def test_pythonhashseed_has_an_effect(group):
    seeded = group.makegateways(["popen//env:PYTHONHASHSEED=7"] * 2)

    assert seeded[0].call(hash, "text") == seeded[1].call(hash, "text")


def test_a_nested_chdir_is_made(group, tmp_path):
    gateway = group.makegateway(f"popen//chdir={tmp_path}/a/b")

    assert gateway.call(os.getcwd) == f"{tmp_path}/a/b"


# -- running


def test_main_thread_only_goes_on_after_an_exception(group):
    gateway = group.makegateway("popen//execmodel=main_thread_only")
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        gateway.remote_exec("1/0").waitclose(10)

    for n in range(3):
        assert gateway.remote_exec(f"channel.send({n})").receive(10) == n


def test_an_eof_error_of_user_code_is_not_swallowed(popen):
    with pytest.raises(RemoteError, match="EOFError: mine"):
        popen.remote_exec("raise EOFError('mine')").waitclose(10)


def test_a_keyboard_interrupt_of_user_code_tells_where(popen):
    with pytest.raises(RemoteError, match="KeyboardInterrupt") as caught:
        popen.remote_exec("raise KeyboardInterrupt").waitclose(10)

    assert caught.value.lineno == 1


def test_functions_that_use_no_globals_raise_no_false_alarm(popen):
    def fine(channel, rows: dict[str, execgw.Channel]):
        total = sum(value for value in rows.values())

        def inner(x, y=1):
            return x + y + total

        channel.send([inner(k) for k in range(2)])

    assert popen.remote_exec(fine, rows={"a": 1}).receive() == [2, 3]


def test_a_partial_or_builtin_is_no_syntax_error_there(popen):
    with pytest.raises(TypeError, match="remote_exec takes"):
        popen.remote_exec(len)


def test_errors_tell_type_and_arguments_not_only_text(popen):
    with pytest.raises(RemoteError) as caught:
        popen.remote_exec("raise KeyError('a', 1)").waitclose(10)

    assert (caught.value.type, caught.value.args_there) == ("KeyError", ("a", 1))


# -- ending


def test_exit_leaves_no_zombie(group, processes, eventually):
    gateways = group.makegateways(["popen"] * 3)

    for gateway in gateways:
        gateway.exit()

    eventually(lambda: not processes())


def test_exit_of_the_interpreter_works_on_python_3_12_and_later(python, nothing_left):
    code = "import execgw; execgw.makegateway('popen').remote_exec('channel.receive()'); execgw.makegateway('popen')"
    here = os.path.dirname(os.path.dirname(execgw.__file__))
    for version in ("3.12.1", "3.13.0"):
        done = subprocess.run(
            [python(version), "-c", code], env={**os.environ, "PYTHONPATH": here}, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_termination_takes_grandchildren_along(group, processes, eventually):
    gateway = group.makegateway("popen")
    gateway.remote_exec("import subprocess; subprocess.Popen(['sleep', '100'])").waitclose(10)

    group.terminate(5)

    # SIGKILL has been sent; on a loaded machine a process is to be seen for a moment after that.
    eventually(lambda: not processes(), "the end of the process that the worker has started")


def test_termination_does_not_take_fifteen_seconds(group):
    group.makegateway("popen").remote_exec("""
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        channel.send(1)
        while 1:
            pass
    """).receive()
    begun = time.monotonic()

    group.terminate(timeout=0.5)

    assert time.monotonic() - begun < 5


def test_there_is_no_thread_per_gateway(group):
    group.makegateway("popen")
    before = threading.active_count()

    for gateway in group.makegateways(["popen"] * 5):
        gateway.remote_exec("channel.send(1)").receive()

    assert threading.active_count() <= before + 1


def test_the_end_of_a_via_master_is_no_raw_error(group):
    master = group.makegateway("popen//id=master")
    behind = group.makegateway("popen//id=behind//via=master")
    os.kill(master._rinfo().pid, 9)

    with pytest.raises(execgw.ConnectionLost):
        behind.remote_exec("channel.receive()").receive(10)
    assert set(group.terminate(5)) == {"master", "behind"}


def test_via_of_an_unknown_gateway_is_no_key_error(group):
    with pytest.raises(execgw.SpecError, match="no gateway of this group"):
        group.makegateway("popen//via=nobody")


def test_a_via_gateway_can_be_asked_for_its_address_without_harm(group):
    group.makegateway("popen//id=master")
    behind = group.makegateway("popen//via=master")

    assert getattr(behind, "remoteaddress", None) is None
    assert behind.call(len, "ab") == 2


def test_multichannel_waitclose_does_not_break_out_at_a_lost_gateway(group):
    first, second = group.makegateways(["popen", "popen"])
    multi = execgw.MultiChannel([
        first.remote_exec("import os; os._exit(1)"), second.remote_exec("channel.send(1)"),
    ])  # fmt: skip

    with pytest.raises(execgw.ConnectionLost):
        multi.waitclose()

    assert multi[1].receive() == 1
