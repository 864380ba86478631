"""Which server a spec names, and with which proof; what it means if it does not answer as one would like.

http=HOST:PORT   http=https://HOST:PORT/PREFIX   token=file:F  token=env:NAME   tls=ca:FILE  tls=sha256:HEX
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import (
    AuthenticationFailed,
    HandshakeError,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    SpecError,
    StartError,
)
from ..transports.guard import Token, Trust, read_tls, read_token
from ..wire.printable import printable

if TYPE_CHECKING:
    from ..spec import XSpec

KEYS = ("token", "tls")
LONGEST_WHY = 500  # characters of what a server says in a message of ours
_HOST = re.compile(r"[A-Za-z0-9._~-]+\Z|[0-9a-fA-F:.]+\Z")


class PinRefused(ssl.SSLError):
    """The server's certificate is not the one of tls=sha256:."""

    def __init__(self, digest: str) -> None:
        super().__init__(1, f"its SHA-256 is {digest}")
        self.digest = digest


def _pinned(pin: bytes) -> type[ssl.SSLSocket]:
    """Sockets that look at the certificate before the first byte of a request, and so of the token, is sent."""

    class Pinned(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            digest = hashlib.sha256(self.getpeercert(True) or b"").digest()
            if not hmac.compare_digest(digest, pin):
                raise PinRefused(digest.hex())

    return Pinned


def _context(trust: Trust | None) -> ssl.SSLContext:
    context = ssl.create_default_context() if trust is None else trust.context
    if trust is not None and trust.pin is not None:
        context.sslsocket_class = _pinned(trust.pin)
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True)
class Server:
    """One exec-server, as a client names it."""

    where: str  # for messages: the gateway's name
    host: str
    port: int
    prefix: str
    token: Token | None
    context: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """HOST:PORT, as it is written in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where its routes begin."""
        return f"{'https' if self.context else 'http'}://{self.authority}{self.prefix}"

    def __str__(self) -> str:
        return self.url

    def headers(self) -> dict[str, str]:
        """What every request carries.  A token is never part of a URL."""
        return {"Authorization": f"Bearer {self.token.text()}"} if self.token else {}


def server_of(spec: XSpec, where: str) -> Server:
    """The server that a spec names; SpecError if it names none."""
    text = spec.http
    if not isinstance(text, str) or not text:
        raise SpecError(f"{str(spec)!r}: http needs a value: http=HOST:PORT or http=https://HOST:PORT/PREFIX")
    scheme, colon, _ = text.partition("://")
    wrong = f"{str(spec)!r}: http={text!r} is no address; give HOST:PORT or https://HOST:PORT/PREFIX"
    if not text.isascii() or not text.isprintable() or " " in text:  # urlsplit() leaves out ends of lines
        raise SpecError(wrong)
    try:
        url = urlsplit(text if colon else f"//{text}")
        host, port = url.hostname or "", url.port
    except ValueError as e:
        raise SpecError(f"{wrong} ({e})") from e
    if (colon and scheme not in ("http", "https")) or not _HOST.match(host) or host.startswith("-"):
        raise SpecError(wrong)
    if url.username is not None or url.query or url.fragment:
        raise SpecError(f"{wrong}; nothing else is part of it: a secret goes in token=file:PATH or token=env:NAME")
    trust = read_tls(spec.tls) if spec.tls else None
    if trust is not None and colon and scheme == "http":
        raise SpecError(f"{str(spec)!r}: tls= is for https: write http=https://{text[7:]}")
    secure = scheme == "https" if colon else trust is not None
    token = read_token(spec.token) if spec.token else None
    if token is not None and not secure and not colon and not _is_here(host):
        raise SpecError(
            f"{str(spec)!r}: the token would cross the network for all to read: give http=https://{text}; "
            f"if that network is trusted, say so by http=http://{text}"
        )
    context = _context(trust) if secure else None
    return Server(where, host, port or (443 if secure else 80), url.path.rstrip("/"), token, context)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# -- what went wrong


def unreached(server: Server, error: BaseException) -> StartError:
    """What it means that there was no answer; *error* is of the socket, or of http.client."""
    where = f"{server.where}: {server}"
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, PinRefused):
            return HostKeyRefused(
                f"{where}: its certificate is not the one of tls=, its SHA-256 is {cause.digest}; compare that with "
                "the server's own before you trust it"
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return HostKeyRefused(
                f"{where}: its certificate is not trusted: {cause.verify_message}; give tls=ca:FILE with the authority "
                "that has signed it for this host name, or tls=sha256:HEX"
            )
        if isinstance(cause, ssl.SSLError):
            return HandshakeError(
                f"{where}: it does not speak TLS as we do ({cause.reason}); without TLS: http={server.authority}"
            )
        if isinstance(cause, socket.gaierror):
            return HostNotFound(
                f"{where}: there is no host {server.host!r}: {cause.strerror}; try: getent hosts {server.host}"
            )
    first = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    if isinstance(first, ConnectionRefusedError):
        hint = f"is the server running? Start it there: execgw serve --listen {server.authority}"
        return HostNotReached(f"{where} is not reached: {first.strerror}; {hint}")
    if first is not None and not isinstance(first, ConnectionError):
        why = f"{first.strerror}; is the address right, and no firewall between?"
        return HostNotReached(f"{where} is not reached: {why}")
    if any("imeout" in type(cause).__name__ for cause in causes):
        return HostNotReached(f"{where}: no answer in time; is the address right, and no firewall between?")
    hint = "is that the server's port? If it has TLS, write http=https://..."
    return HandshakeError(f"{where}: it does not answer as an HTTP server ({error or type(error).__name__}); {hint}")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def told(body: bytes) -> dict[str, Any]:
    """What an answer of the server says, if it is one of ours: a JSON object."""
    import json

    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def text_of(said: dict[str, Any], key: str) -> str:
    """A text that a server sent, as it may be shown."""
    return printable(str(said.get(key, ""))[:LONGEST_WHY])


def refusal(server: Server, status: int, headers: Mapping[str, str], said: dict[str, Any], version: str) -> StartError:
    """What it means that the server answers so to the wish for a process."""
    where, why, word = f"{server.where}: {server}", text_of(said, "why"), said.get("error")
    if status == 401:
        if server.token is None:
            return AuthenticationFailed(f"{where}: it wants a token: token=file:PATH or token=env:NAME")
        return AuthenticationFailed(
            f"{where}: it does not take the token of {server.token.source}: {why or 'it is unknown there'}; "
            "on the server: execgw token list"
        )
    if word == "scope":
        return AuthenticationFailed(
            f"{where}: the token of {server.token.source if server.token else '-'} may not do that: {why}"
        )
    if word == "version":
        return HandshakeError(
            f"{where}: it has execgw {text_of(said, 'server')}, this side {version}; install the same on both"
        )
    if word in ("limit", "full", "drain", "busy"):
        later = headers.get("Retry-After", "")
        hint = f"; try again in {int(later)} s" if later.isdecimal() and len(later) < 7 else ""
        return StartError(f"{where}: no process now: {why}{hint}")
    if word == "start":
        stderr = str(said.get("stderr", ""))[-4096:]
        return StartError(f"{where}: it could not start the worker: {why}", stderr=stderr)
    if word is not None:
        return StartError(f"{where}: it refuses: {why} ({status} {printable(str(word)[:40])})")
    if status in (502, 503, 504):
        hint = "a proxy answers, and does not reach the server; is it running?"
        return HostNotReached(f"{where}: {status}: {hint}")
    return HandshakeError(
        f"{where}: no exec-server answers there (status {status}); is the address right, and its prefix?"
    )
