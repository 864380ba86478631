"""socket= and execgw listen: TCP, Unix sockets and TLS, through gateways too; who ends with whom."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from listener import Listener, echoes, write_token
from sshd import find_program

from execgw import ConnectionLost, HostNotFound, HostNotReached, PythonNotFound, SpecError, StartError
from execgw.transports.address import parse_address

EVERY_BYTE = bytes(range(256)) * 4096


# -- bytes


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix"])
def test_it_works_on_every_kind_of_socket(group, tmp_path, address):
    if "::" in address and not socket.has_ipv6:
        pytest.skip("this host has no IPv6")
    with Listener(tmp_path, f"unix:{tmp_path}/s" if address == "unix" else address) as listener:
        gateway = group.makegateway(listener.spec())

        assert echoes(gateway, EVERY_BYTE)
        assert gateway.remoteaddress == listener.address
        group.terminate(5)


def test_all_bytes_go_both_ways_unchanged(group, spec):
    gateway = group.makegateway(spec)

    assert echoes(gateway, EVERY_BYTE)
    assert echoes(gateway, {"many": [EVERY_BYTE] * 8})


def test_many_threads_use_one_connection(group, spec):
    gateway = group.makegateway(spec)
    results: list[bool] = []

    def use(number: int) -> None:
        results.extend(echoes(gateway, os.urandom(number * 50_000)) for _ in range(3))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results == [True] * 18


def test_a_channel_that_nobody_reads_stalls_no_other(group, spec):
    gateway = group.makegateway(spec)
    clogged = gateway.remote_exec("while 1: channel.send(b'x' * 100000)")

    for number in range(20):
        assert echoes(gateway, number)

    clogged.close()


def test_many_clients_at_once(group, spec):
    gateways = group.makegateways([spec] * 8)

    assert len({gateway.call(os.getpid) for gateway in gateways}) == 8


# -- the worker


def test_surroundings_are_in_force_before_the_interpreter_starts(group, plain, tmp_path):
    where = tmp_path / "made"
    gateway = group.makegateway(plain.spec(f"chdir={where}", "env:PYTHONHASHSEED=0", "nice=3"))

    assert gateway.call(os.getcwd) == str(where)
    assert gateway.remote_exec("import sys; channel.send(sys.flags.hash_randomization)").receive(20) == 0
    assert gateway.call(os.nice, 0) == os.nice(0) + 3


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.13.0"])
def test_another_python_on_the_socket(group, spec, python, version):
    gateway = group.makegateway(f"{spec}//python={python(version)}")

    assert gateway._rinfo().version_info[:2] == tuple(map(int, version.split(".")[:2]))
    assert echoes(gateway, bytearray(EVERY_BYTE))  # bytes come back from Python 2 as its native text


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15"])
@pytest.mark.parametrize("tls", [False, True])
def test_the_listener_runs_on_old_pythons(group, python, version, tls, tmp_path, certificates):
    words = certificates.words() if tls else []
    with Listener(tmp_path / "listener", "127.0.0.1:0", *words, python=python(version)) as listener:
        gateway = group.makegateway(listener.spec(*[f"tls=ca:{certificates.ca}"][: len(words)]))

        assert gateway._rinfo().version_info[:2] == tuple(map(int, version.split(".")[:2]))
        assert echoes(gateway, bytearray(EVERY_BYTE))
        assert group.terminate(5)


def test_a_program_that_is_not_there_is_named(group, spec):
    with pytest.raises(PythonNotFound, match=r"no-such-python.*python="):
        group.makegateway(f"{spec}//python=no-such-python")


def test_a_program_that_is_no_python_ends_the_start(group, spec):
    with pytest.raises(StartError, match=r"ended during the start(.|\n)*log of the listener"):
        group.makegateway(f"{spec}//python=false")


def test_a_word_that_looks_like_an_option_is_no_interpreter(group, plain):
    with pytest.raises(StartError, match="names no interpreter"):
        group.makegateway(plain.spec("python=-c"))


# -- through gateways


def test_a_socket_beside_another_gateway(group, spec):
    group.makegateway("popen//id=first")

    gateway = group.makegateway(f"{spec}//via=first")

    assert echoes(gateway, EVERY_BYTE)
    behind = group.makegateway(f"popen//via={gateway.id}")
    assert echoes(behind, EVERY_BYTE)


def test_a_gateway_behind_a_socket(group, spec):
    gateway = group.makegateway(spec)
    behind = group.makegateway(f"popen//via={gateway.id}")

    assert behind.call(os.getppid) == gateway.call(os.getpid)


def test_what_a_gateway_cannot_reach_is_told_as_if_it_were_here(group, plain):
    group.makegateway("popen//id=first")
    token = f"token=file:{plain.token}"

    with pytest.raises(HostNotReached, match=r"via .first.*execgw listen"):
        group.makegateway(f"socket=127.0.0.1:{free_port()}//{token}//via=first")
    with pytest.raises(HostNotFound, match=r"nowhere\.invalid"):
        group.makegateway(f"socket=nowhere.invalid:5000//{token}//via=first")


def test_the_end_of_the_gateway_between_is_told(group, spec):
    first = group.makegateway("popen//id=first")
    gateway = group.makegateway(f"{spec}//via=first")
    channel = gateway.remote_exec("channel.receive()")

    os.kill(first._rinfo().pid, signal.SIGKILL)

    with pytest.raises(ConnectionLost):
        channel.receive(20)


@pytest.mark.parametrize("address", ["socket", "socket=127.0.0.1:0", "socket=[::1]:0"])
def test_a_listener_is_installed_through_a_gateway(group, address):
    first = group.makegateway("popen//id=first")

    gateway = group.makegateway(f"{address}//installvia=first")

    assert echoes(gateway, EVERY_BYTE)
    assert gateway.call(os.getppid) == first.call(os.getpid)
    assert gateway.remoteaddress.startswith("[::1]:" if "::" in address else "127.0.0.1:")


def test_the_installed_listener_ends_with_its_gateway(group, processes, eventually):
    group.makegateway("popen//id=first")
    before = len(processes())
    gateway = group.makegateway("socket//installvia=first")

    gateway.exit()
    assert gateway.join(20)

    eventually(lambda: len(processes()) == before)


def test_an_installed_listener_on_another_address_has_tls(group):
    find_program("openssl")
    group.makegateway("popen//id=first")

    gateway = group.makegateway(f"socket={other_address()}:0//installvia=first")

    assert gateway._session.transport.guard.secure
    assert echoes(gateway, EVERY_BYTE)


def test_a_host_of_unknown_address_is_told_with_the_way_out(group, monkeypatch):
    from execgw.transports import install

    group.makegateway("popen//id=there//env:SSH_CONNECTION=")
    monkeypatch.setattr(install, "network", lambda: "another")

    with pytest.raises(StartError, match=r"popen//via=there"):
        group.makegateway("socket//installvia=there")


def other_address() -> str:
    """An address of this host that is no loopback one: that of a datagram socket to somewhere else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but 127.0.0.1")
        return str(sock.getsockname()[0])


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- what cannot be


def test_a_host_that_is_not_there_is_told(group, plain):
    with pytest.raises(HostNotFound, match="getent hosts"):
        group.makegateway(f"socket=nowhere.invalid:5000//token=file:{plain.token}")


def test_a_port_on_which_nobody_listens_is_told(group, plain):
    with pytest.raises(HostNotReached, match=r"refused; is the listener running.*execgw listen"):
        group.makegateway(f"socket=127.0.0.1:{free_port()}//token=file:{plain.token}")


def test_a_host_that_does_not_answer_is_told_in_time(group, plain):
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # its queue is full: the kernel drops who comes now
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        with pytest.raises(HostNotReached, match=r"no answer|timed out"):
            group.makegateway(f"socket=127.0.0.1:{full.getsockname()[1]}//token=file:{plain.token}//start_timeout=2")


def test_a_token_in_the_spec_itself_is_refused_and_not_repeated(group):
    with pytest.raises(SpecError, match="token=file:PATH") as caught:
        group.makegateway("socket=127.0.0.1:5000//token=abcdefabcdefabcdef")

    assert "abcdef" not in str(caught.value)


def test_a_token_file_that_others_may_read_is_refused(group, tmp_path):
    token = write_token(tmp_path)
    token.chmod(0o640)

    with pytest.raises(SpecError, match=f"chmod 600 {token}"):
        group.makegateway(f"socket=127.0.0.1:5000//token=file:{token}")


def test_a_token_may_come_from_the_environment(group, plain, monkeypatch):
    monkeypatch.setenv("OUR_TOKEN", plain.token.read_text())

    gateway = group.makegateway(f"socket={plain.address}//token=env:OUR_TOKEN")

    assert gateway.call(abs, -1) == 1


@pytest.mark.parametrize(
    "spec, words",
    [
        ("socket=127.0.0.1:5000", "needs the token"),
        ("socket=127.0.0.1:5000//token=env:NO_SUCH_VARIABLE", "at least 16"),
        ("socket=127.0.0.1:5000//token=file:/no/such/file", "No such file"),
        ("socket=127.0.0.1//token=env:PATH", "is no address"),
        ("socket=127.0.0.1:0//token=env:PATH", "is no address"),
        ("socket=::1:5000//token=env:PATH", "is no address"),
        ("socket=127.0.0.1:5000//token=env:PATH//tls", "ca:FILE"),
        ("socket=127.0.0.1:5000//token=env:PATH//tls=sha256:12", "64 hex digits"),
        ("socket=127.0.0.1:5000//token=env:PATH//tls=ca:/no/such/file", "No such file"),
        ("socket=unix:/x//token=env:PATH//tls=ca:/x", "sha256"),
        ("socket//installvia=nobody", "no gateway of this group"),
        ("socket//installvia=nobody//token=env:PATH", "takes no token"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_at_once(group, spec, words):
    with pytest.raises(SpecError, match=words):
        group.makegateway(spec)


def test_addresses_are_read_and_written_alike():
    for text in ("127.0.0.1:5000", "[::1]:80", "build7:65535", "unix:/run/x"):
        assert str(parse_address(text)) == text


def test_a_listener_beyond_loopback_needs_tls(tmp_path):
    with pytest.raises(AssertionError, match=r"0\.0\.0\.0 is no loopback address.*--tls-cert"):
        Listener(tmp_path, "0.0.0.0:0")


def test_an_address_that_is_taken_is_told(plain, tmp_path):
    with pytest.raises(AssertionError, match="in use"):
        Listener(tmp_path, plain.address)


def test_a_listener_does_not_take_a_token_that_others_may_read(tmp_path):
    write_token(tmp_path).chmod(0o644)

    with pytest.raises(AssertionError, match="chmod 600"):
        Listener(tmp_path, "127.0.0.1:0")


def test_starting_many_does_not_wait_for_one_that_does_not_answer(group, plain, tmp_path):
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    token = f"token=file:{plain.token}"
    started = tmp_path / "started"

    with pytest.raises(StartError):
        group.makegateways(
            [
                f"socket=127.0.0.1:{silent.getsockname()[1]}//{token}//start_timeout=1.5",
                plain.spec(f"chdir={started}"),
            ]
        )

    assert Path(started).exists()
    silent.close()
