"""What the sync and the asyncio face have in common: everything but how they wait.

Coroutines here wait by what the session's loop has for it (_loop.py): the sync face runs them in the caller's thread,
the asyncio face awaits them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from . import _logs, _source
from ._hub import Hub
from ._limit import Limit
from ._output import Lines, Outputs
from ._status import Status, status_of
from .errors import (
    ClosedHere,
    ConnectionLost,
    ExecgwError,
    GatewayClosed,
    LoadError,
    RemoteProtocolError,
    TimeoutError,
)
from .peer.channel import Channel, number_of
from .peer.compat import clock
from .peer.execmodel import ExecModel
from .peer.faults import again
from .peer.gateway import BaseGateway
from .spec import XSpec, read_ticket
from .wire import frames as f
from .wire.mux import LAST_CHANNEL

if TYPE_CHECKING:
    from ._session import Session

ASK_SECONDS = 10.0  # for the worker itself to say what came of an interrupt
AGAIN_SECONDS = 0.2  # between asynchronous exceptions, for code that catches one
OUTPUT_SECONDS = 10.0  # for what the code has printed to be handed on
OPTIONS = ("timeout", "stdout", "stderr")  # of remote_exec, unless the function has an argument of that name
TERM_SECONDS = 1.0  # between SIGTERM and SIGKILL

INFO = """
import sys, os
channel.send((sys.executable, tuple(sys.version_info), str(sys.platform), os.getcwd(), os.getpid()))
"""


class RInfo(NamedTuple):
    """Facts about a worker: see Gateway._rinfo."""

    executable: str
    version_info: tuple[Any, ...]
    platform: str
    cwd: str
    pid: int


class RemoteStatus(NamedTuple):
    """What a worker is doing: open channels, tasks that run, tasks that wait for the main thread."""

    numchannels: int
    numexecuting: int
    numqueued: int
    execmodel: str


class NearChannel(Channel):
    """A channel whose far side can be steered."""

    _peer: Session
    _output_done: Any = None  # an event of the session's loop: all that the code has printed was handed on
    stdout: Lines | None = None
    stderr: Lines | None = None

    async def _output_handed_on(self) -> None:
        if self._output_done is not None and self._port.ended:
            await self._peer.loop.happened(self._output_done, OUTPUT_SECONDS)

    async def _steer(self, verb: str, timeout: float | None, text: str = "") -> str:
        number = str(self.id)
        return (await self._peer.answer(verb, timeout, channels=number, text=text))[number]

    async def _cancel(self, timeout: float, kill: bool) -> str:
        end = clock() + timeout
        if await self._has_ended(0):
            return "ended"
        for verb, word, until in (("interrupt", "interrupted", end - timeout / 2), ("exit", "exited", end)):
            while clock() < until:
                try:
                    outcome = await self._steer(verb, max(until - clock(), 0.01))
                except (TimeoutError, GatewayClosed):
                    break
                if outcome == "ended":  # or it has not begun
                    if await self._has_ended(AGAIN_SECONDS):
                        return "ended"
                    continue
                if await self._has_ended(until - clock() if verb == "interrupt" else AGAIN_SECONDS):
                    return word
        if await self._has_ended(0):
            return "ended"
        if kill:
            for force, word in ((False, "terminated"), (True, "killed")):
                self._peer.transport.kill(force)
                if await self._peer.ended_within(TERM_SECONDS):
                    return word
        return "running"

    async def _has_ended(self, timeout: float) -> bool:
        return bool(await self._peer.until(lambda port: port.ended, self._port, max(timeout, 0)))


class NearGateway(BaseGateway):
    """A live connection to a worker process."""

    _channel_class: type[NearChannel] = NearChannel
    _lines_class: type = Lines
    spec: XSpec
    remoteaddress: str | None

    def __init__(self, group: Any, session: Session, spec: XSpec, execmodel: str) -> None:
        super().__init__(session.id)
        self.spec = spec
        self._group = group
        self._peer = self._session = session
        self._callbacks = session.loop.callbacks
        self.execmodel = ExecModel(execmodel)
        self._info: RInfo | None = None
        self._log: NearChannel | None = None
        self._outputs = Outputs(self)
        self.stdout: Lines | None = None
        self.stderr: Lines | None = None
        codec = session.codec
        codec.channel_type = NearChannel  # of either face: one of another gateway is refused by that name
        codec.number_of = session.transport.telling(number_of(session))
        codec.channel_for = self._channel_for
        self._adopted = [self._channel_of(port) for port in session.transport.adopted]  # which nobody else holds
        if session.transport.remoteaddress is not None:
            self.remoteaddress = session.transport.remoteaddress

    # -- running code

    async def _exec(self, source: object, kwargs: dict[str, Any]) -> Any:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs and not _source.takes(source, name)}
        return await self._exec_task(_source.exec_task(source, kwargs), options)

    async def _exec_task(self, task: _source.Task | str, options: dict[str, Any]) -> Any:
        channel = await self._run(task, _targets(options))
        seconds = options.get("timeout")
        if seconds is not None:
            self._session.loop.later(seconds, Limit(self._session, channel._port, seconds).over)
        return channel

    async def _run(self, task: _source.Task | str, targets: dict[int, Any] | None = None) -> Any:
        session = self._session
        form, data = session.codec.encode(task)
        channel = self.newchannel()
        if targets:
            lines, channel._output_done = await self._outputs.set_task(channel.id, targets)
            channel.stdout, channel.stderr = lines.get(1), lines.get(2)
        await session.loop.send(session, channel._port, form, data, f.EXEC)
        return channel

    async def _set_output(self, stdout: Any, stderr: Any) -> None:
        targets = _targets({"stdout": stdout, "stderr": stderr})
        if targets:
            lines = await self._outputs.set(targets)
            self.stdout, self.stderr = lines.get(1), lines.get(2)

    def _channel_for(self, number: Any) -> Any:
        """For a value that arrived: a worker may write any number there, or no number at all."""
        mux = self._session.mux
        if type(number) is not int or not 0 < number <= LAST_CHANNEL or (number % 2 and number >= mux._next):
            raise LoadError("the value holds a channel that there never was")
        return super()._channel_for(number)

    def newchannel(self) -> Any:
        """A new channel, not bound to any code; both sides may use it once it was sent over another channel."""
        if self._session.lost is not None:
            raise again(self._session.lost)
        return super().newchannel()

    # -- steering and asking

    async def _interrupt(self, timeout: float | None) -> dict[int, str]:
        told = await self._session.answer("interrupt", timeout)
        return {int(number): outcome for number, outcome in told.items() if number.isdigit()}

    async def _stacks(self, timeout: float | None) -> dict[str, str]:
        told = await self._session.answer("stacks", timeout)
        return {name: text for name, text in told.items() if name != "number"}

    async def _status(self, timeout: float | None) -> Status:
        begun = clock()
        told = await self._session.answer("report", timeout)
        return status_of(told, clock() - begun)

    async def _remote_status(self, timeout: float | None) -> RemoteStatus:
        told = await self._session.answer("status", timeout)
        try:
            channels, executing, queued = [int(told[name]) for name in RemoteStatus._fields[:3]]
            return RemoteStatus(channels, executing, queued, told["execmodel"])
        except (KeyError, ValueError):
            raise RemoteProtocolError(f"gateway {self.id!r}: no status is {str(told)[:300]}") from None

    def _checked_info(self, told: Any) -> RInfo:
        right = type(told) is tuple and len(told) == 5 and type(told[1]) is tuple
        if right:
            info = RInfo(*told)
            texts = [info.executable or "", info.platform, info.cwd]
            right = all(type(text) is str for text in texts) and _is_small(info.pid)
            right = right and all(type(part) is str or _is_small(part) for part in info.version_info)
        if not right:
            raise RemoteProtocolError(f"gateway {self.id!r}: the worker's facts about itself make no sense")
        return info

    async def _forward_logging(self, level: int | str) -> None:
        number = _logs.level_number(level)
        if self._log is None:
            self._log = self.newchannel()
            self._log.setcallback(functools.partial(_logs.handle, self.id))
        await self._session.answer("log", ASK_SECONDS, channels=str(self._log.id), level=str(number))

    async def _reconfigure(self, py2str_as_py3str: bool, py3str_as_py2str: bool) -> None:
        codec = self._session.codec
        codec.py2str_as_py3str = py2str_as_py3str
        codec.py3str_as_py2str = py3str_as_py2str
        await self._session.answer(f"reconfigure {int(py2str_as_py3str)} {int(py3str_as_py2str)}")

    def hasreceiver(self) -> bool:
        """Whether the connection is alive."""
        return self._session.lost is None

    @property
    def channels(self) -> dict[int, Any]:
        """The channels of this gateway that are in use, by their numbers: of one from attach(), those open there."""
        found = ((number, known()) for number, known in list(self._channels.items()))
        return {number: channel for number, channel in sorted(found) if channel is not None}

    @property
    def ticket(self) -> str:
        """What another process needs to take this gateway over, by attach(), should this one die.  Keep it secret.

        Raises ExecgwError without resume= in the spec.
        """
        return self._session.transport.ticket()

    async def _detach(self, timeout: float | None) -> str:
        session = self._session
        if session.lost is not None:
            raise again(session.lost)
        others = [other.id for other in self._group._hub.sessions.values() if other.via is session]
        if others or session.relays:
            raise ExecgwError(
                f"gateway {self.id!r}: {', '.join(others) or 'others'} are reached through it; end them first"
            )
        ticket = await session.transport.let_go(timeout)
        self._group._leave(self)
        return ticket

    def remote_init_threads(self, num: int | None = None) -> None:
        """Does nothing: workers start threads as they need them."""

    def renew(self, seconds: float | None = None) -> None:
        """Let the lease of the worker end *seconds* from now; without, as long from now as its lease= says.

        Its idle time begins anew, too.  Raises ExecgwError for a worker that no factory has started, and OSError
        if the gateway has ended.
        """
        if self._session.lost is not None:
            raise again(self._session.lost)
        self._session.transport.renew(seconds)

    # -- ending

    def exit(self) -> None:
        """Ask the worker to end, and leave the group.  Returns at once; see join()."""
        self._group._leave(self)
        self._session.goodbye()

    def __repr__(self) -> str:
        lost = self._session.lost
        if lost is None:
            state = f"receive-live, {self.execmodel.backend} model, {len(self._session.mux.ports)} active channels"
        elif isinstance(lost, ClosedHere):
            state = "ended"
        else:
            state = f"not-receiving, {'lost' if isinstance(lost, ConnectionLost) else lost}"
        return f"<{type(self).__name__} id={self.id!r} {state}>"


def _is_small(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 32


def _targets(options: dict[str, Any]) -> dict[int, Any]:
    return {stream: options[name] for stream, name in ((1, "stdout"), (2, "stderr")) if options.get(name) is not None}


G = TypeVar("G", bound=NearGateway)


class NearGroup(Generic[G]):
    """Gateways that belong together.  A container of them, in the order in which they were made."""

    defaultspec = "popen"
    _gateway_class: type[G]

    def __init__(self, hub: Hub, execmodel: str) -> None:
        self._hub = hub
        self._gateways: list[G] = []
        self._leaving: list[Session] = []  # asked to end by exit(), which does not wait
        self._execmodel = self._remote_execmodel = ExecModel(execmodel)
        self._pid = os.getpid()

    # -- making

    async def _make(self, specs: Iterable[XSpec | str | None]) -> list[G]:
        gateways = await self._start([self._as_spec(spec) for spec in specs])
        self._gateways.extend(gateways)
        return gateways

    async def _start(self, made: list[XSpec]) -> list[G]:
        """Start workers; their gateways are not yet in the list."""
        sessions = await self._hub.start_all(made, self._remote_execmodel.backend)
        return [
            self._gateway_class(self, session, spec, str(spec.execmodel or self._execmodel.backend))
            for session, spec in zip(sessions, made, strict=True)
        ]

    async def _attach(self, ticket: str) -> G:
        spec, facts = read_ticket(ticket)
        session = await self._hub.attach(spec, facts, self._remote_execmodel.backend)
        self._gateways.append(self._gateway_class(self, session, spec, self._execmodel.backend))
        return self._gateways[-1]

    def _as_spec(self, spec: XSpec | str | None) -> XSpec:
        return spec if isinstance(spec, XSpec) else XSpec(spec or self.defaultspec)

    def allocate_id(self, spec: XSpec) -> None:
        """Give *spec* the id that its gateway will have, if it has none."""
        self._hub.allocate_id(spec)

    def set_execmodel(self, execmodel: str, remote_execmodel: str | None = None) -> None:
        """Set how workers run tasks: 'thread' (several at a time, the first in the main thread) or 'main_thread_only'.

        ValueError once the group has gateways.
        """
        if self._gateways:
            raise ValueError(f"cannot set the execmodel: the group has gateways already: {self._gateways}")
        remote = ExecModel(execmodel if remote_execmodel is None else remote_execmodel)
        self._execmodel, self._remote_execmodel = ExecModel(execmodel), remote

    @property
    def execmodel(self) -> ExecModel:
        """The model of this side."""
        return self._execmodel

    @property
    def remote_execmodel(self) -> ExecModel:
        """The model that workers get."""
        return self._remote_execmodel

    # -- finding

    def __getitem__(self, key: int | str | G) -> G:
        if isinstance(key, int):
            return self._gateways[key]
        for gateway in self._gateways:
            if gateway is key or gateway.id == key:
                return gateway
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(gateway is key or gateway.id == key for gateway in self._gateways)

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[G]:
        return iter(list(self._gateways))

    def __repr__(self) -> str:
        return f"<Group {[gateway.id for gateway in self._gateways]!r}>"

    # -- ending

    async def _end_all(self, gateways: list[G], timeout: float | None) -> dict[str, str]:
        if self._pid != os.getpid():  # a forked child: the workers are its parent's
            return {}
        how = await self._hub.end([gateway._session for gateway in gateways], timeout)
        self._gateways = [gateway for gateway in self._gateways if gateway not in gateways]
        return how

    def _add(self, gateway: G) -> None:
        self._gateways.append(gateway)

    def _leave(self, gateway: G) -> None:
        if gateway in self._gateways:
            self._gateways.remove(gateway)
        self._hub.forget(gateway._session)
        self._leaving = [left for left in self._leaving if not left.over.is_set()]
        self._leaving.append(gateway._session)


C = TypeVar("C", bound=NearChannel)


class ManyChannels(Generic[C]):
    """The channels of the same code on many gateways.  A container of them, in the order of the gateways."""

    def __init__(self, channels: Iterable[C]) -> None:
        self._channels = list(channels)

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[C]:
        return iter(self._channels)

    def __getitem__(self, key: int) -> C:
        return self._channels[key]

    def __contains__(self, channel: C) -> bool:
        return channel in self._channels

    def __repr__(self) -> str:
        return f"<MultiChannel of {len(self._channels)}>"
