"""ssh=: each way to fail is an error of its own, with the words of ssh; with a real sshd on loopback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sshd import Sshd, closed_port, failure, silent_port_fixture, sshd_fixture  # noqa: F401

from execgw import Group
from execgw._loop import run
from execgw.errors import (
    AuthenticationFailed,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    PythonNotFound,
    StartError,
)


def test_an_unknown_host_name(sshd: Sshd, group: Group) -> None:
    error = failure(group, f"ssh=no-such-host.invalid//ssh_config={sshd.config}")

    assert type(error) is HostNotFound
    assert "Could not resolve hostname no-such-host.invalid" in error.stderr
    assert error.exit_code == 255
    assert f"try: ssh -F {sshd.config} -- no-such-host.invalid true" in str(error)


def test_a_closed_port(sshd: Sshd, group: Group) -> None:
    error = failure(group, f"ssh={sshd.host}:{closed_port()}//ssh_config={sshd.config}")

    assert type(error) is HostNotReached
    assert "Connection refused" in str(error)
    assert "try: ssh -F" in str(error)


def test_a_host_that_does_not_answer(sshd: Sshd, group: Group, silent_port: int) -> None:
    error = failure(group, f"ssh={sshd.host}:{silent_port}//ssh_config={sshd.config}//start_timeout=3")

    assert type(error) is HostNotReached
    assert "timed out" in str(error)


def test_all_gateways_that_wait_for_a_connection_hear_why_it_failed(sshd: Sshd, group: Group, silent_port: int) -> None:
    spec = f"ssh={sshd.host}:{silent_port}//ssh_config={sshd.config}//start_timeout=3"
    hub, execmodel = group._hub, "thread"
    made = [group._as_spec(spec) for _ in range(3)]
    begun = time.monotonic()

    sessions = [run(hub.begin(one, execmodel)) for one in made]
    errors: list[Any] = []
    for session, one in zip(sessions, made, strict=True):
        with pytest.raises(HostNotReached) as caught:
            run(hub.finish(session, one, begun))
        errors.append(caught.value)

    assert all("timed out" in str(error) for error in errors)


@pytest.mark.parametrize("strict", ["yes", "ask"])
def test_an_unknown_host_key(sshd: Sshd, group: Group, strict: str) -> None:
    config = sshd.new_config(UserKnownHostsFile=str(sshd.directory / "none"), StrictHostKeyChecking=strict)

    error = failure(group, f"ssh=box//ssh_config={config}")

    assert type(error) is HostKeyRefused
    assert "Host key verification failed" in error.stderr


def test_a_changed_host_key(sshd: Sshd, group: Group) -> None:
    known = sshd.known_hosts.read_text().split()[0]
    other = sshd.directory / "other"
    other.write_text(f"{known} {' '.join(sshd.user_key.with_suffix('.pub').read_text().split()[:2])}\n")

    error = failure(group, f"ssh=box//ssh_config={sshd.new_config(UserKnownHostsFile=str(other))}")

    assert type(error) is HostKeyRefused
    assert "ssh-keygen -R" in str(error)


def test_a_key_that_the_host_does_not_take(sshd: Sshd, group: Group) -> None:
    config = sshd.new_config(IdentityFile=str(sshd.host_key))

    error = failure(group, f"ssh=box//ssh_config={config}")

    assert type(error) is AuthenticationFailed
    assert "Permission denied (publickey" in str(error)


@pytest.mark.parametrize("name", ["no-such-python", "/no/such/python"])
def test_no_such_interpreter_there(sshd: Sshd, group: Group, name: str) -> None:
    error = failure(group, f"{sshd.spec}//python={name}")

    assert type(error) is PythonNotFound
    assert f"execgw: there is no {name} on this host" in error.stderr
    assert "python=/path/of/it" in str(error)


def test_a_file_that_is_no_interpreter_there(sshd: Sshd, group: Group, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a program")

    assert type(failure(group, f"{sshd.spec}//python={file}")) is PythonNotFound


def test_a_directory_that_cannot_be_made_there(sshd: Sshd, group: Group) -> None:
    error = failure(group, f"{sshd.spec}//chdir=/proc/none")

    assert "/proc/none" in str(error)


def test_no_such_configuration(sshd: Sshd, group: Group, tmp_path: Path) -> None:
    error = failure(group, f"ssh=box//ssh_config={tmp_path / 'none'}")

    assert type(error) is StartError
    assert "correct the file" in str(error)


def test_no_ssh_on_this_host(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    error = failure(group, "ssh=box")

    assert type(error) is StartError
    assert "install the OpenSSH client" in str(error)


def test_after_a_failure_the_next_one_is_tried_anew(sshd: Sshd, group: Group) -> None:
    taken = sshd.known_hosts.read_text()
    sshd.known_hosts.write_text("")
    assert type(failure(group, sshd.spec)) is HostKeyRefused

    sshd.known_hosts.write_text(taken)

    assert group.makegateway(sshd.spec).hasreceiver()
