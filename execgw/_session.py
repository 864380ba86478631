"""The near side of one live connection: transport + peer; its start, its questions, its end."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _bundle, _trace
from ._loop import run
from ._reasons import LAST_SECONDS, NO_TERMINAL, Silence, obituary, start_problem
from ._serving import Offers
from .errors import (
    ClosedHere,
    ConnectionLost,
    ExecgwError,
    HandshakeError,
    RemoteProtocolError,
    TimeoutError,
)
from .peer.alive import Watch
from .peer.compat import clock
from .peer.faults import again
from .peer.peer import Peer
from .wire import frames as f
from .wire.codec import Codec
from .wire.mux import Port

if TYPE_CHECKING:
    from ._loop import Loop
    from .transports.base import Launch, Transport

MOST_UNREAD = 4 << 20  # bytes that wait to be written while the worker goes on asking
MOST_NOISE = 64 * 1024  # bytes before the start marker: login banners and the like
ECHO_SIZE = 256  # bytes of noise that are looked at again with what comes
LAST_READS = 16  # reads of what an ended process has written, between looks at other gateways
LAST_BYTES = 32 << 20  # of it in all: more than any pipe or socket holds, so somebody goes on writing


ALIVE = "_execgw.peer.alive"  # as the worker calls it


class Session(Peer):
    """One live connection to a worker, as gateways see it.

    Life: begin() -> finish_start() -> ... -> goodbye() or a lost link -> over, with `lost` saying why.
    Coroutines wait by what the loop has for it, so that they serve both faces; see _loop.py.
    """

    def __init__(self, transport: Transport, launch: Launch, loop: Loop, via: Session | None = None) -> None:
        self.id = launch.id
        self.spec = launch.spec
        self.has_factory = False  # a worker was forked beside this one
        self.transport = transport
        self.loop = transport.loop = loop
        self.via = via
        super().__init__(transport, loop, transport.mux(), Codec(trusted=transport.trusted), via)
        self.mux.window = transport.window
        self.on_heard = self._on_heard
        self.on_task = lambda port, form, data: self._refuse(port, "code to run here")
        self.on_link_end = self._on_link_end
        transport.on_writable = self._on_writable
        self.begun = clock()
        self.offers: Offers = launch.offers or Offers()
        self.port = Port(0)  # what waits for HELLO and answers
        self.about: dict[str, str] | None = None  # what the worker said of itself
        self.over = loop.event()  # the process has ended, and everything is let go
        self.broken: Exception | None = None  # why the link ended, before that is told
        self.leaving = False  # we have asked it to end
        own = launch.keepalive is None or transport.watches
        self.keepalive = transport.keepalive if own else launch.keepalive or 0.0
        self.watch: Watch | None = None
        self.when_over: list[Callable[[], None]] = []
        self._greeted = False
        self._read_late = 0  # bytes, after the end of the process
        self._noise = b""
        self._numbers = itertools.count(1)
        self._answers: dict[str, dict[str, str] | None] = {}
        _trace.attach_if_asked(self)
        if transport.state is not None:
            self._go_on(transport.state)
        transport.attach(self)

    # -- starting

    def _go_on(self, state: dict[str, Any]) -> None:
        """The worker had another near side until now, which has said and heard hello."""
        self.about, self._greeted = state["about"], True
        self._numbers = itertools.count((state["epoch"] << 32) + 1)  # late answers to that one are none to us

    def begin(self, launch: Launch, execmodel: str) -> None:
        """Send what makes a worker of the process, and our HELLO behind it; then read."""
        if self.about is None:
            self._greet(launch, execmodel)
        self.transport.on_end(self._on_process_end)
        if self.via is None:
            with self.lock:
                self.turn.start()
        self.flush()

    def _greet(self, launch: Launch, execmodel: str) -> None:
        options = {"version": str(f.VERSION), "id": launch.id, "execmodel": execmodel}
        options["window"] = str(self.mux.window)
        options["chunk"] = str(self.transport.chunk)
        if self.transport.group:
            options["group"] = str(int(self.transport.group))
        if self.keepalive:
            options["keepalive"] = repr(self.keepalive)
        if not self.transport.applied:
            options.update({f"env:{name}": value for name, value in launch.env.items()})
            if launch.chdir:
                options["chdir"] = launch.chdir
            if launch.nice is not None:
                options["nice"] = str(launch.nice)
        with self.send_lock:
            data = self.transport.bootstrap() + self.mux.hello(f.pack_pairs(options))
            self.out.append(data)
            self.out_size += len(data)
        if self.keepalive:  # told unasked, so that the worker need not wait for it
            self._queue(f.TELL, 0, f.pack_pairs({"number": ALIVE, "source": _bundle.source(ALIVE)}))

    async def finish_start(self, deadline: float, seconds: float) -> None:
        """Wait for the worker's HELLO.  Raises StartError, with what it wrote to stderr; the process is then gone."""
        try:
            await self.until(lambda port: self.about is not None or self.broken, self.port, deadline - clock())
            problem = await start_problem(self, seconds)
        except BaseException:
            await self.abandon()
            raise
        if problem is None:
            self.transport.started()
            return
        await self.abandon()
        raise problem

    async def abandon(self) -> None:
        """A start that failed leaves nothing behind."""
        self.leaving = True
        self.transport.kill(force=True)
        self._finish(ClosedHere(f"gateway {self.id!r} did not start"))
        await self.ended_within(LAST_SECONDS * 2)

    def take_in(self, data: bytes) -> None:
        """Bytes of the worker; under the lock.  Before the start marker they may be anything, a login banner say."""
        if self.broken is not None:  # through a relay more may come
            return
        if not self._greeted:
            self._noise += data
            self._noise, marker, data = self._noise.partition(f.MARKER)
            if not marker:
                # The marker with its line ends or its last bytes changed, or without its NUL.
                mangled = f.MANGLED in self._noise[: -len(f.MARKER)] or f.MARKER[1:] in self._noise
                if mangled or self._is_echo(len(data)):
                    self._on_link_end(RemoteProtocolError(f"the link changes bytes: {NO_TERMINAL}"))
                elif len(self._noise) > MOST_NOISE:
                    noise = f"{len(self._noise)} bytes came, and no worker's hello: {self._noise[:80]!r}"
                    self._on_link_end(RemoteProtocolError(noise))
                return
            self._greeted = True
        super().take_in(data)

    def _is_echo(self, size: int) -> bool:
        """Whether a terminal sends back what we have sent.  Control characters come back as ^X, or not; some erase."""
        sent = self.transport.bootstrap()
        newest = self._noise[-size - ECHO_SIZE :]  # all of it after each byte would take long
        shown = re.sub(rb"[\0-\x1f]", lambda match: bytes([94, match[0][0] + 64]), sent)
        for text, between in (sent, rb"\^[@-_?]|[\r\n\x08]+"), (shown, rb"[\r\n\x08]+"):
            if any(len(piece) >= 6 and piece in text for piece in re.split(between, newest)):
                return True
        return False

    # -- hearing and asking; under the lock

    def _on_heard(self, kind: int, payload: bytes) -> None:
        if kind == f.HELLO:
            if self.about is not None:
                raise RemoteProtocolError("it said hello twice")
            if self.keepalive:
                self._keep_alive()
            self.about = f.unpack_pairs(payload)
            self._wake_port_locked()
        elif kind == f.TELL:
            told = f.unpack_pairs(payload)
            if told.get("number") in self._answers:
                self._answers[told["number"]] = told
                self._wake_port_locked()
        elif kind == f.ASK:
            if self.out_size > MOST_UNREAD:
                raise RemoteProtocolError("it asks, and does not read the answers")
            asked = f.unpack_pairs(payload)
            self._queue(f.TELL, 0, f.pack_pairs({"number": asked.get("number", ""), **self.offers.answer(asked)}))

    def leave(self, reason: ExecgwError) -> None:
        """The worker lives on, without us."""
        self.leaving = True
        self._finish(reason)

    def _wake_port_locked(self) -> None:
        for waiter in self.port.waiters:
            waiter.wake()

    def ask(self, verb: str, timeout: float | None = None, **details: str) -> dict[str, str]:
        """The same as answer(), in the sync face."""
        return run(self.answer(verb, timeout, **details))

    async def answer(self, verb: str, timeout: float | None = None, **details: str) -> dict[str, str]:
        """Ask the worker itself something; it answers though its code computes."""
        number = str(next(self._numbers))
        self._answers[number] = None
        try:
            if self.lost is not None:
                raise again(self._reason())
            self.control(f.ASK, 0, f.pack_pairs({"number": number, "verb": verb, **details}))
            if not await self.until(lambda port: self._answers[number] or self.lost, self.port, timeout):
                raise TimeoutError(f"gateway {self.id!r}: no answer to {verb!r} within {timeout} s")
            answer = self._answers[number]
        finally:
            del self._answers[number]
        if answer is None:
            raise again(self._reason())
        if "problem" in answer:
            raise ExecgwError(f"gateway {self.id!r}: {verb}: {answer['problem']}")
        return answer

    def tell(self, verb: str, **details: str) -> None:
        """The same, when nobody waits for the answer."""
        if self.lost is None:
            self.control(f.ASK, 0, f.pack_pairs({"number": "", "verb": verb, **details}))

    def end_channel(self, port: Port, error: Exception) -> None:
        """Close a channel from here; who waits on it gets *error*."""
        with self.lock:
            if port.closed:
                return
            port.error = error
        self.close(port)

    def _reason(self) -> Exception:
        reason: Exception = self.lost
        return reason

    # -- keep-alive

    def _keep_alive(self) -> None:
        """From now on say something now and then, and notice it if the worker says nothing."""
        me, loop = weakref.ref(self), self.loop  # a timer must not keep a session
        self.watch = watch = Watch(self.keepalive)

        def look() -> None:
            session = me()
            if session is None or session.broken is not None:
                return
            silent = not watch.look(session)
            if session._hop_is_silent():
                watch.silent = 0  # that hop is the one that will be lost
            elif silent and not session.transport.hears_of_death:
                session._on_silence()
                return
            loop.later(watch.pause, look)

        loop.later(watch.pause, look)

    def _hop_is_silent(self) -> bool:
        hop = self.via
        while hop is not None and (hop.watch is None or hop.watch.silent < 3):  # it speaks at every second look
            hop = hop.via
        return hop is not None

    def _on_silence(self) -> None:
        """In the loop."""
        heard = f"nothing was heard of the worker for {self.keepalive:g} s"
        hint = "the way to it is cut, or C code there keeps all threads from running; keepalive= allows more seconds"
        with self.lock:
            self._on_link_end(Silence(f"{heard}: {hint}"))

    # -- ending

    def _on_writable(self) -> None:
        self.flush()

    def _on_link_end(self, reason: Exception | None) -> None:
        """Under the lock: EOF, or the other side broke the rules."""
        if self.broken is not None:
            return
        if isinstance(reason, RemoteProtocolError) and self.about is None:
            reason = HandshakeError(f"gateway {self.id!r}: {reason}")
        self.broken = reason or ConnectionLost("the link ended")
        self.loop.call_soon(self._on_broken)

    def _on_broken(self) -> None:
        """In the loop: learn how the process ended before anybody is told, but not for long."""
        self.transport.close_link()
        if self.transport.ended() is None:
            at_once = isinstance(self.broken, (RemoteProtocolError, Silence))
            self.loop.later(0 if at_once else LAST_SECONDS, self._on_lingering)
        else:
            self._finish(None)

    def _on_lingering(self) -> None:
        if not self.over.is_set() and self.transport.ended() is None:
            self.transport.kill(force=True)
            self.loop.later(LAST_SECONDS, lambda: self._finish(None))

    def _on_process_end(self) -> None:
        """In the loop.  What the process had written is still to be read, then its end is told."""
        with self.lock:
            for _ in range(LAST_READS):
                if self.broken is not None:
                    break
                data = self.transport.read()
                if not data or self._read_late > LAST_BYTES:
                    self._on_link_end(None)
                else:
                    self._read_late += len(data)
                    self.take_in(data)
        if self.broken is None:
            self.loop.later(0, self._on_process_end)
        else:
            self._on_broken()

    def _finish(self, reason: Exception | None) -> None:
        """Tell everybody that it is over, and let go of everything.  May be called more than once, in any thread."""
        with self.lock:
            if self.over.is_set():
                return
            if self.broken is None:
                self.broken = reason or ConnectionLost("")
            self._wake_port_locked()
        self.lose(reason or obituary(self, self.transport.ended()))
        if self.via is not None and self in self.via.relays:
            self.via.relays.remove(self)
        self.transport.close()
        if self.transport.ended() is not None:
            self.over.set()
        else:
            self.transport.on_end(self.over.set)
        calls, self.when_over = self.when_over, []
        for call in calls:
            call()

    def _lost_hop(self) -> Session | None:
        """The first gateway on the way to this one that is no more."""
        lost, hop = None, self.via
        while hop is not None:
            lost, hop = hop if hop.lost is not None else lost, hop.via
        return lost

    def goodbye(self) -> None:
        """Ask the worker to end.  Returns at once."""
        with self.lock:
            if self.leaving or self.lost is not None:
                return
            self.leaving = True
        self.control(f.BYE, 0)

    # -- waiting

    async def until(self, test: Callable[[Port], Any], port: Port, timeout: float | None = None) -> Any:
        """Wait until test(port) is true, and return it; false after *timeout* seconds."""
        return await self.loop.until(self, test, port, timeout)

    async def ended_within(self, timeout: float | None) -> bool:
        """Wait until the process has ended; false if it has not after *timeout* seconds."""
        return await self.loop.happened(self.over, timeout)
