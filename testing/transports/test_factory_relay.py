"""factory=ID: the second and later workers on a host come from the fork server beside its first."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import find_python

from execgw import ClosedHere, ConnectionLost, StartError

ECHO = "for item in channel: channel.send(item)"
PARENT = "import os; channel.send((os.getpid(), os.getppid(), os.getpgrp()))"


@pytest.fixture(params=["3.11", "3.6.15"])
def host(group, request):
    """A gateway with a factory beside it."""
    python = "" if request.param == "3.11" else f"//python={find_python(request.param)}"
    return group.makegateway(f"popen//id=host{python}")


def test_its_workers_are_forked_from_one_process_beside_it(group, host):
    told = [group.makegateway("popen//factory=host").remote_exec(PARENT).receive() for _ in range(3)]

    server = {parent for _, parent, _ in told}
    assert len(server) == 1
    assert host.remote_exec(f"""
        text = open("/proc/%d/stat" % {server.pop()}).read()
        channel.send(int(text.rpartition(")")[2].split()[1]))
    """).receive() == host.call(os.getpid)  # fmt: skip
    assert all(pid == own_group for pid, _, own_group in told)


def test_much_goes_both_ways(group, host):
    channel = group.makegateway("popen//factory=host").remote_exec(ECHO)

    for value in ({"a": [1, (2,)]}, b"x" * 3_000_000, None):
        channel.send(value)
        assert channel.receive(20) == value


def test_surroundings_are_applied(group, host, tmp_path):
    gateway = group.makegateway(f"popen//factory=host//chdir={tmp_path}/x//env:A=1")

    told = gateway.remote_exec("import os; channel.send((os.getcwd(), os.environ['A']))")

    assert told.receive() == (f"{tmp_path}/x", "1")


def test_the_end_of_a_worker_is_told(group, host):
    channel = group.makegateway("popen//factory=host").remote_exec(
        "import os; os.write(2, b'oh'); os.kill(os.getpid(), 9)"
    )

    with pytest.raises(ConnectionLost, match="killed by SIGKILL") as caught:
        channel.receive(20)

    assert (caught.value.exit_code, caught.value.stderr) == (-9, "oh")


def test_all_workers_end_with_the_gateway_that_they_are_beside(group, host, processes, eventually):
    channels = [group.makegateway("popen//factory=host").remote_exec("channel.receive()") for _ in range(3)]

    os.kill(host.call(os.getpid), signal.SIGKILL)

    for channel in channels:
        with pytest.raises(ConnectionLost, match="'host'"):
            channel.receive(20)
    eventually(lambda: not processes(), seconds=20)


def test_a_fork_server_that_was_killed_is_replaced(group, host):
    first = group.makegateway("popen//factory=host")
    server = first.remote_exec(PARENT).receive()[1]

    watched = group.makegateway("popen//factory=host//lease=100").remote_exec("channel.receive()")

    os.kill(server, signal.SIGKILL)

    with pytest.raises(ConnectionLost, match="the factory that watched its deadline has ended"):
        watched.receive(20)
    for _ in range(2):  # the first may find out that it has gone
        try:
            second = group.makegateway("popen//factory=host")
            break
        except StartError as e:
            assert "its fork server has ended" in str(e)
    assert second.remote_exec(PARENT).receive()[1] != server
    assert first.remote_exec(PARENT).receive()[1] != server  # it goes on, adopted


def test_modules_are_preloaded_there(group):
    group.makegateway("popen//id=host//preload=decimal,json")

    told = group.makegateway("popen//factory=host").remote_exec("import sys; channel.send('decimal' in sys.modules)")

    assert told.receive()


def test_what_cannot_be_preloaded_is_said_at_the_first_worker(group):
    group.makegateway("popen//id=host//preload=no_such_module")

    with pytest.raises(StartError, match="its factory refuses: preload=no_such_module: ModuleNotFoundError"):
        group.makegateway("popen//factory=host")


def test_gateways_behind_forked_workers_work(group):
    group.makegateway("popen//id=a")
    group.makegateway("popen//id=b//factory=a")
    group.makegateway("popen//id=c//factory=b")
    deepest = group.makegateway("popen//id=d//via=c")

    assert deepest.call(os.getppid) == group["c"].call(os.getpid)
    middle = group["b"]
    middle.exit()
    assert middle.join(20)
    with pytest.raises(ClosedHere):
        deepest.call(os.getpid)


def test_where_nothing_can_be_forked_a_worker_is_spawned(group):
    host = group.makegateway(f"popen//id=host//python={find_python('2.7.18')}")

    gateways = [group.makegateway("popen//factory=host") for _ in range(2)]

    assert [gateway.call(os.getppid) for gateway in gateways] == [host.call(os.getpid)] * 2
