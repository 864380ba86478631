"""For tests of environments: a place of their own for them, a wheelhouse that was filled once, and an index to stall.

from environments import venvs_fixture, wheelhouse_fixture  # noqa: F401
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "execgw-testing"
WHEELS = ["six==1.16.0", "cowsay==6.1"]  # for any Python 3.8 and up


@pytest.fixture(name="venvs")
def venvs_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test's environments are: nowhere else.  A uv beside the tests' interpreter is found."""
    root = tmp_path / "venvs"
    root.mkdir(mode=0o700)
    monkeypatch.setenv("EXECGW_VENVS", str(root))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    return root


@pytest.fixture(name="wheelhouse", scope="session")
def wheelhouse_fixture() -> Path:
    """A directory with WHEELS, downloaded once and kept."""
    there = CACHE / "wheelhouse-1"
    if not there.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=CACHE))
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(new)]
        done = subprocess.run([*argv, *WHEELS], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        try:
            new.rename(there)
        except OSError:  # another run was faster
            shutil.rmtree(new)
    return there


def environments_in(root: Path) -> list[str]:
    """The directories of all environments, complete or not."""
    return sorted(path.name for path in root.iterdir() if (path / "lock").exists())


class StallingIndex:
    """An index on this host that lets everybody wait: `asked` is set by the first request, `headers` are its."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()
        self.headers: dict[str, str] = {}
        self.seen: list[str] = []  # the command lines of the machine while it was asked
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.headers.update(self.headers.items())
                index.seen += _command_lines()
                index.asked.set()
                if index.stall:
                    index.over.wait(60)
                with contextlib.suppress(OSError):  # it has gone meanwhile
                    self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self.stall = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:  # noqa: PERF203  # it has just ended
            pass
    return lines


@pytest.fixture(name="index")
def index_fixture() -> Iterator[StallingIndex]:
    """An index that nobody gets an answer from, until the test is over."""
    index = StallingIndex()
    yield index
    index.stop()
