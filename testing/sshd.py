"""A real sshd on a free port of 127.0.0.1, with its own host key, user key and client configuration.

from sshd import Sshd, sshd_fixture  # noqa: F401   # `sshd` is then a fixture: one server for the test
group.makegateway(sshd.spec)                        # 'ssh=box//ssh_config=FILE'

Everything that the server starts carries the mark of the test (conftest.py), so that the test sees what is left there.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MARK, wait_for

from execgw import Gateway, Group, StartError
from execgw.transports import ssh_master


def find_program(name: str, package: str = "") -> str:
    """The path of a program; a test that needs a missing one is skipped, but not on CI."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        missing = f"there is no {name!r} on this machine; try: apt-get install {package or name}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    """All processes below a process, the nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return found[1:]


class Sshd:
    """One server.

    host, port  where it listens; the client configuration also calls it 'box' ('other' is a second name for it)
    user        the account that it lets in: the one that runs the tests
    config      the client configuration, for `ssh -F`; host_key and user_key are the files of the keys
    spec        'ssh=box//ssh_config=FILE'
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, *, options: str = "", shell: str = "") -> None:
        """Start it, with its files in *directory*.

        *options* are further lines for sshd_config.  *shell* runs the commands in place of the account's login shell.
        """
        program, keygen = find_program("sshd", "openssh-server"), find_program("ssh-keygen", "openssh-client")
        self.directory = directory.absolute()  # sshd starts itself anew from /
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.host_key, self.user_key = self.directory / "hostkey", self.directory / "userkey"
        self.config, self.log = self.directory / "ssh_config", self.directory / "sshd.log"
        self.known_hosts = self.directory / "known_hosts"
        if shell:
            options += f'\nForceCommand {shell} -c "$SSH_ORIGINAL_COMMAND"'
        for key in (self.host_key, self.user_key):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # without it: "Missing privilege separation directory"
        for _ in range(5):
            self.port = closed_port()
            self._write_files(options)
            if self._started(program):
                break
        else:
            pytest.fail(f"sshd does not start: {self.log.read_text()}")
        self.spec = f"ssh=box//ssh_config={self.config}"

    def _write_files(self, options: str) -> None:
        # UsePAM no: it would need root, and an account that PAM likes.
        (self.directory / "sshd_config").write_text(
            f"{options}\n"  # first: of two values for a word, sshd takes the first
            f"Port {self.port}\nListenAddress {self.host}\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.user_key}.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\nPrintMotd no\n"
            "Subsystem sftp internal-sftp\nMaxSessions 50\nMaxStartups 100:30:200\n"
            f"SetEnv {MARK}={os.environ.get(MARK, '-')}\n"
        )
        key = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {key}\n")
        self.config.write_text(
            f"Host box other\n  HostName {self.host}\n  Port {self.port}\n"
            f"Host *\n  User {self.user}\n  IdentityFile {self.user_key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n"
        )

    def _started(self, program: str) -> bool:
        with self.log.open("wb") as log:
            argv = [program, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: "Server listening" in self.log.read_text() or self.process.poll() is not None, "sshd", 10)
        return self.process.poll() is None

    def new_config(self, **changes: str) -> Path:
        """A client configuration like its own, with other values for some of its words."""
        text = self.config.read_text()
        for name, value in changes.items():
            text = re.sub(rf"(?m)^  {name} .*$", f"  {name} {value}", text)
        path = self.directory / f"config-{'-'.join(changes)}"
        path.write_text(text)
        return path

    def accepted(self) -> int:
        """How many connections it has let in so far."""
        return self.log.read_text().count("Accepted publickey")

    def signal_connections(self, number: int) -> None:
        """Send a signal to the server's processes of all connections, not to what runs on them.

        SIGSTOP is a host that hangs, SIGKILL one that goes down and says so.
        """
        for pid in _children(self.process.pid):
            try:
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b" ")[0]:
                    os.kill(pid, number)
            except OSError:  # noqa: PERF203  # it has just ended
                pass

    def stop(self) -> None:
        """End the server, its connections, and what runs on them."""
        self.process.send_signal(signal.SIGSTOP)  # no new ones now
        for pid in [*_children(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # noqa: PERF203  # it has just ended
                pass
        self.process.wait()


@pytest.fixture(name="sshd")
def sshd_fixture(nothing_left: str, tmp_path: Path) -> Iterator[Sshd]:
    """A server for one test.  Name it before `group`: gateways are then ended before it is."""
    (tmp_path / "sshd").mkdir()
    server = Sshd(tmp_path / "sshd")
    yield server
    ssh_master.close_all()
    server.stop()


@pytest.fixture(name="silent_port")
def silent_port_fixture() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def pid_of(gateway: Gateway) -> int:
    """The worker's; it is on this host, for the tests' sshd is."""
    pid: int = gateway.remote_exec("import os; channel.send(os.getpid())").receive(10)
    return pid


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


def failure(group: Group, spec: str) -> StartError:
    """The error of a start that must fail, and leave no gateway."""
    with pytest.raises(StartError) as caught:
        group.makegateway(spec)
    assert len(group) == 0
    return caught.value
