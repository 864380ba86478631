"""The parts of a worker that need threads, without any: for Pyodide; see link_alone.py."""

import os

from ..peer.compat import deque
from ..peer.turn import Turn
from . import serve
from .execute import Task
from .keeper import Keeper
from .serve import Server

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, Optional, Tuple  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

later = deque()  # type: Deque[Tuple[Callable[..., Any], Tuple[Any, ...]]]  # what AloneLink.wait() runs

FOR_EVER = float("inf")
REFUSED = "this worker has no threads: it runs one remote_exec at a time, and another one has not ended"
NO_LIMIT = "this worker has no threads and cannot wait for a limited time; leave out the timeout"


def take_part():
    # type: () -> None
    """Have serve.main() make a Server without threads."""
    serve.start_new_thread = run_later  # type: ignore[assignment,attr-defined]
    serve.Server = AloneServer  # type: ignore[assignment,misc]


def run_later(function, args=()):
    # type: (Callable[..., Any], Tuple[Any, ...]) -> None
    """In place of start_new_thread."""
    later.append((function, args))


class AloneTurn(Turn):
    """Whoever waits reads, also where a callback waits that runs inside of another wait."""

    def until(self, test, port, timeout):
        # type: (Callable[[Any], Any], Any, Optional[float]) -> Any
        if timeout not in (None, FOR_EVER):
            raise RuntimeError(NO_LIMIT)
        while not test(port):
            self.lock.release()
            try:
                self.flush()
                self.owner.sweep()
                readable = self.link.wait(None)
            finally:
                self.lock.acquire()
            if readable:
                self.read()
        return True


class AloneKeeper(Keeper):
    """No standby thread: what it would write is written at once, unless this thread is just writing."""

    def run(self):
        # type: () -> None
        """Nothing: see AloneTurn."""

    def tick_soon(self, peer):
        # type: (Any) -> None
        if peer.out and peer.send_lock.acquire(False):
            peer.send_lock.release()
            peer.flush()

    flush_soon = tick_soon


class AlonePool(object):
    """peer.pool.Pool without threads; the jobs are callbacks."""

    def submit(self, job):
        # type: (Callable[[], None]) -> None
        """Run job() when this thread waits."""
        run_later(job)


class AloneServer(Server):
    """A worker that does one thing at a time."""

    def __init__(self, link):
        # type: (Any) -> None
        Server.__init__(self, link)
        peer = self.peer
        self.keeper = peer.keeper = AloneKeeper()
        self.keeper.peer = peer
        self.keeper.link = link
        peer.turn = AloneTurn(peer, peer.lock, link, self.keeper, peer._read, peer.flush)
        peer.patience = FOR_EVER
        self.gateway._callbacks = AlonePool()

    def _on_task(self, port, form, data):
        # type: (Port, int, Any) -> None
        task = Task(self.gateway, port, form, data)
        self._give_main(task)
        # If by then a task runs, and waits again, not having just been ended.  None need run by now: two that come in
        # one read are both here before the first begins.
        run_later(self._refuse, (task,))

    def _refuse(self, task):
        # type: (Task) -> None
        if self.gateway.running and task in self.tasks:
            self.tasks.remove(task)
            task.refuse(REFUSED)

    def _apply(self, options):
        # type: (Any) -> None
        Server._apply(self, options)
        self.gateway.backend = "main_thread_only"

    def _end(self, reason):
        # type: (Exception) -> None
        self.peer.lose(reason)

    def _kill_group(self):
        # type: () -> None
        os._exit(1)
