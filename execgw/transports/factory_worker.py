"""One worker of a factory on this host, as its session sees it; factory.py is the link to the factory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

from ..errors import StartError
from .base import Ended, Launch, _shared_sockets
from .factory import deadline
from .process import StderrTransport, link_pair

if TYPE_CHECKING:
    from .._session import Session
    from .factory import Factory

PIDFD_SIGNAL_PROCESS_GROUP = 4  # of Linux 6.9


class FactoryTransport(StderrTransport):
    """A worker that a factory on this host has started."""

    trusted = True
    group = 1

    def __init__(self, launch: Launch, factory: Factory) -> None:
        self.factory = factory
        self.number = 0
        self.pid = 0
        self.lease = deadline(launch, "lease")
        self.idle = deadline(launch, "idle")
        self.keeps = launch.front  # it keeps another one, which is the worker
        self.where = f"gateway {launch.id!r}"
        self.program = f"a worker of {factory}"
        self.session: Session | None = None
        self._telling = threading.Lock()
        self.refusal: StartError | None = None
        self._pidfd = -1
        self._seen = 0  # frames
        ours, theirs = link_pair()
        err, their_err = os.pipe()
        super().__init__(ours, err, launch.loop)
        # Open until the factory has answered, so that its answer is here before an end of file can be.
        self._theirs: socket.socket | None = theirs
        self._their_err = their_err
        _shared_sockets.add(theirs)
        try:
            factory.start(self)
        except BaseException:
            self._let_go()
            self._ended = Ended()
            self.close()
            raise
        if self.idle is not None:
            self._watch(self.idle / 4)

    def attach(self, session: Session) -> None:
        with self._telling:
            self.session = session
            refusal = self.refusal
        if refusal is not None:
            with session.lock:
                session._on_link_end(refusal)

    def descriptors(self) -> list[int]:
        """What the worker gets: its link and its stderr."""
        assert self._theirs is not None
        return [self._theirs.fileno(), self._their_err]

    def _let_go(self) -> None:
        theirs, self._theirs = self._theirs, None
        if theirs is not None:
            _shared_sockets.discard(theirs)
            theirs.close()
            os.close(self._their_err)

    # -- told by the factory; in the loop

    def on_started(self, pid: int, pidfd: int) -> None:
        """It runs."""
        self.pid, self._pidfd = pid, pidfd
        self._let_go()

    def on_refused(self, why: str) -> None:
        """It was not started."""
        self._ended = Ended()
        refusal = StartError(f"{self.where}: {self.factory} refuses: {why}")
        with self._telling:
            self.refusal, session = refusal, self.session
        if session is not None:
            with session.lock:
                session._on_link_end(refusal)
        self._let_go()
        self._end(Ended())

    def on_ended(self, code: int | None, why: str) -> None:
        """It has ended."""
        if self._ended is not None:
            return
        self._let_go()
        self._close_pidfd()
        self._read_last_stderr()
        self._end(Ended(code, self.last_words(), why))

    def on_factory_gone(self) -> None:
        """The worker lives on without it, for its link is ours; but nobody would end one that has a deadline."""
        if self._ended is not None:
            return
        if not self.pid:
            self._know_by_itself()
        if not self.pid:
            self.on_refused("it has ended")
        elif self._pidfd < 0:
            self.on_ended(None, "the factory that watched it has ended")
        else:
            self.loop.when_readable(self._pidfd, lambda: self.on_ended(None, why))
            why = ""
            if self.lease is not None or self.idle is not None:
                why = "the factory that watched its deadline has ended"
                self.kill(force=True)

    def _know_by_itself(self) -> None:
        """The factory has started the worker, which said hello, and was killed before it could say so itself."""
        about = self.session.about if self.session is not None else None
        if about is not None:
            self.pid = int(about["pid"])
            with contextlib.suppress(AttributeError, OSError):
                self._pidfd = os.pidfd_open(self.pid)
            self._let_go()

    def _close_pidfd(self) -> None:
        with self.loop.lock:
            fd, self._pidfd = self._pidfd, -1
            if fd >= 0:
                self.loop.forget(fd)
                os.close(fd)

    # -- the process

    def kill(self, force: bool) -> None:
        if self._ended is not None:
            return
        if self.keeps and not force:  # a link is over; the keeper knows when it is to end
            self.close_link()
            return
        number = int(signal.SIGKILL if force else signal.SIGTERM)
        if self.factory.tell({"do": "signal", "n": self.number, "number": number}) or self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except OSError:  # an older kernel: the leader; what it has started ends with what it holds open
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, number)

    def renew(self, seconds: float | None) -> None:
        self.factory.tell({"do": "renew", "n": self.number, "seconds": seconds})

    def _watch(self, pause: float) -> None:
        """Tell the factory now and then that the worker is not idle."""

        def look() -> None:
            session = self.session
            if self._ended is not None or (session is not None and session.lost is not None):
                return
            if session is not None:
                frames = session.mux.seq + session.mux.received_seq
                if frames != self._seen:
                    self._seen = frames
                    self.factory.tell({"do": "active", "n": self.number})
            self.loop.later(pause, look)

        self.loop.later(pause, look)

    def close(self) -> None:
        super().close()
        if self._ended is not None:
            self._let_go()
            self._close_pidfd()
