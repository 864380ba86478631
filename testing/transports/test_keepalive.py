"""Keep-alive: both sides notice that the other was cut off, and neither takes a busy one for that."""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netns import TwoHosts, two_hosts_fixture  # noqa: F401
from sshd import Sshd, find_program

from execgw import ConnectionLost, SpecError
from execgw._loop import get_loop
from execgw.peer.turn import clock

SLACK = 3.0  # seconds beyond those that a test is about, for a loaded machine
# A call into C that does not let other threads run; ctypes.CDLL would.
HOLD_ALL_THREADS = "import ctypes; ctypes.PyDLL(None).usleep({microseconds})"


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- who is quiet is not gone


@pytest.mark.parametrize("version", ["2.7.18", "3.13.0"])
def test_an_idle_gateway_stays(group, python, eventually, version):
    gateway = group.makegateway(f"cmd=env A=1//python={python(version)}//keepalive=1")
    heard = gateway._session.mux.received_seq

    eventually(lambda: gateway._session.mux.received_seq > heard + 4)  # four a second, at most

    assert gateway.call(len, "ab") == 2


@pytest.mark.parametrize("version", ["2.7.18", "3.13.0"])
def test_a_worker_that_computes_stays(group, python, version):
    gateway = group.makegateway(f"cmd=env A=1//python={python(version)}//keepalive=1")

    channel = gateway.remote_exec("""
        import time
        end = time.time() + 1.5
        while time.time() < end:
            sum(range(1000))
        channel.send("done")
    """)

    assert channel.receive(20) == "done"


def test_a_worker_whose_threads_could_not_run_does_not_take_the_near_side_for_gone(group):
    find_program("sudo")
    gateway = group.makegateway(f"sudo=root//python={sys.executable}//keepalive=0.4")

    channel = gateway.remote_exec(HOLD_ALL_THREADS.format(microseconds=1_500_000) + "; channel.send('done')")

    assert channel.receive(20) == "done"
    assert gateway.call(len, "ab") == 2


def test_a_worker_whose_threads_cannot_run_is_taken_for_gone_where_only_its_words_tell(group, eventually):
    gateway = group.makegateway("cmd=env A=1//keepalive=0.6")
    pid = gateway.call(os.getpid)

    channel = gateway.remote_exec(HOLD_ALL_THREADS.format(microseconds=20_000_000))

    with pytest.raises(ConnectionLost, match=r"nothing was heard of the worker for 0.6 s: .*keepalive= allows more"):
        channel.receive(20)
    eventually(lambda: not runs(pid))


# -- who is silent for the time is gone


@pytest.mark.parametrize("kind", ["cmd=env A=1", "popen", "popen//via=hop"])
def test_a_stopped_worker_is_lost_within_the_time_and_ended(group, eventually, kind):
    group.makegateway("popen//id=hop")
    gateway = group.makegateway(f"{kind}//keepalive=1")
    pid = gateway.call(os.getpid)
    channel = gateway.remote_exec("channel.receive()")

    begun = clock()
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(ConnectionLost, match="nothing was heard of the worker for 1 s"):
        channel.receive(20)
    assert clock() - begun < 1 + SLACK
    eventually(lambda: not runs(pid))


def test_of_several_hops_that_fall_silent_together_the_first_is_named(group):
    hop = group.makegateway("cmd=env A=1//keepalive=1//id=hop")
    below = group.makegateway("cmd=env A=1//keepalive=1//id=below//via=hop")
    pid = hop.call(os.getpid)
    channel = below.remote_exec("channel.receive()")

    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(ConnectionLost, match=r"'below' ended with the one .*: gateway 'hop': .*: nothing was heard"):
        channel.receive(20)


NEAR_SIDE = """
    import json, os, sys, threading, time
    import execgw

    group = execgw.Group()

    def tell(*words):
        os.write(1, (json.dumps(words) + "\\n").encode())

    def keep(name, talk):
        try:
            talk()
        except (execgw.ConnectionLost, EOFError) as e:
            tell("lost", name, time.monotonic(), type(e).__name__, str(e))
"""


class NearSide:
    """A script that tells what happens, in lines on its stdout."""

    def __init__(self, script: str, tmp_path: Path, *argv: str, prefix: tuple[str, ...] = ()) -> None:
        file = tmp_path / "near_side.py"
        file.write_text(textwrap.dedent(NEAR_SIDE) + textwrap.dedent(script))
        words = [*prefix, sys.executable, str(file), *argv]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE)

    def hear(self) -> list:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the near side has ended"
        return json.loads(line)

    def end(self) -> None:
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def near_side(nothing_left: str, tmp_path: Path) -> Iterator[Callable[..., NearSide]]:
    """near_side(script, *argv) starts a script as a near side of its own."""
    started: list[NearSide] = []

    def start(script: str, *argv: str, prefix: tuple[str, ...] = ()) -> NearSide:
        started.append(NearSide(script, tmp_path, *argv, prefix=prefix))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("version", ["2.7.18", "3.13.0"])
def test_a_worker_ends_when_the_near_side_stops_though_the_link_stays_open(near_side, python, eventually, version):
    near = near_side(
        """
        gateway = group.makegateway(f"cmd=env A=1//keepalive=1//python={sys.argv[1]}")
        tell(gateway.call(os.getpid))
        keep("gw", lambda: gateway.remote_exec("while 1: pass").receive())
        """,
        python(version),
    )
    (pid,) = near.hear()

    os.kill(near.process.pid, signal.SIGSTOP)

    eventually(lambda: not runs(pid), seconds=1 + 1 + SLACK)  # a second to end in order
    os.kill(near.process.pid, signal.SIGCONT)
    assert near.hear()[:2] == ["lost", "gw"]


# -- two hosts, one wire

FAR_HOST = """
    import json, os, socket, subprocess, sys

    server = socket.create_server((sys.argv[1], 0))
    print(server.getsockname()[1], flush=True)
    while True:
        line, _ = server.accept()
        words = b""
        while words[-1:] != b"\\n":
            words += line.recv(1)
        subprocess.Popen(json.loads(words), stdin=line, stdout=line, close_fds=True)
        line.close()
"""

# What cmd= names: it tells the far host what to run there, and then is socat.
CARRIER = """
    import json, os, socket, sys

    line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    line.sendall(json.dumps(sys.argv[3:]).encode() + b"\\n")
    line.set_inheritable(True)
    os.execvp("socat", ["socat", "-", f"FD:{line.fileno()}"])
"""


@pytest.fixture
def far_host(two_hosts, nothing_left, tmp_path) -> Iterator[str]:
    """A far host that runs what is asked for, and the prefix that asks."""
    find_program("socat")
    listener, carrier = tmp_path / "far_host.py", tmp_path / "carrier.py"
    listener.write_text(textwrap.dedent(FAR_HOST))
    carrier.write_text(textwrap.dedent(CARRIER))
    argv = two_hosts.on(two_hosts.far, sys.executable, str(listener), two_hosts.address)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        yield f"{sys.executable} {carrier} {two_hosts.address} {port}"
        process.kill()


# Five gateways, each with another kind of traffic; argv: the spec of a worker on the far host.
TRAFFIC = """
    push, pull, idle, talk = group.makegateways([f"{sys.argv[1]}//id={id}" for id in ("push", "pull", "idle", "talk")])
    below = group.makegateway("popen//via=talk//id=below")
    tell(*[gateway.call(os.getpid) for gateway in group])

    def talking(gateway):
        channel = gateway.remote_exec("for item in channel: channel.send(item)")
        while True:
            channel.send(b"x" * 100)
            channel.receive()

    def pushing():
        channel = push.remote_exec("for item in channel: pass")
        while True:
            channel.send(b"x" * 100_000)

    def pulling():
        channel = pull.remote_exec("while 1: channel.send(b'x' * 100_000)")
        tell("flows", len(channel.receive()))
        while True:
            channel.receive()

    talks = {"talk": lambda: talking(talk), "push": pushing, "pull": pulling, "below": lambda: talking(below)}
    talks["idle"] = lambda: idle.remote_exec("channel.receive()").receive()
    for name, talk_of_it in talks.items():
        threading.Thread(target=keep, args=(name, talk_of_it)).start()
"""


class FarSshd(Sshd):
    """A server on the far one of two hosts."""

    def __init__(self, directory: Path, hosts: TwoHosts) -> None:
        self.host, self.prefix = hosts.address, hosts.on(hosts.far)
        super().__init__(directory)

    def _started(self, program: str) -> bool:
        starter = self.directory / "sshd"
        starter.write_text(f'#!/bin/sh\nexec {shlex.join([*self.prefix, program])} "$@"\n')
        starter.chmod(0o700)
        return super()._started(str(starter))


@pytest.fixture
def far_spec(two_hosts, nothing_left, tmp_path, request) -> Iterator[str]:
    """What starts a worker on the far host: by a command that leads there, or by ssh."""
    if request.param == "cmd":
        yield f"cmd={request.getfixturevalue('far_host')}//python={sys.executable}"
        return
    (tmp_path / "sshd").mkdir()
    server = FarSshd(tmp_path / "sshd", two_hosts)
    yield f"{server.spec}//python={sys.executable}"
    server.stop()


@pytest.mark.parametrize("far_spec", ["cmd", "ssh"], indirect=True)
def test_both_sides_notice_within_the_time_that_a_host_was_cut_off(two_hosts, far_spec, near_side, eventually):
    near = near_side(TRAFFIC, f"{far_spec}//keepalive=2", prefix=tuple(two_hosts.on(two_hosts.near)))
    pids = near.hear()
    assert near.hear()[0] == "flows"

    begun = clock()
    two_hosts.cut()

    lost = {line[1]: line[2:] for line in (near.hear() for _ in pids)}
    assert sorted(lost) == ["below", "idle", "pull", "push", "talk"]
    assert all(kind == "ConnectionLost" for _, kind, _ in lost.values())
    assert all(when - begun < 2 + SLACK for when, _, _ in lost.values()), lost
    assert "reached through: gateway 'talk': connection lost" in lost["below"][2]
    eventually(lambda: not any(map(runs, pids)), seconds=2 + 1 + SLACK)


# -- what can be asked for


def test_a_process_on_this_host_needs_none_and_what_may_be_elsewhere_has_thirty_seconds(group):
    here, elsewhere = group.makegateway("popen"), group.makegateway("cmd=env A=1")

    assert (here._session.keepalive, here._session.watch) == (0, None)
    assert elsewhere._session.keepalive == 30


def test_zero_turns_it_off(group):
    gateway = group.makegateway("cmd=env A=1//keepalive=0")

    assert gateway._session.watch is None
    assert "keepalive" not in gateway.remote_exec(
        "import gc, sys; serve = sys.modules['_execgw.worker.serve']\n"
        "channel.send([s.options for s in gc.get_objects() if type(s) is serve.Server][0])"
    ).receive(20)


def test_what_is_no_time_is_refused(group):
    with pytest.raises(SpecError, match="keepalive='soon' is no time in seconds"):
        group.makegateway("popen//keepalive=soon")


def test_the_timer_keeps_no_session_that_has_ended(group, eventually):
    gateway = group.makegateway("cmd=env A=1//keepalive=1000")
    session = weakref.ref(gateway._session)

    gateway.exit()
    gateway.join(20)
    del gateway
    group.makegateway("popen").exit()  # the loop holds on to what it called last

    def collected() -> bool:
        get_loop().later(0, int)
        gc.collect()
        return session() is None

    eventually(collected)
