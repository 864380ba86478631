"""Calls spread over gateways: what Executor and Group.map share.

Each gateway runs one call at a time, in its main thread.  Calls go to whoever is free; short ones are sent ahead, so
that a worker need not wait for the next.
"""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

from . import _bundle, _source
from ._loop import run
from .errors import ConnectionLost, GatewayClosed, RemoteError
from .peer.compat import clock

if TYPE_CHECKING:
    from .gateway import Gateway

T = TypeVar("T")

AHEAD_SECONDS = 0.02  # of work that may wait at a worker
MOST_AHEAD = 64  # calls that may wait there
MOST_FUNCTIONS = 200  # see worker/tasks/pool.py


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of *size* items; the last may be shorter."""
    if size < 1:
        raise ValueError(f"chunksize={size!r} must be 1 or more")
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


class _Call:
    """One submitted call, or a chunk of map()."""

    __slots__ = ("args", "function", "future", "kwargs", "left", "many")

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], many: bool, left: int) -> None:
        self.future: futures.Future[Any] = futures.Future()
        self.function = function
        self.args, self.kwargs = args, kwargs
        self.many = many  # args is a list of argument tuples, the result a list of results
        self.left = left  # how often it may be run again


class _Worker:
    """A gateway, the channel to the loop in it, and the calls that it has."""

    def __init__(self, executor: Dispatcher, gateway: Gateway) -> None:
        self.executor = executor
        self.gateway = gateway
        self.calls: collections.OrderedDict[int, _Call] = collections.OrderedDict()
        self.known: dict[int, Callable[..., Any]] = {}  # key -> function, as long as the far side knows it
        self.ahead = 1
        self.alive = True
        self.last = clock()
        self.channel = run(gateway._run(_pool_task()))
        self.channel.setcallback(self._arrived, endmarker=None, pass_error=True)

    def give(self, call: _Call) -> None:
        """Send a call.  Raises what says that it cannot be sent."""
        key = id(call.function)
        definition = None
        if self.known.get(key) is not call.function:
            what, source, filename, name = _source.call_task(call.function, (), {})[:4]
            definition = what, source, filename, name
        calls = [(tuple(args), {}) for args in call.args] if call.many else [(call.args, call.kwargs)]
        number = next(self.executor._numbers)
        if not self.calls:
            self.last = clock()
        self.calls[number] = call
        try:
            self.channel.send((number, key, definition, calls))
        except BaseException:
            self.calls.pop(number, None)
            raise
        if definition is not None:
            if len(self.known) >= MOST_FUNCTIONS:
                self.known.clear()
            self.known[key] = call.function

    def _arrived(self, item: Any, error: Exception | None = None) -> None:
        """In a thread of the pool, one at a time."""
        if item is None:
            self.executor._lost(self, error)
            return
        number, results, fault = item
        now = clock()
        call = self.calls.pop(number, None)
        if call is None:
            return
        spent, self.last = now - self.last, now
        # Twice as many ahead, or one: what is short, and what is long, is soon known.
        self.ahead = min(self.ahead * 2, MOST_AHEAD) if spent * self.ahead < AHEAD_SECONDS else max(self.ahead // 2, 1)
        self.executor._feed()
        if fault is not None:
            call.future.set_exception(RemoteError(str(fault.get("formatted", "")), fault))
        else:
            call.future.set_result(results if call.many else results[0])


def _pool_task() -> _source.Task:
    return "function", *_bundle.task("pool"), "main", (), {}


class Dispatcher(futures.Executor):
    """Runs calls on *gateways*, which stay alive after its end."""

    def __init__(self, gateways: Iterable[Gateway], retries: int = 0) -> None:
        self._retries = retries
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._waiting: collections.deque[_Call] = collections.deque()
        self._shut = False
        self._idle = threading.Condition(self._lock)
        self._broken: Exception | None = None
        self._workers: list[_Worker] = []
        try:
            for gateway in gateways:
                self._workers.append(_Worker(self, gateway))
            if not self._workers:
                raise ValueError("no workers: give at least one gateway")
        except BaseException:
            self.shutdown(wait=False)
            raise
        _living.add(self)

    # -- what users call

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Schedule fn(*args, **kwargs), and return the future of its value.

        The future raises RemoteError if fn raised, DumpError for arguments or a value that cannot travel, ValueError
        for a function that uses what is not sent with it, ConnectionLost if its worker died.
        """
        return self._submit(_Call(fn, args, kwargs, False, self._retries))

    def submit_many(self, fn: Callable[..., T], arguments: list[tuple[Any, ...]]) -> futures.Future[list[T]]:
        """The same for many calls in a row on one worker; the future of the list of values."""
        return self._submit(_Call(fn, arguments, {}, True, self._retries))

    def _submit(self, call: _Call) -> futures.Future[Any]:
        with self._lock:
            if self._broken is not None:
                raise futures.BrokenExecutor(f"no worker is left: {self._broken}")
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
        self._feed()
        return call.future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """The values of fn over the iterables, in order; *chunksize* items travel together."""
        end = None if timeout is None else clock() + timeout
        calls = [self.submit_many(fn, chunk) for chunk in batched(zip(*iterables, strict=False), chunksize)]

        def results() -> Iterator[T]:
            calls.reverse()
            try:
                while calls:
                    left = None if end is None else end - clock()
                    yield from calls.pop().result(left)
            finally:
                for future in calls:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.  With *wait* return when all have run; *cancel_futures* gives up those not yet sent."""
        with self._lock:
            self._shut = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.pop().future.cancel()
            self._cancelled_away()
            if not self._busy():
                self._idle.notify_all()
            while wait and self._busy():
                self._idle.wait()
            finished = not self._busy()
        if finished:
            self._end()

    # -- within

    def _busy(self) -> bool:
        return bool(self._waiting) or any(worker.calls for worker in self._workers)

    def _cancelled_away(self) -> None:
        for call in [call for call in self._waiting if call.future.cancelled()]:
            self._waiting.remove(call)
            call.future.set_running_or_notify_cancel()

    def _feed(self) -> None:
        """Give what waits to the workers that have the least."""
        with self._lock:
            while self._waiting:
                free = [worker for worker in self._workers if worker.alive and len(worker.calls) < worker.ahead]
                if not free:
                    return
                worker = min(free, key=lambda worker: len(worker.calls))
                call = self._waiting.popleft()
                if not call.future.running() and not call.future.set_running_or_notify_cancel():
                    continue
                try:
                    worker.give(call)
                except GatewayClosed:
                    self._waiting.appendleft(call)  # _lost is on its way
                    worker.alive = False
                except Exception as e:
                    call.future.set_exception(e)
            if self._shut and not self._busy():
                self._idle.notify_all()

    def _lost(self, worker: _Worker, error: Exception | None) -> None:
        with self._lock:
            worker.alive = False
            calls, worker.calls = list(worker.calls.values()), collections.OrderedDict()
            self._workers.remove(worker)
            again = [call for call in calls if call.left > 0 and self._workers]
            for call in reversed(again):
                call.left -= 1
                self._waiting.appendleft(call)
            failed = [call for call in calls if call not in again]
            if not self._workers and not self._shut:
                self._broken = error or ConnectionLost("all gateways have ended")
                failed += self._waiting
                self._waiting.clear()
            self._idle.notify_all()
        for call in failed:
            if not call.future.cancelled():
                call.future.set_exception(error or ConnectionLost(f"gateway {worker.gateway.id!r} has ended"))
        self._feed()

    def _end(self) -> None:
        _living.discard(self)
        for worker in list(self._workers):
            worker.channel.close()


_living: set[Dispatcher] = set()


def _finish_all() -> None:
    """At the exit of the process, while threads can still be started: what was submitted is run, as documented."""
    for executor in list(_living):
        executor.shutdown(wait=True)


# concurrent.futures does the same: atexit itself comes too late, for then no thread can be started any more.
getattr(threading, "_register_atexit", lambda call: None)(_finish_all)
