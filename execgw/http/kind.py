"""http=: a worker that an HTTP exec-server starts; its bytes go over a WebSocket, or over plain requests.

http=HOST:PORT//token=file:F   http=https://HOST:PORT/PREFIX//tls=ca:FILE   spec=NAME   websocket=no   resume=SECONDS

The server keeps the worker, and what it sends, while the connection is cut: see transports/resume.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError, StartError
from ..transports.command import KEEPALIVE
from ..transports.tcp import MARGIN, START_SECONDS
from .client_server import KEYS, server_of

if TYPE_CHECKING:
    from .._session import Session
    from ..transports.base import Launch, Transport

GRACE = 60.0  # seconds without a connection after which both sides give up
WEBSOCKET = {None: None, "no": False, "yes": True}  # what websocket= may say


class HttpKind:
    """http=HOST:PORT, http=https://HOST:PORT/PREFIX"""

    keys = (*KEYS, "spec", "websocket", "resume")
    quick = True

    def start(self, launch: Launch, via: Session | None) -> Transport:
        spec = launch.spec
        text = repr(str(spec))
        if via is not None:
            raise SpecError(
                f"{text}: via= cannot be given with http=: the connection is made from here; give the address at which "
                "this side reaches the server, say a tunnel: ssh -L PORT:HOST:PORT"
            )
        for key in ("python", "dont_write_bytecode", "nice"):
            if getattr(spec, key):
                raise SpecError(
                    f"{text}: {key}=: how the interpreter is started, the server's policy says: give spec=NAME"
                )
        if spec.websocket not in WEBSOCKET:
            raise SpecError(f"{text}: websocket={spec.websocket!r}: it is yes or no")
        if spec.spec is True:
            raise SpecError(f"{text}: spec needs a value: spec=NAME, a name of the server's policy")
        server = server_of(spec, f"gateway {launch.id!r}")
        try:
            from .client import HttpTransport, Wish
        except ImportError as e:
            raise StartError(
                f"gateway {launch.id!r}: http= needs the package {e.name!r}; pip install 'execgw[http]'"
            ) from e
        seconds = float(str(spec.start_timeout or START_SECONDS))
        wish = Wish(
            spec=str(spec.spec) if spec.spec else None,
            websocket=WEBSOCKET[spec.websocket],
            grace=_grace(spec.resume, text),
            patient=spec.resume is not None,
            keepalive=KEEPALIVE if launch.keepalive is None else launch.keepalive,
        )
        return HttpTransport(server, wish, launch.loop, max(seconds - MARGIN, seconds / 2))


def _grace(value: object, text: str) -> float:
    if value is None:
        return GRACE
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86400:
        raise SpecError(f"{text}: resume={value!r} is no time in seconds up to a day")
    return seconds
