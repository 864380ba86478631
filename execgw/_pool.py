"""The near side's pool of threads: few of them, more only where all are inside callbacks that last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .peer.pool import Pool

EAGER_THREADS = 4  # started without waiting for proof that the others are stuck
STALL_SECONDS = 0.01


class PatientPool(Pool):
    """*later(seconds, function)* calls function then, in any thread."""

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Any],
        later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        super().__init__(start)
        self.later = later
        self.checking = False

    def _may_start(self) -> bool:
        if self.threads < EAGER_THREADS:
            return True
        self._check_later()
        return False

    def _start_failed(self) -> None:
        self._check_later()

    def _check_later(self) -> None:
        """See in a while whether the others have moved; under the lock."""
        if not self.checking:
            self.checking = True
            seen = self.done
            self.later(STALL_SECONDS, lambda: self._check(seen))

    def _check(self, seen: int) -> None:
        """Start one more thread if no job was taken for a while."""
        with self.lock:
            self.checking = False
            if not self.jobs or self.idle:
                return
            stuck = self.done == seen
            if stuck:
                self.threads += 1
            self._check_later()
        if stuck:
            self._start()
