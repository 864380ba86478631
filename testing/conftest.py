"""Groups and gateways for tests, and the proof that each test leaves nothing behind: process, thread or descriptor."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from bridge import Bridge
from exec_server import ExecServer

from execgw import Gateway, Group
from execgw._loop import get_loop
from execgw.peer.pool import Pool
from execgw.peer.turn import clock

pytest_plugins = ["exec_server_fixtures", "listener_fixtures"]

# The last is popen, in the asyncio face.
KINDS = ["popen", "memory", "via", "http", "http-requests", "2.7.18", "3.6.15", "3.13.0", "aio"]
ALL = os.environ.get("EXECGW_KINDS") == "all"  # tox -e fence
OVER_HTTP = ("test_channel.py", "test_files.py")  # what runs over http by default, and everything with ALL
if ALL:
    KINDS[7:-1] = ["3.7.16", "3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0", "pypy3", "jython"]
    KINDS.insert(3, "resume")
# What /usr/bin/jython runs, with options of Java that halve the time of its start.
DEBIANS_JYTHON = (
    "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -jar /usr/share/java/jython.jar "
    "-Dpython.home=/usr/share/jython -Dpython.executable=/usr/bin/jython"
)
MARK = "EXECGW_TEST"  # in the environment of every process that a test starts, however many levels below
PATIENCE = 5.0  # seconds for what ends by itself after a test


# -- interpreters


@functools.cache
def _pyenv_root() -> Path:
    pyenv = shutil.which("pyenv")
    if "PYENV_ROOT" not in os.environ and pyenv:
        return Path(subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip())
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))


def find_part(program: str) -> str:
    """The path of a program; a test that needs a missing one is skipped, but not on CI, where .ci/run installs it."""
    path = shutil.which(program)
    if path is None:
        missing = f"there is no {program} on this machine; apt-get install {program}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def find_python(version: str) -> str:
    """The path of an interpreter that pyenv has, or the system (pypy3, jython); see find_part."""
    if version == "jython" and find_part(version) == "/usr/bin/jython":
        return DEBIANS_JYTHON
    if not version[0].isdigit():
        return find_part(version)
    short = re.escape(version.rpartition(".")[0])
    for given in os.environ.get("EXECGW_PYTHONS", "").split(":"):  # see CONTRIBUTING.md
        if re.search(rf"(/|python){short}(\.\d+)?(/|$)", given) and Path(given).exists():
            return given
    path = _pyenv_root() / "versions" / version / "bin" / "python"
    if not path.exists():
        missing = f"there is no Python {version} at {path}; pyenv install {version}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(path)


# -- what must not be left


def processes_marked(mark: str) -> list[str]:
    """The processes, of any parent, that were started with *mark* in their environment; zombies of ours, too."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            ours = parent == str(os.getpid())
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes() or (ours and state == "Z"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                # Not whether it runs or sleeps: that is another thing at each look.
                found.append(f"{'zombie ' if state == 'Z' else ''}{entry.name}: {command[:80]}")
        except OSError:  # it has just ended, or is not ours
            pass
    return found


def _is_pool_thread(thread: threading.Thread) -> bool:
    """Threads of a pool stay for some seconds after their last job, for the next one."""
    return getattr(getattr(thread, "_target", None), "__func__", None) is Pool._run


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if not _is_pool_thread(t)}


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # noqa: PERF203  # the one that lists the directory
            pass
    return found


def wait_for(test: Callable[[], object], what: str = "it", seconds: float = PATIENCE) -> None:
    """Wait until test() is true, for what tells nobody that it has happened: an entry in /proc, a file."""
    end = clock() + seconds
    while not test():
        assert clock() < end, f"{what} did not happen within {seconds} s"
        threading.Event().wait(0.005)


class _Before:
    """What there was before a test."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.threads = _threads()
        self.descriptors = _descriptors()

    def left(self) -> list[str]:
        """What there is now, and was not then."""
        more = [f"process {line}" for line in processes_marked(self.mark)]
        more += [f"thread {t.name}" for t in _threads() - self.threads]
        now = _descriptors()
        # A thread that waits has two sockets of its own; those of the pools' threads go when these do.
        spare = 2 * sum(map(_is_pool_thread, threading.enumerate()))
        if len(now) > len(self.descriptors) + spare:
            more += [f"descriptor {fd}: {to}" for fd, to in now.items() if self.descriptors.get(fd) != to]
        return more

    def check(self) -> None:
        end = clock() + PATIENCE
        while (left := self.left()) and clock() < end:
            threading.Event().wait(0.01)
        assert not left, "the test left behind: " + "; ".join(left)


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Start what is started once for a process, so that the first test is not said to have left it."""
    get_loop()
    with Group() as group:
        group.makegateway("memory").remote_exec("channel.send(1)").receive()


class _Shared:
    """A worker that many tests use, one after the other, for it starts too slowly for a new one in each: Jython."""

    def __init__(self) -> None:
        self.group = Group()
        self.gateway: Gateway | None = None

    def ready(self) -> Gateway:
        """One in which nothing is left of the last test."""
        if self.gateway is None or not self._unused(self.gateway):
            self.end()
            self.gateway = self.group.makegateway(f"popen//python={find_python('jython')}")
        return self.gateway

    def _unused(self, gateway: Gateway) -> bool:
        try:
            status = gateway.remote_status()
        except OSError:
            return False
        return status.numchannels == status.numexecuting == 0

    def end(self) -> None:
        self.group.terminate(timeout=5)


@pytest.fixture(scope="session")
def _shared() -> Iterator[_Shared]:
    shared = _Shared()
    yield shared
    shared.end()


def _shares(request: pytest.FixtureRequest) -> bool:
    """Whether a test takes the shared Jython: one that has the group, too, may end it, or look at the group alone."""
    callspec = getattr(request.node, "callspec", None)
    argnames = request.node._fixtureinfo.argnames
    return callspec is not None and callspec.params.get("gw") == "jython" and "group" not in argnames


@pytest.fixture
def nothing_left(_warm: None, _shared: _Shared, request: pytest.FixtureRequest) -> Iterator[str]:
    """Fails a test that leaves a process, thread or descriptor behind.  Yields the mark of the test's processes."""
    if _shares(request):
        _shared.ready()
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    before = _Before(mark)
    yield mark
    before.check()


@pytest.fixture
def our_stderr(tmp_path: Path) -> Callable[[], AbstractContextManager[Callable[[], str]]]:
    """`with our_stderr() as read`: read() is what was written to descriptor 2 so far.

    capfd loses what is written while it reads.  Not a fixture alone: pytest takes the descriptor back after the setup.
    """

    @contextmanager
    def redirected() -> Iterator[Callable[[], str]]:
        file = tmp_path / "stderr"
        saved = os.dup(2)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        os.close(fd)
        try:
            yield file.read_text
        finally:
            os.dup2(saved, 2)
            os.close(saved)

    return redirected


# -- gateways


@pytest.fixture
def python() -> Callable[[str], str]:
    """python("3.13.0") is the path of that interpreter."""
    return find_python


@pytest.fixture
def eventually() -> Callable[..., None]:
    """eventually(test) waits until test() is true."""
    return wait_for


@pytest.fixture
def processes(nothing_left: str) -> Callable[[], list[str]]:
    """processes() are those that the test has started, and that run or are zombies."""
    return lambda: processes_marked(nothing_left)


@pytest.fixture
def group(nothing_left: str) -> Iterator[Group]:
    """An empty group, ended after the test."""
    group = Group()
    yield group
    group.terminate(timeout=5)


@pytest.fixture(scope="session")
def exec_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecServer]:
    """An HTTP exec-server that all tests share.  No test has started it, whichever was the first to use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(MARK, raising=False)
        server = ExecServer(tmp_path_factory.mktemp("exec-server")).__enter__()
    yield server
    server.__exit__()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is the same over http as over the others, unless all is asked for."""

    def extra(item: pytest.Item) -> bool:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        kinds = [str(params[name]) for name in ("gw", "sync_gw") if name in params]
        return any(kind.startswith("http") for kind in kinds) and item.path.name not in OVER_HTTP

    if not ALL:
        config.hook.pytest_deselected(items=[item for item in items if extra(item)])
        items[:] = [item for item in items if not extra(item)]


def make(group: Group, kind: str, request: pytest.FixtureRequest) -> Gateway:
    """A gateway of one of KINDS."""
    if kind.startswith("http"):
        server: ExecServer = request.getfixturevalue("exec_server")
        return group.makegateway(server.spec("websocket=no" if kind == "http-requests" else "websocket=yes"))
    if kind == "via":
        group.makegateway("popen//id=master")
        return group.makegateway("popen//via=master")
    if kind == "resume":
        return group.makegateway("popen//resume=20")
    if kind[0].isdigit() or kind in ("pypy3", "jython"):
        return group.makegateway(f"popen//python={find_python(kind)}")
    return group.makegateway(kind)


@pytest.fixture
def bridge(nothing_left: str) -> Iterator[Bridge]:
    """An event loop in a thread, and a group in it, ended after the test."""
    bridge = Bridge()
    yield bridge
    bridge.close()


@pytest.fixture(params=KINDS)
def gw(group: Group, request: pytest.FixtureRequest, _shared: _Shared) -> Gateway:
    """A gateway of every kind."""
    if request.param == "aio":
        made: Bridge = request.getfixturevalue("bridge")
        return made.do(made.group.makegateway, "popen")
    return _shared.ready() if _shares(request) else make(group, request.param, request)


@pytest.fixture(params=KINDS[:-1])
def sync_gw(group: Group, request: pytest.FixtureRequest, _shared: _Shared) -> Gateway:
    """A gateway of every kind, in the sync face, for what is a matter of threads."""
    return _shared.ready() if _shares(request) else make(group, request.param, request)


@pytest.fixture
def popen(group: Group) -> Gateway:
    """A gateway to a process with this interpreter."""
    return group.makegateway("popen")
