"""remote_exec(timeout=): what ends the code of a channel when its time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import RemoteTimeout

if TYPE_CHECKING:
    from ._session import Session
    from .wire.mux import Port

GRACE_SECONDS = 1.0  # for the code to end after each of the two exceptions


class Limit:
    """Ends the code of one channel when its time is over."""

    def __init__(self, session: Session, port: Port, seconds: float) -> None:
        self.session, self.port, self.seconds = session, port, seconds
        self.text = f"the code ran longer than {seconds:g} s"

    def over(self) -> None:
        """In the loop: interrupt it."""
        if not self.port.ended:
            self._steer("timeout")
            self.session.loop.later(GRACE_SECONDS, self.insist)

    def insist(self) -> None:
        """It has caught that, or does not look."""
        if not self.port.ended:
            self._steer("exit")
            self.session.loop.later(GRACE_SECONDS, self.give_up)

    def give_up(self) -> None:
        """Whoever waits is told; the code may run on."""
        self.session.end_channel(
            self.port, RemoteTimeout(f"{self.text}, and does not end; Channel.cancel(kill=True) would")
        )

    def _steer(self, verb: str) -> None:
        self.session.tell(verb, channels=str(self.port.number), text=self.text)
