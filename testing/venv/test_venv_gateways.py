"""create_venv_gateway: a worker in an environment that is made through a gateway, and kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import find_python, wait_for
from environments import (  # noqa: F401  # fixtures
    StallingIndex,
    environments_in,
    index_fixture,
    venvs_fixture,
    wheelhouse_fixture,
)

from execgw import EnvironmentFailed, Gateway, Group, SpecError
from execgw.venv import create_venv_gateway

VERSIONS = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"]
ABOUT = "import os, sys, tempfile; channel.send((sys.prefix, os.getcwd(), tempfile.gettempdir(), sys.version_info[:2]))"


def about(gateway: Gateway) -> tuple[Path, Path, Path, tuple[int, int]]:
    prefix, cwd, tmp, version = gateway.remote_exec(ABOUT).receive(10)
    return Path(prefix), Path(cwd), Path(tmp), version


@pytest.mark.parametrize("version", VERSIONS)
def test_a_gateway_lives_in_a_new_environment_of_every_python(
    version: str, group: Group, venvs: Path, wheelhouse: Path
) -> None:
    gw = group.makegateway(f"popen//python={find_python(version)}")

    new = create_venv_gateway(gw, "fresh", "six", wheelhouse=wheelhouse)

    prefix, cwd, tmp, there = about(new)
    directory = venvs / environments_in(venvs)[0]
    assert (prefix, cwd, tmp) == (directory / "env", directory / "home", directory / "tmp")
    assert there == tuple(map(int, version.split(".")[:2]))
    assert new.remote_exec("import six; channel.send(six.__version__)").receive(10) == "1.16.0"


def test_an_environment_that_is_there_is_not_built_again(group: Group, venvs: Path, wheelhouse: Path) -> None:
    gw = group.makegateway("popen")
    lines: list[str] = []
    first = create_venv_gateway(gw, "kept", "six cowsay", wheelhouse=wheelhouse, progress=lines.append)
    told = len(lines)

    again = create_venv_gateway(gw, "kept", ["cowsay", "six"], wheelhouse=wheelhouse, progress=lines.append)

    assert about(first) == about(again)
    assert told > 0 and lines[told:] == []
    assert len(environments_in(venvs)) == 1


def test_other_names_and_requirements_are_other_environments(group: Group, venvs: Path, wheelhouse: Path) -> None:
    gw = group.makegateway("popen")

    for name, needs in (("one", ""), ("two", ""), ("one", "six")):
        create_venv_gateway(gw, name, needs, wheelhouse=wheelhouse)

    assert len(environments_in(venvs)) == 3


def test_a_build_with_pip_works_where_there_is_no_uv(group: Group, venvs: Path, wheelhouse: Path) -> None:
    gw = group.makegateway("popen")
    lines: list[str] = []

    new = create_venv_gateway(gw, "plain", "six", uv="no", wheelhouse=wheelhouse, progress=lines.append)

    assert lines[0].endswith("with pip")
    assert new.remote_exec("import six; channel.send(six.__version__)").receive(10) == "1.16.0"
    assert environments_in(venvs) != []


@pytest.mark.parametrize("uv", ["auto", "no"])
def test_a_build_that_fails_leaves_nothing_and_says_the_last_lines(
    uv: str, group: Group, venvs: Path, wheelhouse: Path
) -> None:
    gw = group.makegateway("popen")

    with pytest.raises(EnvironmentFailed, match="installing no-such-thing failed") as caught:
        create_venv_gateway(gw, "broken", "no-such-thing", uv=uv, wheelhouse=wheelhouse)

    assert "no-such-thing" in caught.value.output and caught.value.output in str(caught.value).replace("\n  ", "\n")
    assert [path.name for path in venvs.iterdir() if path.name.startswith("broken")] == []
    assert len(group) == 1


def test_a_worker_behind_another_way_gets_a_neighbour_on_its_own_host(
    group: Group, venvs: Path, wheelhouse: Path
) -> None:
    gw = group.makegateway(f"cmd=env PLACE=there//python={sys.executable}")

    new = create_venv_gateway(gw, "beside", "six", wheelhouse=wheelhouse)

    assert new.remote_exec("import os; channel.send(os.environ['PLACE'])").receive(10) == "there"
    assert about(new)[0].parent.parent == venvs


def test_the_variables_of_the_gateway_are_those_of_the_new_one(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen//env:COLOUR=red//env:TMPDIR=/var/tmp")

    new = create_venv_gateway(gw, "coloured")

    assert new.call(os.getenv, "COLOUR") == "red"
    assert about(new)[2] == Path("/var/tmp")
    assert str(new.call(os.getenv, "PATH")).split(":")[0] == str(about(new)[0] / "bin")
    assert environments_in(venvs) != []


def test_python_2_is_told_that_it_is_too_old(group: Group, venvs: Path) -> None:
    gw = group.makegateway(f"popen//python={find_python('2.7.18')}")

    with pytest.raises(EnvironmentFailed, match=r"Python 3\.6 or newer, and this is 2\.7"):
        create_venv_gateway(gw, "old")

    assert environments_in(venvs) == []


def test_a_place_that_others_can_write_is_refused(group: Group, venvs: Path) -> None:
    venvs.chmod(0o777)

    with pytest.raises(EnvironmentFailed, match="can be written by others"):
        create_venv_gateway(group.makegateway("popen"), "open")

    assert environments_in(venvs) == []


def test_another_python_is_looked_for_if_the_worker_has_not_the_right_one(group: Group, venvs: Path) -> None:
    gw = group.makegateway(f"popen//python={find_python('3.9.18')}")
    wanted = Path(find_python("3.12.1"))

    new = create_venv_gateway(gw, "newer", requires_python=">=3.12,<3.13")

    assert about(new)[3] == (3, 12)
    assert wanted.exists() and environments_in(venvs) != []


def test_no_python_that_fits_is_an_error_that_names_those_there(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen")

    with pytest.raises(EnvironmentFailed, match=r"no Python >=4\.2 is there; found: .*3\.") as caught:
        create_venv_gateway(gw, "future", requires_python=">=4.2")

    assert "install one" in str(caught.value)
    assert environments_in(venvs) == []


def test_a_build_that_is_killed_is_followed_by_a_clean_one(
    group: Group, venvs: Path, wheelhouse: Path, index: StallingIndex
) -> None:
    gw = group.makegateway("popen")
    settings = {"index_url": f"http://{index.address}/simple/"}
    pid = gw.call(os.getpid)

    def kill() -> None:
        assert index.asked.wait(60)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(OSError, match="SIGKILL"):
        create_venv_gateway(gw, "cut", "six", **settings)  # type: ignore[arg-type]
    killer.join()
    left = environments_in(venvs)
    index.over.set()
    again = group.makegateway("popen")

    with pytest.raises(EnvironmentFailed, match="six"):  # the index has nothing, but it is a build from the start
        create_venv_gateway(again, "cut", "six", **settings)  # type: ignore[arg-type]
    new = create_venv_gateway(again, "cut", "six", wheelhouse=wheelhouse)

    assert len(left) == 1
    assert left[0] not in environments_in(venvs)
    assert about(new)[0].parent.name == environments_in(venvs)[0] and len(environments_in(venvs)) == 1


def test_an_interrupted_build_leaves_nothing(group: Group, venvs: Path, index: StallingIndex) -> None:
    gw = group.makegateway("popen")
    program = (
        "import execgw, os, sys\n"
        "with execgw.Group() as group:\n"
        "    gw = group.makegateway('popen')\n"
        f"    execgw.venv.create_venv_gateway(gw, 'left', 'six', index_url='http://{index.address}/simple/')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    assert index.asked.wait(60)

    process.send_signal(signal.SIGINT)

    assert process.wait(30) != 0
    wait_for(lambda: environments_in(venvs) == [], "the end of the build", 20)
    assert gw.hasreceiver()


def test_wrong_settings_are_said_before_anything_is_started(group: Group, tmp_path: Path) -> None:
    gw = group.makegateway("memory")

    with pytest.raises(SpecError, match="one of auto, push, no"):
        create_venv_gateway(gw, "x", uv="maybe")
    with pytest.raises(SpecError, match="is no directory on this host"):
        create_venv_gateway(gw, "x", wheelhouse=tmp_path / "nowhere")
    with pytest.raises(SpecError, match="has no wheels"):
        create_venv_gateway(gw, "x", wheelhouse=tmp_path)
    with pytest.raises(SpecError, match="no set of versions"):
        create_venv_gateway(gw, "x", requires_python="three")
