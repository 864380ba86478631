"""How workers run more than one task: thread and main_thread_only; the models that are not built."""

from __future__ import annotations

import pytest

from execgw import Group, RemoteError


def test_the_execmodel_is_thread_and_can_be_set_while_there_are_no_gateways(nothing_left):
    group = Group()
    assert group.execmodel.backend == group.remote_execmodel.backend == "thread"

    group.set_execmodel("thread", "main_thread_only")

    assert (group.execmodel.backend, group.remote_execmodel.backend) == ("thread", "main_thread_only")
    gateway = group.makegateway("popen")
    assert gateway.remote_status().execmodel == "main_thread_only"
    with pytest.raises(ValueError, match="has gateways"):
        group.set_execmodel("thread")
    group.terminate(5)


@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_models_that_are_not_built_are_refused_in_plain_words(group, name):
    with pytest.raises(ValueError, match=f"'{name}' is not built"):
        Group(execmodel=name)
    with pytest.raises(ValueError, match=f"'{name}' is not built"):
        group.set_execmodel(name)
    with pytest.raises(ValueError, match=f"'{name}' is not built"):
        group.makegateway(f"popen//execmodel={name}")


def test_an_unknown_execmodel_is_refused_before_a_process_is_started(group, processes):
    with pytest.raises(ValueError, match="unknown execmodel 'nonsense'"):
        group.makegateway("popen//execmodel=nonsense")

    assert not processes()


@pytest.fixture
def main_only(group):
    return group.makegateway("popen//execmodel=main_thread_only")


def test_main_thread_only_runs_every_task_in_the_main_thread(main_only):
    code = "import threading; channel.send(threading.current_thread() is threading.main_thread())"

    for _ in range(3):
        channel = main_only.remote_exec(code)
        assert channel.receive(10) is True
        channel.waitclose(10)


def test_main_thread_only_runs_quick_successors_in_turn(main_only):
    channels = [main_only.remote_exec(f"channel.send({n})") for n in range(10)]

    assert [channel.receive(10) for channel in channels] == list(range(10))


def test_main_thread_only_refuses_a_second_task_while_one_runs(main_only):
    running = main_only.remote_exec("channel.send(1); channel.receive()")
    running.receive(10)

    with pytest.raises(RemoteError, match="concurrent remote_exec would cause deadlock for main_thread_only execmodel"):
        main_only.remote_exec("pass").waitclose(10)

    running.send(None)
    running.waitclose(10)
    assert main_only.remote_exec("channel.send(2)").receive(10) == 2


def test_a_waiting_task_of_main_thread_only_delays_no_other_channel(main_only):
    running = main_only.remote_exec("for item in channel: channel.send(item)")
    waiting = main_only.remote_exec("pass")

    for n in range(20):
        running.send(n)
        assert running.receive(10) == n
    assert main_only.remote_status(timeout=10).numexecuting == 1

    with pytest.raises(RemoteError, match="deadlock"):
        waiting.waitclose(10)


def test_a_task_that_comes_while_another_imports_threading_is_run(popen):
    first = popen.remote_exec(
        """
        import importlib.machinery, select, sys
        assert "threading" not in sys.modules

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name != "threading":
                    return None
                sys.meta_path.remove(self)
                spec = importlib.machinery.PathFinder.find_spec(name)
                execute = spec.loader.exec_module

                def slowly(module):
                    channel.send("threading is half there")
                    select.select([], [], [], 0.5)
                    execute(module)

                spec.loader.exec_module = slowly
                return spec

        sys.meta_path.insert(0, Slow())
        import threading
        """
    )
    assert first.receive(10) == "threading is half there"

    second = popen.remote_exec("channel.send(1)")

    assert second.receive(10) == 1
    first.waitclose(10)


def test_what_follows_the_end_of_a_task_has_the_main_thread_though_that_has_not_come_home_yet(popen):
    first = popen.remote_exec(
        """
        import threading
        peer = channel._peer
        close, on_task = peer.close, peer.on_task
        came = threading.Event()

        def close_and_dawdle(*args):
            close(*args)
            came.wait(20)

        def note(*args):
            on_task(*args)
            came.set()

        peer.close, peer.on_task = close_and_dawdle, note
        """
    )
    first.waitclose(20)

    second = popen.remote_exec("import threading; channel.send(type(threading.current_thread()).__name__)")

    assert second.receive(20) == "_MainThread"
