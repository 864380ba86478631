"""One connection to a host for all gateways that want it: OpenSSH's control master, private to this process.

the first gateway   `ssh -M -N` connects, logs in, and goes to the background (in a thread: hosts do not wait in line)
every gateway       sh, which waits for a word on its stdin, then becomes `ssh -S SOCKET ... host command`
the word            how to go on: over our master, over the user's own, or not at all, and then why not

The master ends some seconds after its last user, so a killed script leaves none for long, and with this process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import at_end
from .base import Launch
from .command import CommandTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

IDLE_SECONDS = 10  # that a master stays without a user
END_SECONDS = 2.0  # for a master to end when it is told to
LONGEST = 60  # bytes of a directory's name; a socket's must stay under 104, with 18 for the name that ssh binds first
PLAIN = re.compile(rf"[\w./-]{{1,{LONGEST}}}", re.ASCII)  # ssh expands % and ${

SHARED, OWN, GUEST, NOT = b"shared\n", b"own\n", b"guest\n", b"not\n"
REFUSED = b"mux_client_request_session:"  # by the server, which allows only so many sessions (MaxSessions)
# $1 is the socket, the rest what ssh gets.  POSIX has read take no byte behind the line: those are the worker's.
WAIT = (
    "read -r how; socket=$1; shift; case $how in "
    'shared) exec ssh -o ControlMaster=no -S "$socket" "$@";; '
    'own) exec ssh "$@";; '
    'guest) exec ssh -o ControlMaster=no "$@";; '
    "esac; cat >&2; exit 255"
)


class SharedTransport(CommandTransport):
    """An ssh whose connection is made by a master: nothing is written to it before that is there."""

    def __init__(self, launch: Launch, argv: list[str], boot: bytes, trusted: bool, stdout: bool = False) -> None:
        self.master: Master
        self._go = threading.Event()
        self._wanted = False
        self._up = False
        super().__init__(launch, argv, boot, trusted, stdout)

    def release(self, word: bytes, more: bytes = b"") -> None:
        """Tell the waiting process how to go on."""
        loop = self.loop
        with loop.lock:
            try:
                self.sock.send(word + more)  # the first bytes on it: there is room
                if word == NOT:
                    self.sock.shutdown(socket.SHUT_WR)
            except OSError:  # it was given up in the meantime
                pass
            self._go.set()
            wanted = self._wanted
        if wanted:
            loop.call_soon(self.on_writable)

    def write(self, pieces: list[Any]) -> int:
        return super().write(pieces) if self._go.is_set() else 0

    def want_write(self) -> None:
        with self.loop.lock:
            if not self._go.is_set():
                self._wanted = True
                return
        super().want_write()

    def wait_writable(self, timeout: float | None) -> None:
        if self._go.wait(0.5 if timeout is None else timeout):
            super().wait_writable(timeout)

    def started(self) -> None:
        self._up = True
        with self._show_lock:
            said = self._unseen[:]
            lines = b"".join(said).splitlines(keepends=True)
            other = [line for line in lines if not line.startswith(REFUSED)]
            if len(other) < len(lines):  # and so ssh has made a connection for this one alone
                self.master.doubt()
                self._unseen[: len(said)] = other
        super().started()

    def kill(self, force: bool) -> None:
        if force and not self._up and self.ended() is None:
            self.master.doubt()  # no answer: the host may be cut off, and the next one is to try anew
        super().kill(force)


class Master:
    """A connection that is being made, or is there: `ready` says which."""

    def __init__(self, options: Sequence[str], host: str, key: tuple[str, ...], timeout: float) -> None:
        self.key = key
        self.path = os.path.join(directory(), str(next(_numbers)))
        self.host = host
        self._argv = ["ssh", *options]
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[SharedTransport] = []
        self._ready: tuple[bytes, bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def begin(self) -> None:
        threading.Thread(target=self._run, name=f"execgw-ssh-{self.host}", daemon=True).start()

    def usable(self) -> bool:
        """Whether a further gateway may be given to it."""
        if self._ready is None:
            return not self._closed
        return self._ready[0] in (OWN, GUEST) or (self._ready[0] == SHARED and os.path.exists(self.path))

    def alive(self) -> bool:
        """Whether there may be a process that close_all() has to end."""
        return self._ready is None or os.path.exists(self.path)

    def serve(self, transport: SharedTransport) -> None:
        """Release *transport* as soon as it is known how."""
        transport.master = self
        with self._lock:
            if self._ready is None:
                self._waiting.append(transport)
                return
        transport.release(*self._ready)

    def _run(self) -> None:
        word, why = NOT, b"execgw: the shared connection was given up"
        try:
            word, why = self._connect()
        except (OSError, subprocess.SubprocessError) as e:
            why = f"execgw: the shared connection did not come to be: {e}".encode()
        finally:
            with self._lock:
                self._ready = word, why
                waiting, self._waiting = self._waiting, []
            if word == NOT:
                _forget(self)
            for transport in waiting:
                transport.release(word, why)

    def _connect(self) -> tuple[bytes, bytes]:
        asked = self._call(["-G", "--", self.host])
        if asked.returncode == 0:
            own = _own_way(asked.stdout.decode("utf-8", "replace"))
            if own is not None:
                return own, b""
        done = self._call(["-M", "-N", "-S", self.path, "-o", f"ControlPersist={IDLE_SECONDS}", "--", self.host])
        if done.returncode == 0:
            return SHARED, b""
        if done.returncode > 0 and _leads_through_another(asked.stdout.decode("utf-8", "replace")):
            # Where a connection is to persist, ssh throws away what the ssh to a jump host says: ask once more.
            alone = self._call(["-n", "-S", "none", "-o", "ControlPersist=no", "--", self.host, "true"])
            if alone.returncode != 0:
                return NOT, alone.stderr
        return NOT, done.stderr

    def _call(self, words: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end, or for as long as the start may take.

        With files, not pipes: a master that older ssh versions send to the background keeps its stderr.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with self._lock:
                if self._closed:
                    return subprocess.CompletedProcess(words, -1, b"", b"execgw: this side is ending")
                # A session of its own: Ctrl-C at the terminal is not meant for it.
                self._process = subprocess.Popen(
                    [*self._argv, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
            try:
                code = self._process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                code = -1
                err.write(b"execgw: ssh has not connected and logged in after %g s" % self._timeout)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, code, out.read(), err.read()[-4000:])

    def doubt(self) -> None:
        """No further gateway is to use it; those that do go on."""
        _forget(self)

    def begin_close(self) -> subprocess.Popen[bytes] | None:
        """Tell the background process to end."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None and process.poll() is None:
            process.kill()
        if not os.path.exists(self.path):
            return None
        argv = ["ssh", "-F", os.devnull, "-S", self.path, "-O", "exit", "--", "localhost"]
        nothing = subprocess.DEVNULL
        with contextlib.suppress(OSError):
            return subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=nothing)
        return None


def _own_way(config: str) -> bytes | None:
    """How to go on if the user has arranged for shared connections himself, by what `ssh -G` says; else None."""
    said = dict(line.partition(" ")[::2] for line in config.splitlines())
    path = said.get("controlpath", "none")
    if path == "none" or (said.get("controlmaster", "false") == "false" and not os.path.exists(path)):
        return None
    # His master must not be one of our processes, which end with their gateways, unless it goes to the background.
    return GUEST if said.get("controlpersist", "no") == "no" else OWN


def _leads_through_another(config: str) -> bool:
    """Whether what `ssh -G` says has a jump host or another program in between."""
    said = dict(line.partition(" ")[::2] for line in config.splitlines())
    return any(said.get(way, "none") != "none" for way in ("proxyjump", "proxycommand"))


# -- all masters of this process

_lock = threading.Lock()
_masters: dict[tuple[str, ...], Master] = {}
_doubted: list[Master] = []
_numbers = itertools.count(1)
_directory: str | None = None


def directory() -> str:
    """A directory with a short name that only this user can enter; gone at the end of this process."""
    global _directory
    if _directory is None or not os.path.isdir(_directory):
        own = os.environ.get("XDG_RUNTIME_DIR", "")
        usable = [d for d in (own, tempfile.gettempdir()) if PLAIN.fullmatch(d) and os.access(d, os.W_OK)]
        _directory = tempfile.mkdtemp(prefix="execgw-", dir=usable[0] if usable else "/tmp")
    return _directory


def private_file(name: str, text: str) -> str:
    """The path of a file in that directory that has this content."""
    with _lock:
        path = os.path.join(directory(), name)
        if not (os.path.exists(path) and Path(path).read_text("utf-8") == text):
            Path(path + ".new").write_text(text, "utf-8")
            os.replace(path + ".new", path)  # an ssh may be reading it
        return path


def master_for(options: Sequence[str], changing: Sequence[str], host: str, timeout: float) -> Master:
    """The master for connections with these options; *changing* ones make no other connection of it."""
    key = (*options, host)
    with _lock:
        found = _masters.get(key)
        if found is not None and found.usable():
            return found
        _doubted[:] = [one for one in (*_doubted, found) if one is not None and one.alive()]
        master = _masters[key] = Master([*options, *changing], host, key, timeout)
    master.begin()
    return master


def _forget(master: Master) -> None:
    with _lock:
        if _masters.get(master.key) is master:
            del _masters[master.key]
            _doubted.append(master)


def close_all() -> None:
    """End all masters, and with them the gateways that still use them."""
    global _directory
    with _lock:
        masters = [*_masters.values(), *_doubted]
        _masters.clear()
        _doubted.clear()
        old, _directory = _directory, None
    for asked in [master.begin_close() for master in masters]:
        if asked is not None:
            try:
                asked.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                asked.kill()
                asked.wait()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _forget_all() -> None:
    """In a forked child: they are the parent's."""
    global _lock, _directory
    _lock = threading.Lock()
    _masters.clear()
    _doubted.clear()
    _directory = None


at_end(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
