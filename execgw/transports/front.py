"""How a resumable session is reached where a process can be started: its first link, and each one after that.

What is started is a front (worker/tasks/keep_front.py) in place of a worker; the first one starts the keeper.  The
kinds of gateway start it as they would start a worker, wherever that is.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import select
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..errors import AuthenticationFailed, SpecError, StartError
from ..peer.compat import clock
from ..wire import frames as f
from .base import Ended
from .keeping import FrontLink, KeptTransport
from .process import interpreter
from .resume import Final
from .tcp import START_SECONDS, TcpTransport

if TYPE_CHECKING:
    from .._session import Session
    from . import Kind
    from .base import Launch, Transport

NAME = b"execgw keep 1\n"
MOST_ANSWER = 64 << 20  # bytes of what a keeper says of its session
MOST_NOISE = 64 * 1024
WAIT_SECONDS = 0.5  # for a process to say how it ended
REFUSALS = {
    "gone": "the session is no more: its worker has ended, or its time without a near side was over",
    "secret": "the keeper of the session does not take the secret",
    "taken": "another process has taken it over",
    "seen": "the keeper of the session has never said what this side has heard",
    "starting": "the worker was not ready when its near side went",
    "bye": "the worker was asked to end",
}


def proof(secret: str, role: str, *words: object) -> str:
    """As in worker/tasks/keep_front.py."""
    text = NAME + "\n".join([role, *map(str, words)]).encode("utf-8")
    return hmac.new(secret.encode("ascii"), text, hashlib.sha256).hexdigest()


class NoWayBack(Exception):
    """The session cannot be resumed; *code* is the exit code of its worker, if that is why."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


class FrontConnector:
    """Reaches one session by starting fronts as *kind* starts workers; see resume.Connector."""

    def __init__(self, kind: Kind, launch: Launch, grace: float, facts: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.launch = replace(launch, front=True)
        self.grace = grace
        self.forked = launch.factory is not None and launch.factory.is_here
        self.where = f"gateway {launch.id!r}"
        known = facts or {"id": secrets.token_hex(16), "secret": secrets.token_hex(32)}
        self.id: str = known["id"]
        self.secret: str = known["secret"]
        self.epoch = 1
        self.keepalive = 0.0
        self.first: Transport | None = None
        self.adopted: tuple[FrontLink, int] | None = None  # the link that attach() made
        self._trying: Transport | None = None

    @property
    def facts(self) -> dict[str, str]:
        """What another process needs, beside the spec."""
        return {"id": self.id, "secret": self.secret}

    def start(self, first: bool = False) -> Transport:
        """What leads to the keeper, or is to become it; not connected so far."""
        # The fork server's child is the keeper itself; any interpreter can lead to that.
        return self.kind.start(self.launch if first or not self.forked else replace(self.launch, factory=None), None)

    # -- as resume.Connector has it

    def connect(self, seen: int | None, seconds: float) -> tuple[Transport, int | None]:
        first, self.first = self.first, None
        adopted, self.adopted = self.adopted, None
        if adopted is not None:
            return adopted
        if first is not None:
            return self._begin(first, seconds), None
        try:
            raw, told, data = self._reach("resume", seen, seconds)
        except NoWayBack as e:
            raise Final(Ended(e.code, "", f"the link broke, and cannot be resumed: {e}")) from e
        except StartError as e:
            raise ConnectionError(0, str(e)) from e
        return FrontLink(raw, data), told["had"]

    def heard(self) -> None:
        """Nothing depends on it."""

    def end(self, force: bool) -> Ended | None:
        return None

    def close(self) -> None:
        raw = self._trying
        if raw is not None:
            raw.close_link()

    # -- the first link

    def _begin(self, raw: Transport, seconds: float) -> FrontLink:
        same = not interpreter(self.launch) and self.launch.spec.popen and self.launch.factory is None
        program, boot = ("", b"") if self.forked else _bundle.for_same() if same else _bundle.for_other(1)
        request = {
            "do": "start", "id": self.id, "secret": self.secret, "grace": self.grace, "keepalive": self.keepalive,
            "out": raw.out, "program": program, "worker_out": not same, "size": len(boot),
        }  # fmt: skip
        data = _connect(raw)
        talk = _Talk(raw, self.where, clock() + seconds)
        with contextlib.suppress(StartError):  # it did not read all: why is in what it says
            talk.say(raw.bootstrap() + _line(request) + boot)
        return FrontLink(raw, data, starts=True)

    # -- the next ones

    def attach(self, seconds: float) -> tuple[Transport, dict[str, Any]]:
        """Take the session over from another process: what carries the new link, and the state of the session."""
        self.epoch = 0
        raw, told, data = self._reach("attach", None, seconds)
        self.keepalive = told["keepalive"]
        state: dict[str, Any] = told["state"]
        self.adopted = FrontLink(raw, data), state["seq"]
        return raw, {**state, "epoch": self.epoch}

    def _reach(self, do: str, seen: int | None, seconds: float) -> tuple[Transport, dict[str, Any], bytes]:
        raw = self._trying = self.start()
        try:
            return (raw, *self._shake(raw, do, seen, clock() + seconds))
        except BaseException:
            raw.close_link()
            raw.kill(force=True)
            raw.on_end(raw.close)
            raise
        finally:
            self._trying = None

    def _shake(self, raw: Transport, do: str, seen: int | None, deadline: float) -> tuple[dict[str, Any], bytes]:
        talk = _Talk(raw, self.where, deadline)
        talk.data = _connect(raw)
        nonce = secrets.token_hex(32)
        talk.say(raw.bootstrap() + _line({"do": do, "id": self.id, "nonce": nonce, "out": raw.out}))
        talk.skip_noise()
        told = talk.hear()
        if "refused" not in told:
            theirs = str(told.get("nonce"))
            if not hmac.compare_digest(str(told.get("proof")), proof(self.secret, "keeper", self.id, nonce, theirs)):
                raise NoWayBack("the secret is not that of the session, or what answers is not its keeper")
            words = (self.id, nonce, theirs, do, self.epoch, seen)
            talk.say(_line({"proof": proof(self.secret, "near", *words), "epoch": self.epoch, "seen": seen}))
            told = talk.hear()
        if "refused" in told:
            raise refusal(str(told["refused"]))
        self.epoch = told["epoch"]
        return told, talk.data


def refusal(word: str) -> NoWayBack:
    """What a keeper's refusal means."""
    word, _, code = word.partition(" ")
    if word == "ended":
        return NoWayBack(f"the worker has ended (exit code {code})", int(code))
    return NoWayBack(REFUSALS.get(word, f"the keeper of the session says {word[:50]!r}"))


def _connect(raw: Transport) -> bytes:
    return raw.connect_now() if isinstance(raw, TcpTransport) else b""


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


class _Talk:
    """A handshake over a transport that never blocks."""

    def __init__(self, raw: Transport, where: str, deadline: float) -> None:
        self.raw, self.where, self.deadline = raw, where, deadline
        self.data = b""

    def say(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.raw.write([view]) :]
            if view:
                self.raw.wait_writable(self._left())

    def _left(self) -> float:
        left = self.deadline - clock()
        if left <= 0:
            raise StartError(f"{self.where}: the keeper of its session did not answer in time")
        return left

    def _read(self) -> None:
        fd = self.raw.fileno()
        poller = select.poll()
        poller.register(fd if fd is not None else -1, select.POLLIN)
        poller.poll(self._left() * 1000 + 1)
        data = self.raw.read()
        if data == b"":
            raise self._ended()
        self.data += data or b""

    def _ended(self) -> StartError:
        """Why what was started to reach the keeper has ended."""
        end = clock() + WAIT_SECONDS
        poller = select.poll()
        while self.raw.ended() is None and clock() < end:
            poller.poll(5)
        ended = self.raw.ended()
        words = (ended.stderr if ended else self.raw.last_words()).strip()[-500:]
        code = "" if ended is None or ended.exit_code is None else f" (exit code {ended.exit_code})"
        return StartError(f"{self.where}: the link ended before the keeper answered{code}{words and ': '}{words}")

    def skip_noise(self) -> None:
        """What login shells and the like write before the start marker."""
        while True:
            before, marker, rest = self.data.partition(f.MARKER)
            if marker:
                self.data = rest
                return
            if len(before) > MOST_NOISE:
                raise StartError(f"{self.where}: {len(before)} bytes came, and no answer of a keeper: {before[:80]!r}")
            self._read()

    def hear(self) -> dict[str, Any]:
        while b"\n" not in self.data:
            if len(self.data) > MOST_ANSWER:
                raise StartError(f"{self.where}: the keeper's answer does not end")
            self._read()
        line, _, self.data = self.data.partition(b"\n")
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise StartError(f"{self.where}: what answers is no keeper: {line[:80]!r}")
        return told


def start(kind: Kind, launch: Launch, via: Session | None, grace: float) -> Transport:
    """A gateway of any kind, with resume=."""
    check(launch, via)
    connector = FrontConnector(kind, launch, grace)
    first = connector.first = connector.start(first=True)
    connector.keepalive = first.keepalive if launch.keepalive is None else launch.keepalive
    seconds = float(str(launch.spec.start_timeout or START_SECONDS))
    return KeptTransport(connector, first, launch.loop, seconds, grace, connector.keepalive)


def attach(kind: Kind, launch: Launch, via: Session | None, facts: dict[str, str]) -> Transport:
    """The session of a ticket, which another process has left, or is to lose."""
    grace = float(str(launch.spec.resume))
    connector = FrontConnector(kind, launch, grace, facts)
    seconds = float(str(launch.spec.start_timeout or START_SECONDS))
    try:
        raw, state = connector.attach(seconds)
    except NoWayBack as e:
        error = AuthenticationFailed if "secret" in str(e) else StartError
        raise error(f"{connector.where} cannot be attached: {e}", e.code) from e
    return KeptTransport(connector, raw, launch.loop, seconds, grace, connector.keepalive, state)


def check(launch: Launch, via: Session | None) -> None:
    """SpecError if a spec asks for what cannot be resumed."""
    spec = launch.spec
    problem = ""
    if via is not None:
        problem = "its link is part of another gateway's (via=), and ends with that; give resume= to that one"
    elif launch.spec.idle:
        problem = "idle= ends a worker over whose link nothing goes; lease= counts without regard to that"
    elif spec.memory:
        problem = "a worker in this very process has no link that could break"
    elif spec.installvia:
        problem = "its listener ends with the gateway that installvia= names; start one with execgw listen"
    elif _bundle.flavour_of(interpreter(launch)):
        problem = "its keeper needs a CPython or PyPy from 3.6 on"
    if problem:
        raise SpecError(f"{str(spec)!r}: resume= cannot be: {problem}")
