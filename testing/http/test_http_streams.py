"""Server-sent events, and WebSockets that carry JSON."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import execgw

COUNT = "for i in range(3): channel.send(i)\nchannel.receive()"


def _events(lines, count):
    """The next *count* events: (id, kind, data)."""
    found, event = [], {}
    for line in lines:
        if not line and "event" in event:
            found.append((event.get("id"), event["event"], json.loads(event["data"])))
            event = {}
            if len(found) == count:
                return found
        elif line and not line.startswith(":"):
            name, _, text = line.partition(": ")
            event[name] = text
    return found


@pytest.fixture
def open_socket(server, client):
    with contextlib.ExitStack() as stack:

        def open_socket(path, query="", **headers):
            headers = headers or {"Authorization": client.headers["authorization"]}
            url = f"ws://{server.address}{path}{query}"
            return stack.enter_context(connect(url, additional_headers=headers, proxy=None))

        yield open_socket


def _told(socket, kind):
    """The next message of that kind."""
    while True:
        message = json.loads(socket.recv(timeout=10))
        if message["kind"] == kind:
            return message


def test_events_have_numbers_and_values(client, start):
    path = start(COUNT)

    with client.stream("GET", f"{path}/stream") as answer:
        events = _events(answer.iter_lines(), 3)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [(number, kind, data["value"]) for number, kind, data in events] == [
        ("1", "value", 0),
        ("2", "value", 1),
        ("3", "value", 2),
    ]


def test_a_stream_goes_on_behind_the_last_event_that_the_client_had(client, start):
    path = start(COUNT)
    with client.stream("GET", f"{path}/stream") as answer:
        _events(answer.iter_lines(), 2)

    with client.stream("GET", f"{path}/stream", headers={"Last-Event-ID": "1"}) as answer:
        events = _events(answer.iter_lines(), 2)

    assert [data["value"] for _, _, data in events] == [1, 2]


def test_what_json_does_not_have_comes_as_base64_and_errors_and_ends_by_name(client, start):
    path = start("channel.send(b'raw')\nraise ValueError('no')")
    with client.stream("GET", f"{path}/stream") as answer:
        lines = answer.iter_lines()
        value, raised = _events(lines, 2)
        client.delete(path)
        (ended,) = _events(lines, 1)
        rest = list(lines)

    assert execgw.loads(base64.b64decode(value[2]["execgw"])) == b"raw"
    assert (raised[1], raised[2]["type"], raised[2]["message"]) == ("raised", "ValueError", "no")
    assert (ended[1], ended[2]["of"]) == ("ended", "process")
    assert [line for line in rest if line] == []


def test_a_client_that_leaves_a_stream_follows_no_more(client, start, eventually):
    path = start(COUNT)
    with client.stream("GET", f"{path}/stream") as answer:
        lines = answer.iter_lines()
        _events(lines, 1)
        assert client.get(f"{path}/state").json()["followers"] == 1

    eventually(lambda: client.get(f"{path}/state").json()["followers"] == 0)


def test_a_websocket_carries_values_both_ways(client, start, open_socket):
    socket = open_socket(start("for item in channel: channel.send([item])"))

    socket.send(json.dumps({"value": {"a": 1}}))
    messages = [json.loads(socket.recv(timeout=30)) for _ in range(2)]  # in which order is not said
    had, value = sorted(messages, key=lambda message: message["kind"])

    assert (had["kind"], value["kind"]) == ("had", "value")
    assert had["seq"] == 2
    assert (value["value"], value["seq"]) == ([{"a": 1}], 1)


def test_a_websocket_runs_source_and_ends_data(start, open_socket):
    socket = open_socket(start())

    socket.send(json.dumps({"source": "channel.send(sum(channel))"}))
    socket.send(json.dumps({"execgw": base64.b64encode(execgw.dumps(40)).decode()}))
    socket.send(json.dumps({"value": 2}))
    socket.send(json.dumps({"end": True}))

    assert _told(socket, "value")["value"] == 42


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        "{}",
        '{"value": 1, "source": "x"}',
        '{"value": 1, "seq": -1}',
        '{"execgw": "!"}',
        '{"source": 1}',
    ],
)
def test_a_message_that_makes_no_sense_is_refused_and_the_websocket_goes_on(start, open_socket, message):
    socket = open_socket(start("channel.send(channel.receive())"))

    socket.send(message)
    refused = _told(socket, "refused")
    socket.send(json.dumps({"value": "good"}))

    assert refused["error"] in ("request", "value")
    assert _told(socket, "value")["value"] == "good"


def test_bytes_on_a_websocket_of_texts_are_refused_and_it_goes_on(start, open_socket):
    socket = open_socket(start("channel.send(channel.receive())"))

    socket.send(b"bytes")
    refused = _told(socket, "refused")
    socket.send(json.dumps({"value": "good"}))

    assert refused["error"] == "request"
    assert _told(socket, "value")["value"] == "good"


def test_a_repeated_message_of_a_websocket_runs_once(start, open_socket):
    socket = open_socket(start("for item in channel: channel.send(item)"))
    for _ in range(3):
        socket.send(json.dumps({"value": 1, "seq": 2}))

    assert [_told(socket, "had")["new"] for _ in range(3)] == [True, False, False]


def test_a_websocket_goes_on_behind_what_the_client_has(client, start, open_socket):
    path = start(COUNT)
    with contextlib.closing(open_socket(path)) as socket:
        assert [_told(socket, "value")["seq"] for _ in range(2)] == [1, 2]

    socket = open_socket(path, "?after=2")

    assert _told(socket, "value") == {"kind": "value", "seq": 3, "channel": 3, "value": 2}
    socket.send(json.dumps({"ack": 3}))
    client.post(path, json=0)
    assert _told(socket, "end")["seq"] == 4


def test_the_end_of_the_process_closes_a_websocket_with_4410(client, start, open_socket):
    path = start(COUNT)
    socket = open_socket(path)

    client.delete(path)

    ended = _told(socket, "ended")
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=10)
    assert ended["of"] == "process"
    assert closed.value.rcvd.code == 4410


def test_a_browser_connects_once_with_a_ticket_and_its_page_must_be_ours(client, start, server, open_socket):
    path = start(COUNT)
    pid = path.rpartition("/")[2]
    ticket = client.post("/ticket", json={"pid": pid}).json()["ticket"]

    socket = open_socket(path, f"?ticket={ticket}", Origin=server.url)
    with pytest.raises(InvalidStatus) as again:
        open_socket(path, f"?ticket={ticket}", Origin=server.url)
    fresh = client.post("/ticket", json={"pid": pid}).json()["ticket"]
    with pytest.raises(InvalidStatus) as foreign:
        open_socket(path, f"?ticket={fresh}", Origin="https://evil.example")

    assert _told(socket, "value")["value"] == 0
    assert again.value.response.status_code == 401
    assert (foreign.value.response.status_code, json.loads(foreign.value.response.body)["error"]) == (403, "origin")


def test_a_ticket_for_one_process_opens_no_other(client, start, open_socket):
    one, other = start(COUNT), start(COUNT)
    ticket = client.post("/ticket", json={"pid": one.rpartition("/")[2]}).json()["ticket"]

    with pytest.raises(InvalidStatus) as refused:
        open_socket(other, f"?ticket={ticket}", Origin="")

    assert refused.value.response.status_code in (401, 403)


def test_a_stream_of_an_unknown_process_is_404(client, start, open_socket):
    with pytest.raises(InvalidStatus) as refused:
        open_socket("/exec/" + "0" * 32)

    assert refused.value.response.status_code == 404
    assert client.get("/exec/" + "0" * 32 + "/stream").status_code == 404
