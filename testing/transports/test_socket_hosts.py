"""Sockets between two hosts, which are two network namespaces with a wire that can be cut."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from listener import Listener
from netns import TwoHosts, two_hosts_fixture  # noqa: F401
from sshd import find_program

SLACK = 3.0  # seconds beyond the keep-alive, for a loaded machine


@pytest.fixture
def on_near(two_hosts: TwoHosts):
    """on_near(program, *words) starts a Python program on the near host; ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str, *words: str) -> subprocess.Popen[str]:
        argv = two_hosts.on(two_hosts.near, sys.executable, "-c", textwrap.dedent(program), *words)
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("traffic", ["from here", "none"])
def test_both_sides_of_a_cut_wire_notice_within_the_keepalive(
    two_hosts, on_near, tmp_path, certificates, eventually, traffic
):
    on_far = tuple(two_hosts.on(two_hosts.far))
    with Listener(tmp_path / "far", f"{two_hosts.address}:0", *certificates.words(), on=on_far) as listener:
        idle = len(two_hosts.pids(two_hosts.far))
        client = on_near(
            """
            import sys, threading, time, execgw
            gateway = execgw.makegateway(sys.argv[1])
            channel = gateway.remote_exec({
                "from here": "channel.send(1)\\nfor item in channel: pass",
                "none": "channel.send(1)\\nchannel.receive()",
            }[sys.argv[2]])
            channel.receive(20)
            print("up", flush=True)
            sys.stdin.readline()
            cut = time.monotonic()
            try:
                while True:
                    channel.send(b"x" * 1000) if sys.argv[2] == "from here" else channel.receive(20)
            except execgw.ConnectionLost as e:
                print(time.monotonic() - cut, flush=True)
            """,
            listener.spec(f"tls=sha256:{listener.fingerprint}", "keepalive=2"),
            traffic,
        )
        assert client.stdout.readline() == "up\n"
        assert len(two_hosts.pids(two_hosts.far)) == idle + 1

        two_hosts.cut()
        client.stdin.write("cut\n")
        client.stdin.flush()

        assert float(client.stdout.readline()) < 2 + SLACK
        eventually(lambda: len(two_hosts.pids(two_hosts.far)) == idle, seconds=2 + 2 + SLACK)


@pytest.mark.parametrize("spec", ["socket=10.77.0.2:0//installvia=there", "socket//installvia=there"])
def test_a_listener_is_installed_on_another_host(two_hosts, on_near, spec):
    find_program("openssl")
    client = on_near(
        """
        import sys, execgw
        execgw.makegateway(sys.argv[1])
        gateway = execgw.makegateway(sys.argv[2])
        channel = gateway.remote_exec("for item in channel: channel.send(item)")
        data = bytes(range(256)) * 4096
        channel.send(data)
        print(channel.receive(20) == data, gateway.remoteaddress, gateway._session.transport.guard.secure)
        execgw.default_group.terminate(5)
        """,
        f"cmd=ip netns exec {two_hosts.far} env SSH_CONNECTION='10.77.0.1 1 {two_hosts.address} 22'//id=there"
        f"//python={sys.executable}",
        spec,
    )

    same, address, secure = client.stdout.readline().split()

    assert (same, secure) == ("True", "True")
    assert address.startswith(f"{two_hosts.address}:")
    client.wait(20)
    assert two_hosts.pids(two_hosts.far) == []
