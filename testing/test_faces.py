"""The sync and the asyncio face say the same: names, signatures, docstrings; they only wait differently."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import execgw
from execgw import _output, aio, channel, gateway, group, multi
from execgw.aio import files as aio_files
from execgw.aio import output as aio_output
from execgw.peer import files

FACES = [
    (channel.Channel, aio.Channel),
    (gateway.Gateway, aio.Gateway),
    (group.Group, aio.Group),
    (multi.MultiChannel, aio.MultiChannel),
    (files.WriteFile, aio_files.WriteFile),
    (files.ReadFile, aio_files.ReadFile),
    (_output.Lines, aio_output.Lines),
]
BOTH = pytest.mark.parametrize(("sync", "awaited"), FACES, ids=[pair[1].__name__ for pair in FACES])

# What never waits is a plain call on both faces.
PLAIN = {
    "Channel": {"close", "isclosed", "makefile", "reconfigure", "setcallback"},
    "Gateway": {"exit", "hasreceiver", "newchannel", "remote_init_threads", "renew", "submit"},
    "Group": {"allocate_id", "map", "set_execmodel"},  # map is for `async for`
    "MultiChannel": {"make_receive_queue"},
    "WriteFile": {"close", "flush", "isatty", "writable"},
    "ReadFile": {"close", "isatty", "readable"},
    "Lines": {"put"},
}
# An iterator of the sync face is none of the asyncio face, whose `async for` has no next() either.  What looks at
# a group, and its own factory, are served by the loop of the process, not by the caller's; environments take steps that
# block.
SYNC_ONLY = {"Channel": {"next"}, "Gateway": {"run_script"}, "Group": {"monitor", "setlocalfactory", "tree"}}
# What is not the same to their users.
OTHER_WORDS = {
    "Channel": {"setcallback", "makefile"},
    "Gateway": {"call", "submit"},
    "Group": {"map"},
    "MultiChannel": {"make_receive_queue"},
    "Lines": {"put"},
}
OTHER_TYPES = {"Future[T]": "asyncio.Task[T]", "queue.Queue": "asyncio.Queue", "Iterator[T]": "AsyncIterator[T]"}


def methods(face: type) -> dict[str, Callable[..., Any]]:
    return {name: method for name, method in inspect.getmembers(face, inspect.isfunction) if not name.startswith("_")}


def says(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


@BOTH
def test_both_faces_have_the_same_names(sync: type, awaited: type) -> None:
    assert set(methods(awaited)) == set(methods(sync)) - SYNC_ONLY.get(sync.__name__, set())


@BOTH
def test_both_faces_take_the_same_arguments(sync: type, awaited: type) -> None:
    there = methods(sync)

    different = {name for name, method in methods(awaited).items() if says(method) != says(there[name])}

    assert different == set()


@BOTH
def test_what_may_wait_is_awaited_and_nothing_else(sync: type, awaited: type) -> None:
    plain = {name for name, method in methods(awaited).items() if not inspect.iscoroutinefunction(method)}

    assert plain == PLAIN[sync.__name__]


@BOTH
def test_nothing_that_waits_is_inherited_from_the_sync_face(sync: type, awaited: type) -> None:
    assert not issubclass(awaited, sync) or sync.__name__.endswith("File")
    assert {name for name in PLAIN[sync.__name__] if not hasattr(sync, name)} == set()


@BOTH
def test_both_faces_say_the_same_of_themselves(sync: type, awaited: type) -> None:
    there = methods(sync)

    different = {
        name for name, method in methods(awaited).items() if not method.__doc__ or method.__doc__ != there[name].__doc__
    }

    described = {name for name in different if not (methods(awaited)[name].__doc__ or there[name].__doc__ is None)}
    assert described == set()
    if not sync.__name__.endswith("File"):
        assert different == OTHER_WORDS.get(sync.__name__, set())


@BOTH
def test_both_faces_return_the_same(sync: type, awaited: type) -> None:
    def returns(method: Callable[..., Any]) -> Any:
        said = str(inspect.signature(method).return_annotation)
        for mine, theirs in OTHER_TYPES.items():
            said = said.replace(theirs, mine)
        return said

    if sync in (channel.Channel, files.WriteFile, files.ReadFile):
        return  # methods of both sides of a gateway: their types are comments

    there = methods(sync)
    different = {name: returns(m) for name, m in methods(awaited).items() if returns(m) != returns(there[name])}

    assert different == {}


@BOTH
def test_a_block_of_one_face_is_an_async_block_of_the_other(sync: type, awaited: type) -> None:
    for plain, waiting in (("__enter__", "__aenter__"), ("__exit__", "__aexit__")):
        assert hasattr(sync, plain) == hasattr(awaited, waiting)
        assert getattr(awaited, plain, None) is None


def test_what_waits_for_its_items_is_iterated_over_with_async_for() -> None:
    for face in (aio.Channel, aio_files.ReadFile):
        assert face.__iter__ is None
        assert hasattr(face, "__aiter__")


def test_the_asyncio_face_is_an_attribute_of_the_package() -> None:
    assert execgw.aio is aio
    assert [name for name in aio.__all__ if not hasattr(execgw, name)] == []
