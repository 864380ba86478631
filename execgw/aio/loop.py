"""Gateways in an asyncio event loop: the same work as the loop of the process does, and waiting that awaits.

    links                            -> the event loop                                                 -> read_now()
    full links, stderr, ends of processes -> one selector of ours -> one descriptor in the event loop  -> _ready()
    timers                           -> the nearest one, as call_later                                 -> _ready()

A selector within a selector costs one more system call for each batch of events.  For it, registering and closing
works from any thread and after the event loop's end exactly as it does in the loop of the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from selectors import EVENT_READ
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from .. import _loop
from .._hub import Hub, waves
from ..peer import blocked, large
from ..peer.compat import clock
from ..peer.peer import CHUNK
from ..peer.turn import WATCHING

if TYPE_CHECKING:
    from ..peer.peer import Peer
    from ..wire.mux import Port
    from .group import Group
    from .session import AioSession

T = TypeVar("T")

AT_A_TIME = 64  # things done without waiting, after which other tasks have their turn
LAST_SECONDS = 1.0  # for gateways that are left open when the event loop ends


class Waiter:
    """Where one task waits; stands in the lists in which the sync face's waiting threads stand."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: AioLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.event_loop.create_future()

    def wake(self) -> None:
        if get_ident() == self.loop.thread_id:
            _resolve(self.future)
        else:
            self.loop.call_soon(lambda: _resolve(self.future))

    async def wait(self, timeout: float | None) -> None:
        """Until woken, or for *timeout* seconds."""
        if timeout is None:
            await self.future
            return
        timer = self.loop.event_loop.call_later(timeout, _resolve, self.future)
        try:
            await self.future
        finally:
            timer.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    try:
        if not future.done():
            future.set_result(None)
    except RuntimeError:  # the event loop has ended
        pass


class AioEvent:
    """Happens once."""

    def __init__(self) -> None:
        self._set = False
        self.waiters: list[Waiter] = []
        self.then: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for waiter in self.waiters:
            waiter.wake()
        calls, self.then = self.then, []
        for call in calls:
            call()


class AioLoop(_loop.Loop):
    """Serves all gateways of one event loop; has no thread."""

    def __init__(self, event_loop: asyncio.AbstractEventLoop) -> None:
        self.event_loop = event_loop
        self.thread_id = get_ident()
        self.pid = os.getpid()
        self.sessions: set[AioSession] = set()  # whose processes have not ended
        self.closed = False
        self.groups: WeakSet[Group] = WeakSet()
        self._links: set[int] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._done = 0  # since other tasks had their turn
        self._open()
        # The event loop closes the asynchronous generators that were begun in it when it shuts down: that is how we
        # hear of that, while it still runs.
        self._last = self._until_shutdown()
        try:
            self._last.__anext__().send(None)
        except StopIteration:
            pass
        event_loop.add_reader(self._selector.fileno(), self._ready)

    # -- how who calls a session waits

    def event(self) -> AioEvent:
        return AioEvent()

    async def happened(self, event: _loop.Event, timeout: float | None) -> bool:
        assert isinstance(event, AioEvent)
        self._check()
        end = None if timeout is None else clock() + timeout
        while not event.is_set():
            left = None if end is None else end - clock()
            if left is not None and left <= 0:
                return False
            me = Waiter(self)
            event.waiters.append(me)
            try:
                await me.wait(left)
            finally:
                event.waiters.remove(me)
        return True

    async def until(self, peer: Peer, test: Callable[[Port], Any], port: Port, timeout: float | None = None) -> Any:
        self._check()
        lock, parked, waiters = peer.lock, peer.turn.parked, port.waiters
        end = None if timeout is None else clock() + timeout
        while True:
            with lock:
                found = test(port)
                left = None if end is None else end - clock()
                if not found and left is not None and left <= 0:
                    peer.turn.read()  # what has come and was not yet looked at counts
                    self.flush_soon(peer)
                    return test(port)
                if found:
                    return found
                me = Waiter(self)
                parked.append(me)
                waiters.append(me)
            try:
                if peer.out:
                    peer.flush()
                await me.wait(left)
            finally:
                with lock:
                    parked.remove(me)
                    waiters.remove(me)

    async def send(self, peer: Peer, port: Port, form: int, data: Any, kind: int) -> None:
        await self.breathe()
        if type(data) is list or len(data) > CHUNK:
            await self._send_large(peer, port, form, data, kind)
            return
        while port.busy or port.send_closed or port.allowed <= port.sent or not peer.has_room():
            await self._wait_to_send(peer, port, mine=False)
        peer.send(port, form, data, kind)

    async def _send_large(self, peer: Peer, port: Port, form: int, data: Any, kind: int) -> None:
        steps = large.steps(peer, port, kind, form, data)
        try:
            for what in steps:
                if what is large.LINK:
                    peer.flush()
                    await self._written(peer)
                else:
                    await self._wait_to_send(peer, port, what is large.CREDIT)
        finally:
            steps.close()  # type: ignore[attr-defined]

    async def _wait_to_send(self, peer: Peer, port: Port, mine: bool) -> None:
        await self.room(peer)
        waits = blocked.waits(peer, port, mine)
        try:
            while True:
                with peer.lock:
                    step = next(waits, None)
                if step is None:
                    break
                await self.until(peer, step[0], port, step[1])
        finally:
            with peer.lock:
                waits.close()  # type: ignore[attr-defined]
        if port.send_closed:
            peer.check_open(port)

    async def room(self, peer: Peer) -> None:
        while not peer.has_room():
            await self._written(peer)

    async def _written(self, peer: Any) -> None:
        """Wait until the link has taken all that is queued."""
        while peer.out and peer.lost is None:
            me = Waiter(self)
            peer.writing_waiters.append(me)
            try:
                await me.wait(None)
            finally:
                peer.writing_waiters.remove(me)

    async def aside(self, function: Callable[..., T], *args: Any) -> T:
        work = self.event_loop.run_in_executor(None, function, *args)
        cancelled = 0
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:  # noqa: PERF203  # no thread can be cancelled: what it makes must be known
                cancelled += 1
            except Exception:  # told below
                break
        task = asyncio.current_task()
        if cancelled and task is not None:
            for _ in range(cancelled if hasattr(task, "uncancel") else 0):
                task.uncancel()
            task.cancel()  # where it waits next: who called has then taken what was made into his care
        return work.result()

    async def breathe(self) -> None:
        """Let other tasks have their turn now and then, though there is nothing to wait for."""
        self._check()
        self._done += 1
        if self._done >= AT_A_TIME:
            self._done = 0
            await asyncio.sleep(0)

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run a coroutine to its end, though nobody holds its task."""
        task = self.event_loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check(self) -> None:
        if asyncio.get_running_loop() is not self.event_loop:
            raise RuntimeError("this gateway belongs to another event loop, the one in which it was made: use it there")

    # -- the keeper

    def tick_soon(self, peer: Peer) -> None:
        """Nobody leads here: the event loop reads from now on."""
        peer.turn.touched = False
        peer.turn.tick()

    def watch(self, peer: Peer) -> None:
        fd = peer.link.fileno()
        if fd is None or self.closed:
            return
        if get_ident() == self.thread_id:
            self._links.add(fd)
            self.event_loop.add_reader(fd, peer.read_now)
        else:  # a thread has waited for this session after all
            self.call_soon(lambda: self.watch(peer) if peer.turn.state == WATCHING else None)

    def _listen(self, fd: int, event: int, call: Callable[[], None]) -> None:
        with self.lock:
            if not self.closed:
                super()._listen(fd, event, call)

    def _ignore(self, fd: int, event: int) -> None:
        with self.lock:
            if event & EVENT_READ and fd in self._links:
                self._links.discard(fd)
                if get_ident() == self.thread_id:
                    self.event_loop.remove_reader(fd)
                else:
                    self.call_soon(lambda: None if fd in self._links else self._unlink(fd))
            if not self.closed:
                super()._ignore(fd, event)

    def _unlink(self, fd: int) -> None:
        self.event_loop.remove_reader(fd)

    def _wake_up(self) -> None:
        if self._asked or self.closed:
            return
        self._asked = True
        if get_ident() == self.thread_id and not self.event_loop.is_closed():
            self.event_loop.call_soon(self._ready)
        else:
            try:
                self._wake.send(b"!")
            except OSError:  # full: it will wake anyway; closed: there is nothing to do any more
                pass

    def _ready(self) -> None:
        if self.closed:
            return
        self._step(0)
        patience = self._patience()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if patience is not None and not self.closed:
            self._timer = self.event_loop.call_later(patience, self._ready)

    # -- the end

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self.pid == os.getpid() and not self.closed:
                for group in list(self.groups):
                    await group.terminate(LAST_SECONDS)
                await Hub().end(list(self.sessions), LAST_SECONDS)
                self.event_loop.remove_reader(self._selector.fileno())
                self.close()

    def abandon(self) -> None:
        """The event loop has ended without a word: let no process live on."""
        if self.closed or self.pid != os.getpid():
            return
        for wave in waves(self.sessions):
            end = clock() + LAST_SECONDS
            for session in wave:
                session.leaving = True
                session.transport.kill(force=True)
            while not all(session.over.is_set() for session in wave) and clock() < end:
                self._step(min(self._patience() or 0.05, 0.05))
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        with self.lock:
            self.closed = True
            for session in list(self.sessions):
                logging.getLogger("execgw").warning("gateway %r is left to itself", session.id)
            if self._timer is not None:
                self._timer.cancel()
            self._selector.close()
            self._wake.close()
            self._wake_end.close()


F = TypeVar("F", bound=Callable[..., Any])


def like(original: Callable[..., Any]) -> Callable[[F], F]:
    """The docstring of the sync face, which says as well what the method of this face does."""

    def add_docstring(method: F) -> F:
        method.__doc__ = original.__doc__
        return method

    return add_docstring
