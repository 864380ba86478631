"""The asyncio face: Group.map, output and logging."""

from __future__ import annotations

import asyncio
import os

import pytest

from execgw import TimeoutError, aio


def test_map_spreads_items_over_the_gateways_and_survives_one(nothing_left, tmp_path) -> None:
    def die_once(path):
        import os

        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "done"
        return os._exit(3)

    async def main() -> None:
        async with aio.Group(["popen", "popen"]) as group:
            assert [value async for value in group.map(abs, range(-5, 0))] == [5, 4, 3, 2, 1]
            ready = [value async for value in group.map(abs, range(-5, 0), ordered=False, chunksize=2)]
            assert sorted(ready) == [1, 2, 3, 4, 5]
            again = [value async for value in group.map(die_once, [str(tmp_path / "died")] * 4, retries=1)]
            assert again == ["done"] * 4

    asyncio.run(main())


def test_an_item_of_a_gateway_that_dies_when_the_others_are_done_is_run_again_by_them(nothing_left, tmp_path) -> None:
    def die_late(path):
        import os

        if path and not os.path.exists(path + "-begun"):
            open(path + "-begun", "w").close()
            open(path).close()  # a FIFO: waits until the other side opens it
            os._exit(3)
        return "done"

    async def main() -> None:
        last_word = tmp_path / "die"
        os.mkfifo(last_word)
        async with aio.Group(["popen", "popen"]) as group:
            values = []
            async for value in group.map(die_late, [str(last_word), ""], ordered=False, retries=1):
                if not values:
                    os.close(os.open(last_word, os.O_WRONLY))
                values.append(value)
            assert values == ["done", "done"]

    asyncio.run(main())


def test_output_as_a_channel_is_awaited(nothing_left) -> None:
    async def main() -> None:
        async with aio.Group() as group:
            gateway = await group.makegateway("popen", stdout="channel")
            channel = await gateway.remote_exec("print('a'); print('b', end='')", stdout="channel", stderr="null")
            assert channel.stdout is not None
            assert channel.stderr is None
            assert [line async for line in channel.stdout] == ["a", "b"]
            with pytest.raises(EOFError):
                await channel.stdout.receive()
            with pytest.raises(TimeoutError, match="no line within"):
                await gateway.stdout.receive(0.01)
            loud = await gateway.remote_exec("import threading; threading.Timer(0, print, ['c']).start()")
            assert await gateway.stdout.receive(20) == "c"
            await loud.waitclose(20)

    asyncio.run(main())


def test_output_that_nobody_takes_is_held_up_and_the_event_loop_is_not(nothing_left) -> None:
    async def main() -> None:
        async with aio.Group(["popen"]) as group:
            channel = await group[0].remote_exec("for n in range(60000): print(n)", stdout="channel")
            assert channel.stdout is not None
            await channel.stdout.receive(20)
            for number in range(100):
                assert await group[0].call(abs, -number) == number
            # One chunk may come on top of the most lines that wait.
            assert len(channel.stdout._lines) < 40_000
            assert [line async for line in channel.stdout][-1] == "59999"

    asyncio.run(main())


def test_output_and_logging_come_to_the_event_loop(nothing_left, caplog) -> None:
    async def main() -> None:
        lines: list[str] = []
        async with aio.Group() as group:
            gateway = await group.makegateway("popen", stdout=lines.append)
            channel = await gateway.remote_exec("print('one')")
            await channel.waitclose(20)
            channel = await gateway.remote_exec("print('two')", stdout=lines.append)
            await channel.waitclose(20)
            assert lines == ["one", "two"]
            await gateway.forward_logging("WARNING")
            channel = await gateway.remote_exec("import logging; logging.warning('careful')")
            await channel.waitclose(20)
            while not caplog.records:
                await gateway.call(abs, 1)
            assert caplog.records[0].getMessage() == "careful"

    asyncio.run(main())
