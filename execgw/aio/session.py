"""Sessions and their hub in an asyncio event loop; which loop of ours belongs to which event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
from typing import TYPE_CHECKING, Any

from .._hub import Hub
from .._session import Session
from .loop import AioEvent, AioLoop

if TYPE_CHECKING:
    from .loop import Waiter


class AioSession(Session):
    """A session that tells who awaits room in the link when it is there."""

    loop: AioLoop
    over: AioEvent

    def __init__(self, transport: Any, launch: Any, loop: Any, via: Session | None = None) -> None:
        self.writing_waiters: list[Waiter] = []
        super().__init__(transport, launch, loop, via)
        loop.sessions.add(self)
        self.over.then.append(lambda: loop.sessions.discard(self))

    def flush(self, hand_over: bool = True) -> None:
        super().flush(hand_over)
        if self.writing_waiters and not self.out:
            self._wake_writing()

    def lose(self, reason: Exception) -> None:
        super().lose(reason)
        self._wake_writing()

    def _wake_writing(self) -> None:
        for waiter in self.writing_waiters:
            waiter.wake()


class AioHub(Hub):
    """The sessions of one group, each in the event loop in which it was started."""

    session_class = AioSession

    def loop(self) -> AioLoop:
        return get_loop()


_loops: list[AioLoop] = []


def get_loop() -> AioLoop:
    """Ours for the event loop that runs; made when it is first needed."""
    event_loop = asyncio.get_running_loop()
    _sweep()
    for loop in _loops:
        if loop.event_loop is event_loop:
            return loop
    loop = AioLoop(event_loop)
    _loops.append(loop)
    return loop


def _sweep() -> None:
    """Forget the loops that have ended; some did so without a word."""
    for loop in list(_loops):
        if loop.event_loop.is_closed():
            loop.abandon()
        if loop.closed:
            _loops.remove(loop)


def _at_exit() -> None:
    for loop in _loops:
        if not loop.event_loop.is_running():
            loop.abandon()


atexit.register(_at_exit)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_loops.clear)
