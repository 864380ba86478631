"""The asyncio face: back-pressure, callbacks, many channels as one, files."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from test_aio import ECHO, PATIENCE, eventually, gateway, run, twice

import execgw
from execgw import RemoteError, aio

pytestmark = pytest.mark.usefixtures("nothing_left")


# -- back-pressure


def test_a_far_producer_waits_for_a_task_that_does_not_read() -> None:
    async def main() -> None:
        async with gateway() as gw:
            log = gw.newchannel()
            channel = await gw.remote_exec("""
                log = channel.receive()
                for n in range(100000):
                    if n % 100 == 0:
                        log.send(n)
                    channel.send("x" * 1000)
            """)
            await channel.send(log)
            last = -1
            with pytest.raises(execgw.TimeoutError):
                while True:
                    last = await log.receive(0.5)

            assert last < 20_000
            for _ in range(10_000):
                await channel.receive()
            assert await log.receive(PATIENCE) > last
            channel.close()

    run(main())


def test_a_task_that_sends_waits_for_a_far_consumer_while_other_tasks_go_on() -> None:
    async def main() -> None:
        async with gateway() as gw:
            echo = await gw.remote_exec(ECHO)
            channel = await gw.remote_exec("channel.receive().receive()\nchannel.send(sum(len(x) for x in channel))")
            start = gw.newchannel()
            sent = 0

            async def produce() -> None:
                nonlocal sent
                await channel.send(start)
                for _ in range(100):
                    await channel.send(bytes(200_000))
                    sent += 1
                channel._peer.end(channel._port)

            producing = asyncio.ensure_future(produce())
            await eventually(lambda: channel._port.blocked)
            for n in range(50):
                await echo.send(n)
                assert await echo.receive(PATIENCE) == n
            assert 0 < sent < 60
            await start.send(None)

            await producing
            assert await channel.receive(PATIENCE) == 20_000_000

    run(main())


def test_both_sides_that_only_send_hear_of_it() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec(ECHO)
            with pytest.raises(OSError, match=r"receive\(\) between the sends"):
                for _ in range(1000):
                    await channel.send(bytes(1_000_000))

    run(main())


# -- callbacks


def test_a_coroutine_callback_is_awaited_before_the_next_call() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec("for n in range(200): channel.send(n)")
            helper = await gw.remote_exec(ECHO)
            got: list[Any] = []
            inside = 0

            async def heard(item: object) -> None:
                nonlocal inside
                inside += 1
                assert inside == 1
                if item != "end":
                    await helper.send(item)
                    got.append(await helper.receive())
                inside -= 1

            channel.setcallback(heard, endmarker="end")
            await channel.waitclose(PATIENCE)

            assert got == list(range(200))

    run(main())


def test_a_plain_callback_runs_in_the_event_loop_and_hears_what_waits_before_setcallback_returns() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec("channel.send(1); channel.receive(); channel.send(2)")
            await eventually(lambda: channel._port.items)
            got: list[Any] = []

            channel.setcallback(lambda item: got.append((item, threading.current_thread())), endmarker=None)
            here = threading.current_thread()
            assert got == [(1, here)]
            await channel.send(None)
            await channel.waitclose(PATIENCE)

            assert got == [(1, here), (2, here), (None, here)]

    run(main())


@pytest.mark.parametrize("awaited", [False, True])
def test_a_callback_that_raises_closes_its_channel_with_that_error(awaited: bool) -> None:
    def fail(item: object) -> None:
        raise ValueError(f"no {item}")

    async def fail_later(item: object) -> None:
        fail(item)

    async def main() -> None:
        async with gateway() as gw:
            control = await gw.remote_exec("""
                other = channel.receive()
                other.send(1)
                try:
                    other.receive()
                except channel.RemoteError as e:
                    channel.send(str(e))
            """)
            other = gw.newchannel()
            other.setcallback(fail_later if awaited else fail)
            await control.send(other)

            assert "no 1" in await control.receive(PATIENCE)
            with pytest.raises(ValueError, match="no 1"):
                await other.waitclose(PATIENCE)
            assert await gw.call(twice, 2) == 4

    run(main())


# -- many channels, files


def test_many_channels_as_one() -> None:
    async def main() -> None:
        async with aio.Group(["popen//id=a", "popen//id=b"]) as group:
            many = await group.remote_exec("channel.send((channel.gateway.id, channel.receive())); 1/0")

            await many.send_each(5)

            assert await many.receive_each() == [("a", 5), ("b", 5)]
            with pytest.raises(RemoteError, match="ZeroDivisionError"):
                await many.waitclose()
            again = await group.remote_exec("channel.send(channel.gateway.id)")
            items = again.make_receive_queue(endmarker=None)
            assert again.make_receive_queue() is items
            got = [(await items.get()) for _ in range(4)]
            assert [item for of, item in got if of is again[0]] == ["a", None]
            with pytest.raises(OSError, match="receive queue"):
                await again.receive_each()
            assert await group.terminate() == {"a": "asked", "b": "asked"}

    run(main())


def test_files_are_awaited() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec(ECHO)
            async with channel.makefile("w") as out:
                assert await out.write("one\ntwo") == 7
                await out.writelines(["\n", "three"])
            lines = channel.makefile("r")

            assert await lines.readline() == "one\n"
            assert await lines.read(2) == "tw"
            channel._peer.end(channel._port)
            assert [line async for line in lines] == ["o\n", "three"]

    run(main())
