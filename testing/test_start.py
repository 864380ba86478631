"""Starts that fail tell why, in time, and leave nothing; and what is in force before the interpreter starts."""

from __future__ import annotations

import os
import sys
import time

import pytest

from execgw import ConnectionLost, PythonNotFound, SpecError, StartError


@pytest.fixture
def program(tmp_path):
    """program(text) is the path of an executable shell script."""

    def make(text: str) -> str:
        path = tmp_path / "python_of_the_test"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(params=["", "//via=master"], ids=["popen", "via"])
def via(request, group):
    """The rest of a spec: beside us, or beside another worker."""
    if request.param:
        group.makegateway("popen//id=master")
    return request.param


@pytest.fixture(autouse=True)
def _nothing_but_the_master_is_left(group, processes, eventually):
    yield
    masters = len(group)
    eventually(lambda: len(processes()) <= masters, "the end of what was started")


# -- failures


def test_an_interpreter_that_ends_at_once_is_told_with_its_exit_code(group, via):
    with pytest.raises(StartError, match="exit code 1") as caught:
        group.makegateway(f"popen//python=false{via}")

    assert caught.value.exit_code == 1
    assert "false" in str(caught.value)


def test_what_it_wrote_to_stderr_is_in_the_error(group, program, via):
    path = program("echo no license today >&2; exit 3")

    with pytest.raises(StartError, match="no license today") as caught:
        group.makegateway(f"popen//python={path}{via}")

    assert caught.value.exit_code == 3
    assert "no license today" in caught.value.stderr


def test_a_banner_before_the_interpreter_does_no_harm(group, program, via):
    path = program(f"echo 'Welcome to this host!'; printf '\\0\\377 noise'; exec {sys.executable} \"$@\"")

    gateway = group.makegateway(f"popen//python={path}{via}")

    assert gateway.call(len, "abc") == 3


def test_a_program_that_prints_garbage_for_ever_is_ended(group, program, via):
    path = program("exec yes garbage")
    begun = time.monotonic()

    # stdout is the link beside another worker, else it is thrown away.
    with pytest.raises(StartError, match="no worker's hello: b'garbage" if via else "no answer within 2 s"):
        group.makegateway(f"popen//python={path}//start_timeout=2{via}")

    assert time.monotonic() - begun < 5


def test_a_program_that_hangs_is_given_up_in_time_and_its_stderr_told(group, program, via):
    path = program("echo waiting for a license >&2; exec sleep 100")
    begun = time.monotonic()

    with pytest.raises(StartError, match=r"(?s)no answer within 1 s.*waiting for a license"):
        group.makegateway(f"popen//python={path}//start_timeout=1{via}")

    assert time.monotonic() - begun < 2.5


def test_a_program_that_is_not_there_is_python_not_found(group):
    with pytest.raises(PythonNotFound, match="no program '/nonexistent/python'"):
        group.makegateway("popen//python=/nonexistent/python")


def test_a_program_that_is_not_there_beside_another_worker_is_told_too(group):
    group.makegateway("popen//id=master")

    with pytest.raises(StartError, match="/nonexistent/python"):
        group.makegateway("popen//python=/nonexistent/python//via=master")


def test_a_program_that_may_not_be_run_is_told(group, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match="Permission denied"):
        group.makegateway(f"popen//python={tmp_path / 'file'}")


def test_a_start_that_failed_can_be_tried_again_with_the_same_id(group):
    with pytest.raises(StartError):
        group.makegateway("popen//id=a//python=false")

    assert group.makegateway("popen//id=a").id == "a"


def test_an_interpreter_that_dies_in_the_middle_of_the_start(group, program):
    path = program("head -c 100 >/dev/null; kill -9 $$")

    with pytest.raises(StartError, match="SIGKILL") as caught:
        group.makegateway(f"popen//python={path}")

    assert caught.value.exit_code == -9


@pytest.mark.parametrize("value", ["x", "-1", "0"])
def test_a_start_timeout_that_is_no_time_is_refused(group, value):
    with pytest.raises(SpecError, match="start_timeout"):
        group.makegateway(f"popen//start_timeout={value}")


# -- specs


@pytest.mark.parametrize("spec, part", [
    ("popen//pyhton=x", "did you mean 'python'"),
    ("popen//env:X", "env:NAME=value"),
    ("popen//memory", "two types"),
    ("id=x", "no gateway type found"),
    ("popen//nice=much", "nice='much' is no whole number"),
    ("popen//chdir", "chdir needs a value"),
    ("popen//python", "python needs a value"),
    ("popen//id", "id needs a value"),
    ("popen//via=nobody", "via='nobody' is no gateway of this group"),
    ("memory//python=x", "no meaning inside this process"),
    ("memory//env:A=1", "no meaning inside this process"),
])  # fmt: skip
def test_a_spec_that_makes_no_sense_is_refused_before_anything_starts(group, spec, part):
    with pytest.raises(SpecError) as caught:
        group.makegateway(spec)

    assert part in str(caught.value)
    assert len(group) == 0


def test_via_a_gateway_that_has_died_is_refused(group):
    master = group.makegateway("popen//id=master")
    with pytest.raises(ConnectionLost):
        master.call(os._exit, 1)

    with pytest.raises(StartError, match="'master' has ended"):
        group.makegateway("popen//via=master")


# -- what is in force before the interpreter starts


def test_env_is_there_before_the_interpreter_starts(group, via):
    gateway = group.makegateway(f"popen//env:PYTHONHASHSEED=123//env:MINE=a=b{via}")
    code = "import os; channel.send((hash('abc'), os.environ['MINE']))"

    hashed, mine = gateway.remote_exec(code).receive(10)

    assert mine == "a=b"
    other = group.makegateway(f"popen//env:PYTHONHASHSEED=123{via}")
    assert other.call(hash, "abc") == hashed


def test_pythonpath_works(group, tmp_path, via):
    (tmp_path / "only_there.py").write_text("VALUE = 5")

    gateway = group.makegateway(f"popen//env:PYTHONPATH={tmp_path}{via}")

    assert gateway.remote_exec("import only_there; channel.send(only_there.VALUE)").receive(10) == 5


def test_the_environment_is_inherited(group, monkeypatch):
    monkeypatch.setenv("INHERITED", "yes")

    assert group.makegateway("popen").call(os.getenv, "INHERITED") == "yes"


def test_chdir_is_made_with_all_its_parents(group, tmp_path, via):
    there = tmp_path / "a" / "b" / "c"

    gateway = group.makegateway(f"popen//chdir={there}{via}")

    assert gateway.call(os.getcwd) == str(there)


def test_a_chdir_that_cannot_be_is_told(group, tmp_path, via):
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match="file"):
        group.makegateway(f"popen//chdir={tmp_path / 'file' / 'below'}{via}")


def test_nice_is_in_force(group, via):
    gateway = group.makegateway(f"popen//nice=5{via}")

    assert gateway.call(os.nice, 0) == os.nice(0) + 5


def test_dont_write_bytecode(group, via):
    gateway = group.makegateway(f"popen//dont_write_bytecode{via}")

    assert gateway.remote_exec("import sys; channel.send(sys.dont_write_bytecode)").receive(10) is True


def test_python_may_be_a_command_with_arguments(group, via):
    gateway = group.makegateway(f"popen//python=env MINE='a b' {sys.executable} -X dev{via}")

    assert gateway.call(os.getenv, "MINE") == "a b"


def test_nothing_is_written_to_the_working_directory(group, tmp_path, python):
    group.makegateway(f"popen//chdir={tmp_path}//python={python('3.6.15')}").remote_exec("pass").waitclose(10)

    assert list(tmp_path.iterdir()) == []
