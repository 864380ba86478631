"""cmd=, docker=, podman=, kubectl=, sudo=: specs that are refused, bytes that change, commands that fail."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import pytest
from wrappers import FILTER, PTY, PYTHON, WRAPPERS, need, words_of

from execgw import HandshakeError, HostNotReached, PythonNotFound, SpecError, StartError
from execgw.errors import AuthenticationFailed
from execgw.transports.command import SHORTHANDS


@pytest.fixture(params=WRAPPERS)
def wrapper(request) -> str:
    """The words before the interpreter."""
    return words_of(request.param)


@pytest.fixture(params=["", "//via=master"], ids=["here", "via"])
def via(request, group):
    """The rest of a spec: started here, or beside another worker."""
    if request.param:
        group.makegateway("popen//id=master")
    return request.param


@pytest.fixture
def script(tmp_path):
    """script(text, name) is a program of that name in a directory that is put first on PATH."""

    def make(text: str, name: str = "wrapper") -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    return make


# -- bytes that do not arrive as they were sent


@pytest.mark.parametrize("words", [f"{PYTHON} -c {shlex.quote(PTY)}", "script -qec"], ids=["pty", "script"])
@pytest.mark.parametrize("rest", ["", "//env:A=1"], ids=["bare", "surroundings"])
def test_a_terminal_in_between_is_named_at_once_with_the_cure(group, words, rest, via):
    if "script" in words:
        need("script -qec true /dev/null")
        # It takes a command line, not words.
        run = "os.execvp('script', ['script', '-qec', shlex.join(sys.argv[1:]), '/dev/null'])"
        quoting = f"import os, shlex, sys; {run}"
        words = f"{PYTHON} -c {shlex.quote(quoting)}"
    begun = time.monotonic()

    with pytest.raises(HandshakeError, match=r"terminal.*docker exec -t"):
        group.makegateway(f"cmd={words}//python={PYTHON}{rest}{via}")

    assert time.monotonic() - begun < 10  # not the 30 s of a start


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("what", ["line ends", "the 8th bit", "NUL"])
def test_a_pipe_that_changes_bytes_is_told_at_once(group, way, what, via):
    begun = time.monotonic()

    with pytest.raises(HandshakeError, match="chang"):
        group.makegateway(f"cmd={PYTHON} -c {shlex.quote(FILTER)} {way} '{what}'//python={PYTHON}{via}")

    assert time.monotonic() - begun < 10


# -- commands that fail


@pytest.mark.parametrize("code, error, words", [
    (1, StartError, "exit code 1"),
    (2, StartError, "exit code 2"),
    (126, PythonNotFound, f"{PYTHON!r} cannot be executed there"),
    (127, PythonNotFound, f"there seems to be no {PYTHON!r} there; name the interpreter: python="),
])  # fmt: skip
def test_the_exit_code_of_a_command_is_told_with_what_it_means(group, code, error, words, via):
    with pytest.raises(StartError, match=words) as caught:
        group.makegateway(f"cmd=sh -c 'echo these are the last words >&2; exit {code}'//python={PYTHON}{via}")

    assert type(caught.value) is error
    assert caught.value.exit_code == code
    assert "these are the last words" in caught.value.stderr


def test_an_interpreter_that_is_not_there_is_python_not_found(group, wrapper, via):
    with pytest.raises(PythonNotFound, match="no 'python_of_nobody' there"):
        group.makegateway(f"cmd={wrapper}//python=python_of_nobody{via}")


def test_a_line_that_only_looks_like_it_is_no_missing_interpreter(group):
    words = "echo 'open /usr/lib/python3/x: No such file or directory' >&2; exit 1"

    with pytest.raises(StartError) as caught:
        group.makegateway(f'cmd=sh -c "{words}"//python=python3')

    assert type(caught.value) is StartError


def test_a_command_that_is_not_there_is_told_and_is_no_missing_python(group):
    with pytest.raises(StartError, match="there is no program 'wrapper_of_nobody'") as caught:
        group.makegateway("cmd=wrapper_of_nobody -x//python=python3")

    assert type(caught.value) is StartError


def test_a_command_that_hangs_is_given_up_in_time(group, processes, via):
    before = len(processes())

    with pytest.raises(StartError, match=r"(?s)no answer within 0.5 s.*waiting for a node"):
        group.makegateway(f"cmd=sh -c 'echo waiting for a node >&2; exec sleep 100'//start_timeout=0.5{via}")

    assert len(processes()) == before


def test_a_directory_that_cannot_be_made_there_is_told(group):
    with pytest.raises(StartError, match=r"chdir=b?'/proc/nothing'") as caught:
        group.makegateway(f"cmd=env//python={PYTHON}//chdir=/proc/nothing")

    assert type(caught.value) is StartError


# -- shorthands


ENGINE = """#!/bin/sh
# Stands for a container engine: the arguments must be these, and the rest is run.
[ "$1 $2 $3" = "exec -i web-1" ] || { echo "wrong arguments: $*" >&2; exit 9; }
shift 3
EXTRA
exec "$@"
"""


@pytest.mark.parametrize("name, extra", [
    ("docker", ""), ("podman", ""), ("kubectl", '[ "$1" = -- ] || exit 8; shift'),
])  # fmt: skip
def test_a_shorthand_runs_the_program_with_these_arguments(group, script, monkeypatch, name, extra, via):
    path = script(ENGINE.replace("EXTRA", extra), name)
    monkeypatch.setenv("PATH", str(Path(path).parent), prepend=os.pathsep)
    if via:  # a worker that has the new PATH
        group.makegateway("popen//id=other")
        via = "//via=other"

    gateway = group.makegateway(f"{name}=web-1//python={PYTHON}{via}")

    assert gateway.call(len, "abc") == 3


def test_sudo_gets_these_arguments(group, script, monkeypatch):
    path = script('#!/bin/sh\n[ "$1 $2 $3 $4" = "-n -u bob --" ] || exit 9\nshift 4\nexec "$@"\n', "sudo")
    monkeypatch.setenv("PATH", str(Path(path).parent), prepend=os.pathsep)

    assert group.makegateway(f"sudo=bob//python={PYTHON}").call(len, "abc") == 3


@pytest.mark.parametrize("name, says, error, hint", [
    ("docker", "Error response from daemon: No such container: web-1", HostNotReached, "docker ps"),
    ("docker", "Error response from daemon: container 0a1b is not running", HostNotReached, "docker start"),
    ("docker", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", HostNotReached, "docker ps"),
    ("podman", 'Error: no container with name or ID "web-1" found: no such container', HostNotReached, "podman ps"),
    ("kubectl", 'Error from server (NotFound): pods "web-1" not found', HostNotReached, "kubectl get pods"),
    ("kubectl", "error: You must be logged in to the server (Unauthorized)", AuthenticationFailed, "log in"),
    ("sudo", "sudo: a password is required", AuthenticationFailed, "NOPASSWD"),
    ("sudo", "sudo: unknown user web-1", HostNotReached, "getent passwd"),
])  # fmt: skip
def test_what_an_engine_says_becomes_an_error_with_the_next_step(group, script, monkeypatch, name, says, error, hint):
    path = script(f"#!/bin/sh\necho {shlex.quote(says)} >&2\nexit 1\n", name)
    monkeypatch.setenv("PATH", str(Path(path).parent), prepend=os.pathsep)

    with pytest.raises(StartError, match=hint) as caught:
        group.makegateway(f"{name}=web-1")

    assert type(caught.value) is error
    assert says in str(caught.value)


def test_an_interpreter_that_a_container_has_not_is_python_not_found(group, script, monkeypatch):
    says = 'OCI runtime exec failed: exec failed: exec: "python3": executable file not found in $PATH: unknown'
    path = script(f"#!/bin/sh\necho {shlex.quote(says)} >&2\nexit 126\n", "docker")
    monkeypatch.setenv("PATH", str(Path(path).parent), prepend=os.pathsep)

    with pytest.raises(PythonNotFound, match="python="):
        group.makegateway("docker=web-1")


def test_a_user_that_is_not_there_is_told_by_the_real_sudo(group):
    need("sudo -n -u nobody true")

    with pytest.raises(HostNotReached, match="getent passwd"):
        group.makegateway("sudo=user_of_nobody")


# -- specs


@pytest.mark.parametrize("key", SHORTHANDS)
@pytest.mark.parametrize("name", ["-t", "--privileged", "a b", "a;id", "$(id)", "a\nb", "", "../x", "a'b", "a\0b"])
def test_a_name_that_could_be_anything_else_is_refused(group, key, name):
    with pytest.raises(SpecError, match=f"{key}="):
        group.makegateway(f"{key}={name}")


@pytest.mark.parametrize("spec, part", [
    ("cmd", "cmd needs a value"),
    ("cmd=", "cmd= has no value; it needs one: cmd=..."),
    ("cmd=   ", "cmd needs a value"),
    ("cmd=sh -c 'x", "No closing quotation"),
    ("cmd=env//python='x", "No closing quotation"),
    ("docker", "docker needs a value"),
    ("cmd=env//docker=x", "two types"),
    ("cmd=env//nice=x", "no whole number"),
])  # fmt: skip
def test_a_spec_that_makes_no_sense_is_refused(group, spec, part):
    with pytest.raises(SpecError, match=part):
        group.makegateway(spec)


def test_the_words_are_split_as_a_shell_would_and_run_without_one(group):
    gateway = group.makegateway(f"cmd=env 'WORDS=a  b' STAR=* HOME=$HOME//python={PYTHON}")

    seen = [gateway.call(os.getenv, name) for name in ("WORDS", "STAR", "HOME")]

    assert seen == ["a  b", "*", "$HOME"]
