"""Threads for user code: callbacks on both sides, and a worker's tasks beyond the first.

A thread that is done waits a while for the next job; starting one costs ten times as much as waking one.
"""

from .compat import allocate_lock, deque
from .turn import Waiter

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, List, Optional  # noqa: F401

IDLE_SECONDS = 5.0


class Pool(object):
    """*start(function)* starts a daemon thread.  One is started whenever all others are busy."""

    def __init__(self, start):
        # type: (Callable[[Callable[[], None]], Any]) -> None
        self.start = start
        self.lock = allocate_lock()
        self.jobs = deque()  # type: Deque[Callable[[], None]]
        self.idle = []  # type: List[Waiter]
        self.threads = 0
        self.done = 0  # jobs taken, to see that the others move

    def submit(self, job):
        # type: (Callable[[], None]) -> None
        """Run job() soon on some thread.  May be called under any other lock."""
        with self.lock:
            self.jobs.append(job)
            if self.idle:
                self.idle.pop().wake()
                return
            if not self._may_start():
                return
            self.threads += 1
        self._start()

    def _may_start(self):
        # type: () -> bool
        """Whether to start a thread at once; under the lock."""
        return True

    def _start(self):
        # type: () -> None
        try:
            self.start(self._run)
        except Exception:  # RuntimeError, thread.error: too many threads, or the interpreter is shutting down
            # Not run here: the caller may hold locks that the job needs.  A thread that is done takes it.
            with self.lock:
                self.threads -= 1
                self._start_failed()

    def _start_failed(self):
        # type: () -> None
        """No thread could be started for a job that waits; under the lock."""

    def _run_jobs(self):
        # type: () -> None
        while True:
            with self.lock:
                if not self.jobs:
                    return
                job = self.jobs.popleft()
                self.done += 1
            try:
                job()
            except BaseException:
                with self.lock:
                    waiting = bool(self.jobs)
                    if not waiting:
                        self.threads -= 1
                if waiting:
                    self._start()  # in place of this one, which goes
                raise

    def _run(self):
        # type: () -> None
        while True:
            self._run_jobs()
            me = Waiter()
            with self.lock:
                if self.jobs:
                    continue
                self.idle.append(me)
            me.park(IDLE_SECONDS)
            with self.lock:
                if me in self.idle:
                    self.idle.remove(me)
                    if not self.jobs:
                        self.threads -= 1
                        return
