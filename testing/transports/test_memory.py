"""memory: a worker in a thread of this process, for tests of code that uses gateways."""

from __future__ import annotations

import inspect
import os
import threading

import pytest

from execgw import RemoteError


@pytest.fixture
def memory(group):
    return group.makegateway("memory")


def test_it_is_this_very_process(memory):
    assert memory.call(os.getpid) == os.getpid()


def test_its_tasks_run_in_threads_of_their_own(memory):
    assert memory.call(threading.get_ident) != threading.get_ident()


def test_values_are_copies(memory):
    value = {"rows": [1, 2]}
    channel = memory.remote_exec("item = channel.receive(); item['rows'].append(3); channel.send(item)")

    channel.send(value)

    assert channel.receive() == {"rows": [1, 2, 3]}
    assert value == {"rows": [1, 2]}


def test_many_live_side_by_side(group):
    gateways = group.makegateways(["memory"] * 10)

    assert [gateway.call(len, "ab") for gateway in gateways] == [2] * 10


def test_its_end_does_not_end_this_process(memory):
    with pytest.raises(RemoteError, match="SystemExit"):
        memory.remote_exec("raise SystemExit(1)").waitclose(10)

    memory.exit()

    assert memory.join(10)


def test_an_error_in_it_leaves_our_own_sources_as_they_are(memory):
    def fails():
        raise ValueError("there")

    before = inspect.getsource(test_values_are_copies)
    with pytest.raises(RemoteError, match="there"):
        memory.call(fails)

    assert inspect.getsource(test_values_are_copies) == before
