"""Locks, threads and the clock, as Python 2 and 3 have them without the threading module."""

from __future__ import absolute_import

import time

from ..wire.compat import PY2, deque, text_type

if PY2:
    from thread import allocate_lock, get_ident, start_new_thread  # type: ignore[import-not-found]
else:
    from _thread import allocate_lock, get_ident, start_new_thread

clock = getattr(time, "monotonic", time.time)

__all__ = ["PY2", "allocate_lock", "clock", "deque", "get_ident", "start_new_thread", "text_type"]
