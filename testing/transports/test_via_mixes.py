"""via= in mixes of kinds, four deep: values pass, who is full stalls nobody, a death reaches all that it concerns."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MARK, PATIENCE, find_python, wait_for
from sshd import find_program, sshd_fixture  # noqa: F401

from execgw import ClosedHere, ConnectionLost, Gateway, Group, StartError
from execgw.peer.turn import clock

ECHO = "for item in channel: channel.send(item)"
HOP = "EXECGW_TEST_HOP"  # in the environment of each worker: the id of its gateway
SOON = 1.0  # seconds in which a death has reached everybody
JAIL = "bwrap --ro-bind / / --dev /dev --proc /proc --unshare-pid --die-with-parent"


def hop(kind: str) -> str:
    """The spec of one hop, for a machine that has what it takes."""
    if kind in ("old", "new"):
        return f"popen//python={find_python('2.7.18' if kind == 'old' else '3.13.0')}"
    if kind == "env":
        return "cmd=env A=1//python=/usr/bin/python3"
    if kind == "bwrap":
        find_program("bwrap", "bubblewrap")
        return f"cmd={JAIL}//python=/usr/bin/python3"
    if kind == "sudo":
        find_program("sudo")
        if os.geteuid() != 0:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(
                "sudo to another user, without a password, needs root"
            )
        return "sudo=nobody//python=/usr/bin/python3"
    return kind


CHAINS = [
    "popen-env-old-bwrap",
    "sudo-bwrap-popen-env",
    "memory-old-new-popen",
    "ssh-sudo-bwrap-popen",
]


@pytest.fixture
def start_chain(group: Group, request: pytest.FixtureRequest) -> Callable[[str], list[Gateway]]:
    """start_chain("popen-env") starts gateways h0, h1, ..., each reached through the one before."""

    def start(kinds: str) -> list[Gateway]:
        gateways: list[Gateway] = []
        for number, kind in enumerate(kinds.split("-")):
            spec = request.getfixturevalue("sshd").spec + "//python=/usr/bin/python3" if kind == "ssh" else hop(kind)
            spec += f"//id=h{number}"
            if kind != "memory":  # sudo and ssh pass no environment on
                spec += f"//env:{HOP}=h{number}//env:{MARK}={os.environ[MARK]}"
            if gateways:
                spec += f"//via=h{number - 1}"
            gateways.append(group.makegateway(spec))
        return gateways

    return start


# -- processes, as this host sees them


def _table() -> dict[int, int]:
    """{pid: parent} of all that run."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # it has just ended
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def workers_of(name: str) -> list[int]:
    """The worker of a gateway; and, if it still runs, what it has started without an environment of its own."""
    found = []
    for pid in _table():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{HOP}={name}".encode() in environment and f"{MARK}={os.environ[MARK]}".encode() in environment:
            found.append(pid)
    return found


def worker_of(name: str) -> int:
    found = workers_of(name)
    (top,) = (pid for pid in found if _table()[pid] not in found)
    return top


def carriers_of(name: str) -> list[int]:
    """The processes between a worker and the one before it: sudo, bwrap, the ssh client."""
    parents = _table()
    above = worker_of(f"h{int(name[1:]) - 1}")
    found, pid = [], parents[worker_of(name)]
    while pid != above:
        found.append(pid)
        pid = parents[pid]
    return found


# -- bytes


@pytest.mark.parametrize("kinds", CHAINS)
def test_values_pass_all_hops(start_chain, kinds):
    chain = start_chain(kinds)
    value = {"a": [1, (2.5,), None], "b": list(range(100_000))}

    channels = [gateway.remote_exec(ECHO) for gateway in chain]
    for channel in channels:
        channel.send(value)

    assert [channel.receive(20) == value for channel in channels] == [True] * 4


def _push_until_closed(channel, blocked: threading.Event) -> None:
    try:
        while True:
            channel.send(b"x" * 100_000)
    except OSError:
        blocked.set()


@pytest.mark.parametrize("kinds", CHAINS)
def test_who_does_not_read_stalls_neither_its_sibling_nor_who_is_before_it(start_chain, group, kinds, eventually):
    chain = start_chain(kinds)
    sibling = group.makegateway("popen//via=h2")
    deaf = chain[3].remote_exec("channel.gateway.newchannel().receive()")
    over = threading.Event()
    thread = threading.Thread(target=_push_until_closed, args=(deaf, over))
    thread.start()
    eventually(lambda: deaf._port.blocked)

    slowest = 0.0
    for channel in [gateway.remote_exec(ECHO) for gateway in (*chain, sibling)]:
        for n in range(20):
            begun = clock()
            channel.send(n)
            assert channel.receive(20) == n
            slowest = max(slowest, clock() - begun)

    deaf.close()
    thread.join(20)
    assert over.is_set()
    assert slowest < SOON


# -- deaths


def _victims(kinds: str) -> list[tuple[str, int, str]]:
    """(chain, which hop, what of it)"""
    found = []
    for number, kind in enumerate(kinds.split("-")):
        if kind != "memory":
            found.append((kinds, number, "worker"))
        if kind in ("sudo", "bwrap", "ssh"):
            found.append((kinds, number, "carrier"))
    return found


@pytest.mark.parametrize("kinds, number, what", [victim for kinds in CHAINS for victim in _victims(kinds)])
def test_a_death_reaches_all_below_and_above_within_a_second(start_chain, kinds, number, what):
    chain = start_chain(kinds)
    channels = [gateway.remote_exec("channel.receive()") for gateway in chain[number:]]
    names = [gateway.id for gateway in chain[number:]]
    wait_for(lambda: all(gateway.remote_status().numexecuting for gateway in chain[number:]))
    if what == "worker":
        victim = worker_of(names[0])
    elif number == 0:
        victim = chain[0]._session.transport.process.pid
    else:
        victim = carriers_of(names[0])[-1]

    begun = clock()
    os.kill(victim, signal.SIGKILL)
    told = []
    for channel in channels:
        with pytest.raises(ConnectionLost) as caught:
            channel.receive(20)
        told.append((clock() - begun, str(caught.value)))

    wait_for(lambda: not any(map(workers_of, names)), "the end of the workers below", PATIENCE)
    gone = clock() - begun
    assert max(when for when, _ in told) < SOON
    assert gone < 2 * SOON
    assert re.match(rf"gateway 'h{number}': connection lost \((killed by|exit code)", told[0][1])
    assert all(f"reached through: gateway 'h{number}': connection lost" in text for _, text in told[1:])
    assert [gateway.call(len, "ab") for gateway in chain[:number]] == [2] * number


def test_a_worker_below_that_computes_ends_too(start_chain, eventually):
    chain = start_chain("popen-env-old-bwrap")
    channel = chain[3].remote_exec("channel.send(1)\nwhile 1: pass")
    channel.receive(20)

    os.kill(worker_of("h1"), signal.SIGKILL)

    with pytest.raises(ConnectionLost):
        channel.receive(20)
    eventually(lambda: not workers_of("h3"))


def test_a_hop_that_this_side_ended_is_no_loss(start_chain):
    chain = start_chain("popen-env-popen")
    channel = chain[2].remote_exec("channel.receive()")

    chain[0].exit()

    with pytest.raises(ClosedHere, match="'h2' ended with the one that it was reached through: gateway 'h0'"):
        channel.receive(20)


def test_a_hop_that_dies_during_a_start_is_named(start_chain, group):
    chain = start_chain("popen")
    killer = threading.Timer(0.5, os.kill, (worker_of("h0"), signal.SIGKILL))  # the start goes on till then
    killer.start()

    with pytest.raises(StartError, match="the gateway that it is reached through ended during the start: gateway 'h0'"):
        group.makegateway("cmd=sh -c 'cat > /dev/null'//via=h0")

    killer.join()
    assert chain[0].join(5)


def test_a_stopped_worker_below_is_ended_in_order_though_its_link_is_full(start_chain, group, eventually):
    chain = start_chain("popen-env")
    deaf = chain[1].remote_exec("channel.gateway.newchannel().receive()")
    os.kill(worker_of("h1"), signal.SIGSTOP)
    over = threading.Event()
    thread = threading.Thread(target=_push_until_closed, args=(deaf, over))
    thread.start()
    eventually(lambda: deaf._port.blocked)

    how = group.terminate(timeout=0.5)

    assert how["h1"] == "killed"
    eventually(lambda: not workers_of("h1"))
    thread.join(20)
    assert over.is_set()
