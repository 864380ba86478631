"""The standby thread of a worker: reads the link when nobody else does, and sends what waits.

So status, interrupt and credit are heard while user code computes.  See peer/turn.py for when it reads.
"""

from ..peer.compat import allocate_lock
from ..peer.turn import TICKING, WATCHING, acquire

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401

TICK = 0.005


class Keeper(object):
    """One for the process; `peer` and `link` are set before run()."""

    def __init__(self):
        # type: () -> None
        self.peer = None  # type: Any
        self.link = None  # type: Any
        self.stopped = False
        self.watching = False  # in, or about to be in, link.wait_as_keeper
        self.bell = allocate_lock()
        self.bell.acquire()

    # -- what turn.py and peer.py call

    def watch(self, peer):
        # type: (Any) -> None
        """The keeper itself says this, in run()."""

    def unwatch(self, peer):
        # type: (Any) -> None
        """A leader reads now.  The keeper may still be in wait(); it will find that it is not its turn."""

    def tick_soon(self, peer):
        # type: (Any) -> None
        """Wake up.  No lock: a garbage collection may call this while this very thread holds any of ours."""
        try:
            self.bell.release()
        except Exception:  # RuntimeError, thread.error: it rings already
            pass
        if self.watching:
            self.link.wake_keeper()

    flush_soon = tick_soon

    # -- the thread

    def run(self):
        # type: () -> None
        try:
            while not self.stopped:
                self._look()
        except Exception:
            if not self.stopped:  # Python 2 empties the modules that a thread still uses when it ends
                raise

    def _look(self):
        # type: () -> None
        peer = self.peer
        peer.flush()  # though another thread may have written all: the next one must be able to ask again
        if peer.dropped:
            peer.sweep()
        with peer.lock:
            state = peer.turn.tick()
            self.watching = state == WATCHING  # under the lock: a leader that comes and goes at once must see it
        if state == WATCHING:
            # The leader that takes the turn does not get us out of here; only bytes do, and tick_soon.
            if not (peer.out or peer.flush_asked or peer.dropped) and self.link.wait_as_keeper(None):
                peer.read_now()
            self.watching = False
        elif state == TICKING:
            acquire(self.bell, TICK)
        else:  # RESTING
            self.bell.acquire()
