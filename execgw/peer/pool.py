"""Threads for user code: callbacks on both sides, and a worker's tasks beyond the first.

A thread that is done waits a while for the next job; starting one costs ten times as much as waking one.
"""

from __future__ import absolute_import

from .compat import allocate_lock, deque
from .turn import Waiter

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, List, Optional  # noqa: F401

EAGER_THREADS = 4  # started without waiting for proof that the others are stuck
STALL_SECONDS = 0.01
IDLE_SECONDS = 5.0


class Pool(object):
    """*start(function)* starts a daemon thread; *later(seconds, function)* calls it then, in any thread.

    Without *later* a thread is started whenever all others are busy.
    """

    def __init__(self, start, later=None):
        # type: (Callable[[Callable[[], None]], Any], Optional[Callable[[float, Callable[[], None]], Any]]) -> None
        self.start = start
        self.later = later
        self.lock = allocate_lock()
        self.jobs = deque()  # type: Deque[Callable[[], None]]
        self.idle = []  # type: List[Waiter]
        self.threads = 0
        self.done = 0  # jobs taken, to see that the others move
        self.checking = False

    def submit(self, job):
        # type: (Callable[[], None]) -> None
        """Run job() soon on some thread.  May be called under any other lock."""
        with self.lock:
            self.jobs.append(job)
            if self.idle:
                self.idle.pop().wake()
                return
            if self.later is not None and self.threads >= EAGER_THREADS:
                if not self.checking:
                    self.checking = True
                    seen = self.done
                    self.later(STALL_SECONDS, lambda: self._check(seen))
                return
            self.threads += 1
        self._start()

    def _start(self):
        # type: () -> None
        try:
            self.start(self._run)
        except RuntimeError:  # no thread can be started: too many, or the interpreter is shutting down
            # Not run here: the caller may hold locks that the job needs.  A thread that is done takes it, or a check.
            with self.lock:
                self.threads -= 1
                if self.later is None or self.checking:
                    return
                self.checking = True
                seen = self.done
            self.later(STALL_SECONDS, lambda: self._check(seen))

    def _check(self, seen):
        # type: (int) -> None
        """Start one more thread if no job was taken for a while."""
        with self.lock:
            self.checking = False
            if not self.jobs or self.idle:
                return
            stuck = self.done == seen
            if stuck:
                self.threads += 1
            self.checking = True
            now = self.done
        assert self.later is not None
        self.later(STALL_SECONDS, lambda: self._check(now))
        if stuck:
            self._start()

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
                    self.threads -= 1
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
