"""makegateway("http=..."): a gateway like any other, over a WebSocket and over plain requests, to a real server."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
import threading
import warnings

import pytest
from exec_server import TOKENS

from execgw import ExecgwError, RemoteError

ECHO = "for item in channel: channel.send(item)"


@pytest.fixture(params=["yes", "no"])
def gw(request, group, exec_server):
    """A gateway over a WebSocket, and one over plain requests."""
    return group.makegateway(exec_server.spec(f"websocket={request.param}"))


def connections_to(address: str) -> list[int]:
    """The descriptors of this process that are connected to it."""

    def leads_there(descriptor: int) -> bool:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return False
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                return sock.getpeername() == (address.partition(":")[0], int(address.partition(":")[2]))
        except OSError:  # it has no other end, or is closed by now
            return False

    return [int(name) for name in os.listdir("/proc/self/fd") if leads_there(int(name))]


@pytest.fixture
def live(exec_server):
    """live() is how many processes the server has, beside those that other tests have left to their grace."""

    def running():
        with exec_server.client() as client:
            return {p["pid"] for p in client.get("/exec").json()["processes"] if p["state"] != "ended"}

    before = running()
    return lambda: len(running() - before)


def test_the_session_that_it_was_made_for(group, exec_server):
    gw = group.makegateway(exec_server.spec())

    def fun(channel):
        return channel.send(channel.receive() + 1)

    ch = gw.remote_exec(fun)
    ch.send(1)
    x = ch.receive()

    assert x == 2


def test_several_channels_of_one_process_at_a_time(gw):
    channels = [gw.remote_exec(ECHO) for _ in range(8)]

    for number, channel in enumerate(channels):
        channel.send(number)

    assert [channel.receive(20) for channel in channels] == list(range(8))
    assert len({gw.call(os.getpid), gw.call(os.getpid)}) == 1


def test_callbacks_and_errors_and_the_end(gw):
    got, ended = [], threading.Event()
    channel = gw.remote_exec("channel.send(1); channel.send(2); raise ValueError('enough')")

    channel.setcallback(lambda item: got.append(item) if item != "end" else ended.set(), endmarker="end")

    assert ended.wait(20)
    assert got == [1, 2]
    with pytest.raises(RemoteError, match="enough"):
        channel.waitclose(20)


def test_a_value_larger_than_any_window_travels_both_ways(gw):
    data = os.urandom(1 << 20) * 12
    with gw.remote_exec(ECHO) as channel:
        channel.send(data)

        assert channel.receive(60) == data


def test_a_slow_reader_holds_the_far_side_back(gw):
    channel = gw.remote_exec(
        "import itertools\nfor n in itertools.count():\n  channel.send(b'x' * 100_000)\n  if n > 2000: break"
    )
    channel.receive(20)
    status = gw.remote_status()

    assert status.numexecuting == 1  # 200 MB are not on their way by themselves
    with gw.remote_exec("channel.send(1)") as other:
        assert other.receive(10) == 1


def test_surroundings_are_applied_by_the_worker(group, exec_server, tmp_path):
    gw = group.makegateway(exec_server.spec(f"chdir={tmp_path / 'new'}", "env:SOME=thing"))

    assert gw.call(os.getcwd) == str(tmp_path / "new")
    assert gw.call(os.getenv, "SOME") == "thing"


def test_code_that_computes_is_interrupted(gw):
    channel = gw.remote_exec("channel.send(0)\nwhile True: pass")
    channel.receive(20)

    gw.interrupt(timeout=10)

    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        channel.waitclose(20)
    assert gw.call(abs, -1) == 1


def test_what_the_worker_writes_to_stderr_is_shown_here(gw, our_stderr, eventually):
    with our_stderr() as read:
        gw.remote_exec("import sys; sys.stderr.write('from afar\\n'); sys.stderr.flush()").waitclose(20)

        eventually(lambda: "from afar" in read())


def test_gateways_start_at_the_same_time_in_a_group(group, exec_server):
    made = group.makegateways([exec_server.spec(f"id=gw-{n}") for n in range(4)])

    assert len({gateway.call(os.getpid) for gateway in made}) == 4


def test_a_gateway_can_be_the_way_to_another(group, exec_server):
    group.makegateway(exec_server.spec("id=far"))
    behind = group.makegateway("popen//via=far")

    assert behind.call(os.getppid) == group["far"].call(os.getpid)


def test_the_server_has_no_process_left_when_the_group_has_ended(live, group, exec_server):
    group.makegateways([exec_server.spec(), exec_server.spec("websocket=no")])
    assert live() == 2

    how = group.terminate(timeout=5)

    assert set(how.values()) == {"asked"}
    assert live() == 0


def test_a_worker_that_does_not_end_is_killed(live, gw, group):
    stubborn = "import signal, time\nsignal.signal(2, signal.SIG_IGN)\nchannel.send(1)\nwhile True: time.sleep(1)"
    gw.remote_exec(stubborn).receive(20)

    how = group.terminate(timeout=0.2)

    assert how[gw.id] in ("terminated", "killed")
    assert live() == 0


def test_a_single_exit_ends_the_process(live, gw, eventually):
    gw.exit()

    eventually(lambda: live() == 0)


@pytest.mark.parametrize("websocket", ["yes", "no"])
def test_the_asyncio_face_has_it_too(bridge, exec_server, websocket):
    gateway = bridge.do(bridge.group.makegateway, exec_server.spec(f"websocket={websocket}"))

    channel = gateway.remote_exec(ECHO)
    channel.send("x" * 300_000)

    assert channel.receive(20) == "x" * 300_000


def test_it_cannot_be_left_to_another_process_and_says_so(gw):
    for refused in (gw.detach, lambda: gw.ticket):
        with pytest.raises(ExecgwError, match="cannot be left to another process"):
            refused()
    assert gw.call(abs, -1) == 1


def test_a_forked_child_holds_no_connection_to_the_server(gw, exec_server):
    readable, writable = os.pipe()
    with warnings.catch_warnings(action="ignore") if sys.version_info >= (3, 11) else warnings.catch_warnings():
        child = os.fork()
    if child == 0:
        os.write(writable, b"%d" % len(connections_to(exec_server.address)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    with open(readable, "rb") as file:
        left = file.read()

    assert connections_to(exec_server.address)
    assert left == b"0"


def test_no_log_shows_the_token_however_much_is_logged(group, exec_server, caplog):
    caplog.set_level(logging.DEBUG)

    group.makegateway(exec_server.spec()).call(abs, -1)
    group.makegateway(exec_server.spec("websocket=no")).call(abs, -1)
    group.terminate(timeout=5)

    assert TOKENS["joe"] not in caplog.text


def test_keepalive_does_not_end_a_worker_whose_client_is_silent(group, exec_server):
    gw = group.makegateway(exec_server.spec("keepalive=0.3"))
    channel = gw.remote_exec("import time\nfor n in range(15): time.sleep(0.1)\nchannel.send(1)")

    assert channel.receive(20) == 1
    assert gw._session.transport.breaks == 0
