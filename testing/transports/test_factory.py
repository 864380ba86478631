"""Factories: workers that a fork server starts; each is a process of its own, and nothing of it outlives its owner."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from execgw import ClosedHere, ConnectionLost, SpecError, StartError
from execgw.transports.factory_worker import FactoryTransport

ABOUT = "import os, sys; channel.send((os.getpid(), os.getppid(), os.getpgrp()))"


@pytest.fixture
def made(group):
    """A group whose popen gateways come from its factory."""
    group.setlocalfactory()
    return group


@pytest.fixture
def server_pid(made):
    return made._hub.factory.process.pid


def has_ended(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- starting


def test_workers_are_children_of_the_factory_and_lead_groups_of_their_own(made, server_pid):
    told = [made.makegateway().remote_exec(ABOUT).receive() for _ in range(3)]

    assert len({pid for pid, _, _ in told}) == 3
    assert {parent for _, parent, _ in told} == {server_pid}
    assert all(pid == own_group for pid, _, own_group in told)


def test_many_can_be_started_at_once(made):
    gateways = made.makegateways(["popen"] * 20)

    pids = [gateway.call(os.getpid) for gateway in gateways]

    assert len(set(pids)) == 20


def test_a_worker_of_a_factory_looks_like_any_other(made):
    gateway = made.makegateway()

    told = gateway.remote_exec("""
        import os, sys, threading, __main__
        null = os.stat(os.devnull)
        channel.send((
            sys.argv, sorted(vars(__main__)), hasattr(__main__, "__file__"),
            [os.path.samestat(os.fstat(fd), null) for fd in (0, 1)],
            threading.current_thread() is threading.main_thread(), threading.active_count(), sys.executable,
        ))
    """).receive()

    names = sorted(vars(type(sys)("__main__"))) + ["__builtins__"]
    assert told == (["-c"], sorted(names), False, [True, True], True, 1, sys.executable)


def test_environment_and_directory_are_those_of_now(made, tmp_path, monkeypatch):
    monkeypatch.setenv("LATER", "1")
    monkeypatch.delenv("HOME")
    monkeypatch.chdir(tmp_path)

    told = made.makegateway("popen//env:MORE=2").remote_exec("""
        import os
        channel.send((os.getenv("LATER"), os.getenv("MORE"), os.getenv("HOME"), os.getcwd()))
    """)

    assert told.receive() == ("1", "2", None, str(tmp_path))


def test_chdir_is_made_and_its_failure_is_a_failed_start(made, tmp_path):
    gateway = made.makegateway(f"popen//chdir={tmp_path}/a/b")

    assert gateway.call(os.getcwd) == f"{tmp_path}/a/b"
    with pytest.raises(StartError, match="/dev/null/x"):
        made.makegateway("popen//chdir=/dev/null/x")


def test_output_on_stderr_is_shown_and_kept(made, our_stderr, eventually):
    with our_stderr() as read:
        channel = made.makegateway().remote_exec("import os; os.write(2, b'last words\\n'); os._exit(3)")
        with pytest.raises(ConnectionLost) as caught:
            channel.receive()
        eventually(lambda: "last words" in read())

    assert (caught.value.exit_code, caught.value.stderr) == (3, "last words\n")


def test_only_popen_gateways_with_this_interpreter_come_from_it(made, server_pid):
    own = [
        made.makegateway(spec) for spec in ("popen//factory=none", f"popen//python={sys.executable}", "popen//nice=1")
    ]

    assert [gateway.call(os.getppid) for gateway in own] == [os.getpid()] * 3
    assert made.makegateway("popen//factory=local").call(os.getppid) == server_pid


def test_a_group_without_its_factory_starts_processes_again(made):
    made.terminate(timeout=5)

    assert made.makegateway().call(os.getppid) == os.getpid()


@pytest.mark.parametrize(
    "spec, why",
    [
        ("popen//factory=local//python=python3", "one interpreter"),
        ("popen//factory", "factory needs a value"),
        ("popen//factory=nobody", "no gateway of this group"),
        ("popen//factory=none//lease=5", "lease= and idle= are for workers of a factory"),
        ("popen//lease=soon", "no time in seconds"),
        ("memory//factory=local", "unknown key 'factory'"),
    ],
)
def test_what_a_factory_cannot_do_is_said(made, spec, why):
    with pytest.raises(SpecError, match=why):
        made.makegateway(spec)


def test_a_group_has_one_factory(made):
    with pytest.raises(ValueError, match="has a factory already"):
        made.setlocalfactory()


# -- what is imported before


def test_modules_are_imported_once_for_all(group, tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text(f"open({str(tmp_path / 'log')!r}, 'a').write('x')\nvalue = []\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    group.setlocalfactory(preload="counted,decimal")

    told = [group.makegateway().remote_exec("""
        import sys
        before = "counted" in sys.modules and "decimal" in sys.modules
        import counted
        counted.value.append(1)
        channel.send((before, len(counted.value)))
    """).receive() for _ in range(3)]  # fmt: skip

    assert told == [(True, 1)] * 3
    assert (tmp_path / "log").read_text() == "x"


@pytest.mark.parametrize(
    "text, why",
    [
        ("raise RuntimeError('not today')", "preload=broken: RuntimeError: not today"),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            r"threads running \(1\)",
        ),
        ("import os; os._exit(1)", "ended before it was ready"),
    ],
)
def test_what_cannot_be_preloaded_is_said(group, tmp_path, monkeypatch, text, why):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(StartError, match=why):
        group.setlocalfactory(preload=["broken"])

    assert group.makegateway().call(os.getppid) == os.getpid()


def test_no_module_has_such_a_name(group):
    with pytest.raises(SpecError, match="no name of a module"):
        group.setlocalfactory(preload="os;print(1)")


# -- isolation


def test_workers_share_nothing_that_they_change(made):
    first, second = made.makegateways(["popen", "popen"])
    first.remote_exec("import os, sys, json; json.mark = 1; os.environ['MARK'] = '1'; os.chdir('/')").waitclose()

    told = second.remote_exec("""
        import json, os
        channel.send((hasattr(json, "mark"), os.getenv("MARK"), os.getcwd()))
    """)

    assert told.receive() == (False, None, os.getcwd())


def test_workers_have_random_numbers_of_their_own(group):
    group.setlocalfactory(preload="random,numpy")

    told = [gateway.remote_exec("""
        import random, numpy
        channel.send((random.random(), float(numpy.random.random())))
    """).receive() for gateway in group.makegateways(["popen"] * 4)]  # fmt: skip

    assert len({number for pair in told for number in pair}) == 8
    assert random.random() not in [number for pair in told for number in pair]


def test_a_worker_holds_no_descriptor_of_the_factory_or_of_other_workers(made):
    gateways = made.makegateways(["popen"] * 3)

    told = [gateway.remote_exec("""
        import os
        folder = "/proc/self/fd/"
        channel.send(sorted(os.readlink(folder + fd) for fd in os.listdir(folder) if os.path.lexists(folder + fd)))
    """).receive() for gateway in gateways]  # fmt: skip

    links = [[name for name in names if name.startswith("socket:")] for names in told]
    assert [len(sockets) for sockets in links] == [1, 1, 1]
    assert len({sockets[0] for sockets in links}) == 3


# -- ends


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_signal_that_ends_a_worker_is_told(made, number):
    gateway = made.makegateway()
    channel = gateway.remote_exec("channel.receive()")

    os.kill(gateway.call(os.getpid), number)

    with pytest.raises(ConnectionLost, match=number.name) as caught:
        channel.receive()
    assert (caught.value.exit_code, caught.value.signal) == (-number, number.name)


def test_what_a_worker_has_started_ends_with_it(made, processes, eventually):
    gateway = made.makegateway()
    before = len(processes())
    gateway.remote_exec("""
        import os, subprocess
        process = subprocess.Popen(["sleep", "100"])
        channel.send(process.pid)
        channel.receive()
        os._exit(0)
    """).receive()
    assert len(processes()) == before + 1

    os.kill(gateway.call(os.getpid), signal.SIGKILL)

    eventually(lambda: len(processes()) == before - 1)


def test_a_worker_that_does_not_end_is_killed(made):
    stuck = made.makegateway().remote_exec("""
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        channel.send(1)
        while True:
            try:
                signal.pause()
            except KeyboardInterrupt:
                pass
    """)
    stuck.receive()

    how = made.terminate(timeout=0.1)

    assert how == {"gw0": "killed"}


def test_a_worker_goes_on_though_its_factory_was_killed_before_it_could_name_it(made, server_pid, eventually):
    gateway = made.makegateway()
    transport = gateway._session.transport
    eventually(lambda: transport.pid, "the factory's word")
    transport._close_pidfd()
    transport.pid = 0  # as if that word had not come

    os.kill(server_pid, signal.SIGKILL)

    made._hub.factory.process.wait()
    eventually(lambda: made._hub.factory.over, "the end of the link to it")
    assert gateway.call(os.getpid) == transport.pid
    gateway.exit()


def test_workers_of_a_killed_factory_go_on_and_the_next_start_says_why(made, server_pid):
    gateway = made.makegateway()

    os.kill(server_pid, signal.SIGKILL)

    made._hub.factory.process.wait()
    assert gateway.call(os.getppid) != server_pid
    assert made._hub.factory._gone.wait(20)
    with pytest.raises(StartError, match="'local' has ended"):
        made.makegateway()
    gateway.exit()
    assert gateway.join(20)


def test_a_worker_of_a_killed_factory_can_be_killed_and_its_end_is_noticed(made, server_pid, processes):
    gateway = made.makegateway()
    channel = gateway.remote_exec("import subprocess; subprocess.Popen(['sleep', '100']).wait()")
    os.kill(server_pid, signal.SIGKILL)
    assert made._hub.factory._gone.wait(20)

    gateway._session.transport.kill(force=True)

    with pytest.raises(ConnectionLost):
        channel.waitclose(20)


def test_a_worker_with_a_lease_ends_with_the_factory_that_watches_it(made, server_pid):
    channel = made.makegateway("popen//lease=100").remote_exec("channel.receive()")

    os.kill(server_pid, signal.SIGKILL)

    with pytest.raises(ConnectionLost, match="the factory that watched its deadline has ended"):
        channel.receive(20)


OWNER = """
import sys, execgw
group = execgw.Group()
group.setlocalfactory(preload="decimal")
for _ in range(5):
    gateway = group.makegateway()
    gateway.remote_exec('''
        import signal, subprocess
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        subprocess.Popen(["sleep", "100"])
        while True: pass
    ''')
print("ready", flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_of_an_owner_that_was_killed(processes, eventually):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"ready\n"

    owner.kill()
    owner.communicate()

    eventually(lambda: not processes(), "the end of all", seconds=20)


def test_a_fork_of_the_near_side_leaves_the_factory_alone(made):
    before = made.makegateway()
    pid = os.fork()
    if not pid:
        os._exit(0 if made.terminate() == {} else 1)

    assert os.waitpid(pid, 0)[1] == 0
    assert before.call(os.getpid) > 0
    assert made.makegateway().call(os.getpid) > 0


def test_a_near_side_with_many_threads_can_start_workers_in_all_of_them(made):
    pids: list[int] = []

    def work() -> None:
        for _ in range(3):
            with made.makegateway() as gateway:
                pids.append(gateway.call(os.getpid))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(pids) == 24
    assert len(made) == 0


def test_a_start_that_takes_too_long_is_ended(made, server_pid, processes, eventually):
    made.makegateway("popen//id=first").exit()
    os.kill(server_pid, signal.SIGSTOP)

    with pytest.raises(StartError, match=r"no answer within 0\.2 s"):
        made.makegateway("popen//start_timeout=0.2")

    os.kill(server_pid, signal.SIGCONT)
    eventually(lambda: len(processes()) == 2)  # the server and its spare


def test_the_program_says_what_the_gateway_is(made):
    gateway = made.makegateway()

    assert isinstance(gateway._session.transport, FactoryTransport)
    assert gateway._session.transport.program == "a worker of the factory 'local'"
    gateway.exit()
    assert gateway.join(20)
    with pytest.raises(ClosedHere):
        gateway.remote_exec("1")
