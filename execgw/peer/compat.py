"""Locks, threads and the clock, as Python 2 and 3 have them without the threading module."""

import time

from ..wire.compat import PY2 as PY2
from ..wire.compat import deque as deque

if PY2:
    import thread  # type: ignore[import-not-found]
else:
    import _thread as thread

allocate_lock = thread.allocate_lock
get_ident = thread.get_ident
start_new_thread = thread.start_new_thread

clock = getattr(time, "monotonic", time.time)
