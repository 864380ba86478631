"""Scripts that say what they need (PEP 723), run on a gateway in an environment that has it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import find_python, wait_for
from environments import environments_in, venvs_fixture, wheelhouse_fixture  # noqa: F401  # fixtures

from execgw import Group, RemoteError, SpecError
from execgw.venv.scripts import block_of, wanted_of

BLOCK = """# /// script
# requires-python = ">=3.8"
# dependencies = [
#   "cowsay",
# ]
# ///
"""
TOOL = (
    BLOCK
    + """
import sys
import cowsay

if __name__ == "__main__":
    print(cowsay.__name__, *sys.argv[1:])
    if "send" in sys.argv:
        channel.send((cowsay.__file__, sys.version_info[:2]))
    if "fail" in sys.argv:
        sys.exit(3)
"""
)


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "tool.py"
    path.write_text(TOOL)
    return path


def test_a_script_runs_with_a_dependency_that_this_side_has_not(
    tool: Path, group: Group, venvs: Path, wheelhouse: Path
) -> None:
    assert importlib.util.find_spec("cowsay") is None
    gw = group.makegateway("popen")
    lines: list[str] = []

    channel = gw.run_script(tool, "send", "x", stdout=lines.append, wheelhouse=wheelhouse)

    file, _ = channel.receive(60)
    channel.waitclose(10)
    assert file.startswith(str(venvs / environments_in(venvs)[0]))
    assert lines == ["cowsay send x"]
    wait_for(lambda: len(group) == 1, "the end of its worker")


def test_how_a_script_ends_is_told_by_its_channel(tool: Path, group: Group, venvs: Path, wheelhouse: Path) -> None:
    channel = group.makegateway("popen").run_script(tool, "fail", wheelhouse=wheelhouse, stdout="null")

    with pytest.raises(RemoteError) as caught:
        channel.waitclose(60)

    assert (caught.value.type, caught.value.args_there) == ("SystemExit", (3,))
    assert len(environments_in(venvs)) == 1


def test_a_script_on_an_old_python_runs_on_one_that_it_allows(
    tool: Path, group: Group, venvs: Path, wheelhouse: Path
) -> None:
    find_python("3.12.1")
    tool.write_text(TOOL.replace(">=3.8", "==3.12.*"))
    gw = group.makegateway(f"popen//python={find_python('3.8.18')}")

    channel = gw.run_script(tool, "send", wheelhouse=wheelhouse, stdout="null")

    assert channel.receive(60)[1] == (3, 12)
    assert environments_in(venvs) != []


def test_a_script_without_a_block_runs_in_the_worker_itself(tmp_path: Path, group: Group) -> None:
    (tmp_path / "plain.py").write_text("import os, sys; channel.send((os.getpid(), sys.argv[1:], __name__))")
    gw = group.makegateway("popen")

    told = gw.run_script(tmp_path / "plain.py", "a").receive(10)

    assert told == (gw._rinfo().pid, ["a"], "__main__")
    with pytest.raises(SpecError, match="has no `# /// script` block"):
        gw.run_script(tmp_path / "plain.py", uv="push")


def test_a_traceback_names_the_line_of_the_script(tmp_path: Path, group: Group) -> None:
    (tmp_path / "bad.py").write_text("import sys\n\nraise ValueError(sys.argv[0])\n")

    with pytest.raises(RemoteError, match=r'bad\.py", line 3') as caught:
        group.makegateway("popen").run_script(tmp_path / "bad.py").waitclose(10)

    assert caught.value.type == "ValueError"


def test_remote_exec_of_a_text_with_a_block_runs_in_its_environment(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen")

    channel = gw.remote_exec(
        """
        # /// script
        # dependencies = []
        # ///
        import sys
        channel.send((sys.prefix, __name__, channel.receive()))
        """
    )

    channel.send("there and back")
    assert channel.receive(60) == (
        str(venvs / environments_in(venvs)[0] / "env"),
        "__channelexec__",
        "there and back",
    )
    wait_for(lambda: len(group) == 1, "the end of its worker")


def test_a_text_that_only_speaks_of_blocks_runs_as_always(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen")

    channel = gw.remote_exec("import os; text = '# /// script'; channel.send(os.getpid())")

    assert channel.receive(10) == gw._rinfo().pid
    assert environments_in(venvs) == []


def test_the_command_runs_a_script_with_a_block_on_several_gateways(
    tool: Path, venvs: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: str
) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(wheelhouse))
    monkeypatch.setenv("UV_NO_INDEX", "1")

    done = subprocess.run(
        [sys.executable, "-m", "execgw", "exec", "2*popen", str(tool), "fail"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert sorted(done.stdout.splitlines()) == ["[gw0] cowsay fail", "[gw1] cowsay fail"], done.stderr
    assert done.returncode == 3
    assert done.stderr.count("execgw: making an environment") == 1
    assert len(environments_in(venvs)) == 1


def test_a_block_is_read_as_the_standard_says() -> None:
    source = f"#!/usr/bin/env python3\n{BLOCK}import os\n"

    assert block_of(source) == {"requires-python": ">=3.8", "dependencies": ["cowsay"]}
    assert block_of(source.replace("\n", "\r\n")) == block_of(source)
    assert block_of(source.replace("# ///\n", "")) is None
    assert block_of(source.replace("/// script", "/// other")) is None


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (BLOCK + "\n" + BLOCK, "several"),
        ("# /// script\n# dependencies = [\n# ///\n", "no TOML"),
        ("# /// script\n# dependencies = 'six'\n# ///\n", "a list of texts"),
        ("# /// script\n# dependencies = ['-r x']\n# ///\n", "options are not taken"),
        ("# /// script\n# requires-python = 'new'\n# ///\n", "no set of versions"),
    ],
)
def test_a_wrong_block_is_refused_with_the_reason(source: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        wanted_of(source)
