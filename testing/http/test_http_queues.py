"""Queues that nobody reads: back-pressure first, then the oldest go, and that is told; memory stays bounded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

POLICY = """
[specs.python]
[limits]
queue = "2 MiB"
"""


@pytest.fixture
def small(serving):
    """A client of a server whose queues are small."""
    server = serving(POLICY)
    client = server.client()
    client.process = server.process
    return client


def _start(client, source, **options):
    path = client.post("/popen", json=options).headers["location"]
    assert client.post(path, content=source).status_code == 202
    return path


def _resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


MEGABYTES = "for i in range({}): channel.send((i, b'x' * 100_000))"


def test_a_full_queue_makes_the_code_wait_and_nothing_is_lost(small, eventually):
    path = _start(small, MEGABYTES.format(200), patience=None)
    eventually(lambda: small.get(f"{path}/state").json()["queue"]["bytes"] > 1 << 20)

    got, after = [], 0
    while True:
        answer = small.get(path, params={"after": after, "wait": 10})
        if answer.status_code != 200:
            break
        got.append(answer.headers["execgw-seq"])
        after = int(got[-1])

    assert (answer.status_code, answer.json()["of"]) == (410, "channel")
    assert got == [str(number) for number in range(1, 201)]


def test_a_gigabyte_sent_to_nobody_stays_under_the_bound_and_is_told(small, eventually):
    before = _resident(small.process.pid)
    path = _start(small, MEGABYTES.format(10_000) + "\nchannel.send('end')", patience=0)

    def all_came():
        return small.get(f"{path}/state").json()["state"] == "idle"

    eventually(all_came, "the end of a gigabyte", 100)
    state = small.get(f"{path}/state").json()
    late, first = small.get(path), small.get(path, headers={"Accept": "application/x-execgw-value"})

    grown = _resident(small.process.pid) - before
    assert state["queue"]["bytes"] <= 2 << 20
    assert (late.status_code, late.json()["error"]) == (416, "dropped")
    assert late.json()["dropped"] == state["queue"]["dropped"]
    assert int(first.headers["execgw-seq"]) == late.json()["first"] == late.json()["dropped"] + 1
    assert late.json()["dropped"] + state["queue"]["messages"] == 10_002  # the end of the code is one, too
    assert grown < 32 << 20, f"the server has grown by {grown} bytes"


def test_after_the_patience_the_oldest_go_and_a_reader_is_waited_for_again(small, eventually):
    path = _start(small, MEGABYTES.format(100), patience=0.3)

    eventually(lambda: small.get(f"{path}/state").json()["queue"]["dropped"] > 0)

    late = small.get(path, params={"after": 0})
    assert (late.status_code, late.json()["first"]) == (416, late.json()["dropped"] + 1)
    going_on = small.get(path, params={"after": late.json()["first"] - 1})
    assert going_on.status_code in (200, 416)


def test_a_value_larger_than_half_of_the_queue_ends_its_code_with_an_error_on_both_sides(small):
    path = _start(small, "try:\n    channel.send(b'x' * 1_500_000)\n    channel.receive()\nfinally: print('told')")

    answer = small.get(path, params={"wait": 10})

    assert answer.status_code == 422
    assert "a value of more than 1048576 bytes" in answer.json()["message"]


def test_streams_are_no_reason_to_wait_once_they_have_had_a_message(small):
    path = _start(small, MEGABYTES.format(100), patience=None)
    count = 0

    with small.stream("GET", f"{path}/stream") as events:
        for line in events.iter_lines():
            count += line == "event: value"
            if line == "event: end":
                break

    assert count == 100
    late = small.get(path, params={"after": 0})
    assert late.status_code == 416


def test_a_process_runs_so_many_codes_at_a_time_and_no_more(small):
    path = _start(small, "channel.receive()")
    source = {"Content-Type": "text/x-python"}

    statuses = [small.post(path, content="channel.receive()", headers=source).status_code for _ in range(64)]
    small.post(path, json=1, params={"channel": 3})
    assert small.get(path, params={"wait": 10}).json()["of"] == "channel"

    assert statuses == [202] * 63 + [429]
    assert small.post(path, content="channel.receive()", headers=source).status_code == 202


def test_a_worker_that_sends_on_channels_of_its_own_without_end_is_ended_and_the_server_stays_small(small):
    before = _resident(small.process.pid)
    path = _start(small, "new = channel.gateway.newchannel\nwhile True:\n    new().send(b'x' * 65536)", patience=None)

    answer = small.get(path, params={"wait": 30})

    assert (answer.status_code, answer.json()["of"]) == (410, "process")
    assert _resident(small.process.pid) - before < 160 << 20
