"""How a worker runs more than one task at a time, and the locks, events and queues that fit it."""

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable  # noqa: F401

MODELS = ("thread", "main_thread_only")


class ExecModel(object):
    """`backend` is 'thread' (the first task runs in the main thread, further ones at the same time in threads of their
    own) or 'main_thread_only' (one task at a time, in the main thread).
    """

    def __init__(self, backend):
        # type: (str) -> None
        if backend not in MODELS:
            known = " and ".join([repr(model) for model in MODELS])
            if backend in ("gevent", "eventlet"):
                raise ValueError("execmodel %r is not built: execgw has %s" % (backend, known))
            raise ValueError("unknown execmodel %r: execgw has %s" % (backend, known))
        self.backend = backend

    @property
    def queue(self):
        # type: () -> Any
        """The queue module."""
        try:
            import queue
        except ImportError:
            import Queue as queue  # type: ignore[import-not-found,no-redef]
        return queue

    @property
    def subprocess(self):
        # type: () -> Any
        """The subprocess module."""
        import subprocess

        return subprocess

    @property
    def socket(self):
        # type: () -> Any
        """The socket module."""
        import socket

        return socket

    def start(self, func, args=()):
        # type: (Callable[..., Any], Any) -> None
        """Run func(*args) in a new daemon thread."""
        import threading

        thread = threading.Thread(target=func, args=args)
        thread.daemon = True
        thread.start()

    def get_ident(self):
        # type: () -> int
        """The number of the current thread."""
        from .compat import get_ident

        return int(get_ident())

    def sleep(self, seconds):
        # type: (float) -> None
        import time

        time.sleep(seconds)

    def fdopen(self, fd, mode, bufsize=1, closefd=True):
        # type: (int, str, int, bool) -> Any
        """A file object for a descriptor."""
        import io

        return io.open(fd, mode, bufsize, closefd=closefd)

    def Lock(self):
        # type: () -> Any
        return self.RLock()

    def RLock(self):
        # type: () -> Any
        import threading

        return threading.RLock()

    def Event(self):
        # type: () -> Any
        import threading

        return threading.Event()

    def __repr__(self):
        # type: () -> str
        return "<ExecModel %s>" % (self.backend,)
