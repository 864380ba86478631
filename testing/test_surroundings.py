"""What code finds in its worker: argv, stdin, stdout, stderr, threads, signals, processes, packages."""

from __future__ import annotations

import time

import pytest

from execgw import ConnectionLost


def test_the_worker_looks_like_python_c(group, popen):
    channel = popen.remote_exec("""
        import sys, __main__
        channel.send((sys.argv, hasattr(__main__, "__file__"), __main__.__name__, getattr(__main__, "__spec__", None)))
    """)

    assert channel.receive() == (["-c"], False, "__main__", None)


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.13.0"])
def test_the_worker_of_another_python_looks_like_python_c(group, python, version):
    gateway = group.makegateway(f"popen//python={python(version)}")
    channel = gateway.remote_exec("""
        import sys, __main__
        channel.send((sys.argv, hasattr(__main__, "__file__"), ".".join(map(str, sys.version_info[:3]))))
    """)

    assert channel.receive() == (["-c"], False, version)


@pytest.mark.parametrize("kind", ["popen", "via", "2.7.18", "3.6.15", "3.13.0"])
def test_stdin_and_stdout_are_harmless(group, python, kind):
    if kind == "via":
        group.makegateway("popen//id=master")
        gateway = group.makegateway("popen//via=master")
    else:
        gateway = group.makegateway("popen" if kind == "popen" else f"popen//python={python(kind)}")
    channel = gateway.remote_exec("""
        import os, sys
        print("printed")
        sys.stdout.flush()
        os.write(1, b"written")
        os.system("echo from a child; cat")
        try:
            (raw_input if sys.version_info[0] == 2 else input)()
        except EOFError:
            channel.send("eof")
        channel.send(os.read(0, 10) == b"")
    """)

    assert channel.receive(20) == "eof"
    assert channel.receive(20) is True
    assert gateway.remote_exec("channel.send(1)").receive(10) == 1


@pytest.mark.parametrize("spec", ["popen", "popen//via=master"])
def test_stderr_of_the_worker_appears_on_ours(group, our_stderr, eventually, spec):
    group.makegateway("popen//id=master")
    gateway = group.makegateway(spec)

    with our_stderr() as shown:
        gateway.remote_exec("import sys; sys.stderr.write('to stderr\\n'); sys.stderr.flush()").waitclose(10)

        eventually(lambda: "to stderr" in shown())


def test_the_first_task_runs_in_the_main_thread_and_threading_knows_it(popen):
    channel = popen.remote_exec("""
        import threading
        channel.send(threading.current_thread() is threading.main_thread())
    """)

    assert channel.receive() is True


@pytest.mark.parametrize("version", ["3.6.15", "3.8.18", "3.11.7", "3.13.0"])
def test_threading_knows_the_main_thread_although_another_task_imports_it_first(group, python, version):
    gateway = group.makegateway(f"popen//python={python(version)}")
    first = gateway.remote_exec("""
        channel.receive()
        import threading
        channel.send(threading.current_thread() is threading.main_thread())
    """)
    second = gateway.remote_exec("""
        import threading
        channel.send(threading.current_thread() is threading.main_thread())
    """)

    assert second.receive(10) is False
    first.send(None)
    assert first.receive(10) is True


def test_signals_can_be_handled_in_the_first_task(popen):
    channel = popen.remote_exec("""
        import os, signal
        signal.signal(signal.SIGUSR1, lambda number, frame: channel.send("signal"))
        os.kill(os.getpid(), signal.SIGUSR1)
    """)

    assert channel.receive(10) == "signal"


def test_the_worker_can_fork_and_start_processes(popen):
    channel = popen.remote_exec("""
        import os, subprocess, sys
        pid = os.fork()
        if pid == 0:
            os._exit(4)
        channel.send(os.waitpid(pid, 0)[1] >> 8)
        channel.send(subprocess.check_output([sys.executable, "-c", "print(1)"]).decode().strip())
    """)

    assert (channel.receive(10), channel.receive(10)) == (4, "1")


def test_a_child_that_outlives_its_worker_does_not_hold_the_connection_open(popen):
    channel = popen.remote_exec("""
        import os, subprocess
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        os._exit(1)
    """)
    begun = time.monotonic()

    with pytest.raises(ConnectionLost):
        channel.receive(20)

    assert time.monotonic() - begun < 5


def test_the_worker_has_site_packages_and_imports_what_we_import(popen):
    channel = popen.remote_exec("import pytest; channel.send(pytest.__version__)")

    assert channel.receive(20) == pytest.__version__


def test_the_far_gateway_has_an_id_an_execmodel_and_makes_channels(gw):
    channel = gw.remote_exec("""
        model = channel.gateway.execmodel
        lock, event = model.RLock(), model.Event()
        with lock:
            event.set()
        channel.send((model.backend, channel.gateway.id, event.is_set()))
    """)

    assert channel.receive(10) == ("thread", gw.id, True)
