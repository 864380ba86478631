"""The standby thread of a worker: reads the link when nobody else does, sends what waits, runs timers.

So status, interrupt and credit are heard while user code computes.  See peer/turn.py for when it reads.
"""

from __future__ import absolute_import

from ..peer.compat import allocate_lock, clock
from ..peer.turn import RESTING, TICKING, WATCHING, Waiter

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, List, Optional, Tuple  # noqa: F401

TICK = 0.005
LONGEST_NAP = 0.05


class Keeper(object):
    """One for the process; `peer` and `link` are set before run()."""

    def __init__(self):
        # type: () -> None
        self.peer = None  # type: Any
        self.link = None  # type: Any
        self.stopped = False
        self.lock = allocate_lock()
        self.waiter = None  # type: Optional[Waiter]
        self.poked = False
        self.timers = []  # type: List[Tuple[float, Callable[[], None]]]

    # -- what turn.py and peer.py call

    def watch(self, peer):
        # type: (Any) -> None
        """The keeper itself says this, in run()."""

    def unwatch(self, peer):
        # type: (Any) -> None
        """A leader reads now.  The keeper may still be in wait(); it will find that it is not its turn."""

    def tick_soon(self, peer):
        # type: (Any) -> None
        self._poke()

    def flush_soon(self, peer):
        # type: (Any) -> None
        self._poke()

    def later(self, seconds, function):
        # type: (float, Callable[[], None]) -> None
        """Call function() in this thread after some time."""
        with self.lock:
            self.timers.append((clock() + seconds, function))
        self._poke()

    def _poke(self):
        # type: () -> None
        with self.lock:
            self.poked = True
            if self.waiter is not None:
                self.waiter.wake()

    # -- the thread

    def run(self):
        # type: () -> None
        peer, turn = self.peer, self.peer.turn
        while not self.stopped:
            with self.lock:
                self.poked = False
            if peer.out:
                peer.flush()
            if peer.dropped:
                peer.sweep()
            nap = self._run_timers()
            with peer.lock:
                state = turn.tick()
            if state == WATCHING:
                # The leader that takes the turn does not get us out of here; only bytes, or wake(), do.
                if self.link.wait_as_keeper():
                    peer.read_now()
            elif state == TICKING:
                self._sleep(TICK if nap is None else min(TICK, nap))
            else:
                assert state == RESTING
                self._sleep(nap)

    def _run_timers(self):
        # type: () -> Optional[float]
        """Run what is due; return seconds until the next."""
        if not self.timers:
            return None
        now = clock()
        with self.lock:
            due = [function for when, function in self.timers if when <= now]
            self.timers = [timer for timer in self.timers if timer[0] > now]
            left = min([when for when, _ in self.timers]) - now if self.timers else None
        for function in due:
            function()
        return left

    def _sleep(self, seconds):
        # type: (Optional[float]) -> None
        with self.lock:
            if self.poked:
                return
            self.waiter = waiter = Waiter()
        waiter.park(seconds)
        with self.lock:
            self.waiter = None
