"""execgw attach: what a worker sends is shown, and the worker is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from execgw import Group

SPEC = "popen//resume=30"
WAIT = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticket"
    path.touch(mode=0o600)
    return path


def attach(*words: str | Path, ticket: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "execgw", "attach", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, input=ticket)


def test_values_are_shown_until_the_code_ends_and_the_worker_is_left(group: Group, file: Path) -> None:
    gateway = group.makegateway(SPEC)
    gateway.call(len, "")
    channel = gateway.remote_exec("channel.receive()\nfor item in ('text', 2, None): channel.send(item)")
    channel.send("go")
    file.write_text(gateway.detach())

    done = attach(file)

    assert (done.stdout, done.returncode) == ("text\n2\nNone\n", 0), done.stderr
    assert f"channels: {channel.id}" in done.stderr
    assert group.attach(file.read_text()).call(len, "four") == 4


def test_what_is_open_is_told_and_nothing_taken(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.send('value')\nchannel.receive()")
    ticket = gateway.detach()

    done = attach("--list", ticket=ticket)

    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    assert group.attach(ticket).channels[channel.id].receive(WAIT) == "value"


def test_an_interrupt_leaves_the_worker_as_it_was(group: Group, file: Path) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.send('first')\nchannel.send(channel.receive())")
    file.write_text(gateway.detach())
    command = [sys.executable, "-m", "execgw", "attach", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)

    assert process.returncode == 0
    mine = group.attach(file.read_text()).channels[channel.id]
    mine.send("second")
    assert mine.receive(WAIT) == "second"


def test_the_worker_is_ended_on_demand(group: Group, file: Path, eventually: Any) -> None:
    gateway = group.makegateway(SPEC)
    pid = gateway.call(os.getpid)
    file.write_text(gateway.detach())

    done = attach(file, "--end")

    assert "was asked" in done.stderr
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the worker")


def test_a_ticket_that_others_may_read_is_refused_and_not_shown(group: Group, file: Path) -> None:
    gateway = group.makegateway(SPEC)
    ticket = gateway.ticket
    file.write_text(ticket)
    file.chmod(0o644)

    done = attach(file)

    assert done.returncode == 1
    assert "chmod 600" in done.stderr
    assert ticket not in done.stderr


def test_what_is_no_ticket_is_told() -> None:
    done = attach(ticket="rubbish")

    assert (done.returncode, done.stdout) == (1, "")
    assert "no ticket of Gateway.detach()" in done.stderr
