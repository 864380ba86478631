"""How `execgw serve` ends: in order when it is asked to, and with nothing left when it is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from serve_command import Answer, ExecServer, read_all

pytestmark = pytest.mark.usefixtures("nothing_left")  # which looks for processes, too

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel.send('ready')
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


def follow(server: ExecServer, pid: str, answers: list[Answer]) -> threading.Thread:
    """A thread with a long poll that the server has begun to answer."""
    thread = threading.Thread(target=lambda: answers.append(server.ask("GET", f"/exec/{pid}?wait=60")))
    thread.start()
    while not server.ask("GET", f"/exec/{pid}/state").json["followers"]:
        pass
    return thread


def test_sigterm_tells_who_waits_ends_all_processes_and_leaves_with_0(tmp_path: Path) -> None:
    answers: list[Answer] = []
    with ExecServer(tmp_path) as server:
        busy, idle = server.run("channel.receive()"), server.popen()
        waiting = [follow(server, pid, answers) for pid in (busy, idle)]
        begun = time.monotonic()

        code = server.end(signal.SIGTERM)

        took = time.monotonic() - begun
        for thread in waiting:
            thread.join()
    assert code == 0
    assert took < 10  # the limit `drain`; a second as a rule
    assert {answer.status for answer in answers} <= {410, 503}
    assert all(answer.json["error"] in ("ended", "drain") for answer in answers)
    events = server.events()
    assert [event["signal"] for event in events if event["event"] == "drain"] == ["SIGTERM"]
    assert len([event for event in events if event["event"] == "process over"]) == 2
    assert events[-1]["event"] == "ended"


def test_sigint_is_the_same(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        server.popen()

        assert server.end(signal.SIGINT) == 0


def test_while_it_drains_nothing_new_is_started_and_it_says_so(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[server]\ndrain = 4\n[specs.python]\n") as server:
        pid = server.run(STUBBORN)
        assert server.ask("GET", f"/exec/{pid}?wait=30").json == "ready"

        server.send(signal.SIGTERM)
        while server.ask("GET", "/healthz", token="").status == 200:
            pass
        refused = server.ask("POST", "/popen", {})

        assert (refused.status, refused.json["error"]) == (503, "drain")
        assert "retry-after" in refused.headers
        assert server.wait() == 0


def test_a_process_that_will_not_end_is_killed_within_the_time(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[server]\ndrain = 3\n[specs.python]\n") as server:
        pid = server.run(STUBBORN)
        assert server.ask("GET", f"/exec/{pid}?wait=30").json == "ready"
        begun = time.monotonic()

        assert server.end() == 0

        assert time.monotonic() - begun < 3 + 5  # what is left is uvicorn's own end, and a machine that is busy


def test_connections_that_wait_for_nothing_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        idle: list[socket.socket] = [server.connect() for _ in range(5)]
        half = server.connect()
        half.sendall(b"GET / HTTP/1.1\r\nHost:")

        assert server.end() == 0

        for sock in [*idle, half]:
            with sock:
                read_all(sock)


def test_a_second_signal_ends_it_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[server]\ndrain = 60\n[specs.python]\n") as server:
        pid = server.run(STUBBORN)
        assert server.ask("GET", f"/exec/{pid}?wait=30").json == "ready"

        server.send(signal.SIGTERM)
        while server.ask("GET", "/healthz", token="").status == 200:
            pass

        assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_server_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        server.popen()
        pid = server.run("import subprocess; p = subprocess.Popen(['sleep', '1000']); channel.send(p.pid); p.wait()")
        grandchild = server.ask("GET", f"/exec/{pid}?wait=30").json

        assert server.end(signal.SIGKILL) == -signal.SIGKILL

    begun = time.monotonic()
    while os.path.exists(f"/proc/{grandchild}"):
        assert time.monotonic() - begun < 10


def test_a_drain_that_does_not_come_to_an_end_is_cut_short(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal
from execgw.http.access import Access
from execgw.http.app import make_app
from execgw.http.limits import ServerLimits
from execgw.http.serving import Listening, bind, serve
from execgw.transports.address import Address

async def never():
    await asyncio.Event().wait()

app = make_app(Access())
app.state.drain = never
listening = Listening(Address("127.0.0.1", 0))
ready = lambda: os.kill(os.getpid(), signal.SIGTERM)
asyncio.run(serve(app, listening, ServerLimits(drain=0.5), bind(listening.address), ready))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0
    assert done.stderr.startswith("drain took too long\n")
