"""Import the threading module late, in whichever thread needs it: importing it costs each worker's start a millisecond.

Only for workers on the near side's own interpreter (_bundle.for_same), so for Python 3.10 and newer.
"""

from ..peer.compat import allocate_lock, get_ident

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401


def import_threading(main):
    # type: (int) -> None
    """Import it, and say that *main* is the main thread: before 3.13 it takes the thread that imports it for that."""
    import threading

    thread = threading.current_thread()  # type: Any
    if get_ident() == main or thread.name != "MainThread":
        return
    active = threading._active  # type: ignore[attr-defined]
    active.pop(get_ident(), None)
    thread._ident = main
    active[main] = thread
    if getattr(thread, "_tstate_lock", None) is not None:  # until 3.12: released when its thread ends
        thread._tstate_lock = allocate_lock()
        thread._tstate_lock.acquire()
