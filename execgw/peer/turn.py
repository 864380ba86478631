"""Whose turn it is to read the link.

    thread in receive()  --leads-->  link.wait(), read()      no hop: who waits for the data reads it
    other waiting threads  --park--> woken when their port changed, or when the leader leaves
    the keeper             --reads when nobody has waited for a tick (the near side's loop, a worker's standby thread)

The rule that makes it safe: waiting happens without the lock and by anybody, *reading* only under the lock, by
read(), which takes what is there and hands it out before the lock is let go.  So two threads that wake for the same
bytes are harmless, and "is there something for me" is always tested under the lock under which the turn is given away.

States of the keeper:  WATCHING it reads.  RESTING a leader reads, the keeper sleeps.  TICKING nobody may be reading;
the keeper looks again within a tick: touched since -> TICKING; a leader -> RESTING; nobody -> WATCHING.  So a thread
that receives again and again never hands the link back and forth; testing/peer/test_turn.py walks all interleavings.
"""

import time

from .compat import PY2, allocate_lock, clock, get_ident

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List, Optional  # noqa: F401

WATCHING, TICKING, RESTING = "watching", "ticking", "resting"


class Waiter(object):
    """Where one thread sleeps until another wakes it."""

    __slots__ = ("lock", "woken")

    def __init__(self):
        # type: () -> None
        self.lock = allocate_lock()
        self.lock.acquire()
        self.woken = False

    def wake(self):
        # type: () -> None
        if not self.woken:
            self.woken = True
            self.lock.release()

    def park(self, timeout=None):
        # type: (Optional[float]) -> None
        if timeout is None:
            self.lock.acquire()
        else:
            acquire(self.lock, timeout)


def acquire(lock, timeout):
    # type: (Any, float) -> None
    """Acquire a lock, or give up after *timeout* seconds."""
    if not PY2:
        lock.acquire(True, max(timeout, 0))
        return
    end = clock() + timeout
    while not lock.acquire(False):  # Python 2 has no timeout here; its own threading module polls, too
        if clock() >= end:
            return
        time.sleep(0.002)


class Turn(object):
    """All methods but wait_outside are called with *lock* held.

    *link* has wait(timeout) -> bool and wake(); *keeper* has watch(owner), unwatch(owner) and tick_soon(owner);
    *read()* takes what the link has; *flush()*, called without the lock, sends what is queued.
    """

    def __init__(self, owner, lock, link, keeper, read, flush, waiter=Waiter, now=clock):
        # type: (Any, Any, Any, Any, Callable[[], None], Callable[[], None], Callable[[], Any], Any) -> None
        self.owner = owner
        self.lock = lock
        self.link = link
        self.keeper = keeper
        self.read = read
        self.flush = flush
        self.waiter = waiter
        self.now = now
        self.leader = None  # type: Any  # the port that the leading thread waits on
        self.parked = []  # type: List[Any]
        self.touched = False
        self.thrown = {}  # type: Dict[int, BaseException]  # by thread: to be raised where it waits; see worker/steer.py
        self.state = TICKING

    def start(self):
        # type: () -> None
        """Nobody reads yet; the keeper will."""
        self.state = TICKING
        self.keeper.tick_soon(self.owner)

    def until(self, test, port, timeout):
        # type: (Callable[[Any], Any], Any, Optional[float]) -> Any
        """Wait until test(port) is true, and return it; false after *timeout* seconds.  May be leader meanwhile."""
        end = None if timeout is None else self.now() + timeout
        while not test(port):
            if self.leader is None:
                done = self._lead(test, port, end)
            else:
                done = self._park(test, port, end)
            if done:
                return test(port)
        return True

    def _lead(self, test, port, end):
        # type: (Callable[[Any], Any], Any, Optional[float]) -> bool
        self.leader = port
        self.touched = True
        if self.state == WATCHING:
            self.state = RESTING
            self.keeper.unwatch(self.owner)
        try:
            while True:
                left = None if end is None else max(end - self.now(), 0)
                if self._wait_outside(left):
                    self.read()
                if test(port) or (end is not None and self.now() >= end):
                    return True
        finally:
            self.leader = None
            self.touched = True
            if self.state == RESTING:
                self.state = TICKING
                self.keeper.tick_soon(self.owner)
            if self.parked:
                self.parked[0].wake()

    def _wait_outside(self, left):
        # type: (Optional[float]) -> bool
        try:
            self.lock.release()
            self.flush()
            ready = self.link.wait(left)
            if self.thrown:
                self._throw()
            return ready  # type: ignore[no-any-return]
        finally:
            self.lock.acquire()

    def _throw(self):
        # type: () -> None
        """Raise what another thread wants raised in this one; waiting is where that is safe."""
        error = self.thrown.pop(get_ident(), None)
        if error is not None:
            raise error

    def _park(self, test, port, end):
        # type: (Callable[[Any], Any], Any, Optional[float]) -> bool
        me = self.waiter()
        self.parked.append(me)
        port.waiters.append(me)
        try:
            self.lock.release()
            self.flush()
            me.park(None if end is None else end - self.now())
            if self.thrown:
                self._throw()
        finally:
            self.lock.acquire()
            port.waiters.remove(me)
            self.parked.remove(me)
            # Woken to lead, but perhaps not going to: whoever is next must know.
            if self.leader is None and self.parked:
                self.parked[0].wake()
        return end is not None and self.now() >= end

    def changed(self, port):
        # type: (Any) -> None
        """Make the threads that wait on a port test again."""
        for waiter in port.waiters:
            waiter.wake()
        if self.leader is port:
            self.link.wake()

    def all_changed(self):
        # type: () -> None
        """Make every waiting thread test again."""
        for waiter in self.parked:
            waiter.wake()
        if self.leader is not None:
            self.link.wake()

    def tick(self):
        # type: () -> str
        """The keeper looks; returns what it has to do now."""
        if self.state == TICKING:
            if self.touched:
                self.touched = False
            elif self.leader is not None:
                self.state = RESTING
            else:
                self.state = WATCHING
                self.keeper.watch(self.owner)
        return self.state
