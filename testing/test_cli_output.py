"""`execgw exec`: what comes from under the script (C code, other processes), in order; prefixes and their colours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import find_python

EXECGW = [sys.executable, "-m", "execgw"]
WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich'] = None; from execgw.cli import main; sys.exit(main())",
]
COLOURED = re.compile(r"\x1b\[(\d+)m\[(gw\d)\] \x1b\[0m")


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """script(text) is the path of a file with that text."""

    def written(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        return str(tmp_path / "script.py")

    return written


@pytest.fixture
def run(nothing_left: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*EXECGW, "exec", *words], capture_output=True, text=True, cwd=tmp_path, timeout=60)

    yield run


# -- from under the script


@pytest.mark.parametrize("kind", ["popen", "2.7.18", "3.6.15", "3.13.0", "pypy3"])
def test_what_c_code_and_other_processes_write_comes_in_order(run, script, kind):
    name = script(
        """
import os, subprocess, sys
print("one")
subprocess.call(["sh", "-c", "echo two; echo problem >&2"])
print("three")
os.write(1, b"four\\n")
print("five")
subprocess.call(["echo", "six"], stdout=sys.stdout)
child = os.fork()
if not child:
    print("seven")
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print("eight")
"""
    )
    spec = kind if kind == "popen" else f"popen//python={find_python(kind)}"

    done = run(spec, name)

    assert done.stdout.split() == ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    assert "problem\n" in done.stderr
    assert done.returncode == 0


def test_bytes_of_another_process_arrive_unchanged_and_all(script, nothing_left):
    name = script("import subprocess; subprocess.call(['sh', '-c', 'head -c 3000000 /dev/zero; printf \"\\\\377\"'])")

    done = subprocess.run([*EXECGW, "exec", "popen", name], capture_output=True, timeout=60, check=True)

    assert done.stdout == bytes(3_000_000) + b"\xff"


def test_what_was_written_before_a_script_ends_its_process_is_not_lost(run, script):
    name = script(
        "import os, subprocess\nprint('printed', flush=True)\nsubprocess.call(['echo', 'by another'])\n"
        "os.write(1, b'last words')\nos._exit(3)"
    )

    done = run("popen", name)

    assert done.stdout == "printed\nby another\nlast words"
    assert "exit code 3" in done.stderr


def test_a_process_that_a_script_leaves_behind_does_not_hold_up_its_end(run, script):
    done = run("popen", script("import subprocess; subprocess.Popen(['sleep', '100']); print('done')"))

    assert (done.stdout, done.returncode) == ("done\n", 0)


def test_a_reader_that_is_slow_is_waited_for(script, nothing_left):
    name = script("import subprocess; subprocess.call(['seq', '400000'])")

    with subprocess.Popen([*EXECGW, "exec", "popen", name], stdout=subprocess.PIPE) as process:
        first = process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)  # longer than captured output of a gateway would be kept for

        assert first + process.stdout.read() == b"".join(b"%d\n" % n for n in range(1, 400_001))


# -- prefixes


def on_a_terminal(command: list[str], **env: str) -> str:
    """What a program writes when its output is a terminal."""
    near, far = os.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(command, stdout=far, stderr=far, env={**environ, "TERM": "xterm", **env}) as process:
        os.close(far)
        seen = b""
        try:
            while data := os.read(near, 65536):
                seen += data
        except OSError:  # EIO is how Linux tells the end of a terminal
            pass
        os.close(near)
    assert process.returncode == 0
    return seen.decode()


def test_on_a_terminal_each_gateway_has_a_colour_of_its_own(script, nothing_left):
    seen = on_a_terminal([*EXECGW, "exec", "3*popen", script("print('a line'); print('another')")])

    colours = set(COLOURED.findall(seen))
    assert sorted(gateway for _, gateway in colours) == ["gw0", "gw1", "gw2"]
    assert len({colour for colour, _ in colours}) == 3
    assert len(re.findall("a line|another", seen)) == 6


@pytest.mark.parametrize("command, env", [
    (EXECGW, {"NO_COLOR": "1"}),
    (EXECGW, {"TERM": "dumb"}),
    (WITHOUT_RICH, {}),
], ids=["NO_COLOR", "a dumb terminal", "without rich"])  # fmt: skip
def test_prefixes_are_plain_where_colours_are_not_wanted_or_not_to_be_had(script, nothing_left, command, env):
    seen = on_a_terminal([*command, "exec", "2*popen", script("print('a line')")], **env)

    assert sorted(seen.split("\r\n")) == ["", "[gw0] a line", "[gw1] a line"]


def test_prefixes_are_plain_without_a_terminal(run, script):
    done = run("2*popen", script("print('a line')"))

    assert sorted(done.stdout.splitlines()) == ["[gw0] a line", "[gw1] a line"]
