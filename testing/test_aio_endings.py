"""Event loops that end, with gateways of the asyncio face in them: nothing hangs, and no process is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from execgw import ClosedHere, aio
from execgw.aio import session
from execgw.transports.process import PopenKind

pytestmark = pytest.mark.usefixtures("nothing_left")

ROOT = Path(__file__).parent.parent
KINDS = ["popen//id=a", "popen//via=a", "memory", "cmd=env"]


async def leave_open() -> list[aio.Gateway]:
    """Gateways of every kind, busy and idle, that nobody ends."""
    group = aio.Group()
    gateways = [await group.makegateway(spec) for spec in KINDS]
    for gateway in gateways:
        if "memory" not in str(gateway.spec):  # its threads cannot be killed
            await (await gateway.remote_exec("channel.send(1)\nwhile True: pass")).receive()
    return gateways


def test_gateways_that_are_left_open_end_with_the_event_loop(processes: Callable[[], list[str]]) -> None:
    gateways = asyncio.run(leave_open())

    assert processes() == []
    assert not any(gateway.hasreceiver() for gateway in gateways)


def test_tasks_that_are_left_running_end_with_the_event_loop(processes: Callable[[], list[str]]) -> None:
    async def main() -> list[asyncio.Task[object]]:
        gateways = await leave_open()
        channel = await gateways[0].remote_exec("channel.gateway.newchannel().receive()")

        async def produce() -> None:
            while True:
                await channel.send(bytes(100_000))

        work = [produce(), channel.receive(), gateways[1].status(), gateways[2].join()]
        tasks = [asyncio.ensure_future(one) for one in work]
        await asyncio.wait(tasks, timeout=0.1)
        return tasks

    tasks = asyncio.run(main())

    assert processes() == []
    assert all(task.done() for task in tasks)


def test_a_group_outlives_its_event_loop_and_can_be_used_in_the_next() -> None:
    group = aio.Group()

    async def main() -> int:
        gateway = await group.makegateway("popen")
        return await gateway.call(abs, -1)

    first = asyncio.run(main())
    with_the_dead = len(group)
    second = asyncio.run(main())

    assert (first, second) == (1, 1)
    assert with_the_dead == 0


def test_a_channel_of_a_loop_that_has_ended_says_so() -> None:
    async def main() -> aio.Channel:
        gateway = await aio.Group().makegateway("popen")
        return await gateway.remote_exec("channel.receive()")

    channel = asyncio.run(main())

    async def later(channel: aio.Channel) -> None:
        for work in (channel.send(1), channel.receive()):
            with pytest.raises((ClosedHere, RuntimeError)):
                await work

    asyncio.run(later(channel))


def test_a_loop_that_is_closed_without_a_shutdown_leaves_nothing_once_another_is_used(
    processes: Callable[[], list[str]],
) -> None:
    loop = asyncio.new_event_loop()
    gateways = loop.run_until_complete(leave_open())
    loop.close()
    assert len(processes()) >= 3

    async def main() -> int:
        async with aio.Group(["popen"]) as group:
            left.extend(line for line in processes() if str(group[0]._session.transport.process.pid) not in line)
            return await group[0].call(abs, -1)

    left: list[str] = []
    assert asyncio.run(main()) == 1
    assert left == []
    assert not any(gateway.hasreceiver() for gateway in gateways)
    assert session._loops == [] or all(known.closed for known in session._loops)


SCRIPT = """
import asyncio, threading
from execgw import aio

async def main():
    group = aio.Group()
    gateway = await group.makegateway("popen")
    beyond = await group.makegateway(f"popen//via={gateway.id}")
    for one in (gateway, beyond):
        channel = await one.remote_exec("import os; channel.send(os.getpid())\\nwhile True: pass")
        print(await channel.receive(), flush=True)
    HOW
"""

WAYS = {
    "the end of run": ("return", "asyncio.run(main())"),
    "an exception": ("raise SystemExit(3)", "asyncio.run(main())"),
    "a hand-made loop": ("return", "loop = asyncio.new_event_loop(); loop.run_until_complete(main())"),
    "a closed loop": ("return", "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()"),
    "a daemon thread": (
        "there.set(); await asyncio.Event().wait()",
        "there = threading.Event()\n"
        "threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()\n"
        "there.wait()",
    ),
    "a kill": ("os.kill(os.getpid(), 9)", "import os; asyncio.run(main())"),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_process_is_left_whatever_way_a_script_ends(
    way: str, eventually: Callable[..., None], processes: Callable[[], list[str]]
) -> None:
    how, start = WAYS[way]
    script = SCRIPT.replace("HOW", how) + start

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.stderr == ""
    assert len(done.stdout.split()) == 2
    eventually(lambda: processes() == [], "the end of the workers")


# -- kinds of gateway whose start may block


class SlowKind:
    """As a kind that connects to another host: its start waits for something."""

    keys = ()

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.in_thread = ""

    def start(self, launch, via):
        self.in_thread = threading.current_thread().name
        assert self.gate.wait(20)
        return PopenKind().start(launch, via)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowKind:
    kind = SlowKind()
    monkeypatch.setattr("execgw.transports.kind", lambda name: kind)
    return kind


@pytest.mark.parametrize("spec", ["popen", "popen//via=a"])
def test_a_start_that_blocks_does_so_beside_the_event_loop(slow: SlowKind, spec: str) -> None:
    async def main() -> None:
        async with aio.Group() as group:
            slow.gate.set()
            await group.makegateway("popen//id=a")
            slow.gate.clear()
            starting = asyncio.ensure_future(group.makegateway(spec))
            await asyncio.wait([starting], timeout=0.1)
            assert slow.in_thread != threading.main_thread().name

            slow.gate.set()

            assert await (await starting).call(abs, -1) == 1

    asyncio.run(main())


def test_what_a_cancelled_start_brings_later_is_ended(slow: SlowKind, processes: Callable[[], list[str]]) -> None:
    async def main() -> None:
        group = aio.Group()
        starting = asyncio.ensure_future(group.makegateway("popen"))
        await asyncio.wait([starting], timeout=0.1)

        starting.cancel()
        await asyncio.wait([starting], timeout=0.1)
        slow.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await starting

        assert processes() == []
        assert len(group) == 0

    asyncio.run(main())


def test_a_start_beside_the_event_loop_can_time_out(slow: SlowKind) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, slow.gate.set)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aio.Group().makegateway("popen"), 0.1)

    asyncio.run(main())
