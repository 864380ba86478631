"""Leases and limits: a worker of a factory has so long to live, and a factory has so many places."""

from __future__ import annotations

import os
import threading

import pytest
from conftest import find_python

from execgw import ConnectionLost, ExecgwError, SpecError, StartError
from execgw.transports.factory import checked_options

ECHO = "for item in channel: channel.send(item)"
STUCK = """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel.send(subprocess.Popen(["sleep", "100"]).pid)
while True:
    pass
"""
KINDS = ["local", "beside", "2.7.18"]


@pytest.fixture(params=KINDS)
def start(group, request):
    """start("lease=5") is a gateway of a factory: the group's own, one beside a gateway, one that has to spawn."""
    name = request.param
    if name == "local":
        group.setlocalfactory(limit=4)
    elif name == "beside":
        group.makegateway("popen//id=beside//limit=4")
    else:
        group.makegateway(f"popen//id={name}//limit=4//python={find_python(name)}")
    return lambda spec="": group.makegateway(f"popen//factory={name}{spec and '//'}{spec}")


def test_a_worker_is_ended_when_its_lease_has_passed(start):
    channel = start("lease=0.3").remote_exec(ECHO)

    with pytest.raises(ConnectionLost, match=r"its lease has passed \(lease=0.3\); killed by SIGTERM"):
        channel.receive(20)


def test_a_worker_that_does_not_care_is_killed_with_all_that_it_has_started(start, processes, eventually):
    gateway = start("lease=0.5")
    channel = gateway.remote_exec(STUCK)
    child = channel.receive(20)

    with pytest.raises(ConnectionLost, match="its lease has passed"):
        channel.receive(20)

    eventually(lambda: not [line for line in processes() if line.startswith(f"{child}:")])


def test_a_worker_is_ended_when_nothing_goes_over_its_link(start):
    gateway = start("idle=0.4")
    channel = gateway.remote_exec("while True: pass")

    with pytest.raises(ConnectionLost, match=r"nothing went over its link for too long \(idle=0.4\)"):
        channel.receive(20)


def test_traffic_keeps_a_worker_from_being_idle(start):
    channel = start("idle=1").remote_exec(ECHO)
    pause = threading.Event()

    for number in range(12):
        channel.send(number)
        assert channel.receive(20) == number
        pause.wait(0.15)


def test_a_lease_can_be_renewed(start):
    gateway = start("lease=1")
    channel = gateway.remote_exec("import time; time.sleep(1.4); channel.send('still here'); channel.receive()")

    gateway.renew(60)

    assert channel.receive(20) == "still here"
    gateway.renew(0.1)
    with pytest.raises(ConnectionLost, match="its lease has passed"):
        channel.receive(20)


def test_a_renewed_lease_is_as_long_as_it_was(start):
    gateway = start("lease=0.8")
    channel = gateway.remote_exec(ECHO)

    gateway.renew()

    with pytest.raises(ConnectionLost, match="its lease has passed"):
        channel.receive(20)


def test_a_factory_has_so_many_places_and_a_failed_start_takes_none(start):
    gateways = [start() for _ in range(3)]
    with pytest.raises(StartError):
        start("chdir=/dev/null/x")
    gateways.append(start())

    with pytest.raises(StartError, match=r"all its 4 places are taken \(limit=4\); end a worker first"):
        start()

    gateways[0].exit()
    assert gateways[0].join(20)
    start()


def test_the_worker_is_told_why_it_is_ended(group):
    group.setlocalfactory()
    channel = group.makegateway("popen//lease=0.3").remote_exec("""
        import os, signal
        def told(number, frame):
            os.write(2, b"I clean up\\n")
            os._exit(7)
        signal.signal(signal.SIGTERM, told)
        channel.receive()
    """)

    with pytest.raises(ConnectionLost, match=r"its lease has passed \(lease=0.3\); exit code 7") as caught:
        channel.receive(20)

    assert caught.value.stderr.splitlines() == [
        "execgw: the factory ends this worker: its lease has passed (lease=0.3)",
        "I clean up",
    ]


def test_of_a_thousand_that_are_asked_for_exactly_the_limit_lives(group):
    group.setlocalfactory(limit=50)
    started: list[int] = []
    refused: list[str] = []

    def ask() -> None:
        for _ in range(125):
            try:
                started.append(group.makegateway().call(os.getpid))
            except StartError as e:  # noqa: PERF203
                refused.append(str(e))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert (len(started), len(set(started)), len(refused)) == (50, 50, 950)
    assert all("all its 50 places are taken" in text for text in refused)
    for pid in started:
        os.kill(pid, 0)


def test_other_gateways_have_no_leases(group):
    gateway = group.makegateway("popen")

    with pytest.raises(ExecgwError, match="only workers of a factory have leases"):
        gateway.renew(5)


@pytest.mark.parametrize("limit", ["0", "-1", "many", ""])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(SpecError, match="is no number of workers"):
        checked_options(None, limit)
