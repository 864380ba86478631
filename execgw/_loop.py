"""The one I/O loop of the near side: a daemon thread that serves every gateway of the process.

It reads the links that no thread is waiting on (it is their keeper, peer/turn.py), writes what a full link left over,
runs timers and hears of child processes that end.  User code never runs here.

What both faces do and may wait is written once, as coroutines (_session.py, _hub.py) that wait by what a loop has for
it.  Here that is the caller's thread, which waits at once: such a coroutine never stops on the way, see run().  The
loop of the asyncio face (aio/loop.py) has the same methods, and really awaits.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ._pool import PatientPool
from .peer.compat import clock
from .peer.turn import TICKING

if TYPE_CHECKING:
    from .peer.peer import Peer
    from .wire.mux import Port

TICK = 0.005

T = TypeVar("T")


class Event(Protocol):
    """What can happen once, and is waited for by Loop.happened()."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


class Loop:
    """Made once for the process; see get_loop()."""

    def __init__(self) -> None:
        self._open()
        self.thread = threading.Thread(target=self._run, name="execgw-loop", daemon=True)
        self.thread.start()

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._wake = socket.socketpair()
        self._wake_end.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._wake_end, selectors.EVENT_READ, self._drain_wake)
        # Whoever registers a descriptor or closes one holds it, so that none is registered under a number that is free
        # again, or another's by now.
        self.lock = threading.RLock()
        self._soon: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._ticking: set[Peer] = set()
        self._asked = False  # a wake-up is on its way
        self.callbacks = PatientPool(self._start_thread, self.later)

    # -- how who calls a session waits; coroutines in name only, see run()

    def event(self) -> Event:
        """A new event."""
        return threading.Event()

    async def happened(self, event: Event, timeout: float | None) -> bool:
        """Wait for an event; false after *timeout* seconds."""
        assert isinstance(event, threading.Event)
        return event.wait(timeout)

    async def until(self, peer: Peer, test: Callable[[Port], Any], port: Port, timeout: float | None = None) -> Any:
        """Wait until test(port) is true, and return it; false after *timeout* seconds."""
        return peer.wait_until(test, port, timeout)

    async def send(self, peer: Peer, port: Port, form: int, data: Any, kind: int) -> None:
        """Send one value, when there is credit for it."""
        peer.send(port, form, data, kind)

    async def room(self, peer: Peer) -> None:
        """Wait until what is sent now need not wait for the link; a thread may as well wait then."""

    async def aside(self, function: Callable[..., T], *args: Any) -> T:
        """Call what may block."""
        return function(*args)

    # -- the keeper's side of peer/turn.py and peer/peer.py; called in any thread, under a peer's lock

    def watch(self, peer: Peer) -> None:
        """Read this peer's link from now on."""
        with self.lock:
            fd = peer.link.fileno()
            if fd is not None:
                self._listen(fd, selectors.EVENT_READ, peer.read_now)

    def unwatch(self, peer: Peer) -> None:
        """A thread reads it now."""
        with self.lock:
            fd = peer.link.fileno()
            if fd is not None:
                self._ignore(fd, selectors.EVENT_READ)

    def tick_soon(self, peer: Peer) -> None:
        """Nobody may be reading this peer: look in a tick."""
        self._ticking.add(peer)
        self._wake_up()

    def flush_soon(self, peer: Peer) -> None:
        """Write what is queued, and sweep what was dropped."""
        self.call_soon(lambda: _flush(peer))

    # -- files, timers, calls

    def _listen(self, fd: int, event: int, call: Callable[[], None]) -> None:
        with self.lock:
            key = self._selector.get_map().get(fd)
            if key is None:
                self._selector.register(fd, event, {event: call})
            else:
                self._selector.modify(fd, key.events | event, {**key.data, event: call})

    def _ignore(self, fd: int, event: int) -> None:
        with self.lock:
            key = self._selector.get_map().get(fd)
            if key is None:
                return
            rest = key.events & ~event
            if rest:
                self._selector.modify(fd, rest, {e: call for e, call in key.data.items() if e != event})
            else:
                self._selector.unregister(fd)

    def when_readable(self, fd: int, call: Callable[[], None]) -> None:
        """Run call() in the loop whenever *fd* is readable."""
        self._listen(fd, selectors.EVENT_READ, call)

    def when_writable(self, fd: int, call: Callable[[], None]) -> None:
        """Run call() in the loop once *fd* is writable."""

        def once() -> None:
            self._ignore(fd, selectors.EVENT_WRITE)
            call()

        self._listen(fd, selectors.EVENT_WRITE, once)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor, before it is closed."""
        self._ignore(fd, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run call() in the loop, soon.  May be called anywhere, even by a garbage collection."""
        self._soon.append(call)
        self._wake_up()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run call() in the loop after *seconds*."""
        with self.lock:
            heapq.heappush(self._timers, (clock() + seconds, next(self._count), call))
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._asked:
            self._asked = True
            try:
                self._wake.send(b"!")
            except OSError:  # full: it will wake anyway
                pass

    def _drain_wake(self) -> None:
        try:
            self._wake_end.recv(4096)
        except BlockingIOError:
            pass

    def _start_thread(self, function: Callable[[], None]) -> None:
        threading.Thread(target=function, name="execgw-callbacks", daemon=True).start()

    # -- the thread

    def _run(self) -> None:
        while True:
            self._step(self._patience())

    def _step(self, patience: float | None) -> None:
        """Wait that long for something to do, and do it."""
        for key, events in self._selector.select(patience):
            if key.fd == self._wake_end.fileno():
                self._drain_wake()
                continue
            for event, call in list(key.data.items()):
                if event & events:
                    _guarded(call)
        self._asked = False
        while self._soon:
            _guarded(self._soon.pop(0))
        now = clock()
        while self._timers and self._timers[0][0] <= now:
            with self.lock:
                call = heapq.heappop(self._timers)[2]
            _guarded(call)
        if self._ticking:
            self._tick()

    def _patience(self) -> float | None:
        if self._soon:
            return 0
        wait = TICK if self._ticking else None
        if self._timers:
            left = max(self._timers[0][0] - clock(), 0)
            wait = left if wait is None else min(wait, left)
        return wait

    def _tick(self) -> None:
        for peer in list(self._ticking):
            with peer.lock:
                if peer.turn.tick() != TICKING or peer.lost is not None:
                    self._ticking.discard(peer)


def _guarded(call: Callable[[], None]) -> None:
    """A bug in what one gateway does here must not end the loop of all."""
    try:
        call()
    except Exception:
        logging.getLogger("execgw").exception("in the I/O loop: %r", call)


def _flush(peer: Any) -> None:
    peer.sweep()
    peer.flush()


def run(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits in this very thread, and so never stops on its way."""
    try:
        steps.send(None)
    except StopIteration as e:
        value: T = e.value
        return value
    steps.close()
    raise RuntimeError("this belongs to an event loop: use it there, with await")


_loop: Loop | None = None
_making = threading.Lock()


def get_loop() -> Loop:
    """The loop of this process; started when it is first needed."""
    global _loop
    if _loop is None:
        with _making:
            if _loop is None:
                _loop = Loop()
    return _loop


def _forget_loop() -> None:
    """In a forked child: its thread and descriptors belong to the parent."""
    global _loop, _making
    _loop = None
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)
