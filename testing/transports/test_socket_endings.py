"""Who ends with whom on a socket: workers, clients, listeners, and what each of them leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from listener import Listener

from execgw import ConnectionLost, Group


def test_the_end_of_a_group_leaves_no_worker(nothing_left, tmp_path, processes, eventually):
    with Listener(tmp_path, "127.0.0.1:0") as listener:
        before = len(processes())
        with Group() as group:
            group.makegateways([listener.spec()] * 3)

            how = group.terminate(5)

        assert set(how.values()) == {"asked"}
        assert len(processes()) == before


def test_a_worker_that_will_not_end_is_killed_by_the_listener(nothing_left, tmp_path, processes, eventually):
    stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nchannel.send(1)\nwhile 1: pass"
    with Listener(tmp_path, "127.0.0.1:0") as listener:
        before = len(processes())
        with Group() as group:
            group.makegateway(listener.spec()).remote_exec(stubborn).receive(20)

            how = group.terminate(0.1)

        assert how == {"gw0": "terminated"}
        eventually(lambda: len(processes()) == before, seconds=20)


@pytest.mark.parametrize("tls", [False, True])
def test_a_killed_client_leaves_no_worker(nothing_left, tmp_path, processes, eventually, certificates, tls):
    program = (
        "import execgw, sys, os, signal; gateway = execgw.makegateway(sys.argv[1])\n"
        "gateway.remote_exec('import os, signal; os.kill(os.getpid(), signal.SIGSTOP)')\n"  # it cannot end by itself
        "print('up', flush=True)\n"
        "sys.stdin.read()"
    )
    with Listener(tmp_path / "listener", "127.0.0.1:0", *(certificates.words() if tls else [])) as listener:
        before = len(processes())
        spec = listener.spec(*([f"tls=ca:{certificates.ca}"] if tls else []))
        client = subprocess.Popen(
            [sys.executable, "-c", program, spec], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None and client.stdin is not None
        assert client.stdout.readline() == "up\n"
        assert len(processes()) == before + 2

        client.kill()
        client.wait()
        client.stdout.close()
        client.stdin.close()

        eventually(lambda: len(processes()) == before, seconds=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_listener_is_that_of_its_workers(group, tmp_path, processes, eventually, number):
    listener = Listener(tmp_path, "127.0.0.1:0")
    channel = group.makegateway(listener.spec()).remote_exec("channel.receive()")

    code = listener.end(number)

    with pytest.raises(ConnectionLost):
        channel.receive(20)
    assert code == (-9 if number == signal.SIGKILL else 0)
    eventually(lambda: not processes(), seconds=20)


def test_the_killed_process_of_the_listener_takes_its_workers_along(group, tmp_path, processes, eventually):
    with Listener(tmp_path, "127.0.0.1:0") as listener:
        gateway = group.makegateway(listener.spec())
        channel = gateway.remote_exec("channel.receive()")
        inner = gateway.call(os.getppid)

        os.kill(inner, signal.SIGKILL)

        with pytest.raises(ConnectionLost):
            channel.receive(20)
        listener.process.wait(20)
        eventually(lambda: not processes(), seconds=20)


def test_the_death_of_a_worker_is_told(group, spec):
    channel = group.makegateway(spec).remote_exec("import os; os.kill(os.getpid(), 9)")

    with pytest.raises(ConnectionLost):
        channel.receive(20)


def test_what_a_worker_has_sent_before_its_end_arrives(group, spec):
    channel = group.makegateway(spec).remote_exec("channel.send(b'x' * 3000000); import os; os._exit(0)")

    assert len(channel.receive(20)) == 3_000_000


def test_a_unix_socket_is_removed_at_the_end_and_a_stale_one_replaced(group, tmp_path):
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()

    with Listener(tmp_path, f"unix:{path}") as listener:
        assert group.makegateway(listener.spec()).call(abs, -1) == 1
        assert path.stat().st_mode & 0o077 == 0
        group.terminate(5)

    assert not path.exists()


def test_the_kernel_watches_the_connection_on_both_ends(group, plain):
    gateway = group.makegateway(plain.spec("keepalive=7"))
    sock = gateway._session.transport.sock

    there = gateway.remote_exec(
        "import os, socket\n"
        "for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "    try: sock = socket.socket(fileno=os.dup(fd))\n"
        "    except OSError: continue\n"
        "    if sock.family == socket.AF_INET: channel.send(sock.getsockopt(socket.IPPROTO_TCP, 18)); break"
    )

    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6500
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert there.receive(20) == 6500
