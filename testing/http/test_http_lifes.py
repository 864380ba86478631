"""The server's own life, and those of its processes: drains, kills, limits of time, what is counted and logged."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import time

import pytest
from conftest import wait_for

POLICY = """
[specs.python]
[specs.short]
limits = { wall = "1 s" }
[specs.brief]
limits = { idle = "1 s" }
[specs.small]
limits = { memory = "400 MiB" }
[server]
per_token = 3
body = "1 MiB"
slow = "1 s"
"""
GRANDCHILD = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
channel.send([os.getpid(), child.pid])
while True: pass
"""


@pytest.fixture
def strict(serving):
    server = serving(POLICY)
    client = server.client()
    client.server = server
    return client


def _start(client, source=None, **options):
    made = client.post("/popen", json=options)
    assert made.status_code == 201, made.text
    path = made.headers["location"]
    if source is not None:
        assert client.post(path, content=source).status_code == 202
    return path


def _until(client, path, what):
    wait_for(lambda: client.get(f"{path}/state").json()["state"] == what, what, 30)
    return client.get(f"{path}/state").json()


def test_a_killed_server_leaves_no_worker_and_none_of_its_children(strict, processes, eventually):
    paths = [_start(strict, GRANDCHILD) for _ in range(2)]
    for path in paths:
        strict.get(path, params={"wait": 10})
    before = len(processes())

    strict.server.process.kill()
    strict.server.process.wait()

    begun = time.monotonic()
    eventually(lambda: not processes(), "the end of all workers")
    assert before == 5
    assert time.monotonic() - begun < 2


def test_a_killed_worker_is_told_within_a_second_and_leaves_no_child(strict, processes, eventually):
    path = _start(strict, GRANDCHILD)
    worker, _ = strict.get(path, params={"wait": 10}).json()
    other = strict.server.client()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(other.get, path, params={"wait": 30})
        begun = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        answer = waiting.result()

    assert time.monotonic() - begun < 1
    assert (answer.status_code, answer.json()["signal"]) == (410, "SIGKILL")
    eventually(lambda: len(processes()) == 1, "the end of the worker's child")


def test_sigterm_tells_who_waits_ends_all_processes_and_is_bounded(strict, processes):
    path = _start(strict, GRANDCHILD)
    strict.get(path, params={"wait": 10})
    other = strict.server.client()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(other.get, path, params={"wait": 60})
        while strict.get(f"{path}/state").json()["followers"] < 1:
            pass

        begun = time.monotonic()
        strict.server.process.terminate()
        answer = waiting.result(timeout=20)
        strict.server.process.wait(20)

    assert time.monotonic() - begun < 15
    assert answer.status_code in (410, 503)
    assert processes() == []


def test_a_place_is_free_again_when_its_process_has_ended(strict):
    paths = [_start(strict) for _ in range(3)]
    full = strict.post("/popen")
    strict.delete(paths[0])

    assert (full.status_code, full.json()["error"]) == (429, "limit")
    assert "retry-after" in full.headers
    assert strict.post("/popen").status_code == 201


def test_of_fifty_starts_at_once_as_many_succeed_as_may(strict):
    clients = [strict.server.client() for _ in range(10)]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda i: clients[i % 10].post("/popen").status_code, range(50)))

    assert (statuses.count(201), statuses.count(429)) == (3, 47)


def test_a_process_that_is_over_its_time_is_ended_though_it_computes(strict):
    path = _start(strict, "while True: pass", spec="short")

    state = _until(strict, path, "ended")

    assert "it may run for 1 s" in state["why"]


def test_an_idle_process_is_ended_and_a_busy_or_followed_one_is_not(strict):
    idle, busy = _start(strict, spec="brief"), _start(strict, "channel.receive()", spec="brief")
    followed = _start(strict, spec="brief")

    with strict.stream("GET", f"{followed}/stream") as stream:
        state = _until(strict, idle, "ended")
        states = [strict.get(f"{path}/state").json()["state"] for path in (busy, followed)]
        del stream

    assert "nothing ran in it" in state["why"]
    assert states == ["busy", "idle"]


def test_the_memory_of_a_process_is_bounded(strict):
    path = _start(strict, "x = bytearray(1 << 30)", spec="small")

    answer = strict.get(path, params={"wait": 10})

    assert answer.json()["type"] == "MemoryError"


def test_a_body_that_is_too_large_is_413_and_one_that_comes_too_slowly_is_408(strict):
    path = _start(strict, "channel.receive()")

    large = strict.post(path, content=b"x" * (2 << 20), headers={"Content-Type": "text/plain"})

    def slow():
        yield b"[1"
        strict.get(f"{path}/output", params={"after": 1 << 40, "wait": 2})
        yield b"]"

    late = strict.server.client().post(path, content=slow(), headers={"Content-Type": "application/json"})

    assert (large.status_code, large.json()["error"]) == (413, "size")
    assert (late.status_code, late.json()["error"]) == (408, "slow")


def test_of_bodies_under_way_one_token_may_have_so_many_bytes_and_others_have_their_own(serving):
    server = serving("[specs.python]\n[server]\nbody = '1 MiB'\n")
    client = server.client()
    path = _start(client, "channel.receive()")
    host, _, port = server.address.partition(":")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nContent-Type: text/plain\r\n"
    head += f"Authorization: {client.headers['authorization']}\r\n\r\n"

    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(6):
            sock = stack.enter_context(socket.create_connection((host, int(port))))
            sock.sendall(head.encode() + b"x" * 900_000)
            selector.register(sock, selectors.EVENT_READ)
        answers = []
        while len(answers) < 2:
            for key, _ in selector.select(5):
                answers.append(key.fileobj.recv(65536))
                selector.unregister(key.fileobj)
        other = server.client("ann").post("/exec", content="channel.send(1)")

    assert [answer.split()[1] for answer in answers] == [b"429", b"429"]
    assert other.status_code == 201


def test_one_process_is_followed_by_so_many_and_no_more(strict):
    path = _start(strict, "channel.receive()")
    with contextlib.ExitStack() as stack:
        clients = [strict.server.client() for _ in range(64)]
        streams = [stack.enter_context(client.stream("GET", f"{path}/stream")) for client in clients]
        lines = [stream.iter_lines() for stream in streams]
        for line in lines:
            next(line)
        refused = [strict.get(path, params={"wait": 1}), strict.get(f"{path}/stream")]

    assert [(answer.status_code, answer.json()["error"]) for answer in refused] == [(429, "limit")] * 2


def test_what_ended_processes_leave_is_bounded_for_each_client(serving):
    client = serving("[specs.python]\n[limits]\nqueue = '48 MiB'\n").client()
    paths = []
    for _ in range(4):
        path = _start(client, "for _ in range(20): channel.send(b'x' * (1 << 20))\nchannel.receive()")
        while client.get(f"{path}/state").json()["queue"]["bytes"] < 20 << 20:
            pass
        client.delete(path)
        paths.append(path)

    states = [client.get(f"{path}/state").json()["queue"] for path in paths]
    first = [client.get(paths[0]), client.get(paths[0])]

    assert [state["bytes"] > 0 for state in states] == [False, True, True, True]
    assert [(answer.status_code, answer.json()["error"]) for answer in first] == [(416, "dropped"), (410, "ended")]


def test_a_client_that_leaves_during_a_start_leaves_no_process(strict, processes, eventually):
    host, port = strict.server.address.split(":")
    authorization = strict.headers["authorization"]
    for _ in range(3):
        with socket.create_connection((host, int(port))) as sock:
            head = f"POST /popen HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: 0\r\n\r\n"
            sock.sendall(head.encode())

    # Each is either not begun, or ended for nobody knows its PID.
    eventually(lambda: all(one["state"] == "ended" for one in strict.get("/exec").json()["processes"]))
    eventually(lambda: len(processes()) == 1)


def test_figures_are_for_admins_and_count_what_has_happened(strict):
    path = _start(strict, "channel.send(1); channel.send(2)")
    strict.get(path, params={"wait": 10})
    strict.get(path, params={"after": 1, "wait": 10})
    refused = strict.get("/metrics")

    boss = strict.server.client("boss")
    text = boss.get("/metrics").text
    strict.delete(path)
    later = boss.get("/metrics").text

    assert (refused.status_code, refused.json()["error"]) == (403, "scope")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures['execgw_starts_total{spec="python",outcome="started"}'] == "1"
    assert figures['execgw_processes{protocol="values"}'] == "1"
    assert figures["execgw_start_seconds_count"] == "1"
    assert int(figures["execgw_queue_messages"]) >= 1
    assert int(figures["execgw_queue_bytes"]) > 0
    assert figures['execgw_requests_total{route="/exec/{pid}",method="POST",status="202"}'] == "1"
    assert 'execgw_ends_total{how="asked"} 1' in later
    assert all(re.fullmatch(r"#.*|[a-z_]+(\{[^}]*(\{pid\})?[^}]*\})? [0-9.e+-]+", line) for line in text.splitlines())


def test_no_token_and_no_whole_pid_is_in_the_log(strict):
    path = _start(strict, "channel.send(1)")
    strict.get(path)
    strict.delete(path)
    strict.server.process.terminate()
    strict.server.process.wait(20)

    log = strict.server.log.read_text()

    assert path.rpartition("/")[2] not in log
    assert strict.headers["authorization"].split()[1] not in log


def test_the_description_of_the_routes_names_each_of_them(client):
    described = client.get("/openapi.json").json()

    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]["/exec/{pid}"]) >= {"get", "post", "delete"}
    assert json.dumps(described).count("operationId") == 14


def test_a_route_that_is_none_is_404_and_a_method_that_is_none_405_in_json(client):
    assert client.get("/nothing").json()["error"] == "unknown"
    assert client.put("/popen").json()["error"] == "method"


def test_healthz_needs_no_token(server):
    with server.client(None) as client:
        assert client.get("/healthz").json()["ok"] is True
