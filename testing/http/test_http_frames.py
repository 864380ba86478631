"""Frames carried by the server: over a WebSocket, over POST and GET, from one link to the next."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading

import pytest
from near_side import NearSide
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import execgw

FRAMES = {"Content-Type": "application/x-execgw-frames"}
ECHO = "for item in channel: channel.send(item)"


@pytest.fixture
def path(client):
    made = client.post("/popen", json={"protocol": "frames", "version": execgw.__version__})
    assert made.status_code == 201, made.text
    assert made.json()["websocket"]
    return made.headers["location"]


@pytest.fixture
def open_socket(server, client):
    with contextlib.ExitStack() as stack:

        def open_socket(path, after=None):
            query = "" if after is None else f"?after={after}"
            url = f"ws://{server.address}{path}{query}"
            headers = {"Authorization": client.headers["authorization"]}
            return stack.enter_context(connect(url, additional_headers=headers, compression=None, proxy=None))

        yield open_socket


def _had(socket):
    return int(socket.response.headers["execgw-had"])


def _until(socket, near, port, count):
    """The next *count* values of a channel."""
    got = near.values(port)
    while len(got) < count:
        data = socket.recv(timeout=10)
        assert isinstance(data, bytes), data
        near.feed(data)
        got += near.values(port)
    return got


def _poll(client, path, near, port, count, after):
    got = near.values(port)
    while len(got) < count:
        params = {"wait": 10} if after is None else {"wait": 10, "after": after}
        answer = client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == FRAMES["Content-Type"]
        near.feed(answer.content)
        got, after = got + near.values(port), near.seen
    return got


def test_a_websocket_carries_frames_both_ways(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run(ECHO)

    socket.send(near.hello() + run + near.send(port, "one"))
    socket.send(near.send(port, ["two"]))

    assert _until(socket, near, port, 2) == ["one", ["two"]]
    assert near.about["version"] == "1"
    assert _had(socket) == 0


def test_where_the_stream_is_cut_into_messages_means_nothing(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run(ECHO)

    for byte in near.hello() + run + near.send(port, "in pieces"):
        socket.send(bytes([byte]))

    assert _until(socket, near, port, 1) == ["in pieces"]


def test_another_websocket_goes_on_where_the_last_one_broke(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run("for item in channel: channel.send(item); channel.send(-item)")
    socket.send(near.hello() + run + near.send(port, 1))
    assert _until(socket, near, port, 2) == [1, -1]
    lost = near.send(port, 2)
    socket.send(lost[:25])
    socket.socket.close()

    again = open_socket(path, after=near.seen)
    had = _had(again)
    again.send(lost + near.send(port, 3))

    assert had == 2
    assert again.response.headers["execgw-greeted"] == "1"
    assert _until(again, near, port, 4) == [2, -2, 3, -3]


def test_what_the_client_does_not_have_comes_again(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run("for i in range(3): channel.send(i)")
    socket.send(near.hello() + run)
    assert _until(socket, near, port, 3) == [0, 1, 2]
    socket.close()
    fresh = NearSide()
    same, _ = fresh.run("")

    again = open_socket(path)

    assert _until(again, fresh, same, 3) == [0, 1, 2]


def test_a_second_connection_takes_over_and_the_first_is_told(path, open_socket):
    first = open_socket(path)
    second, near = open_socket(path), NearSide()
    port, run = near.run("channel.send('mine')")

    with pytest.raises(ConnectionClosed) as closed:
        while True:
            first.recv(timeout=10)
    second.send(near.hello() + run)

    assert closed.value.rcvd.code == 4409
    assert _until(second, near, port, 1) == ["mine"]


def test_post_and_get_do_the_same(client, path):
    near = NearSide()
    port, run = near.run(ECHO)

    posted = client.post(path, content=near.hello() + run + near.send(port, 1), headers=FRAMES)
    first = _poll(client, path, near, port, 1, None)
    client.post(path, content=near.send(port, 2), headers=FRAMES)
    second = _poll(client, path, near, port, 1, near.seen)
    nothing = client.get(path, params={"after": near.seen})

    assert (posted.status_code, posted.headers["execgw-had"]) == (202, "2")
    assert (first, second, nothing.status_code) == ([1], [2], 204)


def test_a_get_whose_answer_was_lost_gets_it_again(client, path):
    near = NearSide()
    port, run = near.run("channel.send('once')")
    client.post(path, content=near.hello() + run, headers=FRAMES)
    _poll(client, path, NearSide(), NearSide().run("")[0], 0, None)
    lost = client.get(path, params={"wait": 10})

    got = _poll(client, path, near, port, 1, None)

    assert lost.status_code == 200
    assert got == ["once"]


def test_a_post_that_is_repeated_runs_once_and_a_gap_says_what_is_missing(client, path):
    near = NearSide()
    port, run = near.run(ECHO)
    one, two, three = [near.send(port, item) for item in (1, 2, 3)]
    client.post(path, content=near.hello() + run, headers=FRAMES)

    statuses = [client.post(path, content=one, headers=FRAMES).status_code for _ in range(3)]
    gap = client.post(path, content=three, headers=FRAMES)
    client.post(path, content=one + two + three, headers=FRAMES)

    assert statuses == [202, 202, 202]
    assert (gap.status_code, gap.json()["error"], gap.json()["expected"]) == (409, "gap", 3)
    assert _poll(client, path, near, port, 3, None) == [1, 2, 3]
    assert near.values(port) == []


def test_a_waiting_get_is_ended_by_the_next_one(client, path, server):
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor() as pool:
        near = NearSide()
        client.post(path, content=near.hello(), headers=FRAMES)
        near.feed(client.get(path, params={"wait": 10}).content)
        old = pool.submit(server.client().get, path, params={"after": 0, "wait": 30})
        while client.get(f"{path}/state").json()["followers"] < 1:
            pass
        client.get(path, params={"after": 0})

        assert (old.result().status_code, old.result().json()["error"]) == (409, "taken")


@pytest.mark.parametrize("cut", [1, 19, 21])
def test_a_post_holds_whole_frames(client, path, cut):
    near = NearSide()
    _, run = near.run(ECHO)

    answer = client.post(path, content=run[:cut], headers=FRAMES)

    assert (answer.status_code, answer.json()["error"]) == (400, "frames")


def test_rubbish_on_a_websocket_ends_that_process(client, path, open_socket, eventually):
    socket = open_socket(path)

    socket.send(b"\xff" * 100)

    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=10)
    assert closed.value.rcvd.code == 4400
    eventually(lambda: client.get(path).status_code == 410)
    assert "broke the rules" in client.get(path).json()["why"]


def test_the_death_of_a_worker_is_told_after_all_that_it_had_sent(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run("import os, sys; channel.send('last'); sys.stderr.write('words\\n'); os._exit(3)")
    socket.send(near.hello() + run)

    texts, got = [], []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            data = socket.recv(timeout=5)
            if isinstance(data, str):
                texts.append(json.loads(data))
            else:
                near.feed(data)
                got += near.values(port)

    assert got == ["last"]
    assert texts[0] == {"stderr": "words\n"}
    assert (texts[-1]["error"], texts[-1]["exit_code"], texts[-1]["stderr"]) == ("ended", 3, "words")
    assert closed.value.rcvd.code == 4410


def test_what_the_worker_prints_to_stderr_comes_at_once_and_once(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run("import sys\nfor item in channel: sys.stderr.write(item)")
    socket.send(near.hello() + run + near.send(port, "first"))
    texts = []

    def printed():
        while isinstance(data := socket.recv(timeout=10), bytes):
            near.feed(data)
        texts.append(json.loads(data)["stderr"])

    printed()
    socket.close()
    socket = open_socket(path, after=near.seen)
    socket.send(near.send(port, "second"))
    printed()

    assert texts == ["first", "second"]


def test_a_worker_that_reads_nothing_makes_the_client_wait_and_gets_all_of_it_later(path, open_socket):
    near, socket = NearSide(), open_socket(path)
    port, run = near.run("import os, signal; channel.send(os.getpid()); channel.send(sum(map(len, channel)))")
    socket.send(near.hello(window=1 << 26))
    while not near.about:
        near.feed(socket.recv(timeout=10))
    socket.send(run)
    (worker,) = _until(socket, near, port, 1)
    os.kill(worker, signal.SIGSTOP)

    def send_much():
        for _ in range(400):
            socket.send(near.send(port, b"x" * 60_000))
        socket.send(near.end(port))

    sending = threading.Thread(target=send_much)
    sending.start()
    sending.join(2)
    waits = sending.is_alive()
    os.kill(worker, signal.SIGCONT)

    assert _until(socket, near, port, 1) == [24_000_000]
    sending.join()
    assert waits


def test_bye_ends_the_process_in_order(client, path, eventually):
    near = NearSide()
    client.post(path, content=near.hello() + near.bye(), headers=FRAMES)

    eventually(lambda: client.get(f"{path}/state").json()["state"] == "ended")

    assert client.get(f"{path}/state").json()["exit_code"] == 0


def test_another_version_of_execgw_is_refused_by_name(client):
    answer = client.post("/popen", json={"protocol": "frames", "version": "0.0"})

    assert (answer.status_code, answer.json()["error"], answer.json()["server"]) == (409, "version", execgw.__version__)


def test_values_for_a_process_that_speaks_frames_are_refused_and_frames_for_one_that_does_not(client, path):
    values = client.post("/popen").headers["location"]

    answers = [client.post(path, json=1), client.post(values, content=NearSide().hello(), headers=FRAMES)]

    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [(409, "protocol"), (415, "type")]


def test_a_websocket_without_a_token_is_refused(server, path):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{server.address}{path}", proxy=None)

    assert refused.value.response.status_code == 401


def test_a_process_ends_when_nobody_is_connected_for_its_grace(client, eventually):
    made = client.post("/popen", json={"protocol": "frames", "version": execgw.__version__, "grace": 0.2})
    path = made.headers["location"]

    eventually(lambda: client.get(f"{path}/state").json()["state"] == "ended")

    assert "nobody was connected" in client.get(path, params={"after": 0}).json()["why"]


def test_code_that_sends_to_nobody_waits_when_the_server_keeps_enough(client, path, open_socket, eventually):
    near, socket = NearSide(), open_socket(path)
    ports = []
    for _ in range(16):  # more channels than fit: each may send a window
        port, run = near.run("for i in range(100): channel.send(b'x' * 65536)")
        ports.append(port)
        socket.send((near.hello() if port.number == 1 else b"") + run)
    socket.close()

    eventually(lambda: client.get(f"{path}/state").json()["queue"]["bytes"] > 8 << 20)

    assert client.get(f"{path}/state").json()["queue"]["bytes"] < 10 << 20
