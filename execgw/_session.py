"""The near side of one live connection: transport + peer; its start, its questions, its end."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _bundle
from ._loop import run
from .errors import (
    ClosedHere,
    ConnectionLost,
    ExecgwError,
    HandshakeError,
    HostNotReached,
    RemoteProtocolError,
    StartError,
    TimeoutError,
)
from .peer.compat import clock
from .peer.faults import again
from .peer.peer import Peer
from .transports.base import Ended
from .wire import frames as f
from .wire.codec import Codec
from .wire.mux import Mux, Port

if TYPE_CHECKING:
    from ._loop import Loop
    from .transports.base import Explanation, Launch, Transport

MOST_UNREAD = 4 << 20  # bytes that wait to be written while the worker goes on asking
MOST_NOISE = 64 * 1024  # bytes before the start marker: login banners and the like
NO_TERMINAL = (
    "a terminal changes bytes; leave out the option that asks for one: ssh -t, docker exec -t, kubectl exec -t, script"
)
LAST_SECONDS = 0.5  # how long a process may live on after its link has ended, before it is killed
UNTRUSTED_HELD = 256 << 20  # bytes of values that may wait here, from a worker that is not our own child
UNTRUSTED_CHANNELS = 4096  # that it opened itself, at a time
UNTRUSTED_VALUE = 128 << 20  # bytes of one value from there


class Session(Peer):
    """One live connection to a worker, as gateways see it.

    Life: begin() -> finish_start() -> ... -> goodbye() or a lost link -> over, with `lost` saying why.
    Coroutines wait by what the loop has for it, so that they serve both faces; see _loop.py.
    """

    def __init__(self, transport: Transport, launch: Launch, loop: Loop, via: Session | None = None) -> None:
        self.id = launch.id
        self.transport = transport
        self.loop = transport.loop = loop
        self.via = via
        limits = () if transport.trusted else (UNTRUSTED_VALUE, UNTRUSTED_HELD, UNTRUSTED_CHANNELS)
        super().__init__(transport, loop, Mux(1, *limits), Codec(trusted=transport.trusted), via)
        self.mux.window = transport.window
        self.on_heard = self._on_heard
        self.on_task = lambda port, form, data: self._refuse(port, "code to run here")
        self.on_link_end = self._on_link_end
        transport.on_writable = self._on_writable
        self.port = Port(0)  # what waits for HELLO and answers
        self.about: dict[str, str] | None = None  # what the worker said of itself
        self.over = loop.event()  # the process has ended, and everything is let go
        self.broken: Exception | None = None  # why the link ended, before that is told
        self.leaving = False  # we have asked it to end
        self.when_over: list[Callable[[], None]] = []
        self._greeted = False
        self._noise = b""
        self._numbers = itertools.count(1)
        self._answers: dict[str, dict[str, str] | None] = {}
        transport.attach(self)

    # -- starting

    def begin(self, launch: Launch, execmodel: str) -> None:
        """Send what makes a worker of the process, and our HELLO behind it."""
        options = {"version": str(f.VERSION), "id": launch.id, "execmodel": execmodel}
        options["window"] = str(self.mux.window)
        options["chunk"] = str(self.transport.chunk)
        if self.transport.group:
            options["group"] = "1"
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
        self.transport.on_end(self._on_process_end)
        if self.via is None:
            with self.lock:
                self.turn.start()
        self.flush()

    async def finish_start(self, deadline: float, seconds: float) -> None:
        """Wait for the worker's HELLO.  Raises StartError, with what it wrote to stderr; the process is then gone."""
        try:
            await self.until(lambda port: self.about is not None or self.broken, self.port, deadline - clock())
            problem = await self._start_problem(seconds)
        except BaseException:
            await self.abandon()
            raise
        if problem is None:
            self.transport.started()
            return
        await self.abandon()
        raise problem

    async def _start_problem(self, seconds: float) -> StartError | None:
        where = f"gateway {self.id!r}"
        how = self.transport.program
        if self.about is not None:
            if self.about.get("problem"):
                return StartError(f"{where}: the worker could not start: {self.about['problem']}")
            if self.about.get("version") != str(f.VERSION):
                version = self.about.get("version")
                return HandshakeError(f"{where}: the worker speaks version {version!r}, this side {f.VERSION}")
            try:
                self.codec.protocol = min(self.codec.protocol, max(int(self.about["protocol"]), 2))
            except (KeyError, ValueError):
                return HandshakeError(f"{where}: the worker's hello makes no sense: {self.about!r}"[:500])
            return None
        noise = self._noise[:200]
        if self.broken is None:
            self.transport.kill(force=True)
            await self.ended_within(LAST_SECONDS)  # a relay tells the last words of its child when that has ended
            ended = self.transport.ended()
            said = _said(ended.stderr if ended else self.transport.last_words(), noise)
            return StartError(f"{where}: no answer within {seconds:g} s{said}; it was started as: {how}"[:2000])
        if isinstance(self.broken, (HandshakeError, HostNotReached)):
            return self.broken
        await self.ended_within(LAST_SECONDS * 2)
        ended = self.transport.ended() or Ended()
        code, stderr = ended.exit_code, ended.stderr
        kind, hint = self._meaning(ended) or (StartError, "")
        text = f"{where}: the process ended during the start ({_exit(code)}){_said(stderr, noise)}"
        hint = f"\n    {hint}" if hint else ""
        return kind(f"{text}; it was started as: {how}"[:4000] + hint, code, stderr)

    def _meaning(self, ended: Ended) -> Explanation | None:
        said = ended.stderr + self._noise.decode("utf-8", "replace")
        if _bundle.A_TERMINAL in said:
            return HandshakeError, NO_TERMINAL
        if _bundle.CHANGED in said:
            return HandshakeError, "what is between must carry all 256 byte values unchanged"
        return self.transport.explain(ended) if self.transport.explain else None

    async def abandon(self) -> None:
        """A start that failed leaves nothing behind."""
        self.leaving = True
        self.transport.kill(force=True)
        self._finish(ClosedHere(f"gateway {self.id!r} did not start"))
        await self.ended_within(LAST_SECONDS * 2)

    def take_in(self, data: bytes) -> None:
        """Bytes of the worker; under the lock.  Before the start marker they may be anything, a login banner say."""
        if not self._greeted:
            self._noise += data
            self._noise, marker, data = self._noise.partition(f.MARKER)
            if not marker:
                if f.MANGLED in self._noise[: -len(f.MARKER)] or self._is_echo():
                    self._on_link_end(RemoteProtocolError(f"the link changes bytes: {NO_TERMINAL}"))
                elif len(self._noise) > MOST_NOISE:
                    noise = f"{len(self._noise)} bytes came, and no worker's hello: {self._noise[:80]!r}"
                    self._on_link_end(RemoteProtocolError(noise))
                return
            self._greeted = True
        super().take_in(data)

    def _is_echo(self) -> bool:
        """Whether a terminal sends back what we have sent.  Control characters come back as ^X, and act on programs."""
        sent = self.transport.bootstrap()
        return any(len(piece) >= 6 and piece in sent for piece in re.split(rb"\^[@-_?]|[\r\n]+", self._noise))

    # -- hearing and asking; under the lock

    def _on_heard(self, kind: int, payload: bytes) -> None:
        if kind == f.HELLO:
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
            self._queue(f.TELL, 0, f.pack_pairs({"number": asked.get("number", ""), **_answer(asked)}))

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
            self.loop.later(0 if isinstance(self.broken, RemoteProtocolError) else LAST_SECONDS, self._on_lingering)
        else:
            self._finish(None)

    def _on_lingering(self) -> None:
        if not self.over.is_set() and self.transport.ended() is None:
            self.transport.kill(force=True)
            self.loop.later(LAST_SECONDS, lambda: self._finish(None))

    def _on_process_end(self) -> None:
        """In the loop.  What the process had written is still to be read, then its end is told."""
        with self.lock:
            for _ in range(10000):
                if self.broken is not None:
                    break
                data = self.transport.read()
                if not data:
                    self._on_link_end(None)
                else:
                    self.take_in(data)
        self._on_broken()

    def _finish(self, reason: Exception | None) -> None:
        """Tell everybody that it is over, and let go of everything.  May be called more than once, in any thread."""
        with self.lock:
            if self.over.is_set():
                return
            if self.broken is None:
                self.broken = reason or ConnectionLost("")
            self._wake_port_locked()
        self.lose(reason or self._obituary(self.transport.ended()))
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

    def _obituary(self, ended: Ended | None) -> ExecgwError:
        if self.leaving:
            return ClosedHere(f"gateway {self.id!r} was ended by this side")
        code = ended.exit_code if ended else None
        stderr = ended.stderr if ended else ""
        why = f": {self.broken}" if isinstance(self.broken, RemoteProtocolError) else ""
        lost = ConnectionLost(f"gateway {self.id!r}: connection lost ({_exit(code)}{why}){_said(stderr, b'')}")
        lost.exit_code = code
        lost.signal = signal.Signals(-code).name if code is not None and code < 0 else None
        lost.stderr = stderr
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


def _exit(code: int | None) -> str:
    if code is None:
        return "how it ended is not known"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _said(stderr: str, noise: bytes) -> str:
    text = ""
    if noise:
        text += f"; it wrote {noise[:200]!r} where a worker's hello was expected"
    if stderr.strip():
        text += "; its stderr ends:\n    " + "\n    ".join(stderr.strip().splitlines()[-8:]) + "\n "
    return text


def _answer(asked: dict[str, str]) -> dict[str, str]:
    """What a worker may ask: only the text of our own far modules."""
    if asked.get("verb") == "module":
        try:
            return {"source": _bundle.source(asked.get("name", ""))}
        except KeyError:
            return {"problem": "no such module is served"}
    return {"problem": "no such question"}
