"""The asyncio face: Group.map, output and logging."""

from __future__ import annotations

import asyncio
import os

import pytest

from execgw import aio


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
            with pytest.raises(ValueError, match="would block the event loop"):
                await gateway.remote_exec("print(1)", stdout="channel")

    asyncio.run(main())
