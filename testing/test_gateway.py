"""Gateways run code, call functions, answer while they are busy, and end."""

from __future__ import annotations

import concurrent.futures
import operator
import os
import sys

import pytest

from execgw import ClosedHere, ConnectionLost, DumpError, RemoteError, TimeoutError

ECHO = "for item in channel: channel.send(item)"


def double(x, add=0):
    return x * 2 + add


def fail(text):
    raise ValueError(text)


def return_object():
    return object()


def send_back(channel, value, *, times=1):
    for _ in range(times):
        channel.send(value)


# -- remote_exec


def test_text_is_run_with_a_channel_and_a_name(gw):
    channel = gw.remote_exec("channel.send(__name__)")

    assert channel.receive() == "__channelexec__"


def test_indented_text_is_run(gw):
    channel = gw.remote_exec("""
        if 1:
            channel.send(1)
    """)

    assert channel.receive() == 1


def test_text_may_define_functions_that_see_each_other(gw):
    channel = gw.remote_exec("""
        import os
        def f(n):
            return 1 if n == 0 else n * g(n - 1)
        def g(n):
            return f(n)
        channel.send(f(5))
        channel.send(os.sep)
    """)

    assert list(channel) == [120, "/"]


def test_text_with_an_error_in_its_syntax_is_a_remote_error(gw):
    with pytest.raises(RemoteError, match="SyntaxError"):
        gw.remote_exec("this is no python").waitclose(10)


def test_a_function_runs_with_its_keyword_arguments(popen):
    channel = popen.remote_exec(send_back, value={"a": [1]}, times=2)

    assert list(channel) == [{"a": [1]}, {"a": [1]}]


def test_a_module_is_run_as_it_is_in_its_file_now(gw, tmp_path, monkeypatch):
    file = tmp_path / "module_to_send.py"
    file.write_text("VALUE = 1\nif __name__ == '__channelexec__':\n    channel.send(VALUE)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import module_to_send

    first = gw.remote_exec(module_to_send).receive()
    file.write_text("if __name__ == '__channelexec__':\n    channel.send('changed')\n")

    assert first == 1
    assert gw.remote_exec(module_to_send).receive() == "changed"
    del sys.modules["module_to_send"]


def test_arguments_are_for_functions_only(popen):
    with pytest.raises(TypeError, match="str takes none"):
        popen.remote_exec("pass", a=1)
    with pytest.raises(TypeError, match="module takes none"):
        popen.remote_exec(operator, a=1)


def test_what_is_neither_text_nor_function_nor_module_is_refused(popen):
    with pytest.raises(TypeError, match="remote_exec takes source text"):
        popen.remote_exec(5)


def test_an_argument_that_cannot_travel_raises_here_and_leaves_nothing(popen):
    before = len(popen._session.mux.ports)

    with pytest.raises(DumpError):
        popen.remote_exec(send_back, value=object())

    assert len(popen._session.mux.ports) == before


# -- call and submit


def test_call_returns_the_value_of_a_function_sent_by_its_source(gw):
    assert gw.call(double, 4, add=1) == 9


@pytest.mark.parametrize("func, args, value", [
    (divmod, (7, 2), (3, 1)),
    (len, ([1, 2],), 2),
    (os.path.join, ("a", "b"), "a/b"),
    (operator.add, (1, 2), 3),
], ids=["builtin", "len", "posixpath", "c-module"])  # fmt: skip
def test_call_takes_what_every_python_has_by_its_name(gw, func, args, value):
    assert gw.call(func, *args) == value


def test_call_runs_in_the_worker(popen):
    assert popen.call(os.getpid) == popen._rinfo().pid != os.getpid()


def test_call_raises_what_the_function_raised(gw):
    with pytest.raises(RemoteError, match="no good") as caught:
        gw.call(fail, "no good")

    assert (caught.value.type, caught.value.message) == ("ValueError", "no good")


def test_call_with_an_argument_that_cannot_travel_raises_here(popen):
    with pytest.raises(DumpError, match="object"):
        popen.call(double, object())


def test_call_with_a_result_that_cannot_travel_is_a_remote_error_that_says_so(popen):
    with pytest.raises(RemoteError, match=r"DumpError.*object"):
        popen.call(return_object)

    assert popen.call(double, 1) == 2


def test_call_of_what_cannot_be_sent_says_what_can(popen):
    with pytest.raises(TypeError, match="neither one with source"):
        popen.call(popen.exit)


def test_call_into_a_worker_that_dies_raises_connection_lost(popen):
    with pytest.raises(ConnectionLost) as caught:
        popen.call(os._exit, 5)

    assert caught.value.exit_code == 5


def test_submit_returns_futures(popen):
    futures = [popen.submit(double, n) for n in range(10)]

    assert [future.result(10) for future in futures] == [n * 2 for n in range(10)]


def test_a_future_tells_the_far_exception_and_a_lost_connection(popen):
    failed = popen.submit(fail, "no good")
    with pytest.raises(RemoteError, match="no good"):
        failed.result(10)

    died = popen.submit(os._exit, 1)
    assert isinstance(died.exception(10), ConnectionLost)


def test_futures_of_many_gateways_can_be_waited_for_together(group):
    gateways = group.makegateways(["popen", "popen"])
    futures = [gateway.submit(os.getpid) for gateway in gateways]

    done, _ = concurrent.futures.wait(futures, timeout=20)

    assert len({future.result() for future in done}) == 2


# -- asking


def test_remote_status_answers_while_the_code_computes(gw, tmp_path):
    flag = str(tmp_path / "stop")
    channel = gw.remote_exec(f"""
        import os
        channel.send("busy")
        while not os.path.exists({flag!r}):
            pass
    """)
    channel.receive()

    status = gw.remote_status(timeout=20)

    assert (status.numexecuting, status.numqueued, status.execmodel) == (1, 0, "thread")
    assert status.numchannels >= 1
    open(flag, "w").close()
    channel.waitclose(20)


def test_remote_status_counts_what_runs(gw):
    channels = [gw.remote_exec("channel.send(1); channel.receive()") for _ in range(3)]
    for channel in channels:
        channel.receive()

    assert gw.remote_status(timeout=10).numexecuting == 3
    for channel in channels:
        channel.send(None)
    for channel in channels:
        channel.waitclose(10)


def test_remote_status_of_a_stopped_process_times_out(popen):
    pid = popen._rinfo().pid
    os.kill(pid, 19)

    with pytest.raises(TimeoutError):
        popen.remote_status(timeout=0.1)

    os.kill(pid, 18)
    assert popen.remote_status(timeout=10).execmodel == "thread"


def test_rinfo_is_asked_once(popen):
    info = popen._rinfo()
    popen.remote_exec("import os; os.chdir('/')").waitclose()

    assert popen._rinfo() is info
    assert (info.executable, tuple(info.version_info)) == (sys.executable, tuple(sys.version_info))
    assert (info.platform, info.cwd) == (sys.platform, os.getcwd())
    assert popen._rinfo(update=True).cwd == "/"


def test_repr_tells_the_state(popen):
    assert repr(popen) == "<Gateway id='gw0' receive-live, thread model, 0 active channels>"

    popen.exit()
    popen.join()

    assert repr(popen) == "<Gateway id='gw0' ended>"


def test_a_lost_gateway_says_so(popen):
    with pytest.raises(ConnectionLost):
        popen.call(os._exit, 1)

    assert "not-receiving" in repr(popen)
    assert not popen.hasreceiver()


def test_attributes_can_be_set_on_a_gateway(popen):
    popen.node = "mine"

    assert popen.node == "mine"
    assert not hasattr(popen, "remoteaddress")


# -- ending


def test_exit_and_join_end_the_worker(gw, processes):
    gw.exit()

    assert gw.join(10) is True
    assert not gw.hasreceiver()


def test_exit_twice_does_nothing(gw):
    gw.exit()
    gw.exit()

    assert gw.join(10)


def test_a_process_is_reaped_after_exit_without_terminate(group, popen, processes, eventually):
    popen.exit()
    popen.join(10)

    eventually(lambda: not processes())


def test_with_ends_the_worker_and_leaves_the_group(group, processes):
    with group.makegateway("popen") as gateway:
        assert gateway.call(len, "abc") == 3

    assert len(group) == 0
    assert not processes()


def test_join_with_a_timeout_tells_that_the_worker_runs(popen):
    assert popen.join(0.01) is False


def test_nothing_can_be_done_with_a_gateway_after_exit(gw):
    gw.exit()
    gw.join(10)

    for use in (lambda: gw.remote_exec("pass"), gw.newchannel, lambda: gw.call(len, ""), gw.remote_status):
        with pytest.raises(ClosedHere) as caught:
            use()
        assert isinstance(caught.value, OSError)


def test_a_lost_gateway_raises_connection_lost_at_every_use(popen):
    with pytest.raises(ConnectionLost):
        popen.call(os._exit, 3)

    for use in (lambda: popen.remote_exec("pass"), popen.newchannel, popen.remote_status):
        with pytest.raises(ConnectionLost) as caught:
            use()
        assert caught.value.exit_code == 3


def test_remote_init_threads_does_nothing(popen):
    popen.remote_init_threads(3)
