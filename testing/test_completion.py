"""execgw completion: what it prints works in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK_BASH = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$(($# - 2))
$(complete -p execgw | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def _shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no {name}; apt-get install {name}")
    return str(found)


@pytest.fixture(name="script")
def script_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What `execgw completion` prints for a shell, in a file."""
    done = subprocess.run(
        [sys.executable, "-m", "execgw", "completion", request.param], capture_output=True, text=True, check=True
    )
    path = tmp_path / f"execgw.{request.param}"
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_commands_and_their_options(script: Path) -> None:
    def ask(*words: str) -> list[str]:
        argv = [_shell("bash"), "-c", ASK_BASH, "bash", str(script), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    assert ask("execgw", "rs") == ["rsync"]
    assert set(ask("execgw", "rsync", "--del")) == {"--delete", "--delete-excluded"}


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes_commands_and_their_options(script: Path) -> None:
    def ask(line: str) -> list[str]:
        argv = [_shell("fish"), "--no-config", "-c", f"source {script}; complete -C '{line}'"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return [each.partition("\t")[0] for each in done.stdout.splitlines()]

    assert ask("execgw rs") == ["rsync"]
    assert "--delete-excluded" in ask("execgw rsync --del")


@pytest.mark.parametrize(("script", "check"), [("zsh", ["-n"]), ("tcsh", ["-f"])], indirect=["script"])
def test_other_shells_take_the_script(script: Path, check: list[str]) -> None:
    done = subprocess.run([_shell(script.suffix[1:]), *check, str(script)], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")


def test_a_shell_that_is_not_known_is_told_which_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "execgw", "completion", "cmd.exe"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "bash" in done.stderr and "zsh" in done.stderr
