"""The asyncio face: what is a matter of tasks and event loops; the rest is tested by `gw`, whose last kind is aio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import execgw
from execgw import ChannelClosed, ClosedHere, ConnectionLost, PythonNotFound, RemoteError, RemoteTimeout, aio

pytestmark = pytest.mark.usefixtures("nothing_left")

ECHO = "for item in channel: channel.send(item)"
FOREVER = "channel.send('started')\nwhile True: pass"
SILENT = "sh -c 'sleep 1000'"  # a program that is no Python
PATIENCE = 20.0


def run(steps: Awaitable[Any]) -> Any:
    """Run one coroutine in an event loop of its own, but not for ever."""
    return asyncio.run(asyncio.wait_for(steps, 60))


@asynccontextmanager
async def gateway(spec: str = "popen") -> AsyncIterator[aio.Gateway]:
    async with aio.Group() as group:
        yield await group.makegateway(spec)


async def eventually(test: Callable[[], object]) -> None:
    """Let other tasks run until test() is true."""
    end = time.monotonic() + PATIENCE
    while not test():
        assert time.monotonic() < end
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.005)


def twice(x: int) -> int:
    return x * 2


# -- many at once


def test_500_concurrent_calls_in_one_loop_need_no_thread() -> None:
    async def main() -> None:
        async with aio.Group() as group:
            gateways = await group.makegateways(["popen"] * 4)
            before = threading.active_count()

            calls = [gateways[n % 4].call(twice, n) for n in range(500)]
            results = asyncio.gather(*calls)
            while not results.done():
                assert threading.active_count() == before
                await asyncio.wait([results], timeout=0.01)

            assert await results == [2 * n for n in range(500)]

    run(main())


def test_gateways_of_several_tasks_start_at_the_same_time() -> None:
    async def main() -> None:
        async with aio.Group() as group:
            gateways = await asyncio.gather(*(group.makegateway(spec) for spec in ["popen"] * 5 + ["memory"] * 5))

            assert await asyncio.gather(*(gw.call(twice, n) for n, gw in enumerate(gateways))) == list(range(0, 20, 2))
            assert len({gw.id for gw in gateways}) == 10

    run(main())


def test_both_faces_live_in_one_process() -> None:
    async def main(there: execgw.Gateway) -> None:
        async with gateway() as here:
            both = await asyncio.gather(here.call(twice, 1), asyncio.to_thread(there.call, twice, 2))

        assert both == [2, 4]

    with execgw.Group(["popen"]) as group:
        run(main(group[0]))


@pytest.mark.parametrize("spec", ["popen", "popen//via=master", "cmd=env A=1", "memory"])
def test_every_kind_of_gateway_carries_big_values_while_small_ones_go_on(spec: str) -> None:
    async def main() -> None:
        async with aio.Group() as group:
            await group.makegateway("popen//id=master")
            gw = await group.makegateway(spec)
            big, small = await gw.remote_exec(ECHO), await gw.remote_exec(ECHO)
            data = bytes(range(256)) * 40_000

            async def pump() -> bool:
                await big.send(data)
                return bool(await big.receive() == data)

            pumping = asyncio.ensure_future(pump())
            for n in range(50):
                await small.send(n)
                assert await small.receive(PATIENCE) == n

            assert await pumping

    run(main())


def test_who_finds_much_to_receive_lets_other_tasks_have_their_turn() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec("for n in range(5000): channel.send(n)")
            await channel.waitclose()
            turns = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0)

            task = asyncio.ensure_future(other())
            items = [item async for item in channel]
            task.cancel()

            assert items == list(range(5000))
            assert turns > 20

    run(main())


# -- cancelling and timeouts


def test_cancelling_the_task_of_a_call_interrupts_the_far_code_and_leaves_the_gateway_usable() -> None:
    def forever(log: Any) -> None:
        try:
            log.send("started")
            while True:
                pass
        except KeyboardInterrupt:
            log.send("interrupted")
            raise

    async def main() -> None:
        async with gateway() as gw:
            log = gw.newchannel()
            task = asyncio.ensure_future(gw.call(forever, log))
            assert await log.receive(PATIENCE) == "started"

            task.cancel()

            with pytest.raises(asyncio.CancelledError):
                await task
            assert await log.receive(PATIENCE) == "interrupted"
            assert await gw.call(twice, 4) == 8

    run(main())


def test_a_call_that_is_cancelled_before_its_code_runs_never_runs_for_long() -> None:
    async def main() -> None:
        async with aio.Group(execmodel="main_thread_only") as group:
            gw = await group.makegateway("popen")
            first = await gw.remote_exec("channel.receive()")
            queued = gw.submit(time.sleep, 3600)
            while (await gw.remote_status()).numqueued < 1:
                pass

            queued.cancel()
            await first.send(None)

            assert await asyncio.wait_for(gw.call(twice, 1), PATIENCE) == 2

    run(main())


def naps() -> None:
    import select

    while True:
        select.select([], [], [], 0.01)


def test_500_cancelled_calls_leave_the_gateway_usable() -> None:
    async def main() -> None:
        async with gateway() as gw:
            for _ in range(10):
                tasks = [gw.submit(naps) for _ in range(50)]
                await eventually(lambda: len(gw._session.mux.ports) >= 50)
                for task in tasks:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(error) for error in done} == {asyncio.CancelledError}
                await eventually(lambda: not gw._session.loop._tasks)

            assert (await gw.remote_status()).numexecuting == 0
            assert await gw.call(twice, 4) == 8

    run(main())


def test_a_timeout_of_asyncio_ends_the_far_code() -> None:
    async def main() -> None:
        async with gateway() as gw:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(gw.call(time.sleep, 3600), 0.2)

            while (await gw.remote_status()).numexecuting:
                pass
            assert await gw.call(twice, 4) == 8

    run(main())


def test_a_timeout_of_a_receive_is_execgws_and_takes_no_item() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec("channel.send(channel.receive())")
            for seconds in (0, 0.05):
                with pytest.raises(execgw.TimeoutError, match=f"no item within {seconds} seconds"):
                    await channel.receive(seconds)
            with pytest.raises(execgw.TimeoutError, match="not closed within"):
                await channel.waitclose(0.01)

            await channel.send(1)

            assert await channel.receive(PATIENCE) == 1

    run(main())


def test_a_cancelled_receive_loses_no_item() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec(ECHO)
            got = []

            for n in range(200):
                task = asyncio.ensure_future(channel.receive())
                await channel.send(n)
                if n % 2:
                    await asyncio.wait([task], timeout=0.0001 * (n % 7))
                task.cancel()
                got += [item for item in await asyncio.gather(task, return_exceptions=True) if type(item) is int]
            while len(got) < 200:
                got.append(await channel.receive(PATIENCE))

            assert got == list(range(200))

    run(main())


def test_a_send_of_a_big_value_that_is_cancelled_leaves_the_channel_usable() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec("channel.receive().receive()\nfor item in channel: channel.send(len(item))")
            start = gw.newchannel()
            await channel.send(start)
            first = asyncio.ensure_future(channel.send(bytes(50_000_000)))
            second = asyncio.ensure_future(channel.send(b"second"))
            await eventually(lambda: channel._port.blocked)

            first.cancel()
            await start.send(None)
            await asyncio.wait([first, second])

            assert first.cancelled()
            assert await channel.receive(PATIENCE) == 6

    run(main())


def test_code_that_runs_too_long_ends_with_remote_timeout() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec(FOREVER, timeout=0.2)
            assert await channel.receive() == "started"
            with pytest.raises(RemoteTimeout):
                await channel.receive(PATIENCE)

    run(main())


def test_interrupt_cancel_status_and_stacks_work_while_the_code_computes() -> None:
    async def main() -> None:
        async with gateway() as gw:
            first, second = await gw.remote_exec(FOREVER), await gw.remote_exec(FOREVER)
            assert [await first.receive(), await second.receive()] == ["started"] * 2

            status, stacks = await asyncio.gather(gw.status(), gw.stacks())
            assert set(status.running) == {first.id, second.id}
            assert any(f"channel {first.id}:" in name for name in stacks)

            assert await first.interrupt() == "interrupted"
            with pytest.raises(RemoteError, match="KeyboardInterrupt"):
                await first.waitclose(PATIENCE)
            assert await second.cancel() == "interrupted"

    run(main())


def test_submit_gives_a_task() -> None:
    async def main() -> None:
        async with gateway() as gw:
            task = gw.submit(twice, 21)
            failing = gw.submit(int, "x")

            assert await task == 42
            with pytest.raises(RemoteError, match="ValueError"):
                await failing

    run(main())


# -- starting and ending


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    async def main() -> None:
        async with aio.Group() as group:
            with pytest.raises(PythonNotFound):
                await group.makegateways(["popen", "popen//python=/no/such/python"])
            with pytest.raises(execgw.StartError, match="no answer within"):
                await group.makegateway(f"popen//python={SILENT}//start_timeout=0.3")
            assert len(group) == 0

    run(main())


def test_a_start_that_is_cancelled_leaves_nothing(processes: Callable[[], list[str]]) -> None:
    async def main() -> None:
        async with aio.Group() as group:
            task = asyncio.ensure_future(group.makegateway(f"popen//id=one//python={SILENT}"))
            await eventually(processes)

            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert processes() == []
            await group.makegateway("popen//id=one")

    run(main())


def test_a_worker_that_is_killed_ends_every_task_that_waits_for_it() -> None:
    async def main() -> None:
        async with gateway() as gw:
            clogged = await gw.remote_exec("channel.gateway.newchannel().receive()")
            waiting = await gw.remote_exec("channel.receive()")
            pid = (await gw._rinfo()).pid

            async def produce() -> None:
                while True:
                    await clogged.send(bytes(100_000))

            work = [produce(), waiting.receive(), waiting.waitclose(), gw.call(time.sleep, 3600), gw.join()]
            tasks = [asyncio.ensure_future(one) for one in work]
            await eventually(lambda: clogged._port.blocked)
            gw._session.transport.kill(force=True)
            ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)

            assert [type(end) for end in ends] == [ConnectionLost] * 4 + [bool]
            assert ends[0].signal == "SIGKILL"
            assert pid
            with pytest.raises(ConnectionLost):
                await gw.remote_status()

    run(main())


def test_exit_returns_at_once_and_join_waits() -> None:
    async def main() -> None:
        async with aio.Group() as group:
            gw = await group.makegateway()
            channel = await gw.remote_exec("channel.receive()")

            gw.exit()

            assert len(group) == 0
            assert await gw.join(PATIENCE)
            with pytest.raises(ClosedHere):
                await channel.send(1)

    run(main())


def test_async_with_ends_gateways_and_closes_channels() -> None:
    async def main() -> None:
        async with aio.Group() as group:
            async with await group.makegateway() as gw:
                async with await gw.remote_exec(ECHO) as channel:
                    pass
                assert channel.isclosed()
                with pytest.raises(ChannelClosed):
                    await channel.receive()
            assert not gw.hasreceiver()
            assert len(group) == 0

    run(main())


def test_a_gateway_belongs_to_its_event_loop() -> None:
    async def main() -> None:
        async with gateway() as gw:
            channel = await gw.remote_exec(ECHO)

            async def elsewhere() -> None:
                for work in (channel.send(1), channel.receive(), gw.call(twice, 1), gw.status()):
                    with pytest.raises(RuntimeError, match="another event loop"):
                        await work

            await asyncio.to_thread(asyncio.run, elsewhere())
            with pytest.raises(TypeError):
                iter(channel)

    run(main())
