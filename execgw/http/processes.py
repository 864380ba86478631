"""The processes of a server: what all kinds have in common, and the table of them with its keeper.

A process is known by a secret of 128 random bits.  Its place is taken before its start and given back at its end.  What
has ended is remembered for some minutes, so that whoever asks learns how.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..peer.compat import clock
from .failures import Refusal
from .waiting import Bell, Tail

if TYPE_CHECKING:
    from ..transports.base import Transport
    from .access import Caller
    from .limits import Limits, Place
    from .policy import Start

LOOK_SECONDS = 1.0  # between looks at what has been idle for too long
REMEMBERED = 600.0  # seconds that the end of a process is told
MOST_REMEMBERED = 1000
END_SECONDS = 5.0  # for a process to end by itself when it is asked to
LAST_LINES = 20
MOST_FOLLOWERS = 64  # of one process: else one client could have all connections that the server takes
MOST_LEFT = 64 << 20  # bytes that nobody has read of processes of one client that have ended

log = logging.getLogger("execgw.http")


@dataclass(frozen=True)
class End:
    """How a process has ended."""

    exit_code: int | None
    stderr: str
    why: str
    at: float

    def told(self) -> dict[str, Any]:
        """What a 410 says."""
        code = self.exit_code
        lines = self.stderr.strip().splitlines()[-LAST_LINES:]
        return {
            "of": "process",
            "exit_code": code if code is None or code >= 0 else None,
            "signal": _signal_name(code) if code is not None and code < 0 else None,
            "stderr": "\n".join(lines),
        }

    def refusal(self) -> Refusal:
        """The answer to whoever wants something of it."""
        return Refusal(410, "ended", self.why, **self.told())


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def how_it_ended(exit_code: int | None) -> str:
    """A sentence."""
    if exit_code is None:
        return "the process has ended; how is not known"
    if exit_code < 0:
        return f"the process was killed by {_signal_name(exit_code)}"
    return f"the process has ended with exit code {exit_code}"


class Process:
    """One process that a client has started.

    pid       what the client knows it by
    number    what the kernel knows it by
    followers requests and connections that wait for what it sends
    """

    protocol = ""

    def __init__(self, owner: str, start: Start, place: Place) -> None:
        self.pid = secrets.token_hex(16)
        self.owner = owner
        self.spec = start.name
        self.limits: Limits = start.limits
        self.number = 0
        self.begun = clock()
        self.begun_at = time.time()
        self.used = clock()
        self.followers = 0
        self.over: End | None = None
        self.bell = Bell()
        self.output = Tail(self.bell)
        self.ending = ""  # why the server ends it
        self.on_over: list[Callable[[Process], None]] = []
        self._place = place

    @property
    def name(self) -> str:
        """What logs call it: the rest of its PID is a secret."""
        return self.pid[:8]

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While a request or a connection waits for what it sends.  Raises Refusal (429) if too many do."""
        if self.followers >= MOST_FOLLOWERS:
            why = f"{MOST_FOLLOWERS} requests and connections wait for this process already; end some"
            raise Refusal(429, "limit", why, 1.0)
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1
            self.used = clock()

    # -- what kinds do in their own way

    @property
    def busy(self) -> bool:
        """Whether code runs in it."""
        raise NotImplementedError

    @property
    def idle_for(self) -> float | None:
        """Seconds that nobody needed it, after which *idle* or *grace* may end it; None: it is needed."""
        return None if self.busy or self.followers else clock() - self.used

    def too_idle(self) -> str:
        """Why it is to be ended for nobody needs it, or ''."""
        idle, most = self.idle_for, self.limits.idle
        if idle is not None and most is not None and idle > most:
            return f"nothing ran in it, and nobody asked for it, for {most:g} s"
        return ""

    async def stop(self, timeout: float) -> str:
        """End it; returns how: 'asked', 'terminated' or 'killed'."""
        raise NotImplementedError

    def printed(self, data: bytes) -> None:
        """It has written to stderr."""
        self.output.feed(data)

    @property
    def held(self) -> int:
        """Bytes of what it has sent, and the server still has."""
        raise NotImplementedError

    def forget(self) -> None:
        """It has ended, and what it has sent is no more to be read."""

    async def interrupt(self) -> dict[str, str]:
        """KeyboardInterrupt in the code that runs; what came of it, by channel."""
        raise NotImplementedError

    def queue(self) -> dict[str, int]:
        """What waits in it: messages, bytes, and how many were dropped."""
        raise NotImplementedError

    # -- its end

    def set_over(self, exit_code: int | None, stderr: str) -> None:
        """It has ended; called once by its kind."""
        if self.over is not None:
            return
        why = how_it_ended(exit_code)
        if self.ending:
            why = f"the process was ended: {self.ending}"
        self.over = End(exit_code, stderr, why, clock())
        self._place.free()
        log.info("process over", extra={"pid": self.name, "exit_code": exit_code, "why": why})
        for call in self.on_over:
            call(self)
        self.bell.ring()

    async def end(self, why: str, timeout: float = END_SECONDS) -> str:
        """End it from outside, for that reason."""
        if self.over is not None:
            return "ended"
        self.ending = self.ending or why
        how = await self.stop(timeout)
        if self.over is None:
            self.set_over(None, "")
        return how

    # -- what is told of it

    def state(self) -> dict[str, Any]:
        """What it is and does."""
        return {
            "pid": self.pid,
            "protocol": self.protocol,
            "spec": self.spec,
            "owner": self.owner,
            "state": "ended" if self.over is not None else "busy" if self.busy else "idle",
            "started": round(self.begun_at, 3),
            "age": round(clock() - self.begun, 3),
            "idle": round(self.idle_for or 0.0, 3),
            "followers": self.followers,
            "queue": self.queue(),
            "memory": _memory(self.number) if self.over is None else 0,
            "output": self.output.end,
            **({} if self.over is None else {"why": self.over.why, **self.over.told()}),
        }


def _memory(number: int) -> int:
    """Bytes of resident memory; 0 where that is not to be known."""
    try:
        return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def guard(transport: Transport, process: Process) -> None:
    """A process that has just been started, and has nothing of us yet: put it under its limits, and hear its stderr."""
    loop = transport.loop
    transport.distrust()
    transport.show = lambda data: loop.call_soon(lambda: process.printed(data))
    process.number = transport.group
    try:
        process.limits.apply(transport.group)
    except BaseException:
        transport.kill(force=True)
        transport.close()
        raise


class Table:
    """All processes of a server."""

    def __init__(self) -> None:
        self.draining = False
        self.processes: dict[str, Process] = {}
        self.on_start: list[Callable[[Process], None]] = []
        self.on_forget: list[Callable[[Process], None]] = []
        self.starting = 0
        self.calm = Bell()  # a start is over
        self._keeper: asyncio.Task[None] | None = None

    def check_open(self) -> None:
        """Raises Refusal (503) while the server ends."""
        if self.draining:
            raise Refusal(503, "drain", "the server is ending, and starts nothing more; try again later", 5.0)

    def add(self, process: Process) -> None:
        """It has been started."""
        self.processes[process.pid] = process
        process.on_over.append(self._shed)
        for call in self.on_start:
            call(process)
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def find(self, pid: str, caller: Caller) -> Process:
        """Raises Refusal (404) for another's, and in the same words for one that never was."""
        found = self.processes.get(pid)
        if found is None or not (caller.is_admin or found.owner == caller.name):
            raise Refusal(404, "unknown", "there is no such process, or it is long over; POST /popen starts one")
        return found

    def seen_by(self, caller: Caller) -> list[Process]:
        """The processes that a caller may know of; the oldest first."""
        return [one for one in self.processes.values() if caller.is_admin or one.owner == caller.name]

    @property
    def live(self) -> list[Process]:
        """Those that have not ended."""
        return [one for one in self.processes.values() if one.over is None]

    def _shed(self, last: Process) -> None:
        """One more has ended: its place is free, so what such ones leave is bounded here; the oldest go first."""
        ended = [one for one in self.processes.values() if one.over is not None and one.owner == last.owner]
        left = sum(one.held for one in ended)
        for one in ended:
            if left <= MOST_LEFT:
                break
            if one.held:
                left -= one.held
                log.warning("unread messages dropped", extra={"pid": one.name, "owner": one.owner})
                one.forget()

    # -- the keeper

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look()
            except Exception:  # a bug in the look at one must not leave all others without limits
                log.exception("while looking at idle processes")

    def look(self) -> None:
        """End what is over its time, and forget what has long ended."""
        now = clock()
        over: list[str] = []
        for process in self.processes.values():
            if process.over is not None:
                if now - process.over.at > REMEMBERED:
                    over.append(process.pid)
                continue
            why, wall = process.too_idle(), process.limits.wall
            if wall is not None and now - process.begun > wall:
                why = f"it may run for {wall:g} s"
            if why and not process.ending:
                log.info("process culled", extra={"pid": process.name, "why": why})
                self._spawn(process.end(why))
        ended = [one for one in self.processes.values() if one.over is not None]
        over += [one.pid for one in ended[: max(len(ended) - MOST_REMEMBERED, 0)]]
        for pid in set(over):
            forgotten = self.processes.pop(pid)
            forgotten.forget()
            for call in self.on_forget:
                call(forgotten)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    # -- the end

    async def drain(self, seconds: float) -> None:
        """Start nothing more, tell whoever waits, end all processes; bounded by *seconds*."""
        self.draining = True
        deadline = clock() + seconds
        for process in self.live:
            process.bell.ring()
        while self.starting and clock() < deadline:
            await self.calm.wait(max(deadline - clock(), 0))
        left = max(deadline - clock() - 1.0, 0.5)  # a second of it is for those that must be killed
        await asyncio.gather(*(one.end("the server is ending", left) for one in self.live), return_exceptions=True)
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None


_tasks: set[asyncio.Task[Any]] = set()  # the event loop itself holds them only weakly
