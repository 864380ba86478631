"""ssh=: one connection for all gateways on a host, and how everything ends; with a real sshd on loopback."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sshd import Sshd, is_there, pid_of, silent_port_fixture, sshd_fixture  # noqa: F401

from execgw import Group
from execgw._loop import run
from execgw.errors import (
    ConnectionLost,
    StartError,
)
from execgw.transports import ssh_master

HERE = shlex.quote(sys.executable)


# -- one connection


def test_a_second_gateway_needs_no_second_connection_and_is_faster(sshd: Sshd, group: Group) -> None:
    first, second = [], []

    for number in range(4):
        config = sshd.directory / f"config-{number}"  # another configuration is another connection
        config.write_text(sshd.config.read_text())
        for times in (first, second):
            begun = time.monotonic()
            group.makegateway(f"ssh=box//ssh_config={config}//python={HERE}")
            times.append(time.monotonic() - begun)

    assert sshd.accepted() == 4
    assert min(second) < min(first)


def test_gateways_that_start_at_once_share_one_connection(sshd: Sshd, group: Group) -> None:
    gateways = group.makegateways([f"{sshd.spec}//python={HERE}"] * 4)

    assert len({pid_of(gateway) for gateway in gateways}) == 4
    assert sshd.accepted() == 1


def test_another_name_user_or_keepalive_has_a_connection_of_its_own(sshd: Sshd, group: Group) -> None:
    group.makegateways([sshd.spec, sshd.spec.replace("box", "other"), f"{sshd.spec}//keepalive=7"])

    assert sshd.accepted() == 3


def test_more_gateways_than_a_server_allows_on_one_connection_all_start(
    tmp_path: Path, group: Group, our_stderr: Any
) -> None:
    server = Sshd(tmp_path, options="MaxSessions 2")
    specs = [f"{server.spec}//python={HERE}"]

    try:
        with our_stderr() as read:
            for _ in range(3):
                group.makegateway(specs[0])
            before = server.accepted()
            group.makegateways(specs * 2)
            words = read()

        assert len({pid_of(gateway) for gateway in group}) == 5
        assert (before, server.accepted(), words) == (2, 3, "")
    finally:
        group.terminate(timeout=10)
        server.stop()


def test_a_connection_that_died_is_made_anew(sshd: Sshd, group: Group) -> None:
    first = group.makegateway(sshd.spec)
    channel = first.remote_exec("channel.receive()")

    sshd.signal_connections(signal.SIGKILL)
    with pytest.raises(ConnectionLost):
        channel.receive(10)
    second = group.makegateway(sshd.spec)

    assert second.remote_exec("channel.send(1)").receive(10) == 1
    assert sshd.accepted() == 2


def test_a_host_that_hangs_is_noticed_within_the_keepalive_time(sshd: Sshd, group: Group) -> None:
    gateway = group.makegateway(f"{sshd.spec}//keepalive=2")
    channel = gateway.remote_exec("channel.receive()")

    begun = time.monotonic()
    sshd.signal_connections(signal.SIGSTOP)
    with pytest.raises(ConnectionLost):
        channel.receive(20)

    assert time.monotonic() - begun < 10
    assert group.makegateway(f"{sshd.spec}//keepalive=2").hasreceiver()


def test_a_connection_that_does_not_answer_is_not_tried_again(sshd: Sshd, group: Group) -> None:
    group.makegateway(sshd.spec)
    sshd.signal_connections(signal.SIGSTOP)

    with pytest.raises(StartError, match="no answer within 1 s"):
        group.makegateway(f"{sshd.spec}//start_timeout=1")
    group.makegateway(f"{sshd.spec}//start_timeout=15")

    assert sshd.accepted() == 2
    group.terminate(timeout=0)


def test_a_connection_that_the_user_has_configured_is_used(sshd: Sshd, group: Group, tmp_path: Path) -> None:
    path = Path(ssh_master.directory()) / "own"
    config = sshd.new_config(HostName=f"{sshd.host}\n  ControlMaster auto\n  ControlPath {path}\n  ControlPersist 60")
    spec = f"ssh=box//ssh_config={config}"

    first = group.makegateway(spec)
    second = group.makegateway(spec)

    assert path.exists()
    assert (sshd.accepted(), pid_of(first) == pid_of(second)) == (1, False)


def test_a_configured_one_that_would_end_with_a_gateway_is_used_only_if_it_runs(sshd: Sshd, group: Group) -> None:
    path = Path(ssh_master.directory()) / "own"
    config = sshd.new_config(HostName=f"{sshd.host}\n  ControlMaster auto\n  ControlPath {path}")
    spec = f"ssh=box//ssh_config={config}"

    first = group.makegateway(spec)
    second = group.makegateway(spec)
    how = group.terminate(timeout=10)

    assert not path.exists()
    assert (sshd.accepted(), set(how.values())) == (2, {"asked"})
    assert first is not second


# -- endings


COMPUTES = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
channel.send((os.getpid(), child.pid))
while True:
    pass
"""


def test_terminate_leaves_nothing_of_a_worker_that_computes(sshd: Sshd, group: Group, eventually: Any) -> None:
    gateway = group.makegateway(sshd.spec)
    pids = gateway.remote_exec(COMPUTES).receive(10)

    group.terminate(timeout=0.5)

    eventually(lambda: not any(map(is_there, pids)), "the end of the worker and its child")


def test_terminate_leaves_nothing_of_a_worker_that_will_not_end(sshd: Sshd, group: Group, eventually: Any) -> None:
    gateway = group.makegateway(sshd.spec)
    channel = gateway.remote_exec("""
        import os
        channel.send(os.getpid())
        while True:
            try:
                while True:
                    pass
            except KeyboardInterrupt:
                pass
    """)
    pid = channel.receive(10)

    how = group.terminate(timeout=0.2)

    assert set(how.values()) == {"terminated"}
    eventually(lambda: not is_there(pid), "the end of the worker")


def test_what_a_worker_writes_at_its_end_is_not_lost(sshd: Sshd, group: Group, our_stderr: Any, tmp_path: Path) -> None:
    with our_stderr() as read:
        gateway = group.makegateway(sshd.spec)
        gateway.remote_exec("""
            import atexit, sys
            atexit.register(lambda: sys.stderr.write("last"))
        """).waitclose(10)

        how = group.terminate(timeout=10)

        assert (set(how.values()), read()) == ({"asked"}, "last")


def test_a_killed_ssh_leaves_nothing_of_a_worker_that_computes(sshd: Sshd, group: Group, eventually: Any) -> None:
    gateway = group.makegateway(sshd.spec)
    channel = gateway.remote_exec(COMPUTES)
    pids = channel.receive(10)

    transport: Any = gateway._session.transport
    os.kill(transport.process.pid, signal.SIGKILL)
    with pytest.raises(ConnectionLost, match="SIGKILL"):
        channel.receive(10)

    eventually(lambda: not any(map(is_there, pids)), "the end of the worker and its child")


def test_a_start_that_is_given_up_leaves_nothing(sshd: Sshd, group: Group, silent_port: int) -> None:
    spec = f"ssh={sshd.host}:{silent_port}//ssh_config={sshd.config}"
    session = run(group._hub.begin(group._as_spec(spec), "thread"))

    run(session.abandon())
    ssh_master.close_all()

    assert session.over.wait(10)


SCRIPT = """
import os, sys
import execgw
from execgw.transports import ssh_master

ssh_master.IDLE_SECONDS = 1
gateway = execgw.makegateway(sys.argv[1])
if os.fork() == 0:
    sys.exit()  # the connection is not the child's to end
os.wait()
channel = gateway.remote_exec("import os; channel.send(os.getpid()); channel.receive()")
print(channel.receive(), ssh_master.directory(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def script(sshd: Sshd, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "run").mkdir(mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, sshd.spec],
        env={**os.environ, "XDG_RUNTIME_DIR": f"{tmp_path}/run", "TMPDIR": "/tmp"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process


def test_the_end_of_a_script_ends_its_connections(
    script: subprocess.Popen[str], processes: Callable[[], list[str]], eventually: Any
) -> None:
    assert script.stdout is not None
    pid, directory = script.stdout.readline().split()
    assert os.listdir(directory)  # the socket

    script.communicate("\n", timeout=30)

    assert script.returncode == 0
    assert not os.path.exists(directory)
    eventually(lambda: not is_there(int(pid)), "the end of the worker")


def test_a_killed_script_leaves_no_connection_for_long(
    script: subprocess.Popen[str], processes: Callable[[], list[str]], eventually: Any
) -> None:
    assert script.stdout is not None
    pid, directory = script.stdout.readline().split()

    script.kill()

    eventually(lambda: not is_there(int(pid)), "the end of the worker")
    eventually(lambda: not os.listdir(directory), "the end of the connection", 20)
    os.rmdir(directory)
