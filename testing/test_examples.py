"""Every example runs as it stands, and prints what it is there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exec_server import ExecServer

EXAMPLES = Path(__file__).parent.parent / "examples"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "execgw-testing"
LONGEST = 40

SHOWN = {
    "broadcast": "[100, 101, 104]\n",
    "call": "2432902008176640000\n1229 primes below 10000\n",
    "callbacks": (
        "good says 0\ngood says 1\ngood says 2\ngood has ended: in order\n"
        "bad says 0\nbad says 1\nbad says 2\nbad has ended: RemoteError\n"
    ),
    "errors": (
        "it raised: ZeroDivisionError - division by zero\n"
        "it died: exit code 3 - its last words: out of luck\n"
        "it did not start: PythonNotFound\n"
    ),
    "hello": "another process\n",
    "hierarchy": (
        "below middle: True\nbelow below: True\nmiddle popen ['below']\nbelow channel ['deepest']\ndeepest popen []\n"
    ),
    "resume": "this process receives 0 1\nanother process receives [2, 3, 4]\n",
    "subchannels": "result: 42\nlog: working\n",
    "testing_code": "passed, and no process was started\n",
    "venv": "hello from a project that uses six: True\nin home\n",
    "via": "the master started it\n",
}


def run(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    # What environments examples make is kept, but not among the user's own.
    CACHE.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "EXECGW_VENVS": str(CACHE / "venvs")}
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environ)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_an_example_prints_what_it_is_there_to_show(name: str) -> None:
    done = run(name)

    assert (done.stdout, done.returncode) == (SHOWN[name], 0), done.stderr


def test_no_example_is_without_a_test_or_longer_than_a_screen() -> None:
    files = {path.stem: path for path in EXAMPLES.glob("*.py")}

    assert set(files) == {*SHOWN, "over_http", "wordcount"}
    for name in [*SHOWN, "over_http"]:
        assert len(files[name].read_text("utf-8").splitlines()) <= LONGEST, name


def test_the_session_over_http_ends_with_two(exec_server: ExecServer) -> None:
    done = run("over_http", exec_server.spec())

    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


def test_wordcount_counts_the_words_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two two\nthree, THREE three\n" * 1000)
    (tmp_path / "b.txt").write_text("Two\u00e4 two 42\n")
    (tmp_path / "empty.txt").write_text("")

    done = run("wordcount", "-n", "3", "-t", "2", *sorted(tmp_path.iterdir()))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "word      count",
        "three     3,000",
        "two       2,001",
        "6,002 words, 4 different, in 3 files",
    ]
    assert done.stderr == "31,013 of 31,013 bytes, 3 workers\n"


def test_wordcount_cuts_a_large_file_into_blocks_between_words(tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("alpha beta\n" * 400_000)

    done = run("wordcount", "-n", "2", tmp_path / "large.txt")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "800,000 words, 2 different, in 1 files"


def test_wordcount_names_the_files_that_are_missing(tmp_path: Path) -> None:
    done = run("wordcount", tmp_path / "nowhere.txt", __file__)

    assert done.returncode == 2
    assert "no such file: " in done.stderr
    assert "nowhere.txt" in done.stderr
    assert done.stdout == ""


def test_wordcount_explains_itself() -> None:
    done = run("wordcount", "--help")

    assert done.returncode == 0
    assert "--workers" in done.stdout
