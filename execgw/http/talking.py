"""A process that speaks values: the server is the near side itself, and clients talk to it with bare HTTP.

    POST -> turn -> remote_exec, channel.send            one at a time, numbered; a number that was had runs nothing
    channels -> one pump for each -> Messages -> GET, streams

A pump takes nothing from its channel while the queue is full: the code waits in send() then, as for any slow receiver.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from .. import transports
from ..aio import Channel, Group
from ..errors import ExecgwError, RemoteError
from ..peer.compat import clock
from ..peer.peer import ENDED, NO_ITEM
from ..spec import XSpec
from .failures import Refusal
from .messages import END, RAISED, VALUE, Hole, Message, Messages
from .processes import Process, guard
from .waiting import Bell

if TYPE_CHECKING:
    from .._session import Session
    from ..aio import Gateway
    from ..aio.session import AioSession
    from ..transports.base import Launch, Transport
    from ..wire.mux import Port
    from .limits import Place
    from .policy import Start

PATIENCE = 60.0  # seconds that the code waits for a reader once the queue is full, unless the client says otherwise
WINDOW = 512 * 1024  # bytes that wait beside the queue, for each code that runs
CHUNK = 64 * 1024
MOST_CODES = 64  # that run at a time in one process
LEAST_HELD = 2 * MOST_CODES * WINDOW  # bytes that wait beside the queue in all; a process that sends more is ended
REMEMBERED_POSTS = 1024  # whose bodies are compared when their number comes again
MOST_TEXT = 16 * 1024  # characters of an error and its traceback


class Talking(Process):
    """See the file's head."""

    protocol = "values"

    def __init__(self, owner: str, start: Start, place: Place, patience: float | None) -> None:
        super().__init__(owner, start, place)
        self.patience = patience
        self.messages = Messages(self.limits.queue)
        self.room = Bell()
        self.gateway: Gateway
        self.group: Group
        self.read_at = clock()
        self._channels: dict[int, Channel] = {}  # whose code may still run
        self._newest: Channel | None = None
        self._pumps: dict[int, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._posting: set[asyncio.Task[tuple[int, int, bool]]] = set()
        self._had = 0
        self._posts: OrderedDict[int, tuple[bytes, int]] = OrderedDict()  # number -> (digest of the body, channel)

    # -- its life

    async def begin(self, group: Group, spec: str) -> None:
        """Start the process.  Raises StartError."""
        self.group = group
        xspec = XSpec(spec)
        session = await begin_session(group, xspec, self._guard, self.messages.largest)
        session.mux.max_held = max(LEAST_HELD, 4 * self.limits.queue)
        self.gateway = group._gateway_class(group, session, xspec, "thread")
        group._add(self.gateway)
        session.when_over.append(self._on_over)
        if session.lost is not None:
            self._on_over()
        else:
            await self.gateway._set_output(self.output, None)

    def _guard(self, transport: Transport) -> None:
        transport.window = WINDOW
        transport.chunk = CHUNK
        guard(transport, self)

    def _on_over(self) -> None:
        ended = self.gateway._session.transport.ended()
        stderr = self.gateway._session.transport.last_words()
        self.group._leave(self.gateway)
        self.set_over(ended.exit_code if ended else None, stderr)

    async def stop(self, timeout: float) -> str:
        how = await self.group._end_all([self.gateway], timeout)
        return next(iter(how.values()), "ended")

    @property
    def held(self) -> int:
        waiting = [item[1] for channel in self._channels.values() for item in channel._port.items]
        beside = sum(sum(map(len, data)) if type(data) is list else len(data) for data in waiting)
        return self.messages.size + beside

    def forget(self) -> None:
        for pump in self._pumps.values():
            pump.cancel()
        self._channels.clear()
        self._newest = None
        self.messages.clear()

    async def interrupt(self) -> dict[str, str]:
        if self.over is not None:
            raise self.over.refusal()
        return {str(number): outcome for number, outcome in (await self.gateway.interrupt()).items()}

    @property
    def busy(self) -> bool:
        return bool(self._running())

    def _running(self) -> list[int]:
        return [number for number, channel in self._channels.items() if not channel._port.ended]

    def queue(self) -> dict[str, int]:
        waiting = self.messages
        return {"messages": len(waiting), "bytes": waiting.size, "dropped": waiting.dropped}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "running": self._running(), "posts": self._had, "sent": self.messages.newest}

    # -- what comes in

    async def post(
        self, seq: int | None, body: bytes, wait: float, act: Callable[[float], Awaitable[int]]
    ) -> tuple[int, int, bool]:
        """Do what a numbered request asks for, unless it was done: (channel, seq, whether it is new).

        Once begun it is done to its end, though its client goes away: else it might be sent, and its number not noted,
        and be sent again.
        """
        work = asyncio.get_running_loop().create_task(self._post(seq, body, wait, act))
        self._posting.add(work)
        work.add_done_callback(self._posted)
        return await asyncio.shield(work)

    def _posted(self, work: asyncio.Task[tuple[int, int, bool]]) -> None:
        self._posting.discard(work)
        if not work.cancelled():
            work.exception()  # whoever waits for it is told; perhaps nobody does any more

    async def _post(
        self, seq: int | None, body: bytes, wait: float, act: Callable[[float], Awaitable[int]]
    ) -> tuple[int, int, bool]:
        deadline = clock() + wait
        self.used = clock()
        if self.over is not None:
            raise self.over.refusal()
        digest = hashlib.sha256(body).digest()
        await self._my_turn(wait)
        try:
            number = self._had + 1 if seq is None else seq
            if number <= self._had:
                return self._again(number, digest), number, False
            if number > self._had + 1:
                why = f"request {number} came, and {self._had + 1} was not yet had; send that first"
                raise Refusal(409, "gap", why, expected=self._had + 1)
            channel = await act(max(deadline - clock(), 0.0))
            self._had = number
            self._posts[number] = digest, channel
            if len(self._posts) > REMEMBERED_POSTS:
                self._posts.popitem(last=False)
        finally:
            self._turn.release()
        return channel, number, True

    async def _my_turn(self, wait: float) -> None:
        if self._turn.locked():
            try:
                await asyncio.wait_for(self._turn.acquire(), wait)
            except asyncio.TimeoutError:
                raise busy(wait) from None
        else:
            await self._turn.acquire()  # at once, whatever *wait* is

    def _again(self, number: int, digest: bytes) -> int:
        had, channel = self._posts.get(number, (digest, 0))
        if had != digest:
            why = f"a request {number} was had before, and it was another; do two clients send to one PID?"
            raise Refusal(409, "differs", why, expected=self._had + 1)
        return channel

    async def run(self, source: str) -> int:
        """Run source in it; returns the number of its channel."""
        if len(self._channels) >= MOST_CODES:
            why = f"{MOST_CODES} codes run in this process already; wait for one to end, or start another process"
            raise Refusal(429, "limit", why, 1.0)
        try:
            channel = await self.gateway.remote_exec(source)
        except ValueError as e:
            raise Refusal(400, "value", str(e)) from None
        except ExecgwError as e:
            raise await self._lost(e) from None
        self._newest = self._channels[channel.id] = channel
        self._pumps[channel.id] = asyncio.get_running_loop().create_task(self._pump(channel))
        self.bell.ring()
        return channel.id

    @property
    def has_code(self) -> bool:
        """Whether source was sent to it already."""
        return self._newest is not None

    def channel(self, number: int | None) -> Channel:
        """The channel that data goes to.  Raises Refusal (404, 409)."""
        if number is None:
            if self._newest is None:
                raise Refusal(409, "protocol", "nothing runs yet: the first POST to a PID is source")
            return self._newest
        found = self._channels.get(number)
        if found is None:
            raise Refusal(404, "unknown", f"no code runs behind a channel {number}")
        return found

    async def send(self, channel: Channel, value: Any, wait: float) -> int:
        """Send data; all of it or, if the code does not take it in time, nothing."""
        if channel._port.send_closed:
            raise await self._closed(channel)
        work = asyncio.get_running_loop().create_task(channel.send(value))
        await asyncio.sleep(0)  # it goes out at once, if it can, whatever *wait* is
        await asyncio.wait({work}, timeout=wait)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
        if work.cancelled():
            raise busy(wait)
        error = work.exception()
        if isinstance(error, OSError):
            raise await self._closed(channel)
        if error is not None:
            raise Refusal(400, "value", f"the value cannot be sent: {error}")
        return channel.id

    def end_data(self, channel: Channel) -> int:
        """No more data will be sent to that code."""
        channel._peer.end(channel._port)
        return channel.id

    async def _closed(self, channel: Channel) -> Refusal:
        if self.gateway._session.lost is not None:
            return await self._lost(self.gateway._session.lost)
        why = f"the code behind channel {channel.id} takes no more data: it has ended, or its data was ended"
        return Refusal(409, "protocol", f"{why}; GET tells how")

    async def _lost(self, error: Exception) -> Refusal:
        """The process is no more; how it ended is known in a moment."""
        deadline = clock() + 2.0
        while self.over is None and clock() < deadline:
            await self.bell.wait(deadline - clock())
        return self.over.refusal() if self.over is not None else Refusal(410, "ended", str(error), of="process")

    # -- what comes out

    async def _pump(self, channel: Channel) -> None:
        """Take what the code sends while there is room for it."""
        session, port = channel._peer, channel._port
        try:
            while True:
                await session.loop.breathe()
                if not port.items and not port.ended:
                    await session.loop.until(session, _has_item, port)
                await self._has_room()
                item = session.receive(port, 0)
                if item is ENDED:
                    break
                if item is not NO_ITEM:
                    form, data = item
                    self._put(channel.id, VALUE, form, b"".join(data) if type(data) is list else data)
            self._tell_end(channel)
        finally:
            self._pumps.pop(channel.id, None)
            self._channels.pop(channel.id, None)
            self.used = clock()
            self.bell.ring()

    def _tell_end(self, channel: Channel) -> None:
        error = channel._end_error()
        if error is None:
            self._put(channel.id, END, 0, b"{}")
        elif isinstance(error, RemoteError):
            told = {"type": error.type, "message": error.message, "traceback": error.formatted}
            cut = {name: text if text is None else str(text)[-MOST_TEXT:] for name, text in told.items()}
            self._put(channel.id, RAISED, 0, json.dumps(cut).encode())
        elif self.gateway._session.lost is None:  # else the end of the process says all
            self._put(
                channel.id, RAISED, 0, json.dumps({"type": None, "message": str(error), "traceback": ""}).encode()
            )

    def _put(self, number: int, kind: str, form: int, data: bytes) -> None:
        self.messages.put(number, kind, form, data)
        self.bell.ring()

    async def _has_room(self) -> None:
        """Wait until the queue has room, or nobody has read for so long that the oldest messages must go."""
        since = clock()
        while self.messages.full:
            left = None if self.patience is None else max(since, self.read_at) + self.patience - clock()
            if self.dropping:
                left = 0.0
            if left is not None and left <= 0:
                self.dropping = True
                self.messages.make_room()
                return
            await self.room.wait(left)

    dropping = False  # nobody has read for so long that nobody is waited for any more

    def reads(self) -> None:
        """Somebody reads: there may be room, and it is worth to wait for more of it."""
        self.used = self.read_at = clock()
        self.dropping = False
        self.room.ring()

    def acknowledge(self, number: int) -> None:
        """The client has all up to *number*.  Raises Refusal (400) if there was not yet so much."""
        if number > self.messages.newest:
            why = f"no message {number} was sent yet; the newest is {self.messages.newest}"
            raise Refusal(400, "request", why, newest=self.messages.newest)
        self.messages.acknowledge(number)
        self.reads()

    async def next(
        self, after: int | None, wait: float, give_up: Callable[[], bool]
    ) -> Message | Hole | Refusal | None:
        """The next message; without *after* it is gone from the queue.  None: there is none within *wait* seconds."""
        deadline = clock() + wait
        if after is not None:
            self.acknowledge(after)
        with self.followed():
            try:
                while not give_up():
                    found = self.messages.take() if after is None else self.messages.after(after)
                    if found is not None:
                        return found
                    nothing_more = self.nothing_more()
                    if nothing_more is not None:
                        return nothing_more
                    if not await self.wait(deadline):
                        return None
            finally:
                self.reads()
        return None

    async def wait(self, deadline: float) -> bool:
        """Wait until something has changed; false when the time is over."""
        left = deadline - clock()
        return left > 0 and await self.bell.wait(left)

    def nothing_more(self) -> Refusal | None:
        """What an empty queue means: the process or all code has ended; None if there may come more."""
        if self._pumps:
            return None
        if self.over is not None:
            return self.over.refusal()
        if self.has_code:
            return Refusal(410, "ended", "the code has ended, and all that it sent was read", of="channel")
        return None


def busy(wait: float) -> Refusal:
    """The answer to data that the code does not take."""
    return Refusal(503, "busy", f"the code did not take any data for {wait:g} s, and nothing was sent", 1.0)


def _has_item(port: Port) -> Any:
    return port.items or port.ended


async def begin_session(group: Group, spec: XSpec, prepare: Callable[[Transport], None], largest: int) -> AioSession:
    """A session like that of any gateway of the group; *prepare* gets its transport before anything is sent to it."""
    hub = group._hub
    kind = transports.kind(hub.check(spec))

    def start(launch: Launch, via: Session | None) -> Transport:
        transport = kind.start(launch, via)
        prepare(transport)
        return transport

    begun = clock()
    session = await hub.begin_with(spec, group.remote_execmodel.backend, None, start)
    session.mux.max_value = largest
    await hub.finish(session, spec, begun)
    return cast("AioSession", session)
