"""cmd= and sudo=: a worker behind real wrappers of all sorts, its surroundings, and its end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wrappers import BWRAP, FILTER, PYTHON, WRAPPERS, need, words_of

from execgw import Group


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


# -- what works


def test_a_worker_behind_a_wrapper_is_a_worker(group, wrapper, via):
    gateway = group.makegateway(f"cmd={wrapper}//python={PYTHON}{via}")
    data = bytes(range(256)) * 4096

    assert gateway.remote_exec("for item in channel: channel.send(item)").gateway is gateway
    channel = gateway.remote_exec("import sys; channel.send(sys.argv); channel.send(channel.receive())")
    channel.send(data)

    assert channel.receive(20) == ["-c"]
    assert channel.receive(20) == data


def test_surroundings_are_in_force_behind_a_wrapper_before_the_interpreter_starts(group, wrapper, tmp_path):
    tmp_path.chmod(0o777)
    surroundings = f"chdir=/tmp//nice=3//env:PYTHONHASHSEED=123//env:MINE=a=b {tmp_path}"
    gateway = group.makegateway(f"cmd={wrapper}//python={PYTHON}//{surroundings}")
    expected = subprocess.check_output([PYTHON, "-c", "print(hash('abc'))"], env={"PYTHONHASHSEED": "123"})

    assert gateway.call(hash, "abc") == int(expected)
    assert gateway.call(os.getenv, "MINE") == f"a=b {tmp_path}"
    assert gateway.call(os.getcwd) == "/tmp"
    assert gateway.call(os.nice, 0) == os.nice(0) + 3


def test_another_user_is_another_user(group):
    need("sudo -n -u nobody true")
    by_shorthand, by_command = group.makegateways(["sudo=nobody", "cmd=sudo -n -u nobody"])

    user = by_shorthand.call(os.getuid)

    assert user == by_command.call(os.getuid) != os.getuid()


def test_a_namespace_of_processes_is_one(group):
    words_of("unshare")
    gateway = group.makegateway(f"cmd=unshare -Urnpf --kill-child//python={PYTHON}")

    assert gateway._rinfo().pid == 1


def test_a_banner_before_the_worker_does_no_harm(group, via):
    gateway = group.makegateway(f"""cmd=sh -c 'echo Welcome!; exec "$0" "$@"'//python={PYTHON}{via}""")

    assert gateway.call(len, "abc") == 3


def test_a_pipe_that_changes_nothing_does_no_harm(group):
    gateway = group.makegateway(f"cmd={PYTHON} -c {shlex.quote(FILTER)} in nothing//python={PYTHON}")

    assert gateway.call(len, "abc") == 3


def test_python_may_have_options_and_keeps_them_in_its_surroundings(group):
    spec = f"cmd=env//python={PYTHON} -W error -X dev//dont_write_bytecode//env:A=1"
    code = "import sys; channel.send((sys.warnoptions, sys.flags.dev_mode, sys.flags.dont_write_bytecode))"

    options, dev, no_bytecode = group.makegateway(spec).remote_exec(code).receive(20)

    assert ("error" in options, dev, no_bytecode) == (True, True, 1)


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.13.0"])
@pytest.mark.parametrize("rest", ["", "//env:PYTHONHASHSEED=5//env:NAME=\xe4//chdir=/tmp"], ids=["bare", "rest"])
def test_other_pythons_work_behind_a_command(group, python, version, rest):
    gateway = group.makegateway(f"cmd=env//python={python(version)}{rest}")

    assert gateway.remote_exec("channel.send(channel.receive())").gateway is gateway
    assert ".".join(map(str, gateway._rinfo().version_info[:3])) == version
    assert not rest or gateway._rinfo().cwd == "/tmp"


def test_what_a_command_leads_to_is_not_trusted(group):
    assert group.makegateway(f"cmd=env//python={PYTHON}")._session.codec.trusted is False


def test_stderr_of_the_worker_appears_on_ours(group, our_stderr, eventually):
    gateway = group.makegateway(f"cmd=env//python={PYTHON}")

    with our_stderr() as shown:
        gateway.remote_exec("import os; os.write(2, b'to stderr\\n')").waitclose(10)

        eventually(lambda: "to stderr" in shown())


@pytest.mark.parametrize("chain", [
    ["cmd=env", "cmd=env//via=0", "popen//via=1"],
    ["popen", "cmd=setpriv --no-new-privs//via=0", "cmd=env//via=1"],
    ["sudo=nobody", f"cmd={BWRAP}//via=0", "cmd=env//via=1"],
    [f"cmd={BWRAP}", "cmd=unshare -U//via=0"],
], ids=["cmd cmd popen", "popen cmd cmd", "sudo bwrap cmd", "bwrap unshare"])  # fmt: skip
def test_any_mix_goes_through_any_other(group, chain):
    for word in ("sudo", "bwrap", "unshare"):
        if word in " ".join(chain):
            words_of(word)
    for number, spec in enumerate(chain):
        gateway = group.makegateway(f"{spec}//id={number}//env:DEPTH={number}//python={PYTHON}")

    assert gateway.call(os.getenv, "DEPTH") == str(len(chain) - 1)
    assert set(group.terminate(timeout=20).values()) == {"asked"}


# -- what must be in no list of arguments


def test_no_argument_list_has_the_environment_of_a_worker(group, via):
    secret = "hunter2-" + os.urandom(8).hex()
    gateway = group.makegateway(f"cmd=env//python={PYTHON}//env:PASSWORD={secret}{via}")

    assert gateway.call(os.getenv, "PASSWORD") == secret
    assert _command_lines_with(secret) == []
    assert secret not in gateway._session.transport.program


def _command_lines_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:  # noqa: PERF203  # it has just ended
            pass
    return found


# -- the end

BUSY = """
    import subprocess
    children = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    channel.send(None)
    channel.receive()
"""


def test_nothing_is_left_behind_a_wrapper_after_terminate(group, wrapper, processes, eventually):
    # sudo gives no environment on, and so the mark must be in the spec.
    mark = f"env:EXECGW_TEST={os.environ['EXECGW_TEST']}"
    gateway = group.makegateway(f"cmd={wrapper}//python={PYTHON}//{mark}")
    gateway.remote_exec(BUSY).receive(20)
    assert len(processes()) >= 3

    how = group.terminate(timeout=10)

    assert how == {gateway.id: "asked"}
    eventually(lambda: not processes(), "the end of all processes")


def test_nothing_is_left_behind_a_wrapper_beside_another_worker_after_terminate(group, wrapper, processes, eventually):
    mark = f"env:EXECGW_TEST={os.environ['EXECGW_TEST']}"
    group.makegateway("popen//id=master")
    gateway = group.makegateway(f"cmd={wrapper}//python={PYTHON}//via=master//{mark}")
    gateway.remote_exec(BUSY).receive(20)

    how = group.terminate(timeout=10)

    assert how == {gateway.id: "asked", "master": "asked"}
    eventually(lambda: not processes(), "the end of all processes")


@pytest.mark.parametrize("first", [[], ["popen//id=master"]], ids=["here", "via"])
def test_nothing_is_left_behind_a_wrapper_when_the_near_side_is_killed(wrapper, first, nothing_left, processes):
    rest = "//via=master" if first else ""
    specs = [*first, f"cmd={wrapper}//python={PYTHON}//env:EXECGW_TEST={nothing_left}{rest}"]
    program = f"""if True:
        import execgw, sys
        for spec in {specs!r}:
            gateway = execgw.makegateway(spec)
        gateway.remote_exec({BUSY!r}).receive(20)
        print("ready", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as near:
        assert near.stdout.readline() == b"ready\n"
        assert len(processes()) >= 4

        near.send_signal(signal.SIGKILL)

    # The fixture waits for the end of all that it can find by its mark.


def test_a_worker_that_is_killed_behind_a_wrapper_is_told_as_lost(group, wrapper):
    gateway = group.makegateway(f"cmd={wrapper}//python={PYTHON}")
    channel = gateway.remote_exec("import os; os._exit(7)")

    with pytest.raises(EOFError):
        channel.receive(20)

    assert gateway.join(20)


def test_many_start_at_the_same_time(nothing_left):
    with Group() as group:
        gateways = group.makegateways([f"cmd=env//python={PYTHON}"] * 8)

        assert {gateway.call(len, "abc") for gateway in gateways} == {3}
