"""What a worker is doing, as it tells: Gateway.status()."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import RemoteProtocolError


@dataclass(frozen=True)
class TaskStatus:
    """Code that runs: behind which channel, and where it is."""

    channel: int
    filename: str
    lineno: int
    function: str


@dataclass(frozen=True)
class ChannelStatus:
    """A channel as the worker sees it: items that wait to be received there, bytes that it may still send."""

    id: int
    waiting: int
    credit: int


@dataclass(frozen=True)
class Status:
    """What a worker is doing.

    running     the tasks that run, by channel number
    queued      tasks that wait for the main thread
    channels    the open channels, by number
    memory      bytes of resident memory, 0 where that is not to be known (Jython, Windows, macOS)
    cpu         seconds of processor time that it has used
    round_trip  seconds that this question took
    host        what the host of the worker calls itself
    """

    running: dict[int, TaskStatus]
    queued: int
    channels: dict[int, ChannelStatus]
    execmodel: str
    memory: int
    cpu: float
    round_trip: float
    host: str = ""


def status_of(told: dict[str, str], seconds: float) -> Status:
    """Read the answer of a worker, which may be anything; RemoteProtocolError if it makes no sense."""
    running, channels = {}, {}
    try:
        for key, value in told.items():
            what, _, number = key.partition(":")
            if what == "task":
                filename, line, function = value.rsplit(":", 2)
                running[int(number)] = TaskStatus(int(number), filename, int(line), function)
            elif what == "channel":
                waiting, credit = value.split()
                channels[int(number)] = ChannelStatus(int(number), int(waiting), int(credit))
        memory, cpu = int(told["memory"]), float(told["cpu"])
        queued, host = int(told["numqueued"]), told.get("host", "")
        return Status(running, queued, channels, told["execmodel"], memory, cpu, seconds, host)
    except (KeyError, ValueError) as e:
        raise RemoteProtocolError(f"the worker's status makes no sense ({e!r}): {told!r}"[:500]) from e
