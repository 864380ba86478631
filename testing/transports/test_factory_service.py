"""`execgw service`: a factory for all processes of one user, and for nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from execgw import ConnectionLost, Group, StartError


@pytest.fixture
def service(nothing_left, tmp_path):
    """service("--limit", "3") runs one; the path of its socket."""
    started = []

    def run(*words: str) -> str:
        path = str(tmp_path / "factory")
        argv = [sys.executable, "-m", "execgw", "service", f"unix:{path}", *words]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        assert "serves workers at" in started[0].stdout.readline()
        return path

    run.processes = started
    yield run
    for process in started:
        process.terminate()
        process.communicate()


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


def test_a_service_ends_with_all_its_workers(service, group):
    group.setlocalfactory(service())
    channel = group.makegateway().remote_exec("channel.receive()")

    service.processes[0].terminate()

    with pytest.raises(ConnectionLost):
        channel.receive(20)
    assert service.processes[0].wait(20) == 0


def test_without_a_service_it_is_said_how_to_start_one(group, tmp_path):
    with pytest.raises(StartError, match=f"start it: execgw service unix:{tmp_path}/none"):
        group.setlocalfactory(f"{tmp_path}/none")


def test_a_second_service_does_not_take_the_place_of_the_first(service):
    path = service()

    done = subprocess.run(
        [sys.executable, "-m", "execgw", "service", f"unix:{path}"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "somebody serves there already" in done.stderr) == (1, True)
