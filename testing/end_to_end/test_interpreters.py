"""Workers on every interpreter: alone, beside each other in any order; what each cannot do, as the guide says."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import find_part, find_python

import execgw
from execgw import Gateway, Group, RemoteError, SpecError, StartError, _bundle

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "interpreters.md"
RUNNER = Path(execgw.__file__).parent / "worker" / "pyodide.mjs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "execgw-testing" / "pyodide"
ECHO = "for item in channel: channel.send(item)"
VERSION = "import sys; channel.send((str(sys.platform), sys.version_info[0]))"


def find_pyodide() -> str:
    """The folder that has the npm package; installed once, from npm's registry, for all runs."""
    find_part("node")
    package = CACHE / "node_modules" / "pyodide" / "pyodide.mjs"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs at a time one would find half of it
        if not package.exists():
            command = [find_part("npm"), "install", "--no-audit", "--no-fund", "pyodide@314"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=100)
            if done.returncode:
                why = f"npm could not install pyodide: {done.stderr[-500:]}"
                pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return str(CACHE)


def pyodide_spec() -> str:
    return f"cmd=env EXECGW_PYODIDE={find_pyodide()} node {RUNNER}//python=pyodide"


@pytest.fixture(scope="module")
def shared() -> Iterator[Group]:
    group = Group()
    yield group
    group.terminate(timeout=5)


@pytest.fixture(scope="module")
def jython(shared: Group) -> Gateway:
    return shared.makegateway(f"popen//python={find_python('jython')}")


@pytest.fixture(scope="module")
def pyodide(shared: Group) -> Gateway:
    return shared.makegateway(pyodide_spec())


# -- in any order


@pytest.mark.parametrize(
    "hops",
    [
        ("jython", "2.7.18", "3.13.0"),
        ("2.7.18", "jython", "pypy3"),
        ("pypy3", "3.6.15", "jython"),
        ("3.6.15", "pypy3", "2.7.18"),
    ],
    ids="-".join,
)
def test_workers_of_all_interpreters_start_beside_each_other(group: Group, hops: tuple[str, ...]) -> None:
    gateways = [group.makegateway(f"popen//id=0//python={find_python(hops[0])}")]
    for number, python in enumerate(hops[1:]):
        gateways.append(group.makegateway(f"popen//id={number + 1}//via={number}//python={find_python(python)}"))
    echo = gateways[-1].remote_exec(ECHO)
    value = {"a": [1, 2.5, 3j, (None, True), {2}], "b": "text \xe9" * 100_000}

    echo.send(value)

    assert echo.receive(20) == value
    ended = group.terminate(timeout=5)
    assert set(ended.values()) == {"asked"}


def test_the_own_interpreter_of_a_jython_is_a_jython(group: Group) -> None:
    group.makegateway(f"popen//id=java//python={find_python('jython')}")
    beside = group.makegateway("popen//via=java")

    platform, major = beside.remote_exec(VERSION).receive(20)

    assert (platform[:4], major) == ("java", 2)


def test_a_program_that_is_not_there_is_told_by_a_jython_in_the_middle(group: Group) -> None:
    group.makegateway(f"popen//id=java//python={find_python('jython')}")

    with pytest.raises(StartError, match=r"cannot start u?'no-such-python'"):
        group.makegateway("popen//via=java//python=no-such-python")


def test_a_child_of_a_jython_ends_with_the_jython(group: Group, eventually: Callable[..., None]) -> None:
    java = group.makegateway(f"popen//id=java//python={find_python('jython')}")
    beside = group.makegateway(f"popen//via=java//python={find_python('pypy3')}")
    pid, java_pid = (
        gateway.remote_exec("import os; channel.send(int(os.getpid()))").receive(20) for gateway in (beside, java)
    )

    os.kill(java_pid, signal.SIGKILL)

    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the child")


# -- Jython


def test_surroundings_are_in_force_on_a_jython_behind_a_command(group: Group, tmp_path: Path) -> None:
    spec = f"cmd=env//python={find_part('jython')}//chdir={tmp_path}/new//nice=3//env:EXECGW_X=\xe9"
    channel = group.makegateway(spec).remote_exec(
        """
        import os
        tasks = '/proc/self/task/'
        levels = [open(tasks + task + '/stat').read().split(')')[1].split()[16] for task in os.listdir(tasks)]
        channel.send((os.getcwd(), os.environ['EXECGW_X'], sorted(set(levels))))
        """
    )

    assert channel.receive(20) == (f"{tmp_path}/new", "\xe9".encode().decode("latin-1"), [str(os.nice(0) + 3)])


def test_a_jython_under_another_name_says_what_it_needs(group: Group, tmp_path: Path) -> None:
    (tmp_path / "mypy").symlink_to(find_part("jython"))

    with pytest.raises(StartError, match=r"this is a Jython.*\n?.*python=/path/of/jython"):
        group.makegateway(f"popen//python={tmp_path}/mypy")


def test_what_is_written_to_the_standard_streams_of_a_jython_does_not_reach_the_link(jython: Gateway) -> None:
    channel = jython.remote_exec(
        """
        import os, subprocess, sys
        print('rubbish')
        sys.stdout.flush()
        subprocess.call(['sh', '-c', 'echo rubbish; echo rubbish >&0; cat'])
        channel.send(sys.stdin.read())
        """
    )

    assert channel.receive(20) == ""
    channel.waitclose(10)


def test_a_jython_that_computes_answers_and_ends_when_it_is_told_to(group: Group) -> None:
    gateway = group.makegateway(f"popen//python={find_python('jython')}")
    channel = gateway.remote_exec("channel.send(1)\nwhile True: pass")
    channel.receive(20)

    status = gateway.remote_status()
    begun = execgw.peer.compat.clock()
    group.terminate(timeout=1)

    assert status.numexecuting == 1
    assert execgw.peer.compat.clock() - begun < 5


NEAR_SIDE = """
import sys, time
import execgw
gateway = execgw.makegateway('popen//python=%s')
channel = gateway.remote_exec('''
import os, subprocess
child = subprocess.Popen(['sleep', '100'])
channel.send((int(os.getpid()), int(child.pid)))
%s
''')
print(*channel.receive(20), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["while True: pass", "import time; time.sleep(100)"])
def test_a_jython_ends_with_its_near_side_and_takes_its_processes_along(
    doing: str, nothing_left: str, eventually: Callable[..., None]
) -> None:
    program = NEAR_SIDE % (find_python("jython"), doing)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as near:
        assert near.stdout is not None
        pids = near.stdout.readline().split()
        assert len(pids) == 2

        near.kill()

    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of both")


def test_sigterm_ends_a_jython(group: Group) -> None:
    gateway = group.makegateway(f"popen//python={find_python('jython')}")
    channel = gateway.remote_exec("import os; channel.send(int(os.getpid())); channel.receive()")

    os.kill(channel.receive(20), signal.SIGTERM)

    with pytest.raises(execgw.ConnectionLost, match="exit code 143"):
        channel.receive(20)


# -- Pyodide


def test_a_pyodide_is_a_python_3_14_and_echoes_values(pyodide: Gateway) -> None:
    value = {
        "a": [1, 2.5, 3j, (None, True), {2}, b"\0\xff", 2**80],
        "b": "\xe9" * 3_000_000,
        "c": {(1,): frozenset([2])},
    }
    channel = pyodide.remote_exec(
        """
        import os, sys
        print('rubbish')
        os.write(1, b'rubbish')
        channel.send((sys.platform, sys.version_info[:2]))
        channel.send(channel.receive())
        """
    )

    channel.send(value)

    assert channel.receive(20) == ("emscripten", (3, 14))
    assert channel.receive(20) == value
    assert pyodide.remote_status().execmodel == "main_thread_only"


def test_a_pyodide_refuses_a_second_task_and_takes_it_when_the_first_has_ended(pyodide: Gateway) -> None:
    first = pyodide.remote_exec(ECHO)

    second = pyodide.remote_exec("channel.send('never')")
    with pytest.raises(RemoteError, match="one remote_exec at a time"):
        second.receive(20)
    first.send(1)
    assert first.receive(20) == 1
    first.close()
    third = pyodide.remote_exec("channel.send('now')")

    assert third.receive(20) == "now"


def test_a_pyodide_refuses_a_second_task_that_comes_in_one_piece_with_the_first(pyodide: Gateway) -> None:
    peer = pyodide._peer
    with peer.writing:  # both wait in the queue, as they do behind whoever writes
        first = pyodide.remote_exec(ECHO)
        second = pyodide.remote_exec("channel.send('never')")
    peer.flush()

    with pytest.raises(RemoteError, match="one remote_exec at a time"):
        second.receive(20)
    first.send(1)
    assert first.receive(20) == 1
    first.close()


def test_callbacks_of_a_pyodide_run_while_its_code_waits(pyodide: Gateway) -> None:
    channel = pyodide.remote_exec(
        """
        other = channel.gateway.newchannel()
        got = []
        def called(item):
            channel.send(item + channel.receive())
            got.append(item)
        other.setcallback(called)
        channel.send(other)
        other.waitclose()
        channel.send(got)
        """
    )
    other = channel.receive(20)

    for item in (1, 2):
        other.send(item)
        channel.send(10)
    sums = [channel.receive(20), channel.receive(20)]
    other.close()

    assert sums == [11, 12]
    assert channel.receive(20) == [1, 2]


def test_a_pyodide_says_that_it_cannot_wait_for_a_limited_time(pyodide: Gateway) -> None:
    channel = pyodide.remote_exec("channel.receive(1)")

    with pytest.raises(RemoteError, match="leave out the timeout"):
        channel.receive(20)


def test_a_pyodide_sends_more_than_its_near_side_takes_at_once(pyodide: Gateway) -> None:
    channel = pyodide.remote_exec("for number in range(200000): channel.send(number)")

    assert sum(1 for _ in channel) == 200_000


def test_a_pyodide_with_keepalive_is_refused(group: Group) -> None:
    with pytest.raises(SpecError, match="no thread"):
        group.makegateway("cmd=node x.mjs//python=pyodide//keepalive=5")


def test_a_pyodide_that_computes_is_ended(group: Group) -> None:
    gateway = group.makegateway(f"popen//env:EXECGW_PYODIDE={find_pyodide()}//python=node {RUNNER}")
    channel = gateway.remote_exec("channel.send(1)\nwhile True: pass")
    channel.receive(20)

    group.terminate(timeout=0.2)

    with pytest.raises(execgw.GatewayClosed):
        channel.receive(20)


def test_a_pyodide_runner_without_the_package_says_how_to_get_it(group: Group, tmp_path: Path) -> None:
    find_part("node")
    shutil.copy(RUNNER, tmp_path)

    with pytest.raises(StartError, match="npm install pyodide"):
        group.makegateway(f"popen//chdir={tmp_path}//python=node {tmp_path}/{RUNNER.name}")


# -- the guide


def rows() -> list[list[str]]:
    cells = [
        [cell.strip() for cell in re.split(r"(?<!`)\|(?!`)", line)[1:-1]] for line in GUIDE.read_text().splitlines()
    ]
    return [row for row in cells if len(row) == 6 and row[1].startswith("`")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_guide_says_what_each_interpreter_can_do(
    row: list[str], group: Group, jython: Gateway, pyodide: Gateway
) -> None:
    _, line, *said = row
    others = [group.makegateway(f"popen//python={python}") for python in (sys.executable, find_python("pypy3"))]

    for gateway, word in zip([*others, jython, pyodide], said, strict=True):
        channel = gateway.remote_exec(
            f"try:\n    exec({line.strip('`')!r})\nexcept BaseException: pass\nelse: channel.send(1)"
        )
        assert list(channel) == ([1] if word == "yes" else []), gateway


def test_the_guide_names_every_flavour_of_the_bundle() -> None:
    for flavour in _bundle.FLAVOURS:
        assert f"python={flavour}" in GUIDE.read_text()


@pytest.mark.parametrize("flavour", _bundle.FLAVOURS)
def test_the_bundle_of_each_flavour_is_at_most_16_kib(flavour: str) -> None:
    assert len(_bundle.for_other(0, flavour)[1]) <= 16 * 1024
