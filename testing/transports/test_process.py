"""popen: the child's surroundings, its stderr, its group, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from execgw import ConnectionLost


def test_the_child_leads_a_process_group_of_its_own(popen):
    group = popen.call(os.getpgrp)

    assert group == popen._rinfo().pid != os.getpgrp()


def test_the_child_has_no_descriptors_but_its_own(popen):
    inherited = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    gateway = popen._group.makegateway("popen")

    fds = gateway.call(os.listdir, "/proc/self/fd")

    os.close(inherited)
    assert str(inherited) not in fds or len(fds) < 12


def test_a_child_of_the_child_has_neither_the_link_nor_its_copies(popen):
    channel = popen.remote_exec("""
        import subprocess, sys
        code = "import os; print([os.readlink('/proc/self/fd/%s' % fd) for fd in os.listdir('/proc/self/fd')[:3]])"
        out = subprocess.check_output([sys.executable, "-c", code], close_fds=False).decode()
        channel.send(out)
    """)

    assert "socket" not in channel.receive(20)


def test_the_death_of_the_leader_takes_its_whole_group_along(popen, processes, eventually):
    channel = popen.remote_exec("""
        import subprocess, sys
        children = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
        channel.send(1)
        channel.receive()
    """)
    channel.receive(10)
    assert len(processes()) == 4

    os.kill(popen._rinfo().pid, signal.SIGKILL)

    with pytest.raises(ConnectionLost, match="SIGKILL"):
        channel.receive(10)
    eventually(lambda: not processes())


def test_much_stderr_does_not_stop_the_worker_and_only_its_tail_is_kept(popen, capfd):
    channel = popen.remote_exec("""
        import os
        for n in range(2000):
            os.write(2, b"x" * 999 + b"\\n")
        os.write(2, b"the end\\n")
        channel.send(1)
        channel.receive()
        os._exit(1)
    """)

    assert channel.receive(20) == 1
    channel.send(None)
    with pytest.raises(ConnectionLost) as caught:
        channel.receive(20)
    assert caught.value.stderr.endswith("the end\n")
    assert len(caught.value.stderr) <= 4096


def test_all_of_the_stderr_is_shown(popen, our_stderr, eventually):
    with our_stderr() as shown:
        popen.remote_exec("import os\nfor n in range(300): os.write(2, b'%05d' % n + b'y' * 994 + b'\\n')").waitclose(
            20
        )

        eventually(lambda: shown().count("\n") >= 300)

    assert [line[:5] for line in shown().splitlines()] == [f"{n:05d}" for n in range(300)]


def test_a_full_stderr_of_ours_does_not_stop_gateways(nothing_left):
    # Our own stderr is a pipe that nobody reads.
    program = """if True:
        import execgw
        noisy, quiet = execgw.makegateways(["popen", "popen"])
        noisy.remote_exec("import os\\nwhile 1: os.write(2, b'x' * 10000)")
        channel = quiet.remote_exec("for item in channel: channel.send(item)")
        for n in range(500):
            channel.send(n)
            assert channel.receive(10) == n
        print("done", flush=True)
        import os
        execgw.default_group.terminate(0)
        os._exit(0)
    """

    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"done\n"
        assert process.wait(20) == 0


def test_a_signal_of_the_terminal_does_not_reach_the_workers(nothing_left):
    program = """if True:
        import execgw, os, signal
        gateway = execgw.makegateway("popen")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        print(gateway.call(len, "abc"))
    """

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, process_group=0)

    assert (done.stdout, done.stderr) == ("3\n", "")


def test_without_a_pidfd_the_end_is_seen_too(group, monkeypatch):
    def no_pidfd(pid: int) -> int:
        raise OSError("not in this kernel")

    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    gateway = group.makegateway("popen")

    with pytest.raises(ConnectionLost) as caught:
        gateway.call(os._exit, 4)

    assert caught.value.exit_code == 4
