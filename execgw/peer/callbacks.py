"""Callbacks of channels run here: on threads of their own, one call at a time for each channel, in order.

Never in the thread that reads the link, so a slow callback delays nobody else and may itself send, receive and call.
A few threads serve all channels; when every one of them is inside a callback that lasts, another is started.
"""
from __future__ import absolute_import

import sys

try:  # the collections package would cost a worker's start a millisecond
    from _collections import deque
except ImportError:
    from collections import deque

from .faults import unpack_error
from .peer import ENDED, NO_ENDMARKER, NO_ITEM
from .tracebacks import current
from .turn import Waiter, allocate_lock

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, List, Optional  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

EAGER_THREADS = 4  # started without waiting for proof that the others are stuck
STALL_SECONDS = 0.01
IDLE_SECONDS = 5.0


class Callbacks(object):
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
        except RuntimeError:  # the interpreter is shutting down and starts no thread: run it here
            with self.lock:
                self.threads -= 1
            self._run_jobs()

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
            job()

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


class Callback(object):
    """Feeds the items of one port to a callback; at most one thread is in run() at a time."""

    def __init__(self, channel, callback, endmarker, pass_error):
        # type: (Any, Callable[..., Any], Any, bool) -> None
        self.gateway = channel.gateway  # not the channel: it may be dropped while the callback lives on
        self.port = channel._port
        self.peer = channel._peer
        self.codec = channel._codec
        self.callback = callback
        self.endmarker = endmarker
        self.pass_error = pass_error
        self.scheduled = True
        self.finished = False
        self.error = None  # type: Optional[BaseException]  # what the callback itself raised

    def attach(self):
        # type: () -> None
        with self.peer.lock:
            self.port.notify = self.changed
        self.run()

    def changed(self, port):
        # type: (Port) -> None
        """Called under the peer's lock."""
        if not self.scheduled and not self.finished and (port.items or port.ended):
            self.scheduled = True
            self.gateway._callbacks.submit(self.run)

    def run(self):
        # type: () -> None
        while True:
            item = self.peer.take_ready(self.port)
            if item is NO_ITEM:
                with self.peer.lock:
                    if not self.port.items and not self.port.ended:
                        self.scheduled = False
                        return
                continue
            try:
                if item is ENDED:
                    self._end()
                    self._finish()
                    return
                value = self.codec.decode(item[0], item[1])
                if self.pass_error:
                    self.callback(value, error=None)
                else:
                    self.callback(value)
            except BaseException as e:
                self.error = e
                if item is ENDED:
                    sys.excepthook(*sys.exc_info())
                else:
                    self.peer.close(self.port, current(self.codec, __file__.rstrip("c")))
                self._finish()
                return

    def _end(self):
        # type: () -> None
        error = self.port.error
        if self.pass_error:
            if isinstance(error, bytes):
                error = unpack_error(self.codec, error)
            marker = None if self.endmarker is NO_ENDMARKER else self.endmarker
            self.callback(marker, error=error)
        elif self.endmarker is not NO_ENDMARKER:
            self.callback(self.endmarker)

    def _finish(self):
        # type: () -> None
        with self.peer.lock:
            self.finished = True
            for waiter in self.port.waiters:
                waiter.wake()
            self.peer.turn.nudge()
