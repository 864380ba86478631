"""The command line, run as users run it: python -m execgw ..."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from execgw.commands._starting import expand
from execgw.commands.exec import split

EXECGW = [sys.executable, "-m", "execgw"]
SAYS = "import sys\nprint('arguments', sys.argv[1:], __name__, '__file__' in globals())\n"


@pytest.fixture
def run(nothing_left, tmp_path):
    """run("exec", "popen", "x.py") is the finished process; nothing of it is left after the test."""

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*EXECGW, *words], input=stdin, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )

    return run


@pytest.fixture
def script(tmp_path):
    """script(text) writes x.py into the directory where commands run."""

    def write(text: str, name: str = "x.py") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


# -- all commands


def test_without_a_command_the_help_is_shown(run):
    done = run()

    assert done.returncode == 2
    assert all(command in done.stdout for command in ("info", "doctor", "exec"))


@pytest.mark.parametrize("command", ["info", "doctor", "exec"])
def test_the_help_of_a_command_has_examples(run, command):
    done = run(command, "--help")

    assert done.returncode == 0
    assert f"  execgw {command} " in done.stdout.partition("examples:")[2]


@pytest.mark.parametrize("words", [
    ["info", "popenn"], ["doctor", "popenn"], ["exec", "popenn=", "x.py"], ["exec", "popen//python=false", "x.py"],
    ["exec", "popen//via=nobody", "x.py"], ["exec", "popen//id=a", "popen//id=a", "x.py"],
    ["exec", "popen//id=a//via=b", "popen//id=b//via=a", "x.py"],
])  # fmt: skip
def test_a_mistake_is_told_without_a_traceback(run, script, words):
    script("print('it ran')")

    done = run(*words)

    assert done.returncode in (1, 2)
    assert done.stderr or "FAILED" in done.stdout
    assert "Traceback" not in done.stderr
    assert "it ran" not in done.stdout


def test_info_tells_of_each_gateway(run):
    done = run("info", "popen", "memory")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"Python 3\.\d+\.\d+ at .* round trip \d+ us", done.stdout)) == 2


# -- exec: what is a spec, what is the script


@pytest.mark.parametrize("words, result", [
    (["popen", "x.py"], (["popen"], "x.py", [])),
    (["popen", "cmd=env//python=y.py", "x.py", "-v"], (["popen", "cmd=env//python=y.py"], "x.py", ["-v"])),
    (["4*popen", "-", "a"], (["4*popen"], "-", ["a"])),
    (["popen", "--", "popen", "--"], (["popen"], "popen", ["--"])),
    (["ssh=a.py", "../dir/x.py"], (["ssh=a.py"], "../dir/x.py", [])),
])  # fmt: skip
def test_the_script_is_the_first_word_that_can_be_one(words, result):
    assert split(words) == result


def test_an_existing_file_is_a_script_but_the_name_of_a_kind_is_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tool").touch()
    Path("popen").touch()

    assert split(["popen", "tool", "x"]) == (["popen"], "tool", ["x"])


@pytest.mark.parametrize("words, part", [
    ([], "no SCRIPT"), (["popen"], "no SCRIPT"), (["x.py"], "no SPEC"), (["popen", "--"], "no SCRIPT"),
    (["popen", "--prefix", "x.py"], "before the first SPEC"),
])  # fmt: skip
def test_what_is_missing_is_told(words, part):
    with pytest.raises(ValueError, match=part):
        split(words)


def test_a_spec_may_be_given_many_times():
    assert [str(spec) for spec in expand(["2*popen", "memory"])] == ["popen", "popen", "memory"]


@pytest.mark.parametrize("word", ["0*popen", "1001*popen", "2*popen//id=x", "2*"])
def test_a_number_of_gateways_that_cannot_be_is_refused(word):
    with pytest.raises(ValueError):
        expand([word])


# -- exec: what the script sees and says


def test_a_script_runs_as_python_would_run_it(run, script):
    done = run("exec", "popen", script(SAYS), "-v", "two words")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "arguments ['-v', 'two words'] __main__ False\n"


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.13.0"])
def test_a_script_runs_on_other_pythons(run, script, python, version):
    name = script(
        "# -*- coding: latin-1 -*-\nimport sys\nprint('%d.%d' % sys.version_info[:2])\nchannel.send(b'raw')\n1/0"
    )

    done = run("exec", f"popen//python={python(version)}", name)

    assert done.stdout.split() == [version.rpartition(".")[0], "raw"]
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_the_script_may_come_from_stdin(run):
    done = run("exec", "popen", "-", "a", stdin="import sys; print(sys.argv)")

    assert done.stdout == "['-', 'a']\n".replace("-", "<stdin>")


def test_lines_of_several_gateways_carry_their_ids_and_those_of_one_do_not(run, script):
    name = script("import sys; print('out'); print('err', file=sys.stderr)")

    several, without = run("exec", "2*popen", name), run("exec", "--no-prefix", "2*popen", name)
    one = run("exec", "--prefix", "popen//id=here", name)

    assert sorted(several.stdout.splitlines()) == ["[gw0] out", "[gw1] out"]
    assert sorted(several.stderr.splitlines()) == ["[gw0] err", "[gw1] err"]
    assert without.stdout == "out\nout\n"
    assert one.stdout == "[here] out\n"


def test_what_a_script_sends_is_printed(run, script):
    done = run("exec", "popen", script("channel.send('text'); channel.send({'a': (1, None)}); channel.send(b'raw')"))

    assert done.stdout == "text\n{'a': (1, None)}\nraw"


def test_bytes_that_a_script_writes_arrive_unchanged(script, nothing_left, tmp_path):
    name = script("import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")

    out = subprocess.run([*EXECGW, "exec", "popen", name], capture_output=True, cwd=tmp_path, timeout=60, check=True)

    assert out.stdout == bytes(range(256)) * 1000


def test_what_is_printed_comes_at_once(script, nothing_left, tmp_path):
    name = script("import time\nprint('first')\ntime.sleep(100)")

    with subprocess.Popen([*EXECGW, "exec", "popen", name], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout.readline() == b"first\n"
        process.kill()


def test_what_threads_of_a_script_print_comes_too(run, script):
    done = run("exec", "popen", script("import threading; threading.Timer(0.2, print, ['late']).start(); print('now')"))

    assert done.stdout == "now\nlate\n"


def test_a_gateway_that_others_go_through_only_leads_there(run, script):
    name = script("print('ran')")
    specs = ["popen//via=master//id=leaf", "popen//id=master"]

    leaf, both = run("exec", "--prefix", *specs, name), run("exec", "--all", *specs, name)

    assert leaf.stdout == "[leaf] ran\n"
    assert sorted(both.stdout.splitlines()) == ["[leaf] ran", "[master] ran"]


# -- exec: how it ends


@pytest.mark.parametrize("end, code, words", [
    ("pass", 0, ""),
    ("import sys; sys.exit(7)", 7, ""),
    ("import sys; sys.exit('no licence')", 1, "no licence"),
    ("{}['key']", 1, "KeyError: 'key'"),
    ("(", 1, "SyntaxError"),
    ("import os; os._exit(3)", 1, "ConnectionLost"),
    ("channel.send(object())", 1, "DumpError"),
])  # fmt: skip
def test_the_exit_code_tells_how_the_script_ended(run, script, end, code, words):
    done = run("exec", "popen", script(end))

    assert done.returncode == code
    assert words in done.stderr


def test_one_failure_among_many_is_the_exit_code_of_all(run, script):
    name = script("import os, sys\nif os.environ.get('BAD'): raise ValueError('bad one')\nprint('fine')")

    done = run("exec", "popen", "popen//id=b//env:BAD=1", name)

    assert done.returncode == 1
    assert done.stdout == "[gw0] fine\n"
    assert all(line.startswith("[b] ") for line in done.stderr.splitlines())


def test_a_traceback_shows_the_lines_of_the_script_and_none_of_ours(run, script):
    done = run("exec", "popen", script("def f():\n    raise ValueError('deep')\nf()\n"))

    files = re.findall(r'File "(.*?)", line (\d+)', done.stderr)
    assert files == [("x.py", "3"), ("x.py", "2")]
    assert "raise ValueError('deep')" in done.stderr


def test_ctrl_c_ends_all_scripts_and_lets_them_clean_up(script, nothing_left, tmp_path):
    name = script("import time\ntry: print('ready'); time.sleep(100)\nfinally: print('cleaned')")

    with subprocess.Popen(
        [*EXECGW, "exec", "2*popen", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        ready = {process.stdout.readline(), process.stdout.readline()}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert ready == {"[gw0] ready\n", "[gw1] ready\n"}
    assert process.returncode == 130
    assert sorted(out.splitlines()) == ["[gw0] cleaned", "[gw1] cleaned"]
    assert err == ""


def test_when_nobody_reads_any_more_all_ends(script, nothing_left, tmp_path):
    name = script("while True: print('x' * 1000)")

    with subprocess.Popen(
        [*EXECGW, "exec", "2*popen", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        code = process.wait(30)

        assert (code, process.stderr.read()) == (141, b"")


# -- doctor


def _marks(text: str) -> dict[str, str]:
    """{step: 'ok' or 'FAILED'} of one spec."""
    return {step: mark for mark, step in re.findall(r"(?m)^  (ok|FAILED) +(\S+(?: \S+)?)  ", text)}


def test_doctor_says_what_works(run):
    done = run("doctor", "popen//id=a", "cmd=env//via=a")

    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("cmd=env//via=a\n")
    steps = ["spec", "python", "handshake", "bytes", "round trip", "throughput"]
    assert _marks(first) == dict.fromkeys(steps, "ok")
    assert _marks(second) == dict.fromkeys([steps[0], "program", *steps[1:]], "ok")


@pytest.mark.parametrize("spec, failed, hint", [
    ("popen//pyhton=x", "spec", "did you mean 'python'"),
    ("popen//via=a", "spec", "SPEC//id=NAME"),
    ("cmd=program_of_nobody", "program", "install it"),
    ("popen//python=python_of_nobody", "python", "python="),
    ("cmd=env//python=python_of_nobody", "python", "python="),
    ("popen//python=false", "start", "run by hand"),
    ("cmd=sh -c 'exit 130'", "handshake", "docker exec -t"),
    ("cmd=sh -c 'echo a password is required >&2; exit 1'", "login", "NOPASSWD"),
    ("cmd=sh -c 'echo no such container >&2; exit 1'", "connect", "docker ps"),
])  # fmt: skip
def test_doctor_stops_at_what_fails_and_says_what_to_do_next(run, spec, failed, hint):
    done = run("doctor", spec)

    marks = _marks(done.stdout)
    assert done.returncode == 1
    assert [step for step, mark in marks.items() if mark == "FAILED"] == [failed] == list(marks)[-1:]
    assert hint in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_doctor_names_a_host_that_is_not_there(run):
    done = run("doctor", "ssh=host.of.nobody.invalid")

    if "ssh" not in _marks(done.stdout) and "there is no program 'ssh'" in done.stdout:
        pytest.skip("there is no ssh on this machine") if not os.environ.get("CI") else pytest.fail("there is no ssh")
    assert done.returncode == 1
    assert _marks(done.stdout) == {"spec": "ok", "program": "ok", "name lookup": "FAILED"}


def test_doctor_of_a_later_spec_goes_on_after_a_failure(run):
    done = run("doctor", "popen//python=false", "memory")

    assert done.returncode == 1
    assert _marks(done.stdout.partition("memory\n")[2])["throughput"] == "ok"


def test_doctor_writes_the_same_for_programs(run):
    fine, broken = run("doctor", "--json", "popen"), run("doctor", "--json", "cmd=program_of_nobody")

    told = json.loads(fine.stdout)
    assert told["ok"] and all(step["ok"] for step in told["specs"][0]["steps"])
    assert set(told["specs"][0]["measured"]) == {
        "start_seconds", "round_trip_seconds", "bytes_per_second_there", "bytes_per_second_back",
    }  # fmt: skip
    step = json.loads(broken.stdout)["specs"][0]["steps"][-1]
    assert (broken.returncode, step["ok"], step["name"], bool(step["next"])) == (1, False, "program", True)
