"""`execgw service`: a factory for all processes of one user, and for nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from execgw import AuthenticationFailed, ConnectionLost, Group, SpecError, StartError


@pytest.fixture
def started(nothing_left):
    """started(words) runs the command and gives what it says first; it is ended after the test."""
    processes = []

    def run(*words: str) -> str:
        argv = [sys.executable, "-m", "execgw", "service", *words]
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        said = processes[-1].stdout.readline()
        assert said.startswith("execgw serves workers at "), said
        return said.split()[-1]

    run.processes = processes
    yield run
    for process in processes:
        process.terminate()
        process.communicate()


@pytest.fixture
def service(started, tmp_path):
    """service("--limit", "3") runs one; the path of its socket."""
    return lambda *words: started(f"unix:{tmp_path}/factory", *words).removeprefix("unix:")


@pytest.fixture
def token(tmp_path):
    """The token= of a file with a token."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("0123456789abcdef" * 4)
    return f"file:{file}"


@pytest.fixture
def port(started, token):
    """port("--limit", "3") runs one on 127.0.0.1; its port."""
    words = ["127.0.0.1:0", "--token-file", token.removeprefix("file:")]
    return lambda *more: int(started(*words, *more).rpartition(":")[2])


def test_a_service_starts_workers_for_several_processes(service, group):
    path = service("--preload", "decimal")
    group.setlocalfactory(path)
    other = textwrap.dedent(f"""
        import execgw, os
        with execgw.Group() as group:
            group.setlocalfactory({path!r})
            print(group.makegateway().call(os.getppid))
    """)

    theirs = subprocess.run([sys.executable, "-c", other], stdout=subprocess.PIPE, check=True, text=True).stdout

    assert int(theirs) == group.makegateway().call(os.getppid)
    assert group.makegateway().remote_exec("import sys; channel.send('decimal' in sys.modules)").receive()


def test_a_service_is_for_this_user_alone(service):
    path = service()

    assert os.stat(path).st_mode & 0o777 == 0o600
    if os.getuid() == 0:  # who may pass the mode all the same is refused by the kernel's word
        connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); print(s.recv(100))"
        os.chmod(path, 0o666)
        for parent in Path(path).parents[:4]:
            if parent != Path("/tmp"):
                os.chmod(parent, os.stat(parent).st_mode | 0o011)
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", connect], user=65534, stdout=subprocess.PIPE, check=True, text=True
        )
        assert done.stdout == "b''\n"


def test_the_limit_of_a_service_counts_all(service, group):
    path = service("--limit", "2")
    group.setlocalfactory(path)
    with Group() as other:
        other.setlocalfactory(path)
        other.makegateway()
        group.makegateway()

        with pytest.raises(StartError, match=r"all its 2 places are taken \(limit=2\)"):
            group.makegateway()

    group.makegateway()


def test_a_service_ends_with_all_its_workers(service, started, group):
    group.setlocalfactory(service())
    channel = group.makegateway().remote_exec("channel.receive()")

    started.processes[0].terminate()

    with pytest.raises(ConnectionLost):
        channel.receive(20)
    assert started.processes[0].wait(20) == 0


def test_without_a_service_it_is_said_how_to_start_one(group, tmp_path):
    with pytest.raises(StartError, match=f"start it: execgw service unix:{tmp_path}/none"):
        group.setlocalfactory(f"{tmp_path}/none")


def test_a_second_service_does_not_take_the_place_of_the_first(service):
    path = service()

    done = subprocess.run(
        [sys.executable, "-m", "execgw", "service", f"unix:{path}"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "somebody serves there already" in done.stderr) == (1, True)


# -- on a port


def test_workers_of_a_port_are_forked_and_have_their_surroundings(port, token, group, tmp_path):
    group.setlocalfactory(port=port("--preload", "decimal"), token=token)
    ask = """
        import os, sys
        channel.send((os.getppid(), os.getcwd(), os.getenv("A"), "decimal" in sys.modules, os.getpgrp() == os.getpid()))
    """

    told = [group.makegateway(f"popen//chdir={tmp_path}//env:A=1").remote_exec(ask).receive() for _ in range(2)]

    assert told[0] == told[1]
    assert told[0][1:] == (str(tmp_path), "1", True, True)


def test_nobody_is_let_in_to_a_port_without_the_token(port, token, group, tmp_path):
    other = tmp_path / "other"
    other.touch(0o600)
    other.write_text("f" * 64)
    number = port()
    group.setlocalfactory(port=number, token=f"file:{other}")

    with pytest.raises(AuthenticationFailed, match="does not take the token"):
        group.makegateway()

    with Group() as without, pytest.raises(SpecError, match="needs the token of the service"):
        without.setlocalfactory(port=number)


def test_the_limit_holds_for_a_port_and_a_place_becomes_free(port, token, group, eventually):
    group.setlocalfactory(port=port("--limit", "2"), token=token)
    first, _ = group.makegateways(["popen", "popen"])
    with pytest.raises(StartError, match=r"all its 2 places are taken \(limit=2\)"):
        group.makegateway()

    first.exit()

    def there_is_a_place() -> bool:
        try:
            return bool(group.makegateway())
        except StartError:
            return False

    eventually(there_is_a_place, seconds=20)  # a connection does not tell when the process behind it is gone


def test_a_killed_client_leaves_no_worker_behind(port, token, processes, eventually):
    number = port()
    program = f"""
import execgw, sys
group = execgw.Group()
group.setlocalfactory(port={number}, token={token!r})
gateway = group.makegateway()
print(gateway._rinfo().pid, flush=True)
gateway.remote_exec("while True: pass")
sys.stdin.read()
"""
    client = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(client.stdout.readline())
    assert [line for line in processes() if line.startswith(f"{pid}:")]

    client.kill()
    client.communicate()

    eventually(lambda: not [line for line in processes() if line.startswith(f"{pid}:")], seconds=20)


def test_a_port_has_no_leases(token, group):
    group.setlocalfactory(port=1, token=token)

    with pytest.raises(SpecError, match="has no leases"):
        group.makegateway("popen//lease=5")


def test_a_port_needs_a_token_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "execgw", "service", "127.0.0.1:0"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "give --token-file FILE" in done.stderr) == (1, True)


def test_what_a_service_cannot_preload_ends_it(token):
    words = ["127.0.0.1:0", "--token-file", token.removeprefix("file:"), "--preload", "no_such_module"]

    done = subprocess.run(
        [sys.executable, "-m", "execgw", "service", *words], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "preload=no_such_module: ModuleNotFoundError" in done.stderr) == (1, True)
