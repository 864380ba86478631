"""A Unix socket through which others of this user look at a process's gateways: group.monitor(PATH), EXECGW_MONITOR.

One JSON document on a line, both ways:
    {"ask": "tree"}                       {"trees": [...]}, one for each group that has gateways
    {"ask": "stacks", "gateway": "gw0"}   {"stacks": {thread: text}}
or {"problem": "..."}.  Who asks can look, and do nothing else; the socket is its owner's alone (mode 0600).
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import stat
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._tree import tree
from .errors import ExecgwError
from .transports.base import _shared_sockets

if TYPE_CHECKING:
    from .gateway import Gateway
    from .group import Group

VARIABLE = "EXECGW_MONITOR"
MOST_CLIENTS = 8
LONGEST_LINE = 4096
IDLE_SECONDS = 30.0


class Monitor:
    """Answers on a Unix socket at *path* until close(), or the end of the process."""

    def __init__(self, path: str | os.PathLike[str], groups: Callable[[], Iterable[Iterable[Gateway]]]) -> None:
        self.path = os.fspath(path)
        self._groups = groups
        self._pid = os.getpid()
        self._free = threading.Semaphore(MOST_CLIENTS)
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._sock = _listen(self.path)
        _shared_sockets.add(self._sock)  # a forked child must not hold it open
        self._inode = os.stat(self.path).st_ino
        self._thread = threading.Thread(target=self._accept, name="execgw-monitor", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Answer no more, and remove the socket."""
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return
            self._closed = True
            clients = list(self._clients)
        _shared_sockets.discard(self._sock)
        for sock in [self._sock, *clients]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # noqa: PERF203
                pass
        self._thread.join()
        self._sock.close()
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass
        atexit.unregister(self.close)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        while not self._closed:
            try:
                client, _ = self._sock.accept()
            except OSError:
                break
            with self._lock:
                taken = not self._closed and self._free.acquire(blocking=False)
                if taken:
                    self._clients.add(client)
            if not taken:
                client.close()
                continue
            threads = [thread for thread in threads if thread.is_alive()]
            threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        import json

        try:
            client.settimeout(IDLE_SECONDS)
            with client.makefile("rb") as lines:
                while line := lines.readline(LONGEST_LINE):
                    client.sendall(json.dumps(self._answer(line)).encode("ascii") + b"\n")
        except OSError:  # it has gone, or says nothing
            pass
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()
            self._free.release()

    def _answer(self, line: bytes) -> dict[str, Any]:
        import json

        try:
            asked = json.loads(line)
            what = asked["ask"]
            groups = [list(group) for group in self._groups()]
            if what == "tree":
                return {"trees": [tree(group).as_dict() for group in groups if group]}
            if what == "stacks":
                found = [gateway for group in groups for gateway in group if gateway.id == asked["gateway"]]
                if found:
                    return {"stacks": found[0].stacks()}
                known = ", ".join(gateway.id for group in groups for gateway in group) or "none"
                return {"problem": f"there is no gateway {asked['gateway']!r} in this process; there are: {known}"}
            return {"problem": f"{what!r} cannot be asked; tree and stacks can"}
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            return {"problem": f"not understood: {e!r}"}
        except (ExecgwError, OSError) as e:
            return {"problem": f"{type(e).__name__}: {e}"}


def _listen(path: str) -> socket.socket:
    """A listening socket that only its owner can connect to; one that a dead process has left is replaced."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        try:
            sock.bind(path)
        except OSError as e:
            if e.errno != errno.EADDRINUSE or not _is_dead(path):
                raise
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
        sock.listen()
    except OSError as e:
        sock.close()
        raise ExecgwError(f"monitor {path!r}: {e.strerror or e}") from e
    return sock


def _is_dead(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False


# -- asking


def ask(path: str | os.PathLike[str], timeout: float = 15.0, **question: str) -> Any:
    """Ask the process behind a socket; ExecgwError if that cannot be, or it says why not."""
    import json

    name = os.fspath(path)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(name)
            sock.sendall(json.dumps(question).encode("ascii") + b"\n")
            with sock.makefile("rb") as lines:
                told = json.loads(lines.readline())
    except (OSError, ValueError) as e:
        raise ExecgwError(f"monitor {name!r}: no process answers there: {e}") from e
    if not isinstance(told, dict) or "problem" in told:
        raise ExecgwError(f"monitor {name!r}: {told['problem'] if isinstance(told, dict) else 'no answer'}")
    return told


def sockets_at(path: str) -> list[str]:
    """The sockets that a path means: itself, or those in it."""
    return sorted(map(str, Path(path).glob("*.sock"))) if os.path.isdir(path) else [path]


# -- EXECGW_MONITOR

_groups: weakref.WeakSet[Group] = weakref.WeakSet()
_asked: dict[int, Monitor | None] = {}  # by pid
_once = threading.Lock()


def attach_if_asked(group: Group) -> None:
    """Let the process's own monitor show a group, if the environment asks for one."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    with _once:
        _groups.add(group)
        if os.getpid() in _asked:
            return
        own = os.path.join(path, f"{os.getpid()}.sock") if os.path.isdir(path) else path
        try:
            _asked[os.getpid()] = Monitor(own, lambda: list(_groups))
        except ExecgwError:
            # A process that inherits the variable of another finds the path in use; the first one has it.
            if not os.path.exists(own):
                raise
            _asked[os.getpid()] = None
