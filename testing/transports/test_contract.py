"""What every transport must do: carry bytes both ways, never block, tell the end, and end what it has started.

A new kind of gateway adds itself to LINES: how to start one of the far programs below on it.  The programs know no
execgw: a transport moves bytes and nothing else.
"""

from __future__ import annotations

import os
import select
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from far_websocket import link_to

from execgw import Group, XSpec, _bundle
from execgw._loop import get_loop
from execgw.transports import factory, memory
from execgw.transports.base import Launch, Transport
from execgw.transports.channel import RelayTransport
from execgw.transports.command import CommandTransport
from execgw.transports.process import ProcessTransport

# Far programs; they read descriptor 0 and write to descriptor OUT.
PROGRAMS = {
    "echo": """
        while True:
            data = os.read(0, 65536)
            if not data:
                break
            while data:
                data = data[os.write(OUT, data):]
    """,
    "late": """
        while not os.path.exists(GATE):
            time.sleep(0.01)
        while os.read(0, 65536):
            pass
    """,
    "failing": """
        sys.stderr.write("last words\\n")
        sys.exit(3)
    """,
    "stubborn": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(OUT, b"ready")
        time.sleep(100)
    """,
    "ready": """
        os.write(OUT, b"ready")
        time.sleep(100)
    """,
}


class Receiver:
    """Stands where a session stands: takes what a transport says, and waits for it."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate
        self.loop = get_loop()
        self.data = b""
        self.over = False
        self.changed = threading.Condition()
        self.out = [b"something is always left to write"]
        self.writable = threading.Event()
        self.ended = threading.Event()
        self.transport: Transport

    # -- what transports call

    def take_in(self, data: bytes) -> None:
        with self.changed:
            self.data += data
            self.changed.notify_all()

    def _on_link_end(self, reason: object) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def sweep(self) -> None:
        pass

    def flush(self) -> None:
        self.writable.set()

    # -- what tests call

    def attach(self, transport: Transport) -> Receiver:
        self.transport = transport
        transport.attach(self)  # type: ignore[arg-type]
        transport.on_writable = self.flush
        transport.on_end(self.ended.set)
        return self

    def send(self, data: bytes) -> None:
        """Write all of it, reading meanwhile."""
        left = memoryview(data)
        while left:
            left = left[self.transport.write([left]) :]
            if left:
                self._read()
                self.transport.wait_writable(0.05)

    def _read(self) -> None:
        if self.transport.fileno() is not None:
            data = self.transport.read()
            if data:
                self.take_in(data)
            elif data is not None:
                self._on_link_end(None)

    def wait(self, test: Callable[[], object]) -> None:
        while not test():
            if self.transport.fileno() is not None:
                assert self.transport.wait(20), "nothing came"
                self._read()
            else:
                with self.changed:
                    assert self.changed.wait_for(test, 20), "nothing came"

    def receive(self, size: int) -> bytes:
        self.wait(lambda: len(self.data) >= size)
        data, self.data = self.data[:size], self.data[size:]
        return data

    def fill(self) -> int:
        """Write until nothing is taken any more; how much was."""
        taken = 0
        block = b"x" * 65536
        while (done := self.transport.write([block])) > 0:
            taken += done
            assert taken < 64 << 20, "nothing holds it back"
        return taken


# -- how to start a far program on each transport


def _program(name: str, out: int, gate: Path) -> str:
    head = f"import os, signal, sys, time\nOUT, GATE = {out}, {str(gate)!r}\n"
    return head + textwrap.dedent(PROGRAMS[name])


def _start_process(name: str, receiver: Receiver, group: Group) -> Transport:
    launch = Launch("test", XSpec("popen"))
    argv = [sys.executable, "-c", _program(name, 0, receiver.gate)]
    return ProcessTransport(launch, argv, b"", trusted=True)


def _start_command(name: str, receiver: Receiver, group: Group) -> Transport:
    argv = ["env", sys.executable, "-c", _program(name, 1, receiver.gate)]
    return CommandTransport(Launch("test", XSpec("cmd=env")), argv, b"", trusted=False, stdout=True)


def _start_relay(name: str, receiver: Receiver, group: Group) -> Transport:
    master = group.makegateway("popen//id=master")
    launch = Launch("test", XSpec("popen//via=master"))
    argv: list[Any] = [sys.executable, "-c", _program(name, 1, receiver.gate)]
    return RelayTransport(launch, argv, b"", master._session)


def _start_factory(name: str, receiver: Receiver, group: Group) -> Transport:
    """The fork server as it is, but for what its children do: they run the program."""
    life, last = _bundle.task("factory")[0], "return lambda: main(shipped, link, link)"
    assert last in life
    program = f"os.dup2(link, 0); os.close(link); return lambda: exec({_program(name, 0, receiver.gate)!r}, {{}})"
    made = _bundle.for_factory(life.replace(last, program), _bundle.task("forks")[0], same=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "fork_server", lambda same: made)
        group.setlocalfactory()
    assert group._hub.factory is not None
    return group._hub.factory.transport(Launch("test", XSpec("popen")))


def _start_memory(name: str, receiver: Receiver, group: Group) -> Transport:
    def run(fd: int) -> None:
        try:
            _MEMORY_PROGRAMS[name](fd, receiver.gate)
        except OSError:  # the near side has gone
            pass
        finally:
            os.close(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_serve", run)
        return memory.MemoryTransport()


def _memory_echo(fd: int, gate: Path) -> None:
    while data := os.read(fd, 65536):
        while data:
            data = data[os.write(fd, data) :]


def _memory_late(fd: int, gate: Path) -> None:
    while not gate.exists():
        threading.Event().wait(0.01)
    while os.read(fd, 65536):
        pass


def _memory_ready(fd: int, gate: Path) -> None:
    os.write(fd, b"ready")
    poller = select.poll()
    poller.register(fd, select.POLLRDHUP)
    poller.poll()


_MEMORY_PROGRAMS = {
    "echo": _memory_echo,
    "late": _memory_late,
    "ready": _memory_ready,
    "failing": lambda fd, gate: None,
}


LINES = {"process": _start_process, "command": _start_command, "relay": _start_relay}
LINES.update({"factory": _start_factory, "memory": _start_memory})
LINES["websocket"] = lambda name, receiver, group: link_to(lambda fd: _MEMORY_PROGRAMS[name](fd, receiver.gate))
WITH_PROCESS = ["process", "command", "relay", "factory"]  # a thread can neither be killed nor tell how it ended


@pytest.fixture
def start(request, group, tmp_path):
    """start(program) starts a far program and gives what receives from it."""
    started = []

    def start(program: str) -> Receiver:
        receiver = Receiver(tmp_path / "gate")
        receiver.attach(LINES[request.param](program, receiver, group))
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.gate.touch()
        receiver.transport.kill(force=True)
        receiver.transport.close()


every = pytest.mark.parametrize("start", LINES, indirect=True)
with_process = pytest.mark.parametrize("start", WITH_PROCESS, indirect=True)


# -- bytes


@every
def test_bytes_go_both_ways_unchanged(start):
    line = start("echo")
    data = bytes(range(256)) + b"\r\n\x04\x03\x11\x13\x1a"

    line.send(data)

    assert line.receive(len(data)) == data


@every
def test_much_goes_both_ways(start):
    line = start("echo")
    data = os.urandom(1 << 20) * 8

    line.send(data)

    assert line.receive(len(data)) == data


@every
def test_pieces_of_all_kinds_are_written_in_order(start):
    line = start("echo")
    pieces = [b"one", memoryview(b"-two-"), bytearray(b"three"), b"x" * 40_000, memoryview(b"end")]
    data = b"".join(pieces)

    done = line.transport.write(pieces)
    line.send(data[done:])

    assert line.receive(len(data)) == data


@every
def test_reading_never_blocks(start):
    line = start("echo")

    assert line.transport.read() is None


@every
def test_waiting_ends_after_its_time(start):
    line = start("echo")
    if line.transport.fileno() is None:
        with pytest.raises(NotImplementedError):  # who waits reads the link of the gateway below it
            line.transport.wait(0.01)
    else:
        assert line.transport.wait(0.01) is False


@pytest.mark.parametrize("start", ["process", "memory", "websocket"], indirect=True)
def test_wake_gets_a_thread_out_of_wait(start):
    line = start("echo")
    results = []
    thread = threading.Thread(target=lambda: results.append(line.transport.wait(20)))
    thread.start()

    while thread.is_alive():
        line.transport.wake()
        thread.join(0.01)

    assert results == [False]


# -- back-pressure


@every
def test_writing_to_who_does_not_read_takes_a_bounded_part_and_never_blocks(start):
    line = start("late")

    taken = line.fill()

    assert taken < 32 << 20
    assert line.transport.write([b"more"]) == 0


@every
def test_room_is_told_when_there_is_some_again(start):
    line = start("late")
    line.fill()

    line.gate.touch()
    line.transport.want_write()

    assert line.writable.wait(20)
    line.send(b"x" * 100_000)


@every
def test_wait_writable_waits_for_room(start):
    line = start("late")
    line.fill()
    line.gate.touch()

    line.send(b"x" * 100_000)


# -- the end


@every
def test_the_end_of_the_far_side_is_an_end_of_file(start):
    line = start("failing")

    line.wait(lambda: line.over)


@every
def test_what_was_written_before_the_end_is_read(start):
    line = start("echo")
    line.send(b"x" * 200_000)

    assert line.receive(200_000) == b"x" * 200_000
    line.transport.close()


@every
def test_a_broken_link_takes_everything(start):
    line = start("failing")
    line.wait(lambda: line.over)
    line.transport.close()

    assert line.transport.write([b"abc", b"defg"]) == 7


@every
def test_closing_twice_does_nothing(start):
    line = start("echo")

    line.transport.close()
    line.transport.close()


@with_process
def test_closing_ends_a_far_side_that_reads(start, processes, eventually):
    line = start("echo")
    line.send(b"abc")
    line.receive(3)
    before = len(processes())

    line.transport.close()

    eventually(lambda: len(processes()) == before - 1)


@with_process
def test_the_end_is_reported_with_exit_code_and_last_words(start):
    line = start("failing")

    line.wait(lambda: line.over)
    assert line.ended.wait(20)

    assert line.transport.ended().exit_code == 3
    assert "last words" in line.transport.ended().stderr


@with_process
def test_an_end_that_came_before_anybody_asked_is_told_at_once(start):
    line = start("failing")
    assert line.ended.wait(20)
    later = threading.Event()

    line.transport.on_end(later.set)

    assert later.wait(20)


@with_process
def test_it_runs_until_it_ends(start):
    line = start("ready")
    line.receive(5)

    assert line.transport.ended() is None


@with_process
@pytest.mark.parametrize("program, force, code", [("ready", False, -15), ("ready", True, -9), ("stubborn", True, -9)])
def test_kill_ends_it_and_the_signal_is_reported(start, program, force, code):
    line = start(program)
    line.receive(5)

    line.transport.kill(force)

    assert line.ended.wait(20)
    assert line.transport.ended().exit_code == code


@with_process
def test_kill_after_the_end_does_nothing(start):
    line = start("failing")
    assert line.ended.wait(20)

    line.transport.kill(force=True)
    line.transport.kill(force=False)
