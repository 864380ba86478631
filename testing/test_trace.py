"""EXECGW_TRACE: recording, printing and replaying the frames of a gateway."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from execgw import Group, _trace
from execgw._loop import get_loop, run
from execgw._session import Session
from execgw.cli import main
from execgw.gateway import Gateway
from execgw.spec import XSpec
from execgw.transports.base import Launch, Transport


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: str) -> Path:
    """The trace of a session that sent 6 * 7 through a channel."""
    path = tmp_path / "trace"
    monkeypatch.setenv("EXECGW_TRACE", str(path))
    with Group() as group:
        channel = group.makegateway("popen//id=a").remote_exec("channel.send(channel.receive() * 7)")
        channel.send(6)
        assert channel.receive() == 42
        channel.waitclose()
    monkeypatch.delenv("EXECGW_TRACE")
    _trace._traces.pop(str(path))._file.close()
    return path


def test_a_trace_prints_each_frame_with_its_direction_and_value(trace: Path) -> None:
    lines = list(_trace.describe(trace))

    text = "\n".join(lines)
    assert "-> HELLO" in text and "<- HELLO" in text
    assert any("-> EXEC" in line and "channel.send(channel.receive() * 7)" in line for line in lines)
    assert any("-> DATA" in line and line.endswith("  6") for line in lines)
    assert any("<- DATA" in line and line.endswith("  42") for line in lines)
    assert "-> BYE" in text


def test_the_command_prints_it(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(trace), "--gateway", "a"]) == 0

    assert capsys.readouterr().out.splitlines() == list(_trace.describe(trace))
    assert main(["trace", str(trace), "--gateway", "other"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["trace", __file__]) == 1
    assert "no trace of execgw" in capsys.readouterr().err
    assert main(["trace", str(trace) + "-missing"]) == 1


def test_a_trace_is_for_its_owner_alone(trace: Path) -> None:
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


def test_a_torn_last_record_is_left_out(trace: Path) -> None:
    whole = len(list(_trace.read_trace(trace)))
    trace.write_bytes(trace.read_bytes()[:-1])

    assert len(list(_trace.read_trace(trace))) == whole - 1


def test_another_file_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello")

    with pytest.raises(ValueError, match="no trace of execgw; EXECGW_TRACE=FILE makes one"):
        list(_trace.read_trace(tmp_path / "other"))


class Replay(Transport):
    """Plays a worker's side of a trace."""

    trusted = True
    chunk = 512 * 1024

    def __init__(self, path: Path) -> None:
        self._data = [r.data for r in _trace.read_trace(path) if r.direction == _trace.FROM_WORKER]

    def fileno(self) -> None:
        return None

    def attach(self, session: Session) -> None:
        self._session = session

    def read(self) -> None:
        return None

    def write(self, pieces: list[bytes]) -> int:
        return sum(map(len, pieces))

    def wait(self, timeout: float | None) -> bool:
        with self._session.lock:
            if self._data:
                self._session.take_in(self._data.pop(0))
        return False

    def wake(self) -> None:
        pass

    def close_link(self) -> None:
        pass


def test_a_recorded_session_replays_into_a_near_side(trace: Path) -> None:
    launch = Launch("a", XSpec("popen"))
    session = Session(Replay(trace), launch, get_loop())
    session.begin(launch, "thread")
    run(session.finish_start(float("inf"), 30))
    gateway = Gateway(Group(), session, launch.spec, "thread")

    channel = gateway.remote_exec("channel.send(channel.receive() * 7)")

    assert channel.receive(5) == 42
    channel.waitclose(5)
    session._finish(None)
