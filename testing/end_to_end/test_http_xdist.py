"""pytest-xdist over `--tx http=...`: its workers are processes of an exec-server."""

from __future__ import annotations

import re
import subprocess
import sys

SUITE = """
import os
import pytest

@pytest.mark.parametrize("number", range(6))
def test_number(number):
    with open(os.environ["WHERE"], "a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\\n")
    assert number < 5
"""


def test_a_suite_runs_in_processes_of_a_server(exec_server, tmp_path):
    suite, seen = tmp_path / "suite", tmp_path / "seen"
    suite.mkdir()
    (suite / "test_numbers.py").write_text(SUITE)
    spec = exec_server.spec(f"chdir={tmp_path / 'there'}", f"env:WHERE={seen}")
    argv = [sys.executable, "-m", "pytest", "-p", "execgw.xdist", "-p", "no:cacheprovider", "--tx", f"2*{spec}"]
    argv += ["--rsyncdir", str(suite), "--dist", "load", "-q", str(suite)]

    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=110, check=False)

    assert re.search(r"1 failed, 5 passed", done.stdout), done.stdout + done.stderr
    workers = [line.split() for line in seen.read_text().splitlines()]
    assert len(workers) == 6
    assert {parent for _, parent in workers} == {str(exec_server.process.pid)}
