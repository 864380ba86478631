"""The sync face: channels, and steering the code that runs behind one."""

from __future__ import annotations

from typing import Any

from ._face import ASK_SECONDS, NearChannel
from ._loop import run


class Channel(NearChannel):
    """An ordered, typed, flow-controlled two-way stream of values between two processes.

    Iterating over a channel gives its items until the other side ends.  `with channel:` closes it at the end.
    Ctrl-C in a thread that waits for a channel interrupts the code behind it, too.
    """

    def receive(self, timeout: float | None = None) -> Any:
        try:
            return super().receive(timeout)
        except KeyboardInterrupt:
            self._peer.tell("interrupt", channels=str(self.id))
            raise

    receive.__doc__ = NearChannel.receive.__doc__

    def waitclose(self, timeout: float | None = None) -> None:
        try:
            super().waitclose(timeout)
        except KeyboardInterrupt:
            self._peer.tell("interrupt", channels=str(self.id))
            raise
        finally:
            run(self._output_handed_on())

    waitclose.__doc__ = NearChannel.waitclose.__doc__

    def interrupt(self, timeout: float | None = ASK_SECONDS) -> str:
        """Raise KeyboardInterrupt in the code that runs behind this channel, in whichever thread that is.

        Returns what came of it:
        'interrupted'  the exception was raised there
        'pending'      the code is in a C function that does not look; it is raised when that returns
        'ended'        no code runs behind this channel (any more)
        'impossible'   the interpreter there cannot do it to that thread (docs/guide/steering.md has a table)
        Raises TimeoutError if the worker itself does not answer within *timeout* seconds, ConnectionLost if it died.
        """
        return run(self._steer("interrupt", timeout))

    def cancel(self, timeout: float = 5.0, kill: bool = False) -> str:
        """End the code behind this channel, by stronger means as time passes; returns what it took.

        'ended'        nothing ran any more
        'interrupted'  KeyboardInterrupt
        'exited'       SystemExit, raised again and again, for code that catches KeyboardInterrupt
        'terminated', 'killed'  with *kill*: SIGTERM and SIGKILL, which end the worker and all that runs in it
        'running'      nothing helped within *timeout* seconds (half of it for the first means)
        """
        return run(self._cancel(timeout, kill))


__all__ = ["Channel"]
