"""The protocol for curl: source, data, messages, their numbers, and how everything ends; over a real server."""

from __future__ import annotations

import concurrent.futures
import json
import math
import threading

import httpx
import pytest

import execgw

VALUE = {"Accept": "application/x-execgw-value"}
AS_VALUE = {"Content-Type": "application/x-execgw-value"}
PLUS_ONE = "channel.send(channel.receive() + 1)"


def test_the_session_of_the_seed_works(client, start):
    path = start()

    client.post(path, content=PLUS_ONE)
    client.post(path, json=1)

    assert client.get(path, params={"wait": 10}).json() == 2


def test_a_pid_has_128_random_bits(client):
    pids = {client.post("/popen").json()["pid"] for _ in range(3)}

    assert len(pids) == 3
    assert all(len(pid) == 32 and int(pid, 16) >= 0 for pid in pids)


def test_one_request_starts_and_runs(client):
    made = client.post("/exec", content="channel.send('at once')")

    assert made.status_code == 201
    assert client.get(made.headers["location"], params={"wait": 10}).json() == "at once"


def test_what_json_has_comes_as_json_and_the_rest_in_the_format_of_dumps(client, start):
    values = [
        None,
        True,
        1,
        2.5,
        "é",
        [1, (2,)],
        {"a": {"b": []}},
        b"raw",
        {1: 2},
        {3},
        math.inf,
        1j,
        "\ud800",
        10**2000,
    ]
    path = start(f"for value in {values!r}: channel.send(value)".replace("inf", "float('inf')"))

    got = []
    for _ in values:
        answer = client.get(path, params={"wait": 10})
        assert answer.status_code == 200
        is_json = answer.headers["content-type"] == "application/json"
        got.append((is_json, answer.json() if is_json else execgw.loads(answer.content)))

    assert got[:7] == [(True, value) for value in [*values[:5], [1, [2]], values[6]]]
    assert got[7:] == [(False, value) for value in values[7:]]


def test_accept_is_honoured_and_what_cannot_be_written_so_is_not_taken(client, start):
    path = start("channel.send((1, 'x')); channel.send('text'); channel.send(b'raw')")

    as_value = client.get(path, params={"wait": 10}, headers=VALUE)
    as_text = client.get(path, params={"wait": 10}, headers={"Accept": "text/plain"})
    refused = client.get(path, params={"wait": 10}, headers={"Accept": "application/json"})
    taken = client.get(path)

    assert execgw.loads(as_value.content) == (1, "x")
    assert (as_text.text, as_text.headers["content-type"]) == ("text", "text/plain; charset=utf-8")
    assert (refused.status_code, refused.json()["error"]) == (406, "type")
    assert execgw.loads(taken.content) == b"raw"


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b'{"a": [1, 2.5, null]}', "application/json", {"a": [1, 2.5, None]}),
        (b"[1]", "application/x-www-form-urlencoded", [1]),
        (b"1", None, 1),
        ("grün".encode(), "text/plain; charset=utf-8", "grün"),
        (execgw.dumps({(1, 2): b"x"}), "application/x-execgw-value", {(1, 2): b"x"}),
    ],
)
def test_the_content_type_says_what_the_code_receives(client, start, body, content_type, value):
    path = start("channel.send(repr(channel.receive()))")
    headers = {} if content_type is None else {"Content-Type": content_type}

    assert client.post(path, content=body, headers=headers).status_code == 202

    assert client.get(path, params={"wait": 10}).json() == repr(value)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "word"),
    [
        (b"{", "application/json", 400, "value"),
        (b"NaN", "application/json", 400, "value"),
        (b"[" * 100_000, "application/json", 400, "value"),
        (b"hello", "application/x-www-form-urlencoded", 400, "value"),
        (b"\xff", "text/plain", 400, "value"),
        (b"execgw\x01rubbish", "application/x-execgw-value", 400, "value"),
        (b"x", "image/png", 415, "type"),
    ],
)
def test_a_body_that_is_no_value_is_refused_and_takes_no_number(client, start, body, content_type, status, word):
    path = start("channel.send(channel.receive())")

    answer = client.post(path, content=body, headers={"Content-Type": content_type})
    good = client.post(path, json="good")

    assert (answer.status_code, answer.json()["error"]) == (status, word), answer.text
    assert good.json()["seq"] == 2
    assert client.get(path, params={"wait": 10}).json() == "good"


def test_nothing_yet_is_204_and_a_waiting_request_gets_what_comes(client, start):
    path = start("channel.send(channel.receive())")
    assert client.get(path).status_code == 204

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, path, params={"wait": 30})
        client.post(path, json="now")

        assert waiting.result().json() == "now"


def test_with_after_nothing_is_lost_and_nothing_comes_twice(client, start):
    path = start("for i in range(3): channel.send(i)")

    first = [client.get(path, params={"after": 0, "wait": 10}) for _ in range(3)]
    second = client.get(path, params={"after": 1, "wait": 10})
    again = client.get(path, params={"after": 1})
    third = client.get(path, params={"after": 2, "wait": 10})
    end = client.get(path, params={"after": 3, "wait": 10})
    late = client.get(path, params={"after": 0})

    assert [(answer.json(), answer.headers["execgw-seq"]) for answer in first] == [(0, "1")] * 3
    assert (second.json(), again.json(), third.json()) == (1, 1, 2)
    assert (end.status_code, end.json()["of"], end.headers["execgw-seq"]) == (410, "channel", "4")
    assert late.status_code == 410  # all before was acknowledged; the end of the code is not


def test_a_number_that_was_never_sent_cannot_be_acknowledged(client, start):
    path = start("channel.send(1)")

    answer = client.get(path, params={"after": 1000})

    assert (answer.status_code, answer.json()["error"]) == (400, "request")


def test_the_same_request_five_times_at_once_runs_once(client, start):
    path = start()
    source = "import sys; sys.runs = getattr(sys, 'runs', 0) + 1; channel.send(sys.runs)"
    barrier = threading.Barrier(5)

    def post(_):
        barrier.wait()
        return client.post(path, content=source, params={"seq": 1}).status_code

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        statuses = sorted(pool.map(post, range(5)))

    assert statuses == [200, 200, 200, 200, 202]
    assert client.get(path, params={"wait": 10}).json() == 1
    assert client.get(path, params={"wait": 10}).json()["of"] == "channel"
    assert client.get(path).json()["error"] == "ended"


def test_a_gap_in_the_numbers_is_409_and_says_which_is_expected(client, start):
    path = start("for item in channel: channel.send(item)")

    gap = client.post(path, json=3, params={"seq": 3})
    late = client.post(path, json=2, headers={"Execgw-Seq": "2"})

    assert (gap.status_code, gap.json()["error"], gap.json()["expected"]) == (409, "gap", 2)
    assert late.status_code == 202
    assert client.get(path, params={"wait": 10}).json() == 2


def test_another_body_under_a_number_that_was_had_is_told(client, start):
    path = start("for item in channel: channel.send(item)")
    client.post(path, json="one", params={"seq": 2})

    same = client.post(path, json="one", params={"seq": 2})
    other = client.post(path, json="two", params={"seq": 2})

    assert (same.status_code, other.status_code, other.json()["error"]) == (200, 409, "differs")


def test_an_exception_of_the_code_is_422_with_its_traceback(client, start):
    path = start("def f():\n    raise KeyError('missing')\nf()")

    answer = client.get(path, params={"wait": 10})

    told = answer.json()
    assert (answer.status_code, told["error"], told["type"]) == (422, "raised", "KeyError")
    assert "in f" in told["traceback"]


def test_source_that_is_no_python_is_422_and_the_process_lives_on(client, start):
    path = start("this is no python")

    assert client.get(path, params={"wait": 10}).json()["type"] == "SyntaxError"
    client.post(path, content="channel.send('well')", headers={"Content-Type": "text/x-python"})
    assert client.get(path, params={"wait": 10}).json() == "well"


def test_data_goes_to_the_newest_code_or_to_the_channel_that_is_named(client, start):
    path = start()
    echo = "for item in channel: channel.send([channel.id, item])"
    source = {"Content-Type": "text/x-python"}
    old, new = [client.post(path, content=echo, headers=source).json()["channel"] for _ in range(2)]

    client.post(path, json="a")
    client.post(path, json="b", params={"channel": old})
    missing = client.post(path, json="c", params={"channel": 999})

    got = [client.get(path, params={"wait": 10}).json() for _ in range(2)]
    assert sorted(got) == [[old, "b"], [new, "a"]]
    assert missing.status_code == 404


def test_the_end_of_the_data_ends_the_iteration_of_the_code(client, start):
    path = start("channel.send(sum(channel))")
    client.post(path, json=1)
    client.post(path, json=2)

    assert client.post(path, params={"end": ""}).status_code == 202

    assert client.get(path, params={"wait": 10}).json() == 3


def test_data_for_code_that_has_ended_is_409(client, start):
    path = start("pass")
    assert client.get(path, params={"wait": 10}).status_code == 410

    answer = client.post(path, json=1)

    assert (answer.status_code, answer.json()["error"]) == (409, "protocol")


def test_data_that_the_code_does_not_take_is_503_and_nothing_of_it_is_sent(client, start):
    path = start("gate = channel.receive(); channel.send([len(item) for item in channel])")
    large = json.dumps("x" * (3 << 20))
    json_type = {"Content-Type": "application/json"}

    statuses = []
    while not statuses or statuses[-1] == 202:
        statuses.append(client.post(path, content=large, headers=json_type, params={"wait": 0.3}).status_code)
        if len(statuses) == 1:  # the gate: from now on it takes nothing
            client.post(path, content="import time; time.sleep(600)", headers={"Content-Type": "text/x-python"})

    assert statuses[-1] == 503


def test_interrupt_reaches_code_that_computes(client, start):
    path = start("channel.send('on'); x = 0\nwhile True: x += 1")
    client.get(path, params={"wait": 10})

    told = client.post(f"{path}/interrupt")

    assert told.status_code == 200
    assert client.get(path, params={"wait": 10}).json()["type"] == "KeyboardInterrupt"


def test_what_the_code_prints_can_be_read(client, start):
    path = start("import sys\nprint('out')\nprint('err', file=sys.stderr)\nchannel.send(1)\nchannel.receive()")

    text, offset = "", 0
    while not ("out\n" in text and "err\n" in text):
        answer = client.get(f"{path}/output", params={"after": offset, "wait": 10})
        assert answer.status_code == 200
        text, offset = text + answer.text, int(answer.headers["execgw-offset"])

    assert offset == len(text)


def test_a_process_that_is_deleted_says_so(client, start):
    path = start("channel.receive()")

    assert client.delete(path).status_code == 200

    answer = client.get(path)
    assert (answer.status_code, answer.json()["of"]) == (410, "process")
    assert "'joe' asked for it" in answer.json()["why"]
    assert client.post(path, json=1).status_code == 410
    assert client.delete(path).status_code == 200


def test_the_death_of_a_process_is_told_within_a_second_to_who_waits(client, start):
    path = start(
        "import os, sys; channel.send(1); channel.receive(); sys.stderr.write('dying\\n'); os.kill(os.getpid(), 9)"
    )
    client.get(path, params={"wait": 10})

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, path, params={"wait": 30})
        client.post(path, json="die")
        answer = waiting.result(timeout=2)

    told = answer.json()
    assert (answer.status_code, told["error"], told["of"]) == (410, "ended", "process")
    assert (told["exit_code"], told["signal"], told["stderr"]) == (None, "SIGKILL", "dying")


def test_what_was_sent_before_the_death_is_still_there(client, start):
    path = start("import os\nfor i in range(100): channel.send(i)\nimport time; time.sleep(0.2)\nos._exit(3)")

    got = [client.get(path, params={"wait": 10}) for _ in range(101)]

    assert [answer.json() for answer in got[:100]] == list(range(100))
    assert (got[100].status_code, got[100].json()["exit_code"]) == (410, 3)


def test_an_unknown_pid_and_another_clients_are_the_same_404(client, start, server):
    path = start()

    anns = [server.client("ann").request(method, path) for method in ("GET", "POST", "DELETE")]
    unknown = client.get("/exec/" + "0" * 32)

    assert [answer.status_code for answer in anns] == [404, 404, 404]
    assert unknown.json() == anns[0].json()
    assert client.get(path).status_code == 204


def test_without_a_token_nothing_is_told(server):
    with server.client(None) as client:
        answers = [client.get("/exec"), client.post("/popen"), client.get("/metrics"), client.get("/exec/x")]

    assert [answer.status_code for answer in answers] == [401] * 4
    assert all(answer.headers["www-authenticate"].startswith("Bearer") for answer in answers)


def test_head_takes_nothing(client, start):
    path = start("channel.send('here')")

    head = client.head(path)

    assert head.status_code == 405
    assert client.get(path, params={"wait": 10}).json() == "here"


def test_a_client_that_goes_away_while_it_waits_takes_nothing(client, start, server, eventually):
    path = start("channel.receive(); channel.send('here')")
    with server.client() as leaving, pytest.raises(httpx.ReadTimeout):
        leaving.get(path, params={"wait": 30}, timeout=0.5)
    eventually(lambda: client.get(f"{path}/state").json()["followers"] == 0)

    client.post(path, json="go")

    assert client.get(path, params={"wait": 10}).json() == "here"
