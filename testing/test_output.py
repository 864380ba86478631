"""What far code prints: stdout= and stderr= of gateways and of remote_exec."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import find_python, wait_for

from execgw import ConnectionLost, Gateway, Group, TimeoutError

EVERY_WAY = """
import os, subprocess, sys
sys.stdout.write("print\\n")
sys.stdout.flush()
os.write(1, b"descriptor\\n")
subprocess.call(["echo", "subprocess"])
import ctypes
ctypes.CDLL(None).puts(b"C library")
ctypes.CDLL(None).fflush(None)
sys.stderr.write("to stderr\\n")
"""


@pytest.fixture(params=["popen", "via", "cmd=env", "2.7.18", "3.6.15", "3.13.0"])
def worker(group: Group, request: pytest.FixtureRequest) -> Gateway:
    if request.param == "via":
        group.makegateway("popen//id=master")
        return group.makegateway("popen//via=master")
    if request.param[0].isdigit():
        return group.makegateway(f"popen//python={find_python(request.param)}")
    return group.makegateway(f"{request.param}//python={sys.executable}")


def test_all_that_is_printed_arrives_in_order_before_waitclose_returns(worker: Gateway) -> None:
    out: list[str] = []
    err: list[str] = []

    worker.remote_exec(EVERY_WAY, stdout=out.append, stderr=err.append).waitclose(20)

    assert out == ["print", "descriptor", "subprocess", "C library"]
    assert err == ["to stderr"]


def test_output_is_of_the_code_that_ran_alone(popen: Gateway) -> None:
    first: list[str] = []
    second: list[str] = []

    popen.remote_exec("print('one')", stdout=first.append).waitclose(20)
    popen.remote_exec("print('two')", stdout=second.append).waitclose(20)
    popen.remote_exec("print('nobody asked')").waitclose(20)

    assert (first, second) == (["one"], ["two"])


def test_a_gateways_output_goes_where_it_says(group: Group) -> None:
    lines: list[str] = []
    gw = group.makegateway("popen", stdout=lines.append)

    gw.remote_exec("print('a'); print('b')", stdout="null").waitclose(20)
    gw.remote_exec("print('c')", stdout=lines.append).waitclose(20)

    assert lines == ["c"]


def test_output_as_a_channel_of_lines(popen: Gateway) -> None:
    channel = popen.remote_exec("for n in range(3): print('line', n)", stdout="channel")

    assert list(channel.stdout) == ["line 0", "line 1", "line 2"]
    with pytest.raises(EOFError):
        channel.stdout.receive()


def test_a_line_that_has_no_end_comes_at_the_end(popen: Gateway) -> None:
    lines: list[str] = []

    popen.remote_exec("import sys; sys.stdout.write('half')", stdout=lines.append).waitclose(20)

    assert lines == ["half"]


@pytest.mark.parametrize("file", [io.StringIO, io.BytesIO])
def test_output_into_a_file(popen: Gateway, file: type) -> None:
    target = file()

    popen.remote_exec("print('\\u20ac 5')", stdout=target).waitclose(20)

    assert target.getvalue() in ("\u20ac 5\n", "\u20ac 5\n".encode())


def test_inherited_output_is_on_the_near_sides_own(tmp_path: Path) -> None:
    script = "import execgw; gw = execgw.makegateway('popen', stdout='inherit'); "
    script += "gw.remote_exec('import sys; print(1); sys.stderr.write(\"2\\\\n\")', stdout='inherit').waitclose()"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("1\n", "2\n")


def test_stderr_is_inherited_though_stdout_is_captured(popen: Gateway, our_stderr) -> None:
    with our_stderr() as read:
        popen.remote_exec("import sys; print('x'); sys.stderr.write('seen\\n')", stdout="null").waitclose(20)
        popen.remote_exec("import sys; sys.stderr.write('more\\n')").waitclose(20)
        popen._group.terminate()

        assert read() == "seen\nmore\n"


def test_a_target_that_is_none_is_refused(popen: Gateway) -> None:
    with pytest.raises(ValueError, match="'inherit', 'null', 'channel', a function of one line, or a file"):
        popen.remote_exec("print(1)", stdout="somewhere")


def test_a_gateway_in_memory_has_no_output_of_its_own(group: Group) -> None:
    with pytest.raises(Exception, match="a worker in memory has no output of its own"):
        group.makegateway("memory", stdout="null")

    assert len(group) == 0


def test_output_that_nobody_reads_is_cut_in_the_middle_and_told_and_nothing_waits_for_it(group: Group) -> None:
    gw = group.makegateway("popen", stdout="channel")
    channel = gw.remote_exec("n = 0\nwhile True:\n    print(n, 'x' * 100); n += 1")
    assert gw.stdout.receive(20).startswith("0 ")

    before = gw.status().memory
    with pytest.raises(TimeoutError):
        channel.waitclose(2.5)  # it prints meanwhile, and its window is full

    assert gw.call(abs, -1) == 1
    assert gw.status().memory - before < 16 << 20
    assert channel.interrupt() == "interrupted"
    seen = []
    while not seen or "cut" not in seen[-1]:
        seen.append(gw.stdout.receive(20))
    assert re.fullmatch(r"\[\.\.\. \d+ bytes cut: nobody read them in time \.\.\.\]", seen[-1])


def test_a_worker_that_dies_ends_the_lines(popen: Gateway) -> None:
    channel = popen.remote_exec("print('first'); channel.receive(); import os; os._exit(3)", stdout="channel")
    assert channel.stdout.receive(20) == "first"

    channel.send(None)

    assert list(channel.stdout) == []


LAST_WORDS = """
import os, subprocess
subprocess.call(["sh", "-c", "seq 20000; echo by another"])
os.write(1, b"last words")
os._exit(3)
"""


@pytest.mark.parametrize("kind", ["popen", "2.7.18", "3.6.15", "3.13.0", "pypy3"])
def test_what_was_written_before_the_code_ends_its_process_is_not_lost(group: Group, kind: str) -> None:
    gw = group.makegateway("popen" if kind == "popen" else f"popen//python={find_python(kind)}")
    lines: list[str] = []

    channel = gw.remote_exec(LAST_WORDS, stdout=lines.append)

    with pytest.raises(ConnectionLost, match="exit code 3"):
        channel.waitclose(20)
    wait_for(lambda: "last words" in lines, "the last line")
    assert len(lines) == 20_002


def test_the_end_of_a_process_is_not_held_up_by_a_near_side_that_does_not_read(group: Group) -> None:
    gw = group.makegateway("popen", stdout="channel")
    channel = gw.remote_exec("import os\nfor n in range(100000): print(n, 'x' * 100)\nos._exit(3)")

    with pytest.raises(ConnectionLost, match="exit code 3"):
        channel.waitclose(20)


def test_a_child_of_the_code_ends_at_once(popen: Gateway) -> None:
    lines: list[str] = []
    source = """
    import os
    child = os.fork()
    if not child:
        os._exit(7)
    print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
    """

    popen.remote_exec(source, stdout=lines.append).waitclose(20)

    assert lines == ["7"]
