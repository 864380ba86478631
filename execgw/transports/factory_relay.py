"""factory=ID: a worker that the fork server beside another gateway's worker starts; its bytes go through that gateway.

The first one takes the fork server along, as text, for nothing is installed there; it stays as long as that worker.
Where a worker cannot be forked (Python 2, Jython) it is spawned, with the same limit and deadlines.  Far half:
worker/tasks/factory_relay.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..wire import frames as f
from .base import Ended, Launch
from .channel import RelayTransport
from .factory import checked_options, deadline, fork_server

if TYPE_CHECKING:
    from .._session import Session

KILL_SECONDS = 0.5  # for a worker to be killed, before its channel is closed


def can_fork(via: Session) -> bool:
    """Whether that worker's interpreter can be a fork server: descriptors are passed, so it must be a Python 3."""
    about = via.about or {}
    platform = about.get("platform", "")
    return not about.get("python", "").startswith("2") and not platform.startswith(("java", "win", "emscripten"))


class FactoryRelayTransport(RelayTransport):
    """See the file's head."""

    task = "factory_relay"
    _waited = False

    def __init__(self, launch: Launch, via: Session) -> None:
        self._config = checked_options(_text(via, "preload"), _text(via, "limit"))
        self._deadlines = {"lease": deadline(launch, "lease"), "idle": deadline(launch, "idle")}
        self._forks = can_fork(via)
        if self._forks:
            boot = b""
            self.applied = False  # there is no interpreter to start
            argv: list[str | None] = [None]
        else:
            flavour = _bundle.flavour_of([None], (via.about or {}).get("platform", ""))
            program, boot = _bundle.for_other(1, flavour)
            argv = [None, "-c", program]
        super().__init__(launch, argv, boot, via)
        self.program = f"a worker of the factory of gateway {via.id!r}"

    def _options(self, launch: Launch, argv: list[str | None], via: Session) -> dict[str, Any]:
        relay = _bundle.task("relay")[0]
        if not self._forks:
            spawn = {"argv": argv, "env": launch.env, "cwd": launch.chdir, "nice": launch.nice}
            return {"relay": relay, "server": None, "spawn": spawn, "limit": self._config["limit"], **self._deadlines}
        server = None
        if not via.has_factory:
            server = (*fork_server(same=False), self._config)
        return {"relay": relay, "server": server, **self._deadlines}

    def started(self) -> None:
        self._via.has_factory = True

    def _finish(self, ended: Ended) -> None:
        if self.child.about is None:  # the next one takes a fork server along, should that be what was missing
            self._via.has_factory = False
        super()._finish(ended)

    def close(self) -> None:
        """A worker that was just killed still has its place; who waits for its end waits for that, too."""
        if self._killed and self._ended is None and not self._waited:
            self._waited = True
            self._via.loop.later(KILL_SECONDS, super().close)
        else:
            super().close()

    def renew(self, seconds: float | None) -> None:
        form, data = self._via.codec.encode(("renew", seconds))
        if self._ended is None:
            self._put(f.DATA, form, data)


def _text(via: Session, key: str) -> str | None:
    value = getattr(via.spec, key)
    return value if isinstance(value, str) else None
