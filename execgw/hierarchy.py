"""ChannelGateway: a gateway whose bytes go over a channel that is there already (far half: service.py).

near                                      far
channel.send(spec) to gatewaymaker        starts a process
sub = channel.receive()                   sub.send((spec,)), then "execgw-program PLATFORM" and a line end: PROGRAM
ChannelGateway(sub)  -> repr(program), line end, modules; from now on a worker like every other
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from . import _bundle
from ._hub import START_SECONDS, seconds_of
from ._loop import run
from ._serving import names_of
from .channel import Channel
from .errors import ExecgwError, SpecError, StartError
from .gateway import Gateway
from .peer.compat import clock
from .peer.faults import again
from .peer.peer import ENDED, NO_ITEM
from .spec import XSpec
from .transports.base import Launch, Transport
from .transports.channel import ChannelTransport, told_end
from .wire import codec as values
from .wire.printable import printable

if TYPE_CHECKING:
    from ._session import Session
    from .group import Group
    from .wire.mux import Port

READY = b"execgw-program "  # as in service.py
MOST_NOISE = 64 * 1024  # bytes before it
LONGEST_SPEC = 10_000


class ChannelGateway(Gateway):
    """A gateway to the worker at the other end of *channel*, which carries bytes both ways.

    Such a channel comes from execgw.service.gatewaymaker, or from code of your own that runs
    execgw.service.PROGRAM with a Python and passes its stdin and stdout on.  The channel is the gateway's from now on.
    *spec* is text; without it the one that gatewaymaker was sent, which may not name packages (import=) that the
    channel's gateway does not have, nor wait for longer than 30 s.  The gateway belongs to *group*, without it to the
    group of the channel's gateway, and ends before that one.
    Raises StartError if no worker comes to be within its start_timeout= (30 s); the channel is closed then.
    """

    def __init__(self, channel: Channel, spec: XSpec | str | None = None, group: Group | None = None) -> None:
        if not isinstance(channel, Channel) or channel._callback is not None:
            raise TypeError(f"{channel!r}: ChannelGateway needs a channel of a gateway, without a callback")
        if channel._peer.lost is not None:
            raise again(channel._peer.lost)
        carrier: Gateway = channel.gateway
        group = carrier._group if group is None else group
        channel._callback = self  # nobody else may receive from it
        try:
            made, session = _start(channel, carrier._session, spec, group)
        except BaseException:
            channel.close()
            raise
        super().__init__(group, session, made, str(made.execmodel or group.execmodel.backend))
        group._add(self)


def _start(channel: Channel, via: Session, spec: XSpec | str | None, group: Group) -> tuple[XSpec, Session]:
    begun = clock()
    given = XSpec(spec) if isinstance(spec, str) else spec
    seconds = START_SECONDS if given is None else seconds_of(given, "start_timeout", START_SECONDS)
    if given is not None:
        group._hub.check(given)
    hello = _Greeting(via, channel._port, f"channel {channel.id} of gateway {via.id!r}")
    hello.read(begun + seconds, seconds)
    made = given or (hello.spec and _no_more_than(via, hello.spec)) or XSpec("popen")
    flavour = _bundle.flavour_of([None], hello.platform)
    program, modules = _bundle.for_other(1, flavour)
    boot = repr(program).encode("ascii") + b"\n" + modules

    def start(launch: Launch, via: Session | None) -> Transport:
        assert via is not None
        transport = ChannelTransport(f"at the end of channel {channel.id} of {via.id}", boot, via, channel._port)
        transport.applied = hello.spec is not None  # by gatewaymaker
        transport.channel = channel  # which would close itself with its last reference
        return transport

    session = run(group._hub.begin_with(made, group.remote_execmodel.backend, via, start))
    run(group._hub.finish(session, made, begun))
    return made, session


def _no_more_than(via: Session, spec: XSpec) -> XSpec:
    """A spec that has come back through a worker, which may have changed it: it must get that one nothing new."""
    names = [name for name in names_of(str(getattr(spec, "import") or "")) if name not in via.offers.tables]
    if names:
        raise StartError(
            f"gateway {via.id!r} asks for import={','.join(names)[:200]}, and its own spec does not name that; "
            f"if you want it: ChannelGateway(channel, spec=...)"
        )
    if seconds_of(spec, "start_timeout", START_SECONDS) > START_SECONDS:
        spec.start_timeout = None
    return spec


class _Greeting:
    """What comes through the channel before there is a worker: the spec, and what PROGRAM says of its platform."""

    def __init__(self, via: Session, port: Port, where: str) -> None:
        self.via, self.port, self.where = via, port, where
        self.spec: XSpec | None = None
        self.platform = ""
        self.noise = b""

    def read(self, deadline: float, seconds: float) -> None:
        while not self._is_ready():
            item = self.via.receive(self.port, max(deadline - clock(), 0))
            if item is NO_ITEM:
                raise StartError(f"{self.where}: nothing that runs execgw.service.PROGRAM there within {seconds:g} s")
            if item is ENDED:
                raise StartError(f"{self.where}: it ended before a worker was there{self._why()}{self._heard()}")
            form, data = item
            if form in (values.BYTES, values.NATIVE2):
                self.noise += b"".join(data) if type(data) is list else data
                if len(self.noise) > MOST_NOISE:
                    raise StartError(f"{self.where}: bytes, but nothing of execgw.service.PROGRAM{self._heard()}")
            else:
                self._take(form, data)

    def _take(self, form: int, data: Any) -> None:
        told = told_end(form, data)
        if type(told) is tuple and len(told) == 1 and type(told[0]) is str and len(told[0]) <= LONGEST_SPEC:
            try:
                self.spec = XSpec(told[0])
            except SpecError as e:
                raise StartError(f"{self.where}: {printable(str(e))}") from e
        elif type(told) is tuple and len(told) == 2 and type(told[1]) is str:
            raise StartError(f"{self.where}: the process ended during the start: {printable(told[1][-2000:])}")
        else:
            raise StartError(f"{self.where}: it carries values, and must carry bytes")

    def _is_ready(self) -> bool:
        line = self.noise.partition(READY)[2]
        if b"\n" not in line:
            return False
        self.platform = line.partition(b"\n")[0].decode("ascii", "replace")
        return True

    def _why(self) -> str:
        error = self.port.error
        if isinstance(error, bytes):
            from .peer.remote import unpack_error

            with contextlib.suppress(ExecgwError):
                told = unpack_error(self.via.codec, error)
                return f": {printable(f'{told.type}: {told.message}' if told.type else told.message)[:2000]}"
        return f": {error}" if error is not None else ""

    def _heard(self) -> str:
        return f"; it said {self.noise[-200:]!r}" if self.noise else ""
