"""ssh= and vagrant_ssh=, with a real sshd on loopback: what a spec may say, login shells, gateways, via."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sshd import Sshd, closed_port, failure, find_program, pid_of, sshd_fixture  # noqa: F401

from execgw import Group
from execgw.errors import (
    HostNotReached,
    SpecError,
)
from execgw.transports import ssh

HERE = shlex.quote(sys.executable)


# -- what a spec says


@pytest.mark.parametrize(
    ("text", "host", "options"),
    [
        ("host", "host", []),
        ("joe@build-7.example.org", "build-7.example.org", ["-l", "joe"]),
        ("joe@example.org@host:2222", "host", ["-l", "joe@example.org", "-p", "2222"]),
        (r"DOMAIN\joe@host", "host", ["-l", r"DOMAIN\joe"]),
        ("10.0.0.1:22", "10.0.0.1", ["-p", "22"]),
        ("::1", "::1", []),
        ("joe@[fe80::1%eth0]:2222", "fe80::1%eth0", ["-l", "joe", "-p", "2222"]),
        ("-p 2222 joe@host", "host", ["-l", "joe", "-p", "2222"]),
        ("-i 'my key' -p2222 host", "host", ["-i", "my key", "-p", "2222"]),
        ("host -l joe", "host", ["-l", "joe"]),
        ("-J joe@a:22,[::1]:2 host", "host", ["-J", "joe@a:22,[::1]:2"]),
        ("-T -o StrictHostKeyChecking=no host", "host", ["-o", "StrictHostKeyChecking=no"]),
        ("-F file -4 -C host", "host", ["-F", "file", "-o", "AddressFamily=inet", "-o", "Compression=yes"]),
    ],
)
def test_a_spec_is_taken_apart(text: str, host: str, options: list[str]) -> None:
    target = ssh.parse(text)

    assert (target.host, list(target.options)) == (host, options)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-oProxyCommand=evil", "must name one host"),
        ("-oProxyCommand=evil host", "ssh_config=FILE"),
        ("-o LocalCommand=evil host", "ssh_config=FILE"),
        ("-o 'proxycommand evil' host", "ssh_config=FILE"),
        ("-J -oProxyCommand=evil host", "no host name"),
        ("-L 1:a:2 host", "known are -p"),
        ("-- -oProxyCommand=evil", "no host name"),
        ("-host", "known are"),
        ("joe@-host", "no host name"),
        ("-joe@host", "known are"),
        ("-l -joe host", "no user name"),
        ("a;b@host", "no user name"),
        ("$(evil)", "no host name"),
        ("`evil`@host", "no user name"),
        ("host|evil", "no host name"),
        ("@host", "no user name"),
        ("host evil", "no command"),
        ("host:", "no port"),
        ("host:0", "no port"),
        ("host:70000", "no port"),
        ("[::1]22", "[ADDRESS]:PORT"),
        ("-p 22 host:23", "given twice"),
        ("-l joe bob@host", "given twice"),
        ("-p 22", "must name one host"),
        ("-F file host//ssh_config=file", "give one"),
        ("-i 'key host", "quotation"),
    ],
)
def test_what_may_be_an_option_or_a_command_is_refused(group: Group, text: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        group.makegateway(f"ssh={text}")

    assert why in str(caught.value)


def test_a_key_without_a_value_is_refused(group: Group) -> None:
    for spec in ("ssh", "vagrant_ssh", "ssh=host//ssh_config"):
        with pytest.raises(SpecError, match="needs a value"):
            group.makegateway(spec)


@pytest.mark.parametrize(
    ("keepalive", "interval", "count"), [(None, 10, 2), (3, 1, 2), (2, 1, 1), (0.5, 1, 1), (0, 0, 1)]
)
def test_ssh_gives_up_within_the_keepalive_time(keepalive: float | None, interval: int, count: int) -> None:
    options = ssh._options(ssh.Target("host"), keepalive)

    assert f"ServerAliveInterval={interval}" in options
    assert f"ServerAliveCountMax={count}" in options


# -- the other host's login shell


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "tcsh", "csh", "fish"])
def test_every_login_shell_hands_the_program_on_unchanged(shell: str, tmp_path: Path) -> None:
    program = "import sys\nfor c in 'a\\n', \"b\\\\\", '!c !! $HOME `d` %s *':\n sys.stdout.write(c + chr(10))\n"
    interpreter = tmp_path / "my bin" / "it's python"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\nexec {HERE} "$@"\n')
    interpreter.chmod(0o755)

    def said(words: list[str]) -> str:
        line = ssh.remote_command(words, ["-B"], program)
        done = subprocess.run(
            [find_program(shell), "-c", line], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True
        )
        assert (done.stderr, done.returncode) == ("", 0)
        return done.stdout

    wanted = "a\n\nb\\\n!c !! $HOME `d` %s *\n"
    assert said([]) == wanted
    assert said(["~/my bin/it's python", "-I"]) == wanted


@pytest.mark.parametrize("words", [[], ["no such python"]])
@pytest.mark.parametrize("shell", ["sh", "tcsh", "fish"])
def test_a_missing_interpreter_is_said_and_exits_with_127(shell: str, words: list[str], tmp_path: Path) -> None:
    program, sh = find_program(shell), find_program("sh")
    (tmp_path / "sh").symlink_to(sh)

    line = ssh.remote_command(words, [], "")
    done = subprocess.run([program, "-c", line], env={"PATH": str(tmp_path)}, capture_output=True, text=True)

    assert done.returncode == 127
    assert re.search("there is n(o|either) .*python.* host", done.stderr)


# -- a gateway


def test_a_worker_is_reached(sshd: Sshd, group: Group) -> None:
    everything = bytes(range(256)) * 4096

    gateway = group.makegateway(sshd.spec)
    channel = gateway.remote_exec("for item in channel: channel.send(item)")
    channel.send(everything)

    assert channel.receive(20) == everything
    assert gateway.remoteaddress == "box"


def test_user_and_port_are_named_as_in_execnet(sshd: Sshd, group: Group) -> None:
    config = sshd.new_config(Port="1", User="nobody-of-that-name")
    spec = f"ssh=-i {sshd.user_key} -p {sshd.port} {sshd.user}@{sshd.host}//ssh_config={config}"

    gateway = group.makegateway(spec)

    assert gateway.remote_exec("channel.send(42)").receive(10) == 42
    assert gateway.remoteaddress == f"-i {sshd.user_key} -p {sshd.port} {sshd.user}@{sshd.host}"


@pytest.mark.parametrize("version", ["2.7.18", "3.13.0"])
def test_an_interpreter_may_have_a_space_in_its_path(
    sshd: Sshd, group: Group, python: Callable[[str], str], version: str, tmp_path: Path
) -> None:
    (tmp_path / "with space").mkdir()
    link = tmp_path / "with space" / "python"
    link.symlink_to(python(version))

    gateway = group.makegateway(f"{sshd.spec}//python='{link}'//dont_write_bytecode")
    version_info, flag = gateway.remote_exec(
        "import sys; channel.send((tuple(sys.version_info)[:3], sys.dont_write_bytecode))"
    ).receive(10)

    assert ".".join(map(str, version_info)) == version
    assert flag


def test_surroundings_are_in_force_before_the_interpreter_starts(sshd: Sshd, group: Group, tmp_path: Path) -> None:
    new = tmp_path / "made" / "for it"
    spec = f"{sshd.spec}//python={HERE}//chdir={new}//nice=5//env:PYTHONHASHSEED=7//env:WORD=a b"

    gateway = group.makegateway(spec)
    told = gateway.remote_exec(
        "import os; channel.send((os.getcwd(), os.nice(0), hash('a'), os.environ['WORD']))"
    ).receive(10)

    env = {**os.environ, "PYTHONHASHSEED": "7"}
    wanted = subprocess.run([sys.executable, "-c", "print(hash('a'))"], env=env, capture_output=True, check=True)
    assert told == (str(new), 5, int(wanted.stdout), "a b")


def test_a_secret_of_the_environment_is_in_no_argument_list(sshd: Sshd, group: Group) -> None:
    gateway = group.makegateway(f"{sshd.spec}//env:TOKEN=swordfish-7731")

    told = gateway.remote_exec("""
        import os, glob
        lines = []
        for name in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                lines.append(open(name, "rb").read())
            except OSError:
                pass
        channel.send((os.environ["TOKEN"], any(b"exec" in line for line in lines),
                      [line for line in lines if b"swordfish" in line]))
    """).receive(10)

    assert told == ("swordfish-7731", True, [])


# -- via


def test_ssh_runs_beside_another_worker(sshd: Sshd, group: Group, tmp_path: Path) -> None:
    everything = bytes(range(256)) * 4096
    group.makegateway("popen//id=beside")

    gateway = group.makegateway(f"{sshd.spec}//via=beside//env:WORD=here//chdir={tmp_path}")
    channel = gateway.remote_exec(
        "import os; channel.send(os.environ['WORD'] + os.getcwd()); channel.send(channel.receive())"
    )
    channel.send(everything)

    assert channel.receive(20) == f"here{tmp_path}"
    assert channel.receive(20) == everything
    assert gateway.remoteaddress == "box"


def test_workers_are_started_on_the_other_host_and_beyond(sshd: Sshd, group: Group) -> None:
    group.makegateway(f"{sshd.spec}//id=host")

    beside = group.makegateway("popen//via=host")
    beyond = group.makegateway(f"{sshd.spec}//via=host//id=beyond")
    last = group.makegateway("popen//via=beyond")

    assert len({pid_of(gateway) for gateway in (beside, beyond, last)}) == 3
    assert sshd.accepted() == 2


def test_a_failure_beside_another_worker_is_the_same_error(sshd: Sshd, group: Group) -> None:
    group.makegateway("popen//id=beside")
    config = sshd.new_config(Port=str(closed_port()))

    with pytest.raises(HostNotReached, match="Connection refused"):
        group.makegateway(f"ssh=box//ssh_config={config}//via=beside")


# -- vagrant


@pytest.fixture
def vagrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """vagrant(script) puts a program of that name on PATH."""

    def put(script: str) -> None:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "vagrant"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return put


def test_a_vagrant_box_is_reached(sshd: Sshd, group: Group, vagrant: Callable[[str], None]) -> None:
    vagrant(f'test "$*" = "ssh-config box" && cat {sshd.config}')

    gateways = [group.makegateway("vagrant_ssh=box") for _ in range(2)]

    assert [gateway.remoteaddress for gateway in gateways] == ["box", "box"]
    assert len({pid_of(gateway) for gateway in gateways}) == 2
    assert sshd.accepted() == 1


def test_what_vagrant_says_of_a_box_that_is_not_there_is_told(group: Group, vagrant: Callable[[str], None]) -> None:
    vagrant("echo 'The machine is not created' >&2; exit 1")

    error = failure(group, "vagrant_ssh=box")

    assert type(error) is HostNotReached
    assert "The machine is not created; try: vagrant up box" in str(error)


def test_a_box_is_no_option_and_vagrant_is_asked_here(group: Group) -> None:
    group.makegateway("popen//id=beside")

    for spec in ("vagrant_ssh=--help", "vagrant_ssh=box//via=beside"):
        with pytest.raises(SpecError):
            group.makegateway(spec)


def test_no_vagrant_on_this_host(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "there is no 'vagrant'" in str(failure(group, "vagrant_ssh=box"))
