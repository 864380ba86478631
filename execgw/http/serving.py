"""Serve an application: the listening socket, TLS, uvicorn behind our own door, and the end in order.

SIGTERM, SIGINT -> app.state.drain()  -> nobody new, children end  -> connections end -> 0     bounded by `drain`
the same again  -> at once
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from starlette.applications import Starlette

from ..errors import SpecError
from ..transports.address import Address
from .door import IDLE_SECONDS, door
from .limits import ServerLimits
from .owners import watch_owners
from .straight import Straight

BACKLOG = 2048
CLOSE_SECONDS = 2  # that answers under way may take once all processes have ended
SPARE_DESCRIPTORS = 128
DESCRIPTORS_OF_PROCESS = 8
LONGEST_MESSAGE = 4 << 20  # bytes of a WebSocket's message; a larger value goes by POST
PING_SECONDS = 20.0

log = logging.getLogger("execgw.http")


@dataclass(frozen=True)
class Listening:
    """Where to listen, and how.

    proxies  addresses of proxies that are believed about their clients, 'IP,IP'; None: there is no proxy
    """

    address: Address
    certfile: str | None = None
    keyfile: str | None = None
    proxies: str | None = None

    @property
    def scheme(self) -> str:
        """What clients write in front of the address."""
        return "https" if self.certfile else "http"

    def check(self) -> None:
        """Raises SpecError for what would send tokens over a network in the clear."""
        if self.address.host is None:
            raise SpecError(f"{self.address}: the server listens on HOST:PORT; put a proxy before it for a Unix socket")
        if bool(self.certfile) != bool(self.keyfile):
            raise SpecError("--certfile and --keyfile belong together; one file may be both")
        if self.certfile or self.proxies is not None or _is_loopback(self.address.host):
            return
        raise SpecError(
            f"{self.address}: beyond this host tokens and data would be readable by others; give --certfile and "
            "--keyfile, or --behind-proxy if a proxy that has TLS stands before it, or listen on 127.0.0.1"
        )

    def context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or newer, if there is a certificate."""
        if not self.certfile:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certfile, self.keyfile)
        except ssl.SSLError as e:
            raise SpecError(
                f"--certfile {self.certfile!r}, --keyfile {self.keyfile!r}: no PEM pair ({e.reason})"
            ) from e
        except OSError as e:
            raise SpecError(f"--certfile {self.certfile!r}, --keyfile {self.keyfile!r}: {e.strerror}") from e
        return context

    def fingerprint(self) -> str:
        """What clients may pin: tls=sha256:HEX."""
        assert self.certfile is not None
        with open(self.certfile, encoding="ascii", errors="replace") as file:
            text = file.read()
        begin = text.index("-----BEGIN CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[begin : text.index("-----END CERTIFICATE-----") + 25] + "\n")
        return hashlib.sha256(der).hexdigest()


def _is_loopback(host: str) -> bool:
    """Whether only this host leads there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(address: Address) -> socket.socket:
    """Listen there.  Raises SpecError, which says what is in the way and what to do."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as e:
        raise SpecError(f"{address}: there is no such address on this host ({e.strerror})") from e
    sock = socket.socket(found[0], found[1], found[2])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as e:
        sock.close()
        advice = {
            errno.EADDRINUSE: "; something listens there already: end that, or give another port (0: any free one)",
            errno.EACCES: "; ports below 1024 are for root: give another one",
            errno.EADDRNOTAVAIL: "; this host has no such address",
        }.get(e.errno or 0, "")
        raise SpecError(f"cannot listen on {address}: {e.strerror}{advice}") from e
    return sock


def address_of(sock: socket.socket) -> str:
    """HOST:PORT as it is; the port may have been 0."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fit_descriptors(limits: ServerLimits) -> ServerLimits:
    """The limits, with as many connections as the descriptors that this process may have are enough for."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    free = hard - SPARE_DESCRIPTORS - DESCRIPTORS_OF_PROCESS * limits.processes
    if hard == resource.RLIM_INFINITY or free >= limits.connections:
        return limits
    log.warning("fewer connections", extra={"connections": max(free, 16), "why": f"descriptors (ulimit -Hn): {hard}"})
    return replace(limits, connections=max(free, 16))


class _Server(uvicorn.Server):
    """Signals are ours, for the processes end before the connections do; and it tells when it is ready."""

    ready: Callable[[], None]

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def make_server(app: Any, listening: Listening, limits: ServerLimits, ready: Callable[[], None]) -> uvicorn.Server:
    """uvicorn with our door and our limits; it runs until its should_exit is set."""
    context = listening.context()
    server = _Server(
        uvicorn.Config(
            app,
            http=door(limits),
            ws=Straight,
            ws_max_size=LONGEST_MESSAGE,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
            ws_per_message_deflate=False,  # it costs more time than a link on a LAN, and memory for each connection
            lifespan="on",
            log_config=None,
            access_log=False,  # it would write queries, which may hold tickets; ours is in logged.py
            proxy_headers=listening.proxies is not None,
            forwarded_allow_ips=listening.proxies,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(IDLE_SECONDS),
            timeout_graceful_shutdown=CLOSE_SECONDS,
            h11_max_incomplete_event_size=limits.header,
        )
    )
    server.config.load()
    server.config.ssl = context
    server.ready = ready
    return server


async def serve(
    app: Starlette, listening: Listening, limits: ServerLimits, sock: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve what make_app() has made on *sock*, until SIGTERM or SIGINT, and then until all is ended in order.

    ready() is called once it serves.
    """
    server = make_server(app, listening, limits, ready)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():  # whoever sends it twice does not want to wait; children end with their near side
            log.warning("ended at once", extra={"signal": signal.Signals(number).name})
            os._exit(128 + number)
        log.info("drain", extra={"signal": signal.Signals(number).name, "seconds": limits.drain})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    serving = loop.create_task(server.serve(sockets=[sock]))
    waiting = loop.create_task(stop.wait())
    watching = loop.create_task(watch_owners(app.state.server))
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            server.force_exit = not await _drain(app, limits)
            server.should_exit = True
        await serving
    finally:
        waiting.cancel()
        watching.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    log.info("ended")


async def _drain(app: Starlette, limits: ServerLimits) -> bool:
    """End the processes in order; whether that was done in time.  What is left is killed with us."""
    try:
        await asyncio.wait_for(app.state.drain(), limits.drain + 1.0)
    except asyncio.TimeoutError:
        log.error("drain took too long", extra={"seconds": limits.drain})
    except Exception:
        log.exception("drain failed")
    else:
        return True
    return False
