"""A short sample of each soak, as a process of its own; the long runs are started by hand, see testing/soak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "soak"

pytestmark = pytest.mark.soak


def run(script: str, *words: str) -> str:
    """Run a soak; return what it printed, and fail with that if it found a violation."""
    argv = [sys.executable, str(SOAK / script), *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_all_who_wait_for_a_killed_worker_hear_of_it_and_nothing_is_left() -> None:
    shown = run("kills.py", "--seconds", "3", "--processes", "1")

    assert "violations        0" in shown


def test_memory_stays_flat_beside_a_consumer_that_sleeps() -> None:
    shown = run("flow.py", "--gib", "0.25", "--messages", "20000", "--asleep", "0.2", "--memory-only")

    assert "popen -> via -> via" in shown


def test_many_items_before_the_first_receive_arrive_or_the_cure_is_named() -> None:
    shown = run("flow.py", "--only", "items", "--items", "200000")

    assert "all arrived, in order" in shown


def test_fifty_gateways_take_no_thread_each_and_leave_no_process() -> None:
    shown = run("many.py", "--gateways", "50")

    assert "processes left          0" in shown


def test_clients_that_lose_their_patience_get_their_own_answers_all_of_them_once() -> None:
    shown = run("http_nonces.py", "--clients", "8", "--messages", "1600", "--cancels", "0.1")

    assert "messages          1600" in shown
    assert "foreign nonces    0, gaps 0, doubles 0" in shown


def test_slow_clients_are_sent_away_and_another_is_served_beside_many_that_are_idle() -> None:
    # How long it takes is for the long run to say: here other tests run beside it.
    shown = run(
        "http_idle.py", *["--idle", "400", "--slow", "40", "--requests", "200", "--rounds", "1", "--times", "50"]
    )

    assert "sent away    40 of 40 slow ones" in shown


@pytest.mark.parametrize("websocket", ["yes", "no"])
def test_nothing_is_lost_or_doubled_while_every_connection_to_an_exec_server_is_cut(websocket: str) -> None:
    shown = run("http_cuts.py", "--seconds", "1", "--low", "20000", "--websocket", websocket)

    assert "values received" in shown
