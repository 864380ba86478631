"""Workers that mean harm: nothing of theirs runs here, nothing hangs, memory stays bounded, and others go on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hostile
import payloads
import pytest
import starts
from conftest import wait_for
from near import spec
from speak import DATA, raw

import execgw
from execgw import Group, StartError
from execgw.errors import ConnectionLost, LoadError, RemoteError, RemoteProtocolError
from execgw.peer.peer import HIGH_WATER
from execgw.wire import careful, frames, guarded, scan

HERE = Path(__file__).parent
GUIDE = HERE.parent.parent / "docs" / "guide" / "trust.md"
PATIENCE = 30  # seconds for what takes milliseconds on an idle machine
SLOWEST_ECHO_MS = 2000  # of an honest worker during an attack
ADDRESS_SPACE = "1600"  # MiB of a near side that is attacked, its interpreter and libraries included


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file that code of a hostile worker would make, if it ran anywhere."""
    path = tmp_path / "canary"
    monkeypatch.setenv("EXECGW_CANARY", str(path))
    yield path
    assert not path.exists()


def figure(pattern: str) -> int:
    """A number that the guide publishes, once."""
    (found,) = re.findall(pattern, " ".join(GUIDE.read_text("utf-8").split()))
    return int(found)


def near_side(*words: str) -> dict[str, Any]:
    """What became of a near side, a process of its own under a memory limit; see near.py."""
    argv = [sys.executable, str(HERE / "near.py"), *words, ADDRESS_SPACE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert not told["canary"]
    assert told["slowest_ms"] < SLOWEST_ECHO_MS, told
    assert told["grown_mib"] <= figure(r"at most (\d+) MiB of memory for what waits"), told
    return told


def obeyed_by_a_terminal(text: str) -> list[str]:
    """The control characters in a text that are not of colours or ends of lines."""
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.sub(r"\x1b\[[0-9;]*m", "", text))


# -- the start


@pytest.mark.parametrize("scenario", sorted(set(starts.AT_START) - {"endless_banner", "endless_stderr", "trickle"}))
def test_a_start_without_an_honest_hello_fails_in_time_and_says_why(group: Group, scenario: str) -> None:
    begun = time.monotonic()

    with pytest.raises(StartError) as caught:
        group.makegateway(f"{spec(scenario)}//start_timeout=1//id=hostile")

    assert time.monotonic() - begun < 1 + PATIENCE
    assert "'hostile'" in str(caught.value)
    assert len(str(caught.value)) < 5000
    assert obeyed_by_a_terminal(str(caught.value)) == []


@pytest.mark.parametrize("scenario", ["endless_banner", "endless_stderr", "trickle"])
def test_a_start_that_never_ends_is_ended_and_takes_little_memory(nothing_left: str, scenario: str) -> None:
    told = near_side("start", scenario)

    assert re.match("StartError: .*no answer within 2 s|HandshakeError: .*no worker's hello", told["error"])
    assert told["seconds"] < PATIENCE
    assert told["grown_mib"] < 64


# -- frames


@pytest.mark.parametrize("scenario", sorted(hostile.ENDING))
def test_who_breaks_the_rules_loses_the_session_and_is_told_apart_from_a_crash(group: Group, scenario: str) -> None:
    honest = group.makegateway("popen")
    channel = group.makegateway(f"{spec(scenario)}//id=hostile").remote_exec("")

    with pytest.raises(ConnectionLost, match=r"'hostile'.* broke the rules of the protocol: "):
        while True:
            channel.receive(PATIENCE)

    assert honest.call(abs, -1) == 1


@pytest.mark.parametrize("scenario", sorted(hostile.HARMLESS))
def test_what_is_only_strange_is_dropped_and_the_session_goes_on(group: Group, scenario: str, our_stderr: Any) -> None:
    honest = group.makegateway("popen")

    with our_stderr() as read:
        channel = group.makegateway(f"{spec(scenario)}//id=hostile").remote_exec("")
        arrived = [channel.receive(PATIENCE)]
        while arrived[-1] != "still here":
            arrived.append(channel.receive(PATIENCE))
        group.terminate(timeout=5)

    assert arrived[:-1] == {"sequence_numbers_again": ["once"], "questions_for_what_is_not_served": ["[]"]}.get(
        scenario, []
    )
    assert obeyed_by_a_terminal(read()) == []
    assert not honest.hasreceiver()


def test_an_answer_reaches_only_the_call_that_it_is_for(group: Group) -> None:
    gateway = group.makegateway(spec("others"))

    channels = [gateway.remote_exec("") for _ in range(200)]
    own = [channel.receive(PATIENCE) for channel in channels]
    calls = [gateway.call(abs, 1) for _ in range(200)]

    assert own == [f"own {channel.id}" for channel in channels]
    assert [str(value)[:3] for value in calls] == ["own"] * 200
    assert len(set(calls)) == 200


def test_facts_that_make_no_sense_are_errors_of_the_protocol(group: Group) -> None:
    gateway = group.makegateway(spec("status"))

    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="no status"):
            gateway.remote_status(PATIENCE)
    with pytest.raises(RemoteProtocolError, match="facts about itself"):
        gateway._rinfo()


# -- memory


@pytest.mark.parametrize("scenario", sorted(hostile.GREEDY))
def test_memory_stays_in_the_published_bound(nothing_left: str, scenario: str) -> None:
    told = near_side("direct", scenario)

    assert "ConnectionLost" in told["error"], told
    assert "broke the rules of the protocol" in told["error"], told


def test_a_frame_that_comes_in_pieces_keeps_no_block_of_input_in_memory() -> None:
    reader, other = guarded.CheckedReader(), frames.FrameReader()
    frame = raw(DATA, 1, size=20_000) + bytes(20_000)

    for each in (reader, other):
        each.feed(frame[:10_000])

    assert type(reader.feed(frame[10_000:])[0][6]) is bytes
    assert type(other.feed(frame[10_000:])[0][6]) is list  # of views, each of which keeps a read of 256 KiB


def test_a_frame_that_comes_in_tiny_pieces_takes_no_more_than_a_few_of_them() -> None:
    reader = guarded.CheckedReader()
    reader.feed(raw(DATA, 1, size=20_000))

    most = max(len(reader.feed(b"ab") or reader._parts) for _ in range(9999))

    assert most <= guarded.MOST_PARTS + 1
    assert len(reader.feed(b"ab")[0][6]) == 20_000


@pytest.mark.parametrize("mode", ["via", "master"])
@pytest.mark.parametrize("scenario", ["a_gap", "storms", "questions_without_end", "unfinished_values_on_many_channels"])
def test_neither_behind_an_honest_worker_nor_before_one_can_it_do_more(
    nothing_left: str, mode: str, scenario: str
) -> None:
    told = near_side(mode, scenario)

    ended = "broke the rules" in told["error"]
    assert ended != (told["error"] == "" and told["arrived"] == ["still here"]), told
    assert ended == (scenario != "storms"), told


@pytest.mark.parametrize("which", range(len(hostile.ENDINGS)), ids=[name for name, _, _ in hostile.ENDINGS])
def test_a_relay_that_lies_about_the_end_of_its_child_ends_that_one_alone(group: Group, which: int) -> None:
    honest = group.makegateway("popen")
    group.makegateway(f"{spec(f'master:{which}')}//id=hostile")
    channel = group.makegateway("popen//python=python3//id=child//via=hostile").remote_exec("")

    with pytest.raises(ConnectionLost, match="'child'") as caught:
        channel.receive(PATIENCE)

    assert obeyed_by_a_terminal(str(caught.value)) == []
    assert honest.call(abs, -1) == 1
    assert group["hostile"].hasreceiver()


# -- a worker that does not read


@pytest.fixture
def mute(group: Group) -> execgw.Gateway:
    """A worker behind an honest one that reads nothing, with a thread that waits in send()."""
    group.makegateway("popen//id=honest")
    return group.makegateway(f"{spec('mute')}//id=mute//via=honest")


def send_until_it_ends(gateway: execgw.Gateway) -> threading.Thread:
    """Send more than any buffer takes, in a thread; returns when that one waits."""
    channels: list[execgw.Channel] = []

    def run() -> None:
        with pytest.raises(OSError):
            for _ in range(1000):
                channels.append(gateway.newchannel())
                for _ in range(10):  # less than one window
                    channels[-1].send(bytes(60_000))

    thread = threading.Thread(target=run)
    thread.start()
    session = gateway._session
    relay = getattr(session.transport, "_port", None)  # if it goes through a channel of another gateway

    def is_full() -> bool:
        # With the last of the relay's credit a part of the queue may have gone, so that less than HIGH_WATER waits.
        spent = relay is not None and relay.allowed <= relay.sent
        return session.out_size > HIGH_WATER or (spent and session.out_size > 0)

    wait_for(is_full, "the link is full", PATIENCE)
    return thread


def test_one_who_does_not_read_holds_up_nobody_else_and_is_ended_in_time(group: Group, mute: execgw.Gateway) -> None:
    sender = send_until_it_ends(mute)

    assert group["honest"].call(abs, -1) == 1
    begun = time.monotonic()
    group.terminate(timeout=0.5)

    assert time.monotonic() - begun < PATIENCE
    sender.join(PATIENCE)
    assert not sender.is_alive()


def test_a_start_through_one_who_does_not_read_ends_in_time(group: Group) -> None:
    honest = group.makegateway("popen")
    gateway = group.makegateway(f"{spec('mute')}//id=mute")
    sender = send_until_it_ends(gateway)
    begun = time.monotonic()

    with pytest.raises(StartError, match="no answer within 1 s"):
        group.makegateway("popen//via=mute//start_timeout=1")

    assert time.monotonic() - begun < PATIENCE
    assert honest.call(abs, -1) == 1
    group.terminate(timeout=0.5)
    sender.join(PATIENCE)


# -- values and errors


def test_values_that_no_honest_worker_sends_are_refused_at_once(nothing_left: str) -> None:
    told = near_side("values", "values")

    outcomes = told["outcomes"]
    assert told["error"] == ""
    assert {name: outcome for name, (outcome, _) in outcomes.items() if not outcome.startswith("LoadError: ")} == {}
    assert {name: seconds for name, (_, seconds) in outcomes.items() if seconds > 5} == {}
    assert len(outcomes) == len(payloads.REFUSED)


@pytest.mark.parametrize(("name", "payload"), payloads.FAULTS, ids=[name for name, _ in payloads.FAULTS])
def test_an_error_of_any_shape_is_a_remote_error_that_can_be_shown(group: Group, name: str, payload: bytes) -> None:
    gateway = group.makegateway(spec("faults"))
    for _ in range([fault for fault, _ in payloads.FAULTS].index(name)):
        gateway.remote_exec("")
    channel = gateway.remote_exec("")

    with pytest.raises(RemoteError) as caught:
        channel.receive(PATIENCE)

    error = caught.value
    texts = [str(error), repr(error), error.formatted, error.message, error.type or "", error.filename or ""]
    texts += error.notes
    assert [obeyed_by_a_terminal(text) for text in texts if obeyed_by_a_terminal(text)] == []
    assert max(map(len, texts)) <= careful.LONGEST + 100
    assert error.lineno is None or type(error.lineno) is int
    assert gateway.hasreceiver()


def test_to_send_on_a_channel_that_was_closed_with_any_error_is_an_os_error(group: Group) -> None:
    gateway = group.makegateway(spec("faults"))

    for _ in payloads.FAULTS:
        channel = gateway.remote_exec("")
        channel._peer.wait_until(lambda port: port.ended, channel._port, PATIENCE)
        with pytest.raises(OSError, match="cannot send"):
            channel.send(1)


def test_the_value_of_a_worker_may_need_only_so_much_memory_however_large_it_is() -> None:
    data = payloads.many([b"\x8f"] * 1000)

    with pytest.raises(LoadError, match="more than 1000 bytes of memory"):
        scan.scan(data, frozenset(), 1000)


# -- at random


@pytest.mark.soak
def test_random_frames_break_no_promise(nothing_left: str) -> None:
    soak = HERE.parent / "soak" / "hostile.py"

    argv = [sys.executable, str(soak), "--seconds", "4", "--seed", "7"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=100)

    assert done.returncode == 0, done.stdout
    assert re.search(r"rounds +[1-9]", done.stdout)


# -- what is published


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    assert figure(r"values of at most (\d+) MiB") << 20 == guarded.MAX_VALUE
    assert figure(r"at most (\d+) MiB of values wait") << 20 == guarded.MAX_HELD
    assert figure(r"at most (\d+) channels") == guarded.MAX_CHANNELS
    assert figure(r"reading one value takes at most (\d+) GiB") << 30 == careful.MOST_MEMORY
    assert figure(r"(\d+) KiB before the start marker") << 10 == execgw._session.MOST_NOISE
    assert figure(r"(\d+) MiB of answers") << 20 == execgw._session.MOST_UNREAD
