"""The sync face: channels, and steering the code that runs behind one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .errors import GatewayClosed
from .peer import channel
from .peer.compat import clock

if TYPE_CHECKING:
    from ._output import Lines
    from ._session import Session

ASK_SECONDS = 10.0  # for the worker itself to say what came of an interrupt
AGAIN_SECONDS = 0.2  # between asynchronous exceptions, for code that catches one
OUTPUT_SECONDS = 10.0  # for what the code has printed to be handed on
TERM_SECONDS = 1.0  # between SIGTERM and SIGKILL


class Channel(channel.Channel):
    """An ordered, typed, flow-controlled two-way stream of values between two processes.

    Iterating over a channel gives its items until the other side ends.  `with channel:` closes it at the end.
    Ctrl-C in a thread that waits for a channel interrupts the code behind it, too.
    """

    _peer: Session
    _output_done: threading.Event | None = None
    stdout: Lines | None = None
    stderr: Lines | None = None

    def receive(self, timeout: float | None = None) -> Any:
        try:
            return super().receive(timeout)
        except KeyboardInterrupt:
            self._peer.tell("interrupt", channels=str(self.id))
            raise

    receive.__doc__ = channel.Channel.receive.__doc__

    def waitclose(self, timeout: float | None = None) -> None:
        try:
            super().waitclose(timeout)
        except KeyboardInterrupt:
            self._peer.tell("interrupt", channels=str(self.id))
            raise
        finally:
            if self._output_done is not None and self._port.ended:
                self._output_done.wait(OUTPUT_SECONDS)

    waitclose.__doc__ = channel.Channel.waitclose.__doc__

    def interrupt(self, timeout: float | None = ASK_SECONDS) -> str:
        """Raise KeyboardInterrupt in the code that runs behind this channel, in whichever thread that is.

        Returns what came of it:
        'interrupted'  the exception was raised there
        'pending'      the code is in a C function that does not look; it is raised when that returns
        'ended'        no code runs behind this channel (any more)
        'impossible'   the interpreter there cannot do it to that thread (docs/guide/steering.md has a table)
        Raises TimeoutError if the worker itself does not answer within *timeout* seconds, ConnectionLost if it died.
        """
        return self._steer("interrupt", timeout)

    def _steer(self, verb: str, timeout: float | None, text: str = "") -> str:
        number = str(self.id)
        return self._peer.ask(verb, timeout, channels=number, text=text)[number]

    def cancel(self, timeout: float = 5.0, kill: bool = False) -> str:
        """End the code behind this channel, by stronger means as time passes; returns what it took.

        'ended'        nothing ran any more
        'interrupted'  KeyboardInterrupt
        'exited'       SystemExit, raised again and again, for code that catches KeyboardInterrupt
        'terminated', 'killed'  with *kill*: SIGTERM and SIGKILL, which end the worker and all that runs in it
        'running'      nothing helped within *timeout* seconds (half of it for the first means)
        """
        end = clock() + timeout
        if self._has_ended(0):
            return "ended"
        for verb, word, until in (("interrupt", "interrupted", end - timeout / 2), ("exit", "exited", end)):
            while clock() < until:
                try:
                    outcome = self._steer(verb, max(until - clock(), 0.01))
                except (TimeoutError, GatewayClosed):
                    break
                if outcome == "ended" and self._has_ended(1.0):
                    return "ended"
                if self._has_ended(until - clock() if verb == "interrupt" else AGAIN_SECONDS):
                    return word
        if self._has_ended(0):
            return "ended"
        if kill:
            for force, word in ((False, "terminated"), (True, "killed")):
                self._peer.transport.kill(force)
                if self._peer.wait_over(TERM_SECONDS):
                    return word
        return "running"

    def _has_ended(self, timeout: float) -> bool:
        return bool(self._peer.wait_until(lambda port: port.ended, self._port, max(timeout, 0)))


__all__ = ["Channel"]
