"""Threads for user code: when they are started, when they go, and that no job is lost (peer/pool.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from execgw._pool import EAGER_THREADS, PatientPool
from execgw.peer import pool as pool_module
from execgw.peer.pool import Pool

PATIENCE = 20.0


class Threads:
    """Starts threads as a pool wants it, and keeps them."""

    def __init__(self) -> None:
        self.all: list[threading.Thread] = []
        self.refuse = False

    def start(self, function: Callable[[], None]) -> None:
        if self.refuse:
            raise RuntimeError("can't start new thread")
        thread = threading.Thread(target=function, daemon=True)
        self.all.append(thread)
        thread.start()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        threading.Timer(seconds, function).start()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """Threads that end soon after their last job."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.05)
    threads = Threads()
    yield threads
    for thread in threads.all:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_job_runs_in_a_thread_of_the_pool(threads: Threads) -> None:
    pool = Pool(threads.start)
    ran: list[threading.Thread] = []
    done = threading.Event()

    pool.submit(lambda: (ran.append(threading.current_thread()), done.set()))

    assert done.wait(PATIENCE)
    assert ran == threads.all


def test_a_thread_that_is_done_takes_the_next_job(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 1.0)
    pool = Pool(threads.start)

    for _ in range(20):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(PATIENCE)
        while not pool.idle:  # it becomes idle a moment after its job
            threading.Event().wait(0.001)

    assert len(threads.all) == 1


def test_without_a_timer_every_job_that_finds_all_busy_gets_a_thread(threads: Threads) -> None:
    pool = Pool(threads.start)
    together = threading.Barrier(30)

    for _ in range(29):
        pool.submit(lambda: together.wait(PATIENCE))

    together.wait(PATIENCE)


def test_with_a_timer_jobs_that_wait_for_each_other_all_run(threads: Threads) -> None:
    pool = PatientPool(threads.start, threads.later)
    together = threading.Barrier(EAGER_THREADS * 3 + 1)

    for _ in range(EAGER_THREADS * 3):
        pool.submit(lambda: together.wait(PATIENCE))

    together.wait(PATIENCE)


def test_short_jobs_start_only_the_first_threads(threads: Threads) -> None:
    calls: list[Callable[[], None]] = []
    pool = PatientPool(threads.start, lambda seconds, function: calls.append(function))
    go, last = threading.Event(), threading.Event()

    for _ in range(EAGER_THREADS):
        pool.submit(lambda: go.wait(PATIENCE))
    for _ in range(500):
        pool.submit(lambda: None)
    pool.submit(last.set)
    go.set()

    assert last.wait(PATIENCE)
    assert len(threads.all) == EAGER_THREADS
    assert len(calls) == 1


def test_idle_threads_end(threads: Threads) -> None:
    pool = Pool(threads.start)
    done = threading.Event()

    pool.submit(done.set)
    done.wait(PATIENCE)
    threads.all[0].join(PATIENCE)

    assert not threads.all[0].is_alive()
    assert (pool.threads, pool.idle) == (0, [])


def test_no_job_is_lost_while_idle_threads_end(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.0005)
    pool = PatientPool(threads.start, threads.later)

    for _ in range(500):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_raises_ends_its_thread_and_nothing_else(threads: Threads) -> None:
    pool = PatientPool(threads.start, lambda seconds, function: None)
    done = threading.Event()

    for _ in range(EAGER_THREADS * 2):
        pool.submit(lambda: 1 // 0)
        for thread in threads.all:
            thread.join(PATIENCE)
    pool.submit(done.set)

    assert done.wait(PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_waits_is_run_though_all_those_before_it_raise(threads: Threads) -> None:
    pool = PatientPool(threads.start, lambda seconds, function: None)
    go, done = threading.Event(), threading.Event()

    def fail() -> None:
        go.wait(PATIENCE)
        raise ValueError

    for _ in range(EAGER_THREADS):
        pool.submit(fail)
    pool.submit(done.set)
    go.set()

    assert done.wait(PATIENCE)


def test_a_job_is_never_run_by_who_submits_it(threads: Threads) -> None:
    pool = Pool(threads.start)
    lock = threading.Lock()
    ran = threading.Event()

    def job() -> None:
        with lock:
            ran.set()

    threads.refuse = True
    with lock:
        pool.submit(job)
    threads.refuse = False
    pool.submit(lambda: None)

    assert ran.wait(PATIENCE)


def test_a_job_for_which_no_thread_could_be_started_runs_when_one_can(threads: Threads) -> None:
    pool = PatientPool(threads.start, threads.later)
    ran = threading.Event()

    threads.refuse = True
    pool.submit(ran.set)
    threads.refuse = False

    assert ran.wait(PATIENCE)
