"""Two hosts on one machine: network namespaces joined by a veth pair that a test can cut.

from netns import TwoHosts, two_hosts_fixture  # noqa: F401   # `two_hosts` is then a fixture
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest

NEAR_ADDRESS, FAR_ADDRESS = "10.77.0.1", "10.77.0.2"  # seen in the two namespaces only


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class TwoHosts:
    """`near` and `far` are names of namespaces; address is that of the far one."""

    address = FAR_ADDRESS

    def __init__(self) -> None:
        run = uuid.uuid4().hex[:8]
        self.near, self.far = f"execgw-{run}-near", f"execgw-{run}-far"

    def make(self) -> None:
        for name in (self.near, self.far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "wire", "netns", self.near, "type", "veth", "peer", "name", "wire", "netns", self.far)
        for name, address in ((self.near, NEAR_ADDRESS), (self.far, FAR_ADDRESS)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")

    def on(self, host: str, *argv: str) -> list[str]:
        """The words of a command that runs argv on *host*, `near` or `far`."""
        return ["ip", "netns", "exec", host, *argv]

    def cut(self) -> None:
        """Take the far host off the wire: from now on no packet passes, and nothing is said about it."""
        _ip("-n", self.far, "link", "set", "wire", "down")

    def pids(self, host: str) -> list[int]:
        return [int(word) for word in _ip("netns", "pids", host).split()]

    def remove(self) -> None:
        for name in (self.near, self.far):
            with suppress(AssertionError):
                for pid in self.pids(name):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            with suppress(AssertionError):  # it was never made
                _ip("netns", "delete", name)


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no command 'ip'; install iproute2"
    tried = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"ip netns list: {tried.stderr}"


@pytest.fixture(name="two_hosts")
def two_hosts_fixture() -> Iterator[TwoHosts]:
    """Two hosts, removed after the test with all that runs there; a machine that cannot skips, but not on CI."""
    missing = _missing()
    if missing is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    hosts = TwoHosts()
    try:
        hosts.make()
        yield hosts
    finally:
        hosts.remove()
