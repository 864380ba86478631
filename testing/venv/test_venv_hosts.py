"""Environments on other hosts: over ssh under another user, without any network, with files that are pushed there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import environments_in, venvs_fixture, wheelhouse_fixture  # noqa: F401  # fixtures
from sshd import Sshd, find_program

from execgw import EnvironmentFailed, Group
from execgw.transports import ssh_master
from execgw.venv import create_venv_gateway
from execgw.venv.kept import list_environments

SYSTEM = "/usr/bin/python3"  # other users cannot read those of a home directory
ABOUT = "import os, sys, six; channel.send((sys.prefix, os.getuid(), six.__version__))"


def _need_root() -> None:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("other users and namespaces need root")


@pytest.fixture(name="other")
def other_fixture() -> Iterator[pwd.struct_passwd]:
    """A user who is made for the test and removed after it, home and all."""
    _need_root()
    useradd = find_program("useradd", "passwd")
    name = f"gw{uuid.uuid4().hex[:8]}"
    home = tempfile.mkdtemp(prefix="execgw-home-")
    Path(home).rmdir()
    subprocess.run([useradd, "-m", "-d", home, "-s", "/bin/sh", "-p", "*", name], check=True, capture_output=True)
    yield pwd.getpwnam(name)
    subprocess.run([find_program("userdel", "passwd"), "-r", name], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(name="host")
def host_fixture(nothing_left: str, other: pwd.struct_passwd, tmp_path: Path) -> Iterator[str]:
    """The spec of a host that is reached over ssh, under that user."""
    keys = Path(other.pw_dir) / "authorized"
    (tmp_path / "sshd").mkdir()
    server = Sshd(tmp_path / "sshd", options=f"AuthorizedKeysFile {keys}")
    shutil.copy(server.user_key.with_suffix(".pub"), keys)
    keys.chmod(0o644)
    yield f"ssh=box//ssh_config={server.new_config(User=other.pw_name)}//python={SYSTEM}"
    ssh_master.close_all()
    server.stop()


def test_a_far_host_gets_uv_and_wheels_and_keeps_them_under_its_own_user(
    host: str, other: pwd.struct_passwd, group: Group, wheelhouse: Path
) -> None:
    spec = f"{host}//venv=far//requires=six//wheelhouse={wheelhouse}//uv=push"

    gw = group.makegateway(spec)

    prefix, uid, version = gw.remote_exec(ABOUT).receive(10)
    root = Path(other.pw_dir) / ".cache/execgw/venvs"
    assert (uid, version) == (other.pw_uid, "1.16.0")
    assert Path(prefix).is_relative_to(root)
    assert {path.stat().st_uid for path in root.rglob("*") if not path.is_symlink()} == {other.pw_uid}
    assert root.stat().st_mode & 0o777 == 0o700
    assert [one.busy for one in list_environments(gw)] == [True]

    again = group.makegateway(spec)
    assert again.remote_exec(ABOUT).receive(10)[0] == prefix


def test_a_gateway_over_ssh_gets_a_neighbour_in_an_environment(
    host: str, other: pwd.struct_passwd, group: Group, wheelhouse: Path
) -> None:
    gw = group.makegateway(host)

    new = create_venv_gateway(gw, "seed", "six", wheelhouse=wheelhouse, uv="push")

    prefix, uid, _ = new.remote_exec(ABOUT).receive(10)
    assert uid == other.pw_uid and prefix.startswith(other.pw_dir)


def _without_network() -> str:
    _need_root()
    return f"cmd={find_program('unshare', 'util-linux')} -n//python={sys.executable}"


@pytest.mark.parametrize("uv", ["auto", "no"])
def test_a_wheelhouse_is_all_that_a_host_without_any_network_needs(
    uv: str, group: Group, venvs: Path, wheelhouse: Path
) -> None:
    gw = group.makegateway(f"{_without_network()}//venv=alone//requires=six//wheelhouse={wheelhouse}//uv={uv}")

    prefix, _, version = gw.remote_exec(ABOUT).receive(10)
    routes = gw.remote_exec("channel.send(open('/proc/net/route').read())").receive(10)

    assert prefix.startswith(str(venvs)) and version == "1.16.0"
    assert len(routes.splitlines()) <= 1  # the heading
    assert len(environments_in(venvs)) == 1


def test_offline_without_a_wheelhouse_asks_nobody_and_says_so(group: Group, venvs: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="no-such-thing-anywhere"):
        group.makegateway(f"{_without_network()}//venv=alone//requires=no-such-thing-anywhere//offline")

    assert environments_in(venvs) == []


def test_the_near_sides_uv_is_pushed_once_to_where_there_is_none(
    group: Group, venvs: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = group.makegateway(f"popen//python={SYSTEM}//env:PATH=/usr/bin:/bin//env:HOME={venvs.parent}")
    lines: list[str] = []

    for name in ("one", "two"):
        create_venv_gateway(gw, name, "six", uv="push", wheelhouse=wheelhouse, progress=lines.append)

    assert lines.count("receiving uv") == 1
    assert sum(line.endswith("with uv") for line in lines) == 2
    assert len(environments_in(venvs)) == 2
