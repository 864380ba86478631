"""The near half of a socket connection until the worker speaks: TLS, the proof of the token both ways, the request.

It does no I/O: feed() takes what came and gives what the worker has written, seal() takes what is for the worker, and
take() gives what is to be sent.  So it serves a socket of our own and one that a gateway has opened (via=).  Without
TLS it has nothing to do once `done` is true.  The far half is worker/tasks/listen_client.py.

    -> magic nonce   <- magic nonce   -> proof "client"   <- P proof "server"   -> R request   <- S
    proof = HMAC-SHA256(token, magic role both nonces, SHA-256 of the server's certificate or zeros)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import ssl
import stat
import threading
from collections.abc import Generator
from typing import Any

from ..errors import AuthenticationFailed, HandshakeError, HostKeyRefused, PythonNotFound, SpecError, StartError

MAGIC = b"execgw listen 1\n"
NONCE = 32
PROOF = 32
SHORTEST_TOKEN = 16
MOST_ANSWER = 64 * 1024
MOST_SEALED = 256 * 1024  # bytes that are encrypted at a time; what the link does not take of them waits here


class Token:
    """A secret that both sides know; nothing that is printed shows it."""

    def __init__(self, value: bytes, source: str) -> None:
        self.value = value
        self.source = source

    def __repr__(self) -> str:
        return f"<Token from {self.source}>"

    def text(self) -> str:
        """The token itself, to be sent to a listener of ours."""
        return self.value.decode("ascii")


def read_token(text: object) -> Token:
    """The token that file:PATH or env:NAME names; SpecError if that is none."""
    kind, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not rest or kind not in ("file", "env"):
        raise SpecError(
            "token= takes no token as text, for specs are printed and logged; write it to a file that only you may "
            "read, and give token=file:PATH, or token=env:NAME for an environment variable"
        )
    value = _file_token(rest) if kind == "file" else os.environb.get(os.fsencode(rest), b"").strip()
    if len(value) < SHORTEST_TOKEN or not value.isascii() or b"\0" in value:
        raise SpecError(
            f"token={text}: there is no token of at least {SHORTEST_TOKEN} ASCII characters; make one with: "
            f"(umask 077; openssl rand -hex 32 > {rest if kind == 'file' else 'FILE'})"
        )
    return Token(value, str(text))


def _file_token(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise SpecError(f"token=file:{path}: it is no file")
            if mode & 0o077:
                raise SpecError(f"token=file:{path}: others may read it (mode {mode & 0o777:o}); run: chmod 600 {path}")
            return file.read(4097).strip()[:4096]
    except OSError as e:
        raise SpecError(f"token=file:{path}: {e.strerror}") from e


class Trust:
    """How the server's certificate is checked: against the authorities in a file, or by its SHA-256."""

    def __init__(self, ca: str | None = None, pin: bytes | None = None) -> None:
        self.ca, self.pin = ca, pin
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is None:
            context.check_hostname = False  # the pinned certificate is checked instead, by the guard
            context.verify_mode = ssl.CERT_NONE
            return
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as e:
            why = "there is no certificate in it" if isinstance(e, ssl.SSLError) else e.strerror
            raise SpecError(f"tls=ca:{ca}: {why}") from e


def read_tls(text: object) -> Trust:
    """tls=ca:FILE or tls=sha256:HEX"""
    kind, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind == "ca" and rest:
        return Trust(ca=rest)
    digits = rest.replace(":", "").lower()
    if kind == "sha256" and re.fullmatch("[0-9a-f]{64}", digits):
        return Trust(pin=bytes.fromhex(digits))
    raise SpecError("tls= takes ca:FILE, or sha256: and the 64 hex digits that the listener shows when it starts")


class Guard:
    """One connection.  *where* names it in messages; *host* is what the certificate must be for."""

    def __init__(
        self, where: str, token: Token, trust: Trust | None, host: str | None, request: dict[str, Any]
    ) -> None:
        self.where = where
        self.done = False
        self.secure = trust is not None
        self._token = token
        self._trust = trust
        self._request = json.dumps(request).encode("ascii")
        self._lock = threading.Lock()  # an SSL object serves one thread at a time, and reading and writing are two
        self._plain = b""  # what came, decrypted and not yet understood
        self._out = b""
        self._binding = bytes(32)
        self._stage = "hello"
        self._talk = self._conversation()
        self._need = 0
        if trust is not None:
            self._stage = "tls"
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = trust.context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    # -- bytes

    def start(self) -> None:
        """Have the first bytes ready for take()."""
        self.feed(b"")

    def take(self) -> bytes:
        """What is to be sent now."""
        with self._lock:
            if self.secure:
                self._out += self._outgoing.read()
            out, self._out = self._out, b""
        return out

    def feed(self, raw: bytes) -> bytes:
        """Take what came; return what of it the worker has written.  Raises StartError before that."""
        with self._lock:
            plain = self._open(raw) if self.secure else raw
            if self.done:
                return plain
            self._plain += plain
            if self._stage != "tls":
                self._advance()
            rest, self._plain = (self._plain, b"") if self.done else (b"", self._plain)
            return rest

    def seal(self, pieces: list[Any]) -> int:
        """Encrypt what is for the worker, as much as is good at a time; return how much that was."""
        taken = 0
        with self._lock:
            for piece in pieces:
                part = memoryview(piece)[: MOST_SEALED - taken]
                if part:
                    self._tls.write(part)
                taken += len(part)
                if taken >= MOST_SEALED:
                    break
        return taken

    def _open(self, raw: bytes) -> bytes:
        self._incoming.write(raw)
        try:
            if self._stage == "tls":
                self._tls.do_handshake()
                self._check_pin()
                self._stage = "hello"
            parts = []
            while part := self._tls.read(MOST_SEALED):
                parts.append(part)
        except ssl.SSLWantReadError:
            if self._stage == "tls":
                return b""
        except ssl.SSLCertVerificationError as e:
            raise HostKeyRefused(
                f"{self.where}: its certificate is not trusted: {e.verify_message}; the listener's certificate must be "
                "for this host name and signed by the authority of tls=ca:FILE"
            ) from e
        except ssl.SSLError as e:
            if self.done:
                raise ConnectionAbortedError from e
            if self._stage != "tls":
                raise HandshakeError(f"{self.where}: TLS failed: {e.reason}") from e
            raise HandshakeError(
                f"{self.where}: it does not speak TLS as we do ({e.reason}); is it a listener with --tls-cert? "
                "Without it, leave out tls="
            ) from e
        return b"".join(parts)

    def _check_pin(self) -> None:
        certificate = self._tls.getpeercert(True) or b""
        self._binding = hashlib.sha256(certificate).digest()
        pin = self._trust.pin if self._trust else None
        if pin is not None and not hmac.compare_digest(pin, self._binding):
            raise HostKeyRefused(
                f"{self.where}: its certificate is not the one of tls=, its SHA-256 is {self._binding.hex()}; "
                "compare that with what the listener shows when it starts, before you trust it"
            )

    # -- the conversation

    def _advance(self) -> None:
        try:
            while len(self._plain) >= self._need or self._strange():
                piece, self._plain = self._plain[: self._need], self._plain[self._need :]
                self._need = self._talk.send(piece) if self._need else next(self._talk)
        except StopIteration:
            self.done = True

    def _strange(self) -> bool:
        """The first bytes tell at once whether it is a listener; there may never be as many as one would send."""
        if self._stage == "hello" and not MAGIC.startswith(self._plain[: len(MAGIC)]):
            hint = "is that the listener's port?"
            if self._plain[:1] == b"\x15" and not self.secure:
                hint = "it seems to speak TLS: give tls=ca:FILE or tls=sha256:HEX"
            raise HandshakeError(f"{self.where}: no execgw listener, it says {self._plain[:60]!r}; {hint}")
        return False

    def _send(self, data: bytes) -> None:
        if self.secure:
            self._tls.write(data)
        else:
            self._out += data

    def _conversation(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it needs, and gets them."""
        ours = os.urandom(NONCE)
        self._send(MAGIC + ours)
        head = yield len(MAGIC) + NONCE
        if head[: len(MAGIC)] != MAGIC:
            self._plain = head
            self._strange()
        nonces = ours + head[len(MAGIC) :] + self._binding
        self._stage = "proof"
        self._send(self._proof(b"client", nonces))
        answer = yield from self._message(b"P")
        if not hmac.compare_digest(answer, self._proof(b"server", nonces)):
            raise AuthenticationFailed(
                f"{self.where}: it does not know the token of {self._token.source}, so it may be anybody; "
                "is it the listener that you have started?"
            )
        self._stage = "request"
        self._send(b"R%08x" % len(self._request) + self._request)
        yield from self._message(b"S")

    def _proof(self, role: bytes, nonces: bytes) -> bytes:
        return hmac.new(self._token.value, MAGIC + role + nonces, hashlib.sha256).digest()

    def _message(self, kind: bytes) -> Generator[int, bytes, bytes]:
        head = yield 9
        try:
            size = int(head[1:], 16)
        except ValueError:
            size = -1
        if head[:1] not in (kind, b"E") or not 0 <= size <= MOST_ANSWER:
            raise HandshakeError(f"{self.where}: it answers what no listener would: {head!r}")
        payload = (yield size) if size else b""
        if head[:1] == b"E":
            raise self._refusal(payload.decode("utf-8", "replace"))
        return payload

    def _refusal(self, why: str) -> StartError:
        word, _, text = why.partition(":")
        if word == "token":
            return AuthenticationFailed(
                f"{self.where}: it does not take the token of {self._token.source}; "
                "compare the file with the one of execgw listen --token-file"
            )
        if self._stage == "proof":  # who has not proved anything gets no more room in our messages than this
            return HandshakeError(f"{self.where}: it refused the connection")
        if word == "python":
            return PythonNotFound(f"{self.where}: there is no such program there: {text}; name another with python=")
        return StartError(f"{self.where}: it could not start the worker: {text}")

    def ended(self) -> StartError:
        """What it means that the connection has ended before it was done."""
        what = {
            "tls": "during the TLS handshake; is it a listener with --tls-cert?",
            "hello": "at once; is it a listener? If it has --tls-cert, give tls=ca:FILE or tls=sha256:HEX",
            "proof": "during the handshake; its log on the other side says why",
            "request": "before it had started a worker; its log on the other side says why",
        }[self._stage]
        return HandshakeError(f"{self.where}: the connection ended {what}")

    def too_late(self, seconds: float) -> StartError:
        """What it means that it is not done after so many seconds."""
        what = {"tls": "it said nothing in TLS", "hello": "it said nothing"}.get(self._stage, "it went silent")
        return HandshakeError(f"{self.where}: {what} within {seconds:.3g} s; is it an execgw listener?")
