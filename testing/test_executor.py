"""Executor: the documented contract of concurrent.futures.Executor, over gateways; and Group.map."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import pytest

from execgw import ConnectionLost, DumpError, Executor, Gateway, Group, RemoteError


def square(number):
    return number * number


def add(a, b=0):
    return a + b


def die(_=None):
    import os

    os._exit(3)


def die_on_three(number):
    import os

    if number == 3:
        os._exit(3)
    return number


def die_once(path):
    import os

    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    os._exit(3)


def fail(text):
    raise ValueError(text)


def wait_for_file(path):
    import os
    import threading

    while not os.path.exists(path):
        threading.Event().wait(0.001)
    return path


@pytest.fixture
def executor(nothing_left: str) -> Iterator[Executor]:
    with Executor(2) as executor:
        yield executor


# -- submit


def test_submit_returns_a_future_of_the_value(executor: Executor) -> None:
    assert executor.submit(square, 7).result(20) == 49
    assert executor.submit(add, 1, b=2).result(20) == 3
    assert isinstance(executor.submit(square, 1), futures.Future)


def test_it_is_an_executor(executor: Executor) -> None:
    assert isinstance(executor, futures.Executor)


def test_a_function_of_the_standard_library_goes_by_name(executor: Executor) -> None:
    assert executor.submit(os.getpid).result(20) != os.getpid()
    assert executor.submit(pow, 2, 10).result(20) == 1024


def test_what_a_call_raises_is_the_futures_exception(executor: Executor) -> None:
    error = executor.submit(fail, "because").exception(20)

    assert isinstance(error, RemoteError)
    assert (error.type, error.message) == ("ValueError", "because")
    assert "in fail" in error.formatted


def test_what_cannot_travel_is_the_futures_exception_and_nothing_else(executor: Executor) -> None:
    assert isinstance(executor.submit(square, object()).exception(20), DumpError)
    assert executor.submit(sys.stdout.fileno).exception(20) is not None
    assert isinstance(executor.submit(threading.Lock).exception(20), RemoteError)

    assert executor.submit(square, 2).result(20) == 4


def test_calls_run_on_all_workers_at_a_time(executor: Executor, tmp_path) -> None:
    first = executor.submit(wait_for_file, str(tmp_path / "a"))
    second = executor.submit(wait_for_file, str(tmp_path / "b"))

    (tmp_path / "b").touch()
    assert second.result(20)
    assert not first.done()
    (tmp_path / "a").touch()
    assert first.result(20)


def test_a_future_that_waits_may_be_cancelled_one_that_runs_not(executor: Executor, tmp_path) -> None:
    running = [executor.submit(wait_for_file, str(tmp_path / "go")) for _ in range(2)]
    waiting = executor.submit(square, 1)

    assert waiting.cancel()
    assert not running[0].cancel()
    assert running[0].running()
    (tmp_path / "go").touch()
    assert futures.wait(running, 20).done == set(running)
    with pytest.raises(futures.CancelledError):
        waiting.result(20)


def test_done_callbacks_and_as_completed(executor: Executor) -> None:
    called = threading.Event()
    future = executor.submit(square, 3)
    future.add_done_callback(lambda future: called.set())
    assert called.wait(20)

    many = [executor.submit(square, number) for number in range(20)]
    assert sorted(future.result() for future in futures.as_completed(many, 20)) == [n * n for n in range(20)]


# -- map


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_gives_the_values_in_order(executor: Executor, chunksize: int) -> None:
    assert list(executor.map(square, range(20), chunksize=chunksize)) == [n * n for n in range(20)]


def test_map_takes_several_iterables_up_to_the_shortest(executor: Executor) -> None:
    assert list(executor.map(add, [1, 2, 3], [10, 20])) == [11, 22]


def test_map_raises_what_a_call_raised_where_its_value_would_be(executor: Executor) -> None:
    values = executor.map(divmod, [4, 1, 6], [2, 0, 3])

    assert next(values) == (2, 0)
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        next(values)


def test_map_has_a_time_limit(executor: Executor, tmp_path) -> None:
    values = executor.map(wait_for_file, [str(tmp_path / "go")], timeout=0.05)

    with pytest.raises(futures.TimeoutError):
        next(values)
    (tmp_path / "go").touch()


def test_map_refuses_chunks_of_nothing(executor: Executor) -> None:
    with pytest.raises(ValueError, match="chunksize=0 must be 1 or more"):
        executor.map(square, [1], chunksize=0)


# -- shutdown


def test_after_shutdown_nothing_is_taken(nothing_left: str) -> None:
    executor = Executor(1)
    executor.shutdown()

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(square, 1)


def test_shutdown_waits_for_what_was_submitted(nothing_left: str) -> None:
    executor = Executor(1)
    many = [executor.submit(square, number) for number in range(50)]

    executor.shutdown()

    assert all(future.done() for future in many)
    assert many[-1].result() == 49 * 49


def test_shutdown_may_cancel_what_was_not_begun(nothing_left: str, tmp_path) -> None:
    executor = Executor(1)
    first = executor.submit(wait_for_file, str(tmp_path / "go"))
    rest = [executor.submit(square, number) for number in range(5)]
    threading.Timer(0.2, (tmp_path / "go").touch).start()

    executor.shutdown(cancel_futures=True)

    assert first.result() == str(tmp_path / "go")
    assert all(future.cancelled() for future in rest)


def test_shutdown_without_waiting_returns_and_the_rest_is_run(nothing_left: str, eventually, tmp_path) -> None:
    executor = Executor(1)
    future = executor.submit(wait_for_file, str(tmp_path / "go"))

    executor.shutdown(wait=False)

    assert not future.done()
    (tmp_path / "go").touch()
    assert future.result(20)
    executor.shutdown()


def test_a_program_that_ends_without_shutdown_has_run_what_it_submitted(tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import execgw, os\n"
        "def f(n):\n    return n\n"
        "executor = execgw.Executor(2)\n"
        "for n in range(30):\n"
        "    executor.submit(f, n).add_done_callback(lambda future: os.write(1, b'%d\\n' % future.result()))\n"
    )

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)

    assert sorted(map(int, done.stdout.split())) == list(range(30)), done.stderr


# -- gateways


def test_a_group_is_used_and_left_alive(group: Group) -> None:
    group.makegateways(["popen", "popen"])

    with Executor(group) as executor:
        assert executor.submit(square, 3).result(20) == 9

    assert [gateway.call(square, 2) for gateway in group] == [4, 4]


def test_an_executor_needs_workers(group: Group) -> None:
    with pytest.raises(ValueError, match="0 workers"):
        Executor(0)
    with pytest.raises(ValueError, match="no workers"):
        Executor(group)


def test_a_worker_that_dies_fails_its_call_and_the_others_go_on(executor: Executor) -> None:
    error = executor.submit(die).exception(20)

    assert isinstance(error, ConnectionLost)
    assert error.exit_code == 3
    assert [executor.submit(square, n).result(20) for n in range(5)] == [0, 1, 4, 9, 16]


def test_when_no_worker_is_left_it_is_broken(nothing_left: str) -> None:
    with Executor(1) as executor:
        first, second = executor.submit(die), executor.submit(square, 2)

        assert isinstance(first.exception(20), ConnectionLost)
        assert isinstance(second.exception(20), ConnectionLost)
        with pytest.raises(futures.BrokenExecutor, match="no worker is left"):
            executor.submit(square, 1)


def test_a_call_for_a_worker_whose_death_is_yet_to_be_told_goes_to_another(group: Group, tmp_path) -> None:
    def wait_for(path):
        open(path).close()  # a FIFO: waits until the other side opens it

    os.mkfifo(tmp_path / "go")
    first, _ = group.makegateways(["popen"] * 2)
    pid = first.remote_exec("import os; channel.send(os.getpid())").receive()
    told: futures.Future[futures.Future[int]] = futures.Future()

    def kill_and_submit(_: object) -> None:  # in the thread that is to tell the executor of the death
        try:
            os.kill(pid, 9)
            assert first.join(20)
            told.set_result(executor.submit(square, 3))
        except BaseException as e:
            told.set_exception(e)

    with Executor(group) as executor:
        executor.submit(wait_for, str(tmp_path / "go")).add_done_callback(kill_and_submit)
        os.close(os.open(tmp_path / "go", os.O_WRONLY))

        assert told.result(20).result(20) == 9


def test_a_call_whose_worker_died_runs_again_if_that_is_allowed(nothing_left: str, tmp_path) -> None:
    with Executor(2, retries=1) as executor:
        assert executor.submit(die_once, str(tmp_path / "died")).result(20) == "done"


def test_a_call_that_kills_every_worker_is_given_up(nothing_left: str) -> None:
    with Executor(3, retries=1) as executor:
        assert isinstance(executor.submit(die).exception(20), ConnectionLost)

        assert executor.submit(square, 3).result(20) == 9


def test_calls_are_spread_by_need(executor: Executor, tmp_path) -> None:
    slow = executor.submit(wait_for_file, str(tmp_path / "go"))

    pids = {executor.submit(os.getpid).result(20) for _ in range(10)}

    assert len(pids) == 1
    (tmp_path / "go").touch()
    slow.result(20)


# -- Group.map


def test_group_map_in_order_and_as_ready(group: Group) -> None:
    group.makegateways(["popen", "popen"])
    seen: list[tuple[int, int]] = []

    values = list(group.map(square, range(10), progress=lambda done, total: seen.append((done, total))))

    assert values == [n * n for n in range(10)]
    assert seen == [(n, 10) for n in range(1, 11)]
    assert sorted(group.map(square, range(10), ordered=False, chunksize=3)) == sorted(values)


def test_group_map_survives_the_death_of_a_worker(group: Group, tmp_path) -> None:
    group.makegateways(["popen", "popen"])

    assert list(group.map(die_once, [str(tmp_path / "died")] * 4, retries=2)) == ["done"] * 4


def test_group_map_tells_what_was_lost(group: Group) -> None:
    group.makegateways(["popen", "popen"])

    with pytest.raises(ConnectionLost):
        list(group.map(die_on_three, range(6)))


def test_group_map_that_is_left_early_gives_up_the_rest(group: Group) -> None:
    gw: Gateway = group.makegateway("popen")

    for value in group.map(square, range(1000)):
        if value == 4:
            break

    assert gw.call(square, 5) == 25


def test_small_calls_are_sent_ahead(executor: Executor) -> None:
    begun = time.perf_counter()

    many = [executor.submit(square, number) for number in range(2000)]
    assert [future.result(60) for future in many] == [n * n for n in range(2000)]

    assert max(worker.ahead for worker in executor._workers) > 1, time.perf_counter() - begun
