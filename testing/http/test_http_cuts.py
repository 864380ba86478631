"""The connection to the server is cut at any byte: nothing is lost, nothing comes twice, and code sees only time."""

from __future__ import annotations

import hashlib
import random

import pytest
from proxy import NO_LIMIT, Proxy

from execgw import ConnectionLost, StartError

WAYS = pytest.mark.parametrize("way", ["yes", "no"])

# Each run says how many there were: one that runs twice, or not at all, is found out.
RUN = """
import sys
sys.runs = getattr(sys, "runs", 0) + 1
channel.send((sys.runs, channel.receive()))
"""

CHAIN = """
import hashlib
chain = hashlib.sha256()
for item in channel:
    chain.update(item)
    channel.send((chain.hexdigest(), item))
"""


@pytest.fixture
def through(exec_server):
    """through(proxy, *keys) is the spec of a gateway that reaches the server through a proxy."""
    return lambda proxy, *more: exec_server.spec(*more).replace(exec_server.address, proxy.address)


@WAYS
def test_a_cut_at_each_byte_of_an_exchange_runs_nothing_twice_and_loses_nothing(group, exec_server, through, way):
    with Proxy(exec_server.address) as proxy:
        gw = group.makegateway(through(proxy, f"websocket={way}"))
        gw.remote_exec("import sys; sys.runs = 0").waitclose(20)
        at, number, step = 0, 0, 1 if way == "yes" else 41  # more is told of each request; the soak takes all
        while True:
            cuts, before = proxy.cuts, proxy.carried
            proxy.budget = at
            channel = gw.remote_exec(RUN)
            channel.send(number)

            number += 1
            assert channel.receive(30) == (number, number - 1), f"after a cut at byte {at}"
            channel.waitclose(30)
            if proxy.cuts == cuts:  # all of the exchange is shorter than that
                break
            at += step
        size = proxy.carried - before
        proxy.budget = NO_LIMIT
        group.terminate(timeout=5)

    assert number > 15 and size <= at


@WAYS
def test_cuts_at_random_bytes_under_load_both_ways_change_nothing(group, exec_server, through, way):
    dice = random.Random(5)
    with Proxy(exec_server.address, lambda: dice.randrange(3_000, 400_000)) as proxy:
        gw = group.makegateway(through(proxy, f"websocket={way}"))
        channel = gw.remote_exec(CHAIN)
        chain, waiting = hashlib.sha256(), []
        for number in range(120):
            item = b"%d " % number + dice.randbytes(dice.choice([0, 100, 5_000, 60_000]))
            channel.send(item)
            waiting.append(item)
            while len(waiting) > 4 or (number == 119 and waiting):
                wanted = waiting.pop(0)
                chain.update(wanted)
                assert channel.receive(30) == (chain.hexdigest(), wanted)
        group.terminate(timeout=5)

    assert proxy.cuts > 5


@WAYS
def test_a_reader_that_waits_hears_of_no_cut(group, exec_server, through, way):
    with Proxy(exec_server.address) as proxy:
        gw = group.makegateway(through(proxy, f"websocket={way}"))
        channel = gw.remote_exec("channel.send(channel.receive())")
        other = gw.remote_exec("channel.send(channel.receive())")
        got = []
        channel.setcallback(got.append, endmarker="end")
        assert proxy.cut_all() > 0

        other.send(1)
        assert other.receive(20) == 1
        assert proxy.cut_all() > 0
        channel.send(2)
        channel.waitclose(20)
        group.terminate(timeout=5)

    assert got == [2, "end"]


@WAYS
def test_the_asyncio_face_hears_of_no_cut_either(bridge, exec_server, through, way):
    with Proxy(exec_server.address) as proxy:
        gateway = bridge.do(bridge.group.makegateway, through(proxy, f"websocket={way}"))
        channel = gateway.remote_exec("for item in channel: channel.send(item)")
        for number in range(5):
            assert proxy.cut_all() > 0 or way == "no"
            channel.send(number)
            assert channel.receive(20) == number
        bridge.do(bridge.group.terminate, 5)


def test_much_that_was_written_while_there_was_no_way_arrives(group, exec_server, through):
    with Proxy(exec_server.address) as proxy:
        gw = group.makegateway(through(proxy))
        channel = gw.remote_exec("n = 0\nfor item in iter(channel.receive, None): n += len(item)\nchannel.send(n)")
        for _ in range(30):
            channel.send(b"x" * 500_000)
            proxy.cut_all()
        channel.send(None)

        assert channel.receive(60) == 15_000_000
        group.terminate(timeout=5)


def test_a_way_that_knows_no_websocket_gets_plain_requests(group, exec_server, through):
    with Proxy(exec_server.address, websocket=False) as proxy:
        gw = group.makegateway(through(proxy))
        assert gw.remote_exec("channel.send(7)").receive(20) == 7
        group.terminate(timeout=5)

        with pytest.raises(StartError, match="leave out websocket=yes"):
            group.makegateway(through(proxy, "websocket=yes"))


def test_a_way_that_cuts_every_websocket_gets_plain_requests(group, exec_server, through):
    with Proxy(exec_server.address) as proxy:

        def limit():
            return 450 if 2 <= proxy.accepted <= 4 else 1 << 60  # 1 is for the process; the answer 101 comes through

        proxy.limit = limit
        gw = group.makegateway(through(proxy))

        assert gw.remote_exec("channel.send(7)").receive(20) == 7
        group.terminate(timeout=5)
    assert proxy.cuts == 3


def test_a_way_that_is_silent_counts_as_cut_when_keepalive_is_over(group, exec_server, through):
    with Proxy(exec_server.address) as proxy:
        gw = group.makegateway(through(proxy, "websocket=yes", "keepalive=0.5"))
        channel = gw.remote_exec("channel.send(channel.receive())")
        proxy.freeze()
        channel.send(1)

        assert channel.receive(20) == 1
        assert gw._session.transport.breaks == 1
        group.terminate(timeout=5)


def test_when_there_is_no_way_for_the_whole_grace_the_end_says_so(group, exec_server, through):
    with Proxy(exec_server.address) as proxy:
        gw = group.makegateway(through(proxy, "resume=0.5"))
        channel = gw.remote_exec("channel.receive()")
        proxy.limit = lambda: 1
        proxy.cut_all()

        with pytest.raises(ConnectionLost, match=r"no connection for 0\.5"):
            channel.receive(20)


def test_a_lost_answer_to_the_start_leaves_no_process_behind(group, exec_server, through, eventually):
    with exec_server.client() as client:

        def running():
            return {p["pid"] for p in client.get("/exec").json()["processes"] if p["state"] != "ended"}

        before = running()  # those of other tests, whose grace is not over
        with Proxy(exec_server.address, lambda: 500) as proxy, pytest.raises(StartError):
            group.makegateway(through(proxy, "resume=0.5"))

        eventually(lambda: running() <= before, seconds=20)
