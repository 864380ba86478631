"""via=: workers beside workers, their bytes carried by a channel of the one before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from execgw import ClosedHere, ConnectionLost, SpecError

ECHO = "for item in channel: channel.send(item)"


@pytest.fixture
def chain(group):
    """Three workers, each behind the one before."""
    return [group.makegateway(spec) for spec in ("popen//id=a", "popen//id=b//via=a", "popen//id=c//via=b")]


def test_each_is_a_process_beside_the_one_before(chain):
    pids = [gateway.call(os.getpid) for gateway in chain]
    parents = [gateway.call(os.getppid) for gateway in chain]

    assert parents == [os.getpid(), pids[0], pids[1]]


def test_values_go_through_all_hops(chain):
    channel = chain[2].remote_exec(ECHO)

    for value in ({"a": [1, (2,)]}, b"x" * 3_000_000, None):
        channel.send(value)
        assert channel.receive(20) == value


def test_all_hops_can_be_used_at_the_same_time(chain):
    def ping(gateway, results):
        channel = gateway.remote_exec(ECHO)
        for n in range(100):
            channel.send(n)
            results.append(channel.receive(20) == n)

    results: list = []
    threads = [threading.Thread(target=ping, args=(gateway, results)) for gateway in chain for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 600


def test_a_clogged_channel_behind_does_not_stop_the_one_before(chain):
    clogged = chain[2].remote_exec("while 1: channel.send(b'x' * 100000)")
    before, beside = chain[0].remote_exec(ECHO), chain[2].remote_exec(ECHO)

    for n in range(50):
        before.send(n)
        beside.send(n)
        assert (before.receive(20), beside.receive(20)) == (n, n)

    clogged.close()


def test_a_worker_behind_that_does_not_read_stalls_nobody_else(chain):
    deaf = chain[1].remote_exec("channel.gateway.newchannel().receive()")
    thread = threading.Thread(target=_send_until_closed, args=(deaf,))
    thread.start()
    other = chain[2].remote_exec(ECHO)

    for n in range(50):
        other.send(n)
        assert other.receive(20) == n

    deaf.close()
    thread.join(20)
    assert not thread.is_alive()


def _send_until_closed(channel) -> None:
    try:
        while True:
            channel.send(b"x" * 100_000)
    except OSError:
        pass


def test_the_death_of_one_behind_is_told_with_its_signal_and_last_words(chain):
    channel = chain[2].remote_exec("import os; os.write(2, b'famous last words'); os.kill(os.getpid(), 9)")

    with pytest.raises(ConnectionLost, match="famous last words") as caught:
        channel.receive(20)

    assert (caught.value.signal, caught.value.exit_code) == ("SIGKILL", -9)
    assert chain[1].call(len, "ab") == 2


def test_the_death_of_the_middle_ends_what_is_behind_and_nothing_before(chain, processes, eventually):
    channels = [gateway.remote_exec("channel.receive()") for gateway in chain]

    os.kill(chain[1]._rinfo().pid, signal.SIGKILL)

    for channel in channels[1:]:
        with pytest.raises(ConnectionLost):
            channel.receive(20)
    assert chain[0].call(len, "ab") == 2
    eventually(lambda: len(processes()) == 1)


def test_exit_of_one_behind_leaves_the_others(chain, processes, eventually):
    chain[2].exit()
    assert chain[2].join(10)

    assert chain[1].call(len, "ab") == 2
    eventually(lambda: len(processes()) == 2)
    with pytest.raises(ClosedHere):
        chain[2].call(len, "")


def test_another_python_behind(group, python):
    group.makegateway(f"popen//id=old//python={python('2.7.18')}")
    new = group.makegateway(f"popen//via=old//python={python('3.13.0')}")
    same = group.makegateway("popen//via=old")

    assert new._rinfo().version_info[:2] == (3, 13)
    assert same._rinfo().version_info[:2] == (2, 7)


def test_many_behind_one(group):
    group.makegateway("popen//id=a")

    gateways = group.makegateways(["popen//via=a"] * 5)

    assert len({gateway.call(os.getpid) for gateway in gateways}) == 5


def test_via_itself_or_a_later_one_is_refused(group):
    with pytest.raises(SpecError, match="no gateway of this group"):
        group.makegateway("popen//id=a//via=a")


def test_a_via_master_that_has_been_exited_is_refused(group):
    group.makegateway("popen//id=a").exit()

    with pytest.raises((SpecError, ClosedHere)):
        group.makegateway("popen//via=a")
