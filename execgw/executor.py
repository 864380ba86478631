"""concurrent.futures over gateways anywhere."""

from __future__ import annotations

from collections.abc import Iterable

from ._dispatch import Dispatcher
from .group import Group
from .spec import XSpec


class Executor(Dispatcher):
    """A concurrent.futures.Executor whose workers are gateways: on this host, behind ssh, anywhere.

    *workers* is a Group, whose gateways it uses and leaves alive; or specs, or a number of popen gateways, which it
    starts, and ends at its own end.  Each gateway runs one call at a time, in its main thread if that is free.
    A call whose worker dies is run again elsewhere up to *retries* times, else its future raises ConnectionLost: it
    may have run or not.  Functions go as in Gateway.call: those that can be imported there by name, others by their
    source; arguments and results are values that a channel takes.
    """

    def __init__(self, workers: Group | Iterable[XSpec | str] | int, *, retries: int = 0) -> None:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"{workers} workers: give 1 or more")
        self._own: Group | None = None
        if isinstance(workers, Group):
            gateways = list(workers)
        else:
            self._own = Group()
            gateways = self._own.makegateways(["popen"] * workers if isinstance(workers, int) else workers)
        super().__init__(gateways, retries)

    def _end(self) -> None:
        super()._end()
        if self._own is not None:
            self._own.terminate()
