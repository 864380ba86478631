"""Limits of processes and of the server, and the places that are counted."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading

import pytest

from execgw.errors import SpecError, StartError
from execgw.http.access import Caller, Denied
from execgw.http.limits import Limits, Places, ServerLimits, read_limits, read_seconds, read_size

ALICE = Caller("alice", frozenset({"popen"}))
BOB = Caller("bob", frozenset({"popen"}))


def at_once(number: int, call) -> list[object]:
    """What *call* gives or raises in so many threads that start at the same moment."""
    barrier = threading.Barrier(number)
    results: list[object] = []

    def run(which: int) -> None:
        barrier.wait()
        try:
            results.append(call(which))
        except Denied as e:
            results.append(e)

    threads = [threading.Thread(target=run, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# -- places


@pytest.mark.parametrize("_", range(5))
def test_of_fifty_starts_at_the_same_time_eight_get_a_place(_: int) -> None:
    places = Places(ServerLimits(processes=8, per_token=50))

    results = at_once(50, lambda which: places.reserve(Caller(f"client{which % 10}", frozenset())))

    refused = [result for result in results if isinstance(result, Denied)]
    assert (len(results) - len(refused), places.taken) == (8, 8)
    assert {(denied.status, denied.word, denied.retry_after) for denied in refused} == {(503, "full", 5.0)}


def test_a_token_gets_its_share_and_leaves_the_rest_to_others() -> None:
    places = Places(ServerLimits(processes=8, per_token=3))

    results = at_once(20, lambda _: places.reserve(ALICE))

    refused = [result for result in results if isinstance(result, Denied)]
    assert len(refused) == 17
    assert {(denied.status, denied.word) for denied in refused} == {(429, "limit")}
    assert "'alice' has 3 processes" in refused[0].why
    assert places.reserve(BOB)


def test_a_place_that_is_given_back_is_free_once() -> None:
    places = Places(ServerLimits(processes=2, per_token=2))
    first, second = places.reserve(ALICE), places.reserve(ALICE)

    for _ in range(3):
        first.free()

    assert places.taken == 1
    third = places.reserve(BOB)
    with pytest.raises(Denied):
        places.reserve(BOB)
    second.free()
    third.free()
    assert places.taken == 0


def test_a_start_that_fails_gives_its_place_back() -> None:
    places = Places(ServerLimits(processes=1, per_token=1))

    def start_that_fails() -> None:
        with places.reserve(ALICE):
            raise StartError("no such interpreter")

    for _ in range(3):
        with pytest.raises(StartError):
            start_that_fails()

    assert places.taken == 0


# -- what the kernel holds processes to


def child(program: str) -> subprocess.Popen[str]:
    """A Python that waits for a line before it runs *program*."""
    argv = [sys.executable, "-c", f"input()\n{program}"]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_memory_beyond_the_limit_is_not_given() -> None:
    with child("try:\n bytearray(400 << 20)\nexcept MemoryError: print('refused')") as process:
        Limits(memory=200 << 20).apply(process.pid)

        out, _ = process.communicate("\n", timeout=60)

    assert out == "refused\n"


def test_processor_time_beyond_the_limit_is_the_end() -> None:
    with child("while True: pass") as process:
        Limits(cpu=1).apply(process.pid)

        process.communicate("\n", timeout=60)

    assert process.returncode == -24  # SIGXCPU


def test_descriptors_are_counted() -> None:
    with child(
        "files = []\ntry:\n while True: files.append(open('/dev/null'))\nexcept OSError: print(len(files) < 32)"
    ) as process:
        Limits(files=32).apply(process.pid)

        out, _ = process.communicate("\n", timeout=60)

    assert out == "True\n"


def test_what_a_command_has_started_already_is_limited_with_it() -> None:
    inner = "import resource; print(flush=True); input(); print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    argv = ["/bin/sh", "-c", f'"{sys.executable}" -c "{inner}"; exit 0']  # the shell stays, and is what was started
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()

        Limits(memory=1 << 30).apply(process.pid)
        out, _ = process.communicate("\n", timeout=60)

    assert int(out) == 1 << 30


def test_a_process_that_is_gone_needs_no_limits() -> None:
    with child("") as process:
        process.communicate("\n", timeout=60)

    Limits(memory=1 << 30).apply(process.pid)


def test_a_limit_is_never_raised_above_the_one_there_is() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with child("import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))") as process:
        Limits(files=hard + 1000).apply(process.pid)

        out, _ = process.communicate("\n", timeout=60)

    assert out.split() == [str(hard), str(hard)]


# -- what the operator writes


@pytest.mark.parametrize(
    ("text", "size"), [("512 MiB", 512 << 20), ("2GB", 2 * 10**9), ("1.5 KiB", 1536), (4096, 4096), ("7", 7)]
)
def test_sizes_may_be_written_with_units(text: object, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("10 min", 600), ("2h", 7200), ("7 d", 604800), (0.5, 0.5), ("30", 30)])
def test_times_may_be_written_with_units(text: object, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1 parsec", 0, -3, True, None, [], "1e9", "9" * 19, float("nan"), float("inf")]
)
def test_what_is_no_amount_is_refused(text: object) -> None:
    for read in (read_size, read_seconds):
        with pytest.raises(ValueError, match="is not a number"):
            read(text)


def test_false_takes_a_limit_away_where_there_may_be_none() -> None:
    assert read_limits({"idle": False}, Limits(), "limits").idle is None

    with pytest.raises(SpecError, match=r"limits\.queue: this one cannot be taken away"):
        read_limits({"queue": False}, Limits(), "limits")


def test_a_limit_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(SpecError, match=r"specs\.x\.limits: there is no limit 'ram'; known are memory, cpu"):
        read_limits({"ram": 1}, Limits(), "specs.x.limits")
