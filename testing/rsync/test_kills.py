"""A short sample of testing/soak/rsync_kills.py; the long run is started by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "rsync_kills.py"


@pytest.mark.soak
def test_whatever_is_killed_each_file_is_old_or_new_and_a_second_run_completes() -> None:
    argv = [sys.executable, str(SOAK), "--kills", "4", "--seed", "3"]

    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stdout
    assert "violations          0" in done.stdout
