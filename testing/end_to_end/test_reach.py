"""Over a real sshd: what `execgw doctor` says, a host behind a jump host, a Jython at the end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import find_python
from sshd import Sshd, closed_port, failure, is_there, pid_of, sshd_fixture  # noqa: F401

from execgw import ConnectionLost, Group
from execgw.errors import AuthenticationFailed
from execgw.transports import ssh_master

HERE = shlex.quote(sys.executable)


def doctor(*specs: str) -> tuple[int, list[dict[str, str]], dict[str, float]]:
    """(exit code, steps, measurements) of the last spec."""
    argv = [sys.executable, "-m", "execgw", "doctor", "--json", *specs]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    report = json.loads(done.stdout)["specs"][-1]
    return done.returncode, report["steps"], report["measured"]


def ways(steps: list[dict[str, str]]) -> list[tuple[str, bool]]:
    return [(step["name"], bool(step["ok"])) for step in steps]


# -- doctor


def test_doctor_goes_all_the_way_over_ssh(sshd: Sshd) -> None:
    code, steps, measured = doctor(f"{sshd.spec}//python={HERE}")

    assert code == 0
    assert [name for name, ok in ways(steps) if ok] == [
        "spec", "program", "name lookup", "connect", "host key", "login", "python", "handshake", "bytes", "round trip",
        "throughput",
    ]  # fmt: skip
    assert next(step["detail"] for step in steps if step["name"] == "name lookup") == "127.0.0.1 is 127.0.0.1"
    assert 0 < measured["round_trip_seconds"] < measured["start_seconds"]
    assert sshd.accepted() == 1


def a_closed_port(sshd: Sshd) -> str:
    return f"ssh={sshd.host}:{closed_port()}//ssh_config={sshd.config}"


def an_unknown_name(sshd: Sshd) -> str:
    return f"ssh=no-such-host.invalid//ssh_config={sshd.config}"


def an_unknown_key(sshd: Sshd) -> str:
    return f"ssh=box//ssh_config={sshd.new_config(UserKnownHostsFile=str(sshd.directory / 'none'))}"


def a_key_that_is_not_taken(sshd: Sshd) -> str:
    return f"ssh=box//ssh_config={sshd.new_config(IdentityFile=str(sshd.host_key))}"


def no_such_interpreter(sshd: Sshd) -> str:
    return f"{sshd.spec}//python=no-such-python"


@pytest.mark.parametrize(("broken", "passed", "failed", "words", "hint"), [
    (an_unknown_name, [], "name lookup", "Could not resolve hostname", "ssh -F"),
    (a_closed_port, ["name lookup"], "connect", "Connection refused", "ssh -F"),
    (an_unknown_key, ["name lookup", "connect"], "host key", "Host key verification failed", "ssh -F"),
    (a_key_that_is_not_taken, ["name lookup", "connect", "host key"], "login", "Permission denied", "ssh-add"),
    (no_such_interpreter, ["name lookup", "connect", "host key", "login"], "python", "no-such-python", "python=/path"),
])  # fmt: skip
def test_doctor_stops_at_the_step_that_fails_over_ssh(
    sshd: Sshd, broken: Callable[[Sshd], str], passed: list[str], failed: str, words: str, hint: str
) -> None:
    code, steps, _ = doctor(broken(sshd))

    assert code == 1
    assert ways(steps) == [(name, True) for name in ("spec", "program", *passed)] + [(failed, False)]
    assert words in steps[-1]["detail"]
    assert hint in steps[-1]["next"] + steps[-1]["detail"]


# -- a jump host


class Jump:
    """`inner` is reached through `jump`: two servers with keys of their own, and one client configuration."""

    def __init__(self, directory: Path) -> None:
        for name in ("jump", "inner"):
            (directory / name).mkdir()
        self.jump, self.inner = Sshd(directory / "jump"), Sshd(directory / "inner")
        self.config = directory / "ssh_config"
        hosts = [
            f"Host {name}\n  HostName {server.host}\n  Port {server.port}\n  User {server.user}\n"
            f"  IdentityFile {server.user_key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {server.known_hosts}\n"
            "  StrictHostKeyChecking yes\n"
            for name, server in (("jump", self.jump), ("inner", self.inner), ("direct", self.inner))
        ]
        self.config.write_text(f"{hosts[0]}{hosts[1]}  ProxyJump jump\n{hosts[2]}")

    def stop(self) -> None:
        ssh_master.close_all()
        for server in (self.inner, self.jump):
            server.stop()


@pytest.fixture
def way(nothing_left: str, tmp_path: Path) -> Iterator[Jump]:
    way = Jump(tmp_path)
    yield way
    way.stop()


@pytest.mark.parametrize("host", ["inner", "-J jump direct"])
def test_a_host_behind_a_jump_host_is_reached_through_it(way: Jump, group: Group, host: str) -> None:
    first, second = (group.makegateway(f"ssh={host}//ssh_config={way.config}//python={HERE}") for _ in range(2))

    assert first.call(divmod, 7, 2) == second.call(divmod, 7, 2) == (3, 1)
    assert (way.jump.accepted(), way.inner.accepted()) == (1, 1)  # one connection for both gateways


def test_the_death_of_a_jump_host_is_told_on_both_sides(
    way: Jump, group: Group, eventually: Callable[..., None]
) -> None:
    gateway = group.makegateway(f"ssh=inner//ssh_config={way.config}//python={HERE}")
    pid = pid_of(gateway)
    channel = gateway.remote_exec("channel.receive()")

    way.jump.signal_connections(signal.SIGKILL)

    with pytest.raises(ConnectionLost):
        channel.receive(20)
    eventually(lambda: not is_there(pid), "the end of the worker")


def test_a_jump_host_that_does_not_take_the_key_is_told_in_its_own_words(way: Jump, group: Group) -> None:
    text = way.config.read_text().replace(str(way.jump.user_key), str(way.inner.user_key))
    way.config.write_text(text)

    error = failure(group, f"ssh=inner//ssh_config={way.config}//python={HERE}")

    assert type(error) is AuthenticationFailed
    assert "Permission denied" in error.stderr
    assert way.inner.accepted() == 0


def test_doctor_names_the_jump_host(way: Jump) -> None:
    code, steps, _ = doctor(f"ssh=inner//ssh_config={way.config}//python={HERE}")

    assert code == 0
    assert next(step["detail"] for step in steps if step["name"] == "name lookup") == "127.0.0.1, reached through jump"


# -- Jython


def test_a_jython_over_ssh_has_channels_and_ends_with_its_near_side(
    sshd: Sshd, group: Group, eventually: Callable[..., None]
) -> None:
    gateway = group.makegateway(f"{sshd.spec}//python={find_python('jython')}")
    pid = pid_of(gateway)
    value = {"a": [1, 2.5, 3j, (None, True), {2}], "b": "text \xe9" * 100_000}
    channel = gateway.remote_exec("for item in channel: channel.send(item)")

    channel.send(value)

    assert channel.receive(30) == value
    assert gateway.remote_exec("import sys; channel.send(str(sys.platform))").receive(20)[:4] == "java"
    assert set(group.terminate(timeout=10).values()) == {"asked"}
    eventually(lambda: not is_there(pid), "the end of the Jython")


def test_a_jython_over_ssh_leads_to_other_interpreters(sshd: Sshd, group: Group) -> None:
    group.makegateway(f"{sshd.spec}//id=java//python={find_python('jython')}")

    beside = group.makegateway(f"popen//via=java//python={find_python('3.13.0')}")

    assert beside.call(os.path.basename, "/a/b") == "b"
    assert beside.remote_exec("import sys; channel.send(sys.version_info[:2])").receive(20) == (3, 13)
