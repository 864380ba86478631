"""Who calls: tokens, kept as hashes in a file of the operator's, and one-time tickets for the WebSockets of browsers.

    identify(headers)    Authorization: Bearer TOKEN  ->  Caller, or Denied
    ticket(caller, for)  ->  redeem(ticket, for)      once, within half a minute

The file is read again when it has changed: a token that was revoked is refused by the next request.  A token has 256
random bits, so its plain SHA-256 is as good as a slow hash; what is compared are hashes, in constant time.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import SpecError

SCOPES = ("popen", "exec", "admin")
PREFIX = "execgw_"  # so that one, and scanners for leaked secrets, can tell what it is
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
TICKET_SECONDS = 30.0
MOST_TICKETS = 1000  # that wait at a time, in all
MOST_STORE = 4 << 20


class Denied(Exception):
    """A request that is not done: the HTTP status, a word for programs, a sentence for people.

    retry_after  seconds after which it may be, or None
    """

    def __init__(self, status: int, word: str, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.word = word
        self.why = why
        self.retry_after = retry_after


@dataclass(frozen=True)
class Caller:
    """Who has proved to know a token.  Two callers of one name are the same one."""

    name: str
    scopes: frozenset[str]

    @property
    def is_admin(self) -> bool:
        """Whether it may see and end what others have started."""
        return "admin" in self.scopes

    def need(self, scope: str) -> None:
        """Raises Denied (403) if the token is not good for that."""
        if scope not in self.scopes:
            raise Denied(
                403,
                "scope",
                f"the token {self.name!r} is not good for that: it needs the scope {scope!r}, and has "
                f"{', '.join(sorted(self.scopes)) or 'none'}; the operator makes another: execgw token new --scopes",
            )


@dataclass(frozen=True)
class Token:
    """What is kept of a token: everything but the token itself.  Times are seconds since 1970."""

    name: str
    hash: str
    scopes: tuple[str, ...]
    made: float
    expires: float | None = None
    revoked: float | None = None

    def is_over(self, now: float) -> str:
        """Why it is no longer taken, or ''."""
        if self.revoked is not None:
            return "it was revoked"
        if self.expires is not None and now >= self.expires:
            return "it has expired"
        return ""

    def caller(self) -> Caller:
        """Who calls with it."""
        return Caller(self.name, frozenset(self.scopes))


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    """256 random bits, as text."""
    return PREFIX + secrets.token_urlsafe(32)


def check_origin(headers: Mapping[str, str], allowed: Container[str] = ()) -> None:
    """Raises Denied (403) where a browser says that a page of another site has sent this.

    For what a page may do without knowing a token: open a WebSocket, send a form.  *allowed* are sites like
    'https://host:port' besides the one that the request was sent to.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return  # it comes from no browser; or from where the operator said
    scheme, _, site = origin.partition("://")
    if not site or scheme not in ("http", "https") or site.lower() != headers.get("host", "").lower():
        raise Denied(
            403,
            "origin",
            f"a page of {origin!r:.100} may not do that here; the operator can allow it: origins in the policy",
        )


class TokenFile:
    """The operator's file of tokens, without the tokens: JSON, mode 600, replaced as a whole by each change."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    def stamp(self) -> tuple[int, int, int] | None:
        """Differs if the file was changed; None if there is none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> list[Token]:
        """All tokens.  Raises SpecError, which says what is wrong with the file."""
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise SpecError(f"{self.path}: it is no file")
                if found.st_mode & 0o077:
                    mode = found.st_mode & 0o777
                    raise SpecError(f"{self.path}: others may use it (mode {mode:o}); run: chmod 600 {self.path}")
                text = file.read(MOST_STORE + 1)
        except OSError as e:
            raise SpecError(f"{self.path}: {e.strerror}; make a token with: execgw token new") from e
        try:
            return [_token(item) for item in json.loads(text)["tokens"]]
        except (ValueError, TypeError, KeyError) as e:
            raise SpecError(f"{self.path}: it is no file of tokens, or damaged ({e}); see execgw token --help") from e

    def add(
        self,
        name: str,
        scopes: tuple[str, ...] = SCOPES,
        seconds: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> str:
        """Make a token, good for *seconds* or for ever; the only time that its text is known."""
        if not NAME.match(name):
            raise SpecError(f"{name!r} is no name for a token: letters, digits and ._@- only, at most 64, no '-' first")
        if not scopes or set(scopes) - set(SCOPES):
            raise SpecError(f"{','.join(scopes)!r}: the scopes of a token are one or more of {', '.join(SCOPES)}")
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise SpecError(f"there is, or was, a token {name!r} in {self.path} already; take another name")
            text = new_token()
            moment = now()
            tokens.append(
                Token(name, hash_of(text), tuple(scopes), moment, None if seconds is None else moment + seconds)
            )
        return text

    def revoke(self, name: str, now: Callable[[], float] = time.time) -> None:
        """From now on the token of that name is refused.  Its name stays taken: what it started is not another's."""
        with self._changing() as tokens:
            for at, token in enumerate(tokens):
                if token.name == name:
                    if token.revoked is None:
                        tokens[at] = Token(**{**asdict(token), "revoked": now()})
                    return
            names = ", ".join(token.name for token in tokens) or "none"
            raise SpecError(f"there is no token {name!r} in {self.path}; it has {names}")

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The list, which is written when the block ends well; others who change it wait."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise SpecError(f"{self.path}: {e.strerror}") from e
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.read() if self.exists() else []
            yield tokens
            write_secret(self.path, json.dumps({"tokens": [asdict(token) for token in tokens]}, indent=1) + "\n")
        finally:
            os.close(lock)


def _token(item: Mapping[str, object]) -> Token:
    token = Token(**{**item, "scopes": tuple(item["scopes"])})  # type: ignore[arg-type]  # checked here
    good_hash = re.fullmatch("[0-9a-f]{64}", token.hash)
    if not (NAME.match(token.name) and good_hash and not set(token.scopes) - set(SCOPES)):
        raise ValueError(f"token {token.name!r}")
    for moment in (token.made, token.expires or 0.0, token.revoked or 0.0):
        if not isinstance(moment, (int, float)):
            raise TypeError(f"token {token.name!r}: {moment!r} is no time")
    return token


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user may read, in one step: there is the old one or the new one, never half."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise SpecError(f"{path}: {e.strerror}") from e


class Access:
    """The tokens that a server takes: those of a file, and one that was given to it by itself (the environment)."""

    def __init__(
        self,
        file: TokenFile | None = None,
        given: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._now = now
        self._given = [Token("environment", hash_of(given), SCOPES, now())] if given else []
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}
        self._broken = ""
        self._tickets: dict[str, tuple[Caller, str, float]] = {}

    # -- tokens

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Who sends a request with these headers; their names are in lower case.  Raises Denied (401)."""
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not text.strip():
            raise Denied(401, "token", "no token was given; send the header Authorization: Bearer TOKEN")
        return self.knows(text.strip())

    def knows(self, text: str) -> Caller:
        """Whose token it is.  Raises Denied (401)."""
        digest = hash_of(text)
        found: Token | None = None
        for token in self._all():  # all of them, whichever fits: the time tells nothing
            if hmac.compare_digest(token.hash, digest):
                found = token
        if found is None:
            raise Denied(401, "token", "this server does not know the token; the operator makes them: execgw token new")
        self._check(found)
        return found.caller()

    def check(self, caller: Caller) -> Caller:
        """The same caller as of now, for what goes on for long.  Raises Denied (401) if its token is over."""
        for token in self._all():
            if token.name == caller.name:
                self._check(token)
                return token.caller()
        raise Denied(401, "token", f"the token {caller.name!r} is over: it was removed")

    def _check(self, token: Token) -> None:
        over = token.is_over(self._now())
        if over:
            raise Denied(401, "token", f"the token {token.name!r} is over: {over}; ask the operator for another")

    def _all(self) -> list[Token]:
        with self._lock:
            if self._file is not None:
                self._reread(self._file)
            if self._broken:
                raise Denied(503, "token", f"the server cannot read its tokens: {self._broken}", retry_after=5.0)
            return [*self._tokens.values(), *self._given]

    def _reread(self, file: TokenFile) -> None:
        stamp = file.stamp()
        if stamp == self._stamp and stamp is not None and not self._broken:
            return
        try:
            self._tokens = {token.name: token for token in file.read()} if stamp is not None else {}
            self._broken = ""
        except SpecError as e:  # nobody is let in by what was true before
            self._tokens, self._broken = {}, str(e)
        self._stamp = stamp

    # -- tickets

    def ticket(self, caller: Caller, purpose: str = "") -> str:
        """A text that stands for *caller* once, within half a minute, where *purpose* is the same."""
        now = self._now()
        with self._lock:
            for key in [key for key, (_, _, until) in self._tickets.items() if until <= now]:
                del self._tickets[key]
            if len(self._tickets) >= MOST_TICKETS:
                raise Denied(429, "limit", f"{MOST_TICKETS} tickets wait to be used; try again later", TICKET_SECONDS)
            text = secrets.token_urlsafe(32)
            self._tickets[hash_of(text)] = caller, purpose, now + TICKET_SECONDS
        return text

    def redeem(self, ticket: str, purpose: str = "") -> Caller:
        """Whose ticket it was; it is used up, even where it is refused.  Raises Denied (401)."""
        with self._lock:
            # Looked up by the hash of what came: how long that takes tells nothing about the tickets there are.
            caller, meant, until = self._tickets.pop(hash_of(ticket), (None, "", 0.0))
        if caller is None or self._now() >= until or meant != purpose:
            raise Denied(
                401, "token", f"this is no ticket, or was used, or is older than {TICKET_SECONDS:.0f} s; POST /ticket"
            )
        return self.check(caller)
