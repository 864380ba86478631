"""Groups: a container of gateways, made in parallel, ended in order, and nothing left at exit."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import execgw
from execgw import Group, SpecError, StartError, XSpec

IGNORE_TERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel.send(1)
    while 1:
        try:
            time.sleep(100)
        except BaseException:
            pass
"""
BUSY = "channel.send(1)\nwhile 1: pass"


# -- the container


def test_a_group_is_a_container_of_its_gateways(group):
    first, second = group.makegateway("popen//id=first"), group.makegateway("memory")

    assert len(group) == 2 and bool(group)
    assert list(group) == [first, second]
    assert group[0] is group["first"] is group[first] is first
    assert "first" in group and second in group and "third" not in group
    assert repr(group) == "<Group ['first', 'gw0']>"
    with pytest.raises(KeyError):
        group["third"]
    with pytest.raises(IndexError):
        group[5]


def test_iterating_goes_over_a_copy(group):
    group.makegateways(["memory", "memory"])

    for gateway in group:
        gateway.exit()

    assert len(group) == 0 and not group


def test_ids_are_counted_and_never_given_twice(group):
    first = group.makegateway("memory")
    first.exit()

    assert (first.id, group.makegateway("memory").id) == ("gw0", "gw1")


def test_allocate_id_gives_an_id_once(group):
    spec = XSpec("memory")

    group.allocate_id(spec)
    group.allocate_id(spec)

    assert spec.id == "gw0"
    assert group.makegateway(spec).id == "gw0"
    assert group.makegateway("memory").id == "gw1"


def test_the_spec_of_a_gateway_is_the_very_object_that_was_given(group):
    spec = XSpec("memory")

    gateway = group.makegateway(spec)
    gateway.exit()
    spec.id = None
    group.allocate_id(spec)

    assert gateway.spec is spec
    assert group.makegateway(spec).id == "gw1"


def test_the_default_spec_is_popen(group):
    assert group.makegateway().spec.popen
    group.defaultspec = "memory"
    assert group.makegateway("").spec.memory


def test_a_group_can_be_made_with_specs(nothing_left):
    with Group(["memory", XSpec("memory//id=b")]) as group:
        assert [gateway.id for gateway in group] == ["gw0", "b"]

    assert len(group) == 0


def test_a_duplicate_id_is_refused_before_a_child_is_started(group, processes):
    group.makegateway("popen//id=a")
    before = processes()

    with pytest.raises(ValueError, match="already have gateway with id 'a'"):
        group.makegateway("popen//id=a")

    assert processes() == before
    assert len(group) == 1


def test_default_group_and_its_functions():
    assert execgw.makegateway == execgw.default_group.makegateway
    assert execgw.set_execmodel == execgw.default_group.set_execmodel
    gateway = execgw.makegateway("memory")
    assert gateway in execgw.default_group

    execgw.default_group.terminate(5)

    assert gateway not in execgw.default_group


# -- many at once


def test_makegateways_gives_them_in_the_order_of_the_specs(group):
    gateways = group.makegateways(["popen//id=a", "memory//id=b", "popen//id=c"])

    assert [gateway.id for gateway in gateways] == [gateway.id for gateway in group] == ["a", "b", "c"]


def test_makegateways_starts_them_at_the_same_time(group, tmp_path):
    # Each interpreter waits, before it starts, until all of them are there.
    program = tmp_path / "all_of_them"
    program.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        touch {tmp_path}/here.$$
        while [ $(ls {tmp_path} | grep -c here) -lt 4 ]; do sleep 0.01; done
        exec {sys.executable} "$@"
    """)
    )
    program.chmod(0o755)

    gateways = group.makegateways([f"popen//python={program}//start_timeout=20"] * 4)

    assert len({gateway._rinfo().pid for gateway in gateways}) == 4


def test_makegateways_leaves_nothing_if_one_fails(group, processes):
    with pytest.raises(StartError):
        group.makegateways(["popen", "popen//python=false", "popen"])

    assert len(group) == 0
    assert not processes()


def test_makegateways_with_a_bad_spec_starts_nothing_that_stays(group, processes):
    with pytest.raises(SpecError):
        group.makegateways(["popen", "popen//nonsense=1"])

    assert not processes()
    assert group.makegateway("memory//id=gw0")


def test_threads_may_make_gateways_at_the_same_time(group):
    made = []
    threads = [threading.Thread(target=lambda: made.append(group.makegateway("popen"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(gateway.id for gateway in made) == ["gw0", "gw1", "gw2", "gw3"]


def test_the_near_side_has_no_thread_per_gateway(group):
    group.makegateway("popen")
    before = threading.active_count()

    gateways = group.makegateways(["popen"] * 6)

    for gateway in gateways:
        assert gateway.remote_exec("channel.send(1)").receive() == 1
    assert threading.active_count() <= before + 1


# -- ending


def test_terminate_tells_what_it_took(group, processes):
    _, busy, stubborn = group.makegateways(["popen//id=idle", "popen//id=busy", "popen//id=stubborn"])
    busy.remote_exec("import signal; signal.signal(2, signal.SIG_IGN)\n" + BUSY).receive()
    stubborn.remote_exec(IGNORE_TERM).receive()

    how = group.terminate(timeout=0.5)

    assert how == {"idle": "asked", "busy": "terminated", "stubborn": "killed"}
    assert not processes()
    assert len(group) == 0


def test_terminate_of_a_busy_worker_is_bounded(group):
    group.makegateway("popen").remote_exec(IGNORE_TERM).receive()
    begun = time.monotonic()

    group.terminate(timeout=0.2)

    assert time.monotonic() - begun < 5


def test_terminate_twice_and_of_nothing(group):
    group.makegateway("popen")

    assert group.terminate(5) == {"gw0": "asked"}
    assert group.terminate(5) == {}


def test_terminate_of_a_dead_worker(group):
    gateway = group.makegateway("popen")
    os.kill(gateway._rinfo().pid, 9)

    assert group.terminate(5) == {"gw0": "asked"}


def test_terminate_ends_those_behind_others_first(group, processes):
    group.makegateway("popen//id=a")
    group.makegateway("popen//id=b//via=a")
    group.makegateway("popen//id=c//via=b")
    ended = []
    for gateway in group:
        gateway._session.when_over.append(lambda name=gateway.id: ended.append(name))

    how = group.terminate(5)

    assert how == {"a": "asked", "b": "asked", "c": "asked"}
    assert ended == ["c", "b", "a"]
    assert not processes()


def test_the_death_of_a_worker_ends_those_behind_it(group, processes, eventually):
    master = group.makegateway("popen//id=master")
    behind = group.makegateway("popen//via=master")
    channel = behind.remote_exec("channel.receive()")

    os.kill(master._rinfo().pid, 9)

    with pytest.raises(EOFError):
        channel.receive(10)
    eventually(lambda: not processes())


def test_what_a_worker_has_started_ends_with_it(group, processes):
    gateway = group.makegateway("popen")
    gateway.remote_exec("import subprocess; subprocess.Popen(['sleep', '100'])").waitclose(10)
    assert len(processes()) == 2

    group.terminate(5)

    assert not processes()


def test_a_worker_ends_when_its_near_side_is_killed(nothing_left, processes, eventually):
    program = textwrap.dedent("""
        import execgw, os
        gateways = execgw.makegateways(["popen", "popen//id=m"]) + [execgw.makegateway("popen//via=m")]
        for gateway in gateways:
            gateway.remote_exec("channel.send(1)\\nwhile 1: pass").receive()
        os.kill(os.getpid(), 9)
    """)

    subprocess.run([sys.executable, "-c", program], timeout=60)

    eventually(lambda: not processes(), seconds=20)


ATEXIT = """
import execgw, sys
gateways = execgw.makegateways(["popen", "popen"])
gateways.append(execgw.makegateway("popen//via=gw0"))
channels = [gateway.remote_exec("channel.send(1); channel.receive()") for gateway in gateways]
assert [channel.receive() for channel in channels] == [1, 1, 1]
got = []
channels[0].setcallback(got.append, endmarker=None)
execgw.makegateway("popen").exit()
"""


@pytest.mark.parametrize("version", ["3.10.13", "3.11.7", "3.12.1", "3.13.0"])
def test_nothing_is_left_or_printed_at_exit(nothing_left, processes, python, version):
    # Without site the interpreter does not know execgw's finder; the path does.
    here = os.path.dirname(os.path.dirname(execgw.__file__))
    done = subprocess.run(
        [python(version), "-W", "error", "-c", ATEXIT], env={**os.environ, "PYTHONPATH": here},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not processes()


def test_the_cleanup_at_exit_is_registered_by_the_name_on_the_module(monkeypatch, nothing_left):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    group = Group()
    group.makegateway("memory")

    for _ in range(2):
        for function in registered:
            function()

    assert len(group) == 0


# -- forks of the near side


def test_a_forked_child_does_not_disturb(group):
    gateway = group.makegateway("popen")
    channel = gateway.remote_exec("for item in channel: channel.send(item)")

    pid = os.fork()
    if pid == 0:
        group.terminate(1)
        os._exit(0)

    assert os.waitpid(pid, 0)[1] == 0
    channel.send(1)
    assert channel.receive(10) == 1


def test_a_forked_child_can_have_gateways_of_its_own(group):
    gateway = group.makegateway("popen")
    assert gateway.call(len, "a") == 1

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = Group()
            code = 0 if own.makegateway("popen").call(len, "ab") == 2 else 2
            own.terminate(5)
        finally:
            os._exit(code)

    assert os.waitpid(pid, 0)[1] == 0
    assert gateway.call(len, "abc") == 3


def _in_child(value: int) -> int:
    return value + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_multiprocessing_pool_that_forks_does_not_disturb(group):
    gateway = group.makegateway("popen")

    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_in_child, [1, 2]) == [2, 3]
        assert gateway.call(len, "abc") == 3

    assert gateway.call(len, "abc") == 3


def test_a_forked_child_that_lives_on_does_not_keep_the_workers_alive(group):
    gateway = group.makegateway("popen")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)

    gateway.exit()
    ended = gateway.join(5)

    os.close(write)
    os.close(read)
    os.waitpid(pid, 0)
    assert ended
