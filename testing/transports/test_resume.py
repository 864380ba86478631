"""resume=: the link breaks, and the session goes on; what cannot be resumed is told in one sentence."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cutting import CuttingProxy
from listener import write_token
from sshd import sshd_fixture  # noqa: F401

from execgw import ConnectionLost, Gateway, Group, SpecError, StartError

sys.path.insert(0, str(Path(__file__).parent.parent / "soak"))
import resume as soak

DOUBLE = "for item in channel: channel.send(item * 2)"
WAIT = 20


def cut(gateway: Gateway) -> None:
    """Break the link as the world would: in the middle of whatever is on its way."""
    transport: Any = gateway._session.transport
    link = transport._link
    if link is not None:
        link.raw.sock.shutdown(socket.SHUT_RDWR)


def keeper_of(gateway: Gateway) -> int:
    pid = gateway._rinfo().pid
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- going on


@pytest.mark.parametrize("spec", ["popen//resume=20", f"cmd=env//python={sys.executable}//resume=20"])
def test_a_session_goes_on_though_its_link_breaks_again_and_again(group: Group, spec: str) -> None:
    gateway = group.makegateway(spec)
    channel = gateway.remote_exec(DOUBLE)

    for number in range(10):
        channel.send(number)
        cut(gateway)
        channel.send(number + 100)
        assert [channel.receive(WAIT), channel.receive(WAIT)] == [number * 2, number * 2 + 200]

    assert gateway._session.transport.breaks == 10  # type: ignore[attr-defined]


def test_a_worker_behind_ssh_lives_on_when_its_connection_is_killed(sshd: Any, group: Group, eventually: Any) -> None:
    gateway = group.makegateway(f"{sshd.spec}//python={sys.executable}//resume=20")
    channel = gateway.remote_exec("import os\nfor item in channel: channel.send((item, os.getpid()))")
    transport: Any = gateway._session.transport

    pids = set()
    for number in range(3):
        channel.send(number)
        eventually(lambda: transport._link is not None, "a link", WAIT)
        transport._raw.kill(True)
        eventually(lambda number=number: transport.breaks > number, "the cut", WAIT)
        item, pid = channel.receive(WAIT)
        assert item == number
        pids.add(pid)

    assert len(pids) == 1


def test_a_waiting_thread_is_not_told_of_a_cut(group: Group) -> None:
    gateway = group.makegateway("popen//resume=20")
    channel = gateway.remote_exec("channel.send(channel.receive())")
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(channel.receive(WAIT)))
    thread.start()

    cut(gateway)
    channel.send("value")
    thread.join()

    assert got == ["value"]


def test_a_listener_is_reached_again_through_tls(group: Group, secure: Any, certificates: Any) -> None:
    gateway = group.makegateway(secure.spec(f"tls=ca:{certificates.ca}//resume=20"))
    channel = gateway.remote_exec(DOUBLE)

    for number in range(3):
        channel.send(number)
        cut(gateway)
        assert channel.receive(WAIT) == number * 2


@pytest.mark.soak
def test_cuts_at_random_bytes_under_load_both_ways_lose_and_double_nothing(nothing_left: str) -> None:
    seen = soak.run(25, low=1, high=400_000, seed=3, patience=60)

    assert int(str(seen["cuts"])) >= 25


@pytest.mark.soak
def test_cuts_at_places_all_over_a_handshake_and_an_exchange_lose_nothing(group: Group, plain: Any) -> None:
    with CuttingProxy(plain.port(), 1 << 40, 1 << 40) as proxy:
        gateway = group.makegateway(plain.spec("resume=60").replace(plain.address, f"127.0.0.1:{proxy.port}"))
        channel = gateway.remote_exec(DOUBLE)

        for length in range(1, 14_000, 450):  # a front's program is 9 KiB of that
            proxy.low = proxy.high = length
            proxy.limit = proxy.cuts + 1
            proxy.cut_all()
            for number in range(4):
                channel.send(number)
            assert [channel.receive(WAIT) for _ in range(4)] == [0, 2, 4, 6]


def test_gateways_that_are_reached_through_one_that_resumes_live_on_with_it(group: Group) -> None:
    master = group.makegateway("popen//id=master//resume=20")
    below = group.makegateway("popen//via=master")
    forked = group.makegateway("popen//factory=master")
    channels = [gateway.remote_exec(DOUBLE) for gateway in (below, forked)]

    for number in range(5):
        for channel in channels:
            channel.send(number)
        cut(master)
        assert [channel.receive(WAIT) for channel in channels] == [number * 2] * 2


def test_a_factory_behind_a_port_gives_workers_that_resume(group: Group, tmp_path: Path) -> None:
    token = write_token(tmp_path)
    command = [sys.executable, "-m", "execgw", "service", "127.0.0.1:0", "--token-file", str(token)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        port = int(service.stdout.readline().rpartition(":")[2])
        group.setlocalfactory(port=port, token=f"file:{token}")
        gateway = group.makegateway("popen//resume=20")
        channel = gateway.remote_exec(DOUBLE)
        channel.send(1)
        cut(gateway)
        assert channel.receive(WAIT) == 2
        assert gateway.remoteaddress == f"127.0.0.1:{port}"
        group.terminate()
        service.terminate()


def test_the_asyncio_face_goes_on_as_well(bridge: Any) -> None:
    gateway = bridge.do(bridge.group.makegateway, "popen//resume=20")
    channel = gateway.remote_exec(DOUBLE)

    for number in range(5):
        channel.send(number)
        cut(gateway)
        assert channel.receive(WAIT) == number * 2


def test_senders_wait_while_too_much_is_not_acknowledged(group: Group, plain: Any) -> None:
    host, _, port = plain.address.rpartition(":")
    with CuttingProxy((host, int(port)), 1 << 40, 1 << 40) as proxy:
        gateway = group.makegateway(plain.spec("resume=60").replace(plain.address, f"127.0.0.1:{proxy.port}"))
        channel = gateway.remote_exec("n = 0\nfor item in channel: n += len(item)\nchannel.send(n)")
        proxy.refusing = True
        proxy.cut_all()
        transport: Any = gateway._session.transport
        done = threading.Event()

        def send() -> None:
            channel.send(b"x" * (30 << 20))
            done.set()

        thread = threading.Thread(target=send)
        thread.start()
        assert not done.wait(1.0)
        assert transport._ring.size < 10 << 20
        proxy.refusing = False
        thread.join()
        gateway._session.end(channel._port)

        assert channel.receive(WAIT) == 30 << 20


def test_what_a_worker_prints_while_nobody_hears_it_is_shown_later(group: Group, our_stderr: Any) -> None:
    with our_stderr() as read:
        gateway = group.makegateway("popen//resume=20")
        channel = gateway.remote_exec(
            "import sys\nchannel.receive()\nsys.stderr.write('in the dark\\n')\nsys.stderr.flush()\nchannel.send(1)"
        )
        channel.send(1)
        cut(gateway)
        assert channel.receive(WAIT) == 1
        gateway.exit()
        gateway.join()

        assert "in the dark" in read()


def test_a_link_that_falls_silent_is_cut_and_made_anew(group: Group, plain: Any) -> None:
    host, _, port = plain.address.rpartition(":")
    with CuttingProxy((host, int(port)), 1 << 40, 1 << 40) as proxy:
        spec = plain.spec("resume=60//keepalive=1").replace(plain.address, f"127.0.0.1:{proxy.port}")
        gateway = group.makegateway(spec)
        channel = gateway.remote_exec(DOUBLE)
        channel.send(1)
        assert channel.receive(WAIT) == 2

        proxy.silent.set()
        channel.send(2)
        transport: Any = gateway._session.transport
        while not transport.breaks:
            threading.Event().wait(0.01)
        proxy.silent.clear()

        assert channel.receive(WAIT) == 4


def test_a_gateway_whose_link_is_broken_is_shown_as_away(group: Group, plain: Any, eventually: Any) -> None:
    with CuttingProxy(plain.port(), 1 << 40, 1 << 40) as proxy:
        gateway = group.makegateway(plain.spec("resume=60").replace(plain.address, f"127.0.0.1:{proxy.port}"))
        transport: Any = gateway._session.transport
        proxy.refusing = True
        proxy.cut_all()
        eventually(lambda: transport.breaks, "the cut")

        away = [node.state for node in group.tree(timeout=0.2)]
        proxy.refusing = False
        assert gateway.call(len, "four") == 4

        assert away == ["away"]
        assert [node.state for node in group.tree()] == ["live"]


# -- ends


def test_a_worker_that_dies_is_told_with_exit_code_and_last_words(group: Group) -> None:
    gateway = group.makegateway("popen//resume=20")
    channel = gateway.remote_exec("import os, sys\nsys.stderr.write('last words\\n'); sys.stderr.flush(); os._exit(7)")

    with pytest.raises(ConnectionLost, match="exit code 7") as caught:
        channel.receive(WAIT)

    assert caught.value.exit_code == 7
    assert "last words" in caught.value.stderr


def test_a_worker_that_dies_while_the_link_is_broken_is_told_at_the_next_one(group: Group, plain: Any) -> None:
    host, _, port = plain.address.rpartition(":")
    with CuttingProxy((host, int(port)), 1 << 40, 1 << 40) as proxy:
        gateway = group.makegateway(plain.spec("resume=60").replace(plain.address, f"127.0.0.1:{proxy.port}"))
        channel = gateway.remote_exec("channel.receive()")
        pid = gateway._rinfo().pid
        proxy.refusing = True
        proxy.cut_all()
        os.kill(pid, signal.SIGKILL)
        proxy.refusing = False

        with pytest.raises(ConnectionLost, match="killed by SIGKILL"):
            channel.receive(WAIT)


def test_grace_that_is_over_is_told_and_ends_the_worker(group: Group, plain: Any, eventually: Any) -> None:
    host, _, port = plain.address.rpartition(":")
    with CuttingProxy((host, int(port)), 1 << 40, 1 << 40) as proxy:
        gateway = group.makegateway(plain.spec("resume=0.5").replace(plain.address, f"127.0.0.1:{proxy.port}"))
        channel = gateway.remote_exec("channel.receive()")
        pid, keeper = gateway._rinfo().pid, keeper_of(gateway)
        proxy.refusing = True
        proxy.cut_all()

        with pytest.raises(ConnectionLost, match=r"no connection for 0\.5"):
            channel.receive(WAIT)

        eventually(lambda: has_ended(pid) and has_ended(keeper), "the end of worker and keeper")


def test_terminate_leaves_neither_worker_nor_keeper_nor_socket(group: Group, eventually: Any) -> None:
    gateway = group.makegateway("popen//resume=60")
    pid, keeper = gateway._rinfo().pid, keeper_of(gateway)
    transport: Any = gateway._session.transport
    name = hashlib.sha256(transport.front.id.encode()).hexdigest()[:32]
    place = Path(f"/tmp/execgw-{os.getuid()}")
    assert (place / name).exists()

    assert group.terminate() == {gateway.id: "asked"}

    eventually(lambda: has_ended(pid) and has_ended(keeper), "the end of worker and keeper")
    assert not (place / name).exists()


def test_terminate_kills_a_worker_that_does_not_listen(group: Group) -> None:
    gateway = group.makegateway("popen//resume=60")
    channel = gateway.remote_exec("import os, signal\nchannel.send(1)\nos.kill(os.getpid(), signal.SIGSTOP)")
    channel.receive(WAIT)

    assert group.terminate(timeout=0.3)[gateway.id] == "killed"


def test_a_start_that_fails_is_told_as_without_resume(group: Group) -> None:
    with pytest.raises(StartError, match="nosuch"):
        group.makegateway("popen//python=/nosuch/python//resume=5")
    with pytest.raises(StartError, match="exit code 3"):
        group.makegateway(f"cmd=sh -c 'exit 3'//python={sys.executable}//resume=5")


def test_an_interpreter_that_cannot_keep_a_session_is_told(group: Group, python: Any) -> None:
    with pytest.raises(StartError, match=r"resume= needs a CPython or PyPy from 3\.6 on"):
        group.makegateway(f"popen//python={python('2.7.18')}//resume=5")


@pytest.mark.parametrize("version", ["3.6.15", "pypy3"])
def test_the_oldest_interpreter_that_can_keep_a_session_does_and_a_pypy(
    group: Group, python: Any, version: str
) -> None:
    gateway = group.makegateway(f"popen//python={python(version)}//resume=20")
    channel = gateway.remote_exec(DOUBLE)
    channel.send(1)
    cut(gateway)

    assert channel.receive(WAIT) == 2


@pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")
@pytest.mark.parametrize("trap", ["symlink", "open"])
def test_a_place_that_another_user_has_prepared_is_refused(group: Group, tmp_path: Path, trap: str) -> None:
    uid = 54321
    place = Path(f"/tmp/execgw-{uid}")
    assert not place.exists()
    os.symlink(tmp_path, place) if trap == "symlink" else place.mkdir(mode=0o777)
    try:
        with pytest.raises(StartError, match="must be a directory of this user alone"):
            group.makegateway(f"cmd=setpriv --reuid {uid} --clear-groups//python=/usr/bin/python3//resume=5")
    finally:
        place.unlink() if trap == "symlink" else place.rmdir()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("popen//resume=soon", "no time in seconds"),
        ("popen//resume", "needs a value"),
        ("memory//resume=5", "no link that could break"),
        ("popen//python=jython//resume=5", "CPython or PyPy"),
        ("popen//factory=x//resume=5", "give resume= to that one"),
        ("popen//factory=local//idle=3//resume=5", "lease= counts"),
    ],
)
def test_what_cannot_be_resumed_is_refused(group: Group, spec: str, why: str) -> None:
    if "factory=x" in spec:
        group.makegateway("popen//id=x")
    elif "factory" in spec:
        group.setlocalfactory()
    with pytest.raises(SpecError, match=why):
        group.makegateway(spec)


def test_a_gateway_behind_another_is_refused(group: Group) -> None:
    group.makegateway("popen//id=master")

    with pytest.raises(SpecError, match="give resume= to that one"):
        group.makegateway("popen//via=master//resume=5")
