"""All connections of a group: their names, who reaches whom (via), starting and ending in order.

Once, for the sync and the asyncio face; gateways are the faces' own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import transports
from ._loop import get_loop
from ._serving import Offers, names_of, offer
from ._session import Session
from .errors import SpecError, StartError
from .peer.compat import clock
from .peer.execmodel import ExecModel
from .spec import XSpec
from .transports import front
from .transports.base import Launch, Transport

Start = Callable[[Launch, Session | None], Transport]

if TYPE_CHECKING:
    from ._loop import Loop
    from .transports.base import AnyFactory

START_SECONDS = 30.0
END_SECONDS = 10.0  # terminate() without a timeout
HOP_SECONDS = 0.5  # for a gateway to kill what was behind it, and did not end by itself
TERM_SECONDS = 1.0  # between SIGTERM and SIGKILL


class Hub:
    """The sessions of one group, by id.  Coroutines wait as the face does whose loop it is; see _loop.py."""

    session_class: type[Session] = Session

    def loop(self) -> Loop:
        """What serves the gateways that are started now."""
        return get_loop()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sessions: dict[str, Session] = {}
        self.reserved: set[str] = set()  # ids whose gateways are being started
        self.factory: AnyFactory | None = None  # of the later popen gateways
        self._counter = 0

    # -- names

    def allocate_id(self, spec: XSpec) -> str:
        """Give a spec without an id the next one: gw0, gw1, ..."""
        if spec.id is None:
            with self.lock:
                name = f"gw{self._counter}"
                self._counter += 1
                if name in self.sessions or name in self.reserved:
                    raise ValueError(f"already have gateway with id {name!r}")
            spec.id = name
        return str(spec.id)

    def _reserve(self, name: str) -> None:
        with self.lock:
            if name in self.sessions or name in self.reserved:
                raise ValueError(f"already have gateway with id {name!r}; leave out id= or take another")
            self.reserved.add(name)

    # -- starting

    async def begin(self, spec: XSpec, execmodel: str) -> Session:
        """Start a worker without waiting for it; finish() must follow, whatever happens."""
        chosen = self.check(spec)
        kind = transports.kind(chosen)
        factory, via = self._factory(spec, chosen)
        grace = None if "resume" in kind.keys else _seconds(spec, "resume", None)
        start = kind.start
        if grace is not None:
            if chosen not in transports.builtin_names():
                raise SpecError(f"{str(spec)!r}: resume= is not for {chosen}= gateways: they know nothing of keepers")
            start = functools.partial(front.start, kind, grace=grace)
        return await self.begin_with(spec, execmodel, via, start, getattr(kind, "quick", False), factory)

    async def attach(self, spec: XSpec, facts: dict[str, str], execmodel: str) -> Session:
        """Take over what another process has left; StartError."""
        begun = clock()
        kind = transports.kind(self.check(spec))
        if spec.id in self.sessions or spec.id in self.reserved:
            spec.id = None
        start = functools.partial(front.attach, kind, facts=facts)
        session = await self.begin_with(spec, execmodel, None, start, quick=False)
        await self.finish(session, spec, begun)
        return session

    async def begin_with(
        self,
        spec: XSpec,
        execmodel: str,
        via: Session | None,
        start: Start,
        quick: bool = True,
        factory: AnyFactory | None = None,
    ) -> Session:
        """The same with a transport that *start* makes, whatever the spec says of its kind."""
        execmodel = ExecModel(str(spec.execmodel or execmodel)).backend
        _text(spec, "id")
        _seconds(spec, "start_timeout", START_SECONDS)  # what is wrong with a spec is said before anything is started
        offers = Offers(names_of(_text(spec, "import")), repr(str(spec)))
        name = self.allocate_id(spec)
        self._reserve(name)
        try:
            loop = self.loop()
            other = functools.partial(self._other, spec)
            launch = replace(launch_of(spec, name, loop), factory=factory, other=other, offers=offers)
            if quick:
                if via is not None:
                    await loop.room(via)
                transport = start(launch, via)
            else:
                transport = await loop.aside(start, launch, via)
            session = self.session_class(transport, launch, loop, via)
            session.begin(launch, execmodel)
        except BaseException:
            with self.lock:
                self.reserved.discard(name)
            raise
        return session

    async def finish(self, session: Session, spec: XSpec, begun: float) -> None:
        """Wait until a worker is there; StartError, and nothing left of it, if that fails."""
        seconds = seconds_of(spec, "start_timeout", START_SECONDS)
        try:
            await session.finish_start(begun + seconds, seconds)
            try:
                await offer(session, begun + seconds)
            except BaseException:
                await session.abandon()
                raise
            with self.lock:
                self.sessions[session.id] = session
        finally:
            with self.lock:
                self.reserved.discard(session.id)

    async def start_all(self, specs: Iterable[XSpec], execmodel: str) -> list[Session]:
        """Start many at the same time: all or, if one fails, none."""
        begun: list[tuple[Session, XSpec]] = []
        done: list[Session] = []
        try:
            for spec in specs:
                begun.append((await self.begin(spec, execmodel), spec))  # noqa: PERF401  # what has begun must be known
            start = clock()
            while begun:
                session, spec = begun.pop(0)
                await self.finish(session, spec, start)
                done.append(session)
        except BaseException:
            for session, _ in begun:
                await session.abandon()
                with self.lock:
                    self.reserved.discard(session.id)
            await self.end(done, 0)
            raise
        return done

    def check(self, spec: XSpec) -> str:
        """Which transport a spec asks for; SpecError if it makes no sense.

        Third parties' ones are looked for only if ours do not fit.
        """
        try:
            return spec.check(transports.builtin_names(), ())
        except SpecError:
            names = transports.names()
            chosen = [key for key in spec.keys() if key in names]  # noqa: SIM118  # keys() of a spec is no dict
            return spec.check(names, transports.kind(chosen[0]).keys if len(chosen) == 1 else ())

    def _other(self, spec: XSpec, key: str) -> Session | None:
        """The gateway that via=, or another such key, names."""
        name = getattr(spec, key)
        if not name:
            return None
        other = self.sessions.get(str(name))
        if other is None:
            known = ", ".join(map(repr, self.sessions)) or "none"
            raise SpecError(f"{str(spec)!r}: {key}={name!r} is no gateway of this group; there are: {known}")
        if other.lost is not None:
            raise StartError(f"{str(spec)!r}: {key}={name!r} has ended: {other.lost}")
        return other

    # -- factories

    def _factory(self, spec: XSpec, chosen: str) -> tuple[AnyFactory | None, Session | None]:
        """(the factory on this host that is to start the worker, the gateway that it is reached through)."""
        via, name = self._other(spec, "via"), _text(spec, "factory")
        plain = chosen == "popen" and via is None and not (spec.python or spec.nice or spec.dont_write_bytecode)
        if self.factory is not None and (name == self.factory.name or (not name and plain)):
            if not plain:
                raise SpecError(f"{str(spec)!r}: a factory has one interpreter: no python=, nice= or via= with it")
            return self.factory, None
        if (spec.lease or spec.idle) and name in (None, "none"):
            raise SpecError(f"{str(spec)!r}: lease= and idle= are for workers of a factory: give factory=NAME")
        if not name or name == "none":
            return None, via
        if not plain:
            raise SpecError(f"{str(spec)!r}: a factory has one interpreter: no python=, nice= or via= with it")
        if name == "local":
            raise SpecError(f"{str(spec)!r}: this group has no factory of its own: call setlocalfactory() first")
        return None, self._other(spec, "factory")

    def check_no_factory(self) -> None:
        """There is room for one; ValueError if not."""
        if self.factory is not None:
            raise ValueError(f"this group has a factory already: {self.factory}; terminate() ends it")

    def set_factory(self, factory: AnyFactory) -> None:
        """The later popen gateways come from it."""
        self.factory = factory

    def end_factory(self) -> None:
        """End the group's own factory, and what is left of its workers."""
        factory, self.factory = self.factory, None
        if factory is not None:
            factory.close()

    # -- ending

    def forget(self, session: Session) -> None:
        """Take a session out of the group."""
        with self.lock:
            if self.sessions.get(session.id) is session:
                del self.sessions[session.id]

    async def end(self, sessions: Iterable[Session], timeout: float | None) -> dict[str, str]:
        """End sessions, those reached through others first.  Returns how: {id: 'asked' | 'terminated' | 'killed'}."""
        seconds = END_SECONDS if timeout is None else timeout
        deadline = clock() + seconds
        how: dict[str, str] = {}
        for wave in waves(sessions):
            if not {"asked"}.issuperset(how.values()):
                deadline = max(deadline, clock() + HOP_SECONDS)
            how.update(await _end_wave(wave, deadline))
        for session in sessions:
            self.forget(session)
        return how


def waves(sessions: Iterable[Session]) -> list[list[Session]]:
    """In the order in which they are to end: those that are reached through others first."""
    found: dict[int, list[Session]] = {}
    for session in sessions:
        depth, above = 0, session.via
        while above is not None:
            depth, above = depth + 1, above.via
        found.setdefault(depth, []).append(session)
    return [found[depth] for depth in sorted(found, reverse=True)]


async def _end_wave(sessions: list[Session], deadline: float) -> dict[str, str]:
    """Ask all, wait for all; then SIGTERM, and SIGKILL for what is left."""
    how = {session.id: "asked" for session in sessions}
    for session in sessions:
        session.goodbye()
    left = await _still_there(sessions, deadline)
    for word, force in (("terminated", False), ("killed", True)):
        for session in left:
            how[session.id] = word
            session.transport.kill(force)
        left = await _still_there(left, clock() + TERM_SECONDS)
    for session in sessions:
        if not session.over.is_set():
            session._finish(None)
    return how


async def _still_there(sessions: list[Session], deadline: float) -> list[Session]:
    return [session for session in sessions if not await session.ended_within(max(deadline - clock(), 0))]


def launch_of(spec: XSpec, name: str, loop: Loop) -> Launch:
    """What a transport needs to know, as far as the spec says it.  SpecError if that makes no sense."""
    return Launch(
        id=name,
        spec=spec,
        python=_text(spec, "python"),
        chdir=_text(spec, "chdir"),
        nice=_number(spec, "nice"),
        env=dict(spec.env),
        keepalive=_seconds(spec, "keepalive", None, zero=True),
        loop=loop,
    )


def _text(spec: XSpec, key: str) -> str | None:
    value: Any = getattr(spec, key)
    if value is True:
        raise SpecError(f"{str(spec)!r}: {key} needs a value: {key}=...")
    return value or None


def _number(spec: XSpec, key: str) -> int | None:
    text = _text(spec, key)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise SpecError(f"{str(spec)!r}: {key}={text!r} is no whole number") from None


def _seconds(spec: XSpec, key: str, default: float | None, zero: bool = False) -> float | None:
    text = _text(spec, key)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < threading.TIMEOUT_MAX or (seconds == 0 and not zero):  # nor is NaN a time
        raise SpecError(f"{str(spec)!r}: {key}={text!r} is no time in seconds")
    return seconds


def seconds_of(spec: XSpec, key: str, default: float) -> float:
    """A time in seconds that a spec names; SpecError if it is none."""
    return _seconds(spec, key, default) or default
