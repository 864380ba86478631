"""resume= of workers that a fork server starts: its child becomes the keeper, and forks the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
from test_resume import DOUBLE, WAIT, cut, keeper_of

from execgw import ConnectionLost, Group, StartError

SPEC = "popen//resume=20"


@pytest.fixture(name="forking")
def forking_fixture(group: Group) -> Group:
    """A group with a fork server."""
    group.setlocalfactory(preload="wave")
    return group


def test_a_forked_worker_goes_on_over_the_next_link(forking: Group) -> None:
    gateway = forking.makegateway(SPEC)
    channel = gateway.remote_exec(DOUBLE)

    for number in range(5):
        channel.send(number)
        cut(gateway)
        assert channel.receive(WAIT) == number * 2
    assert gateway.call(eval, "'wave' in __import__('sys').modules") is True  # it is the fork server's


def test_many_forked_workers_are_cut_at_the_same_time(forking: Group) -> None:
    gateways = forking.makegateways([SPEC] * 8)
    channels = [gateway.remote_exec(DOUBLE) for gateway in gateways]

    for number in range(3):
        for channel in channels:
            channel.send(number)
        for gateway in gateways:
            cut(gateway)
        assert [channel.receive(WAIT) for channel in channels] == [number * 2] * 8
    assert len({keeper_of(gateway) for gateway in gateways}) == 8


def test_a_forked_worker_goes_from_one_group_to_another(forking: Group, nothing_left: str) -> None:
    gateway = forking.makegateway(SPEC)
    channel = gateway.remote_exec(DOUBLE)
    channel.send(21)
    pid = gateway.call(os.getpid)
    number, ticket = channel.id, gateway.detach()
    other = Group()

    attached = other.attach(ticket)

    assert attached.call(os.getpid) == pid
    assert attached.channels[number].receive(WAIT) == 42
    other.terminate(timeout=5)


NEAR = """
    import sys, execgw
    group = execgw.Group()
    group.setlocalfactory()
    gateway = group.makegateway(sys.argv[1])
    channel = gateway.remote_exec("for number in range(1000): channel.send(number)\\nchannel.receive()")
    print(gateway.ticket, channel.id, gateway.call(__import__("os").getppid), flush=True)
    for item in channel:
        print(item, flush=True)
"""


def _killed_near_side(spec: str, items: int) -> tuple[str, int, list[int]]:
    """Start a near side with a fork server, let it receive some items, and kill it."""
    argv = [sys.executable, "-c", textwrap.dedent(NEAR), spec]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as near:
        assert near.stdout is not None
        ticket, number, _ = near.stdout.readline().split()
        got = [int(near.stdout.readline()) for _ in range(items)]
        near.kill()
        got += [int(line) for line in near.stdout if line.endswith("\n")]
    return ticket, int(number), got


def test_a_forked_worker_outlives_its_near_side_and_the_fork_server(group: Group) -> None:
    ticket, number, got = _killed_near_side(SPEC, 50)

    mine = group.attach(ticket).channels[number]
    first = mine.receive(WAIT)
    rest = [mine.receive(WAIT) for _ in range(first + 1, 1000)]

    assert got == [*range(len(got))]
    assert first <= len(got)  # values that it had not yet said to be taken come again
    assert rest == [*range(first + 1, 1000)]


def test_it_ends_when_its_grace_is_over(processes: Any, eventually: Any) -> None:
    ticket, _, _ = _killed_near_side("popen//resume=0.3", 1)

    eventually(lambda: processes() == [], "the end of worker, keeper and fork server")
    with pytest.raises(StartError, match="the session is no more"):
        Group().attach(ticket)


def test_a_lease_ends_it_all_the_same(forking: Group, capfd: pytest.CaptureFixture[str], eventually: Any) -> None:
    gateway = forking.makegateway(SPEC + "//lease=0.5")
    channel = gateway.remote_exec("channel.receive()")
    begun = time.monotonic()

    with pytest.raises(ConnectionLost, match="SIGTERM"):
        channel.receive(WAIT)

    assert time.monotonic() - begun < 5
    said = []
    eventually(lambda: said.append(capfd.readouterr().err) or "its lease has passed" in "".join(said), "the reason")


def test_it_takes_one_of_the_places_of_the_fork_server(group: Group, eventually: Any) -> None:
    group.setlocalfactory(limit=2)
    kept = [group.makegateway(SPEC) for _ in range(2)]

    with pytest.raises(StartError, match="all its 2 places are taken"):
        group.makegateway(SPEC)

    kept[0].exit()

    def starts() -> bool:
        try:
            return bool(group.makegateway(SPEC))
        except StartError:
            return False

    eventually(starts, "the place of the one that has ended")


def test_a_killed_worker_is_told_with_its_signal(forking: Group) -> None:
    gateway = forking.makegateway(SPEC)
    channel = gateway.remote_exec("import os\nos.kill(os.getpid(), 9)")

    with pytest.raises(ConnectionLost) as caught:
        channel.receive(WAIT)

    assert caught.value.signal == "SIGKILL"
