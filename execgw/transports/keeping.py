"""resume=: the near side of a session that a keeper beside the worker keeps; another process may take it over.

resume.py writes again what was lost with a link.  Here is what goes beyond: the keeper hears what user code has taken,
so that it can give the rest to another process; it says how the worker ended; it takes orders.  front.py finds it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ClosedHere, TimeoutError
from ..peer.compat import clock
from ..peer.faults import again
from ..spec import TICKET
from ..wire import frames as f
from ..wire.kept_mux import KeptMux
from .base import Ended, Transport
from .resume import Resuming

if TYPE_CHECKING:
    from .._loop import Loop
    from .._session import Session
    from ..wire.mux import Mux, Port
    from .front import FrontConnector

ACK_BYTES = 256 * 1024  # that came, before the keeper is told so, though there is nothing else to say
TELL_SECONDS = 0.02  # what user code has taken is told as often as this at most
END_SECONDS = 2.0  # for what carried a link to end by itself
LAST_READS = 16  # of a link whose process has ended
LOOKS = 8  # in the time of keepalive=


class FrontLink(Transport):
    """One link to the keeper, over a transport *raw* that is connected; *data* has come already."""

    def __init__(self, raw: Transport, data: bytes, starts: bool = False) -> None:
        self.raw = raw
        self.remoteaddress = raw.remoteaddress
        self.owner: KeptTransport
        self.starts = starts  # the worker with it
        self._data = data

    def fileno(self) -> int | None:
        return self.raw.fileno()

    def read(self) -> bytes | None:
        data: bytes | None
        data, self._data = self._data, b""
        if data:
            return data
        data = self.raw.read()
        if data == b"" and self._has_no_worker() and self.owner.carries(self.raw) and self.raw.ended() is None:
            return None  # in a moment we know why
        return data

    def _has_no_worker(self) -> bool:
        return self.starts and self.owner.session.about is None

    def ended(self) -> Ended | None:
        """Without a worker the end of the first link is the end."""
        if not self._has_no_worker():
            return None
        if self.raw.refusal is not None:
            self.owner.session._on_link_end(self.raw.refusal)
        return self.raw.ended() or Ended()

    def write(self, pieces: list[Any]) -> int:
        return self.raw.write(pieces)

    def want_write(self) -> None:
        self.raw.on_writable = self.on_writable
        self.raw.want_write()

    def cut(self) -> None:
        """Nothing is heard over it: reading finds the end."""
        self.raw.close_link()

    def close_link(self) -> None:
        self.owner.dispose(self.raw)


class KeptTransport(Resuming):
    """See the file's head."""

    resumes = True
    group = 1

    def __init__(
        self,
        connector: FrontConnector,
        first: Transport,
        loop: Loop,
        seconds: float,
        grace: float,
        keepalive: float,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(connector, loop, first.program, seconds, grace)
        self.front = connector
        self.trusted, self.chunk, self.window = first.trusted, first.chunk, first.window
        self.applied, self.remoteaddress = first.applied, first.remoteaddress
        self.explain = first.explain
        self.beat = keepalive
        self.kept_mux = KeptMux(1)
        self.kept_mux.on_taken = self._tell_soon
        self.kept_mux.on_fed = self._fed
        if state is not None:
            self.state = state
            self.kept_mux.restore(state)
            self.adopted = list(self.kept_mux.ports.values())
            self.window = state["window"]
        self._raw = first  # the newest: whose stderr is shown
        self._carriers = {first}  # all that have not ended
        self._urgent = b""
        self._telling = self._over = self._done = self._shown = self._leaving = False
        self._said = -1
        self._last_heard = clock()
        self._unacked = 0

    def mux(self) -> Mux:
        return self.kept_mux

    def attach(self, session: Session) -> None:
        state = self.state or {"channels": {}}
        for number, line in state["channels"].items():
            if line["unfinished"]:  # of the near side that was here before
                session._queue(f.DATA, int(number), b"", f.ABORT)
        super().attach(session)
        self._watch(self._raw)
        if self.beat:
            self.loop.later(self.beat / LOOKS, self._look)

    def started(self) -> None:
        self._shown = True
        self._raw.show = self.show
        self._raw.started()

    def doing(self) -> str:
        return self._raw.doing()

    def last_words(self) -> str:
        return self._raw.last_words()

    # -- what carries a link

    def _watch(self, raw: Transport) -> None:
        def over() -> None:
            self._read_last(raw)
            raw.close()
            self._carriers.discard(raw)
            if self._done and not self._carriers and self._on_end is not None:
                self._on_end()

        self._carriers.add(raw)
        raw.on_end(over)

    def _read_last(self, raw: Transport) -> None:
        """What a link has brought before its process ended; then the session is to find the end of it."""
        link, session = self._link, self.session
        if not isinstance(link, FrontLink) or link.raw is not raw:
            return
        with session.lock:
            for last in range(LAST_READS):
                if last == LAST_READS - 1:  # the keeper has not let go of it
                    link.cut()
                if self._link is link and session.broken is None:
                    session._read()

    def carries(self, raw: Transport) -> bool:
        """Whether it is a process, whose end we shall hear of."""
        return raw.group > 1

    def dispose(self, raw: Transport) -> None:
        """Let go of it: it ends by itself, or is ended."""
        raw.close_link()
        if not self.carries(raw):
            raw.kill(force=False)
            raw.close()
            self._carriers.discard(raw)
            return

        def insist() -> None:
            if raw in self._carriers:
                raw.kill(force=True)

        self.loop.later(END_SECONDS, insist)

    def _adopt(self, link: Transport, had: int | None) -> None:
        assert isinstance(link, FrontLink)
        link.owner = self
        self._urgent = b""  # the rest of an order, perhaps, that the last link has not taken
        self._last_heard = clock()
        if link.raw is not self._raw:
            self._watch(link.raw)
            self._raw = link.raw
            if self._shown:
                self.started()
        super()._adopt(link, had)
        if not link.starts:
            self._heard = True  # the keeper has answered: the next time without a link is another one

    # -- reading; under the session's lock

    def read(self) -> bytes | None:
        data = super().read()
        if data:
            self._last_heard = clock()
            self._unacked += len(data)
        return data

    def _fed(self) -> None:
        """What was read has been understood: some of what we keep is acknowledged, perhaps."""
        if self._unacked >= ACK_BYTES:
            self._unacked = 0
            self.session._queue(f.ACK, 0)
            self.loop.flush_soon(self.session)
        with self._order:
            self._ring.trim(self.kept_mux.newest_ack)
        if self._leaving:
            self.session._wake_port_locked()
        over = self.kept_mux.over
        if over is not None and not self._over:
            self._over = True
            self.order({"do": "done"})
            code = over.get("code", "")
            why = "another process has taken it over" if over.get("why") == "taken" else ""
            number = int(code) if code.lstrip("-").isdecimal() and len(code) < 12 else None
            self._set_ended(Ended(number, over.get("stderr", ""), why))
            self.session._on_link_end(None)

    # -- what is said beside the session

    def order(self, what: dict[str, str]) -> None:
        """Say something to the keeper itself, at once; it is no part of the session, and may be lost with the link."""
        payload = f.pack_pairs(what)
        with self._order:
            head = f.HEADER.pack(f.ORDER, 0, 0, 0, 0, self.kept_mux.received_seq, len(payload))
            self._urgent += head + payload
            self._pump()

    def _pump(self) -> None:
        while True:
            link = self._link
            if link is not None and self._urgent and self._ring.is_between():
                self._urgent = self._urgent[link.write([self._urgent]) :]
                if self._urgent:  # nothing may come between
                    link.want_write()
                    return
            super()._pump()
            if link is None or not (self._urgent and self._ring.is_between()):
                return

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self.loop.later(TELL_SECONDS, self.tell_taken)

    def tell_taken(self, always: bool = False) -> None:
        """Say what user code has taken; the keeper acknowledges that."""
        session = self.session
        with session.lock:
            self._telling = False
            payload = self.kept_mux.take_untold()
            if payload or always:
                session._queue(f.TAKEN, 0, payload)
        session.flush()

    def telling(self, number: Callable[[Any], int]) -> Callable[[Any], int]:
        """Who comes after us must not give this channel's number to another one."""

        def told(channel: Any) -> int:
            found = number(channel)
            if 0 in self.kept_mux.untold:
                self.tell_taken()
            return found

        return told

    def _look(self) -> None:
        """In the loop: say something now and then, and cut a link on which nothing is heard."""
        session = self.session
        if self._ended is not None or self._closed or session.broken is not None:
            return
        link = self._link
        if link is not None:
            if self.kept_mux.seq == self._said:
                session.control(f.ACK, 0)
            self._said = self.kept_mux.seq
            if clock() - self._last_heard > self.beat and isinstance(link, FrontLink):
                link.cut()
                session.read_now()
                with session.lock:
                    session._read()
        self.loop.later(self.beat / LOOKS, self._look)

    # -- the end

    def ticket(self) -> str:
        """What another process needs to take the session over."""
        facts = {"spec": str(self.front.launch.spec), **self.front.facts}
        return TICKET + base64.urlsafe_b64encode(json.dumps(facts).encode("utf-8")).decode("ascii")

    async def let_go(self, timeout: float | None) -> str:
        """Leave, once the keeper has all that was said."""
        session = self.session
        self._leaving = True
        session.sweep()  # of channels that nobody holds the rest is of no use to anybody
        self.tell_taken(always=True)
        last = self.kept_mux.seq  # behind it come at most credit and acknowledgements, which the next one says anew

        def may_leave(port: Port) -> object:
            has_all = (self.kept_mux.newest_ack - last) & 0xFFFFFFFF <= 0x7FFFFFFF
            # Who has heard that the worker has ended waits until that is told here, and leaves nothing to anybody.
            return session.lost or (has_all and not self._over)

        done = await session.until(may_leave, session.port, timeout)
        self._leaving = False
        if session.lost is not None:
            raise again(session.lost)
        if not done:
            raise TimeoutError(f"gateway {session.id!r}: its keeper has not got all that was sent within {timeout} s")
        session.leave(ClosedHere(f"gateway {session.id!r} was detached from this process"))
        return self.ticket()

    def kill(self, force: bool) -> None:
        if self.session.about is None:
            self._raw.kill(force)
        elif self._link is not None:
            self.order({"do": "signal", "number": "9" if force else "15"})
        elif force and self._ended is None:
            self._lose(Ended(why=f"its link was broken; it ends when {self.grace:g} s are over"))
            with self.session.lock:
                self.session._on_link_end(None)

    def on_end(self, call: Callable[[], None]) -> None:
        self._on_end = call
        if self.ended() is not None:
            call()

    def ended(self) -> Ended | None:
        """How the worker ended; once this is closed, not before all that carried its links has ended, too."""
        return None if self._done and self._carriers else self._ended

    def close_link(self) -> None:
        super().close_link()
        if self._raw.fileno() is not None:  # it never became a link
            self.dispose(self._raw)

    def close(self) -> None:
        super().close()
        self._ended = self._ended or Ended()
        self._done = True
