"""Values survive the way to every Python and back: an echo worker on each interpreter that pyenv has."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from execgw import Channel, Gateway, Group, LoadError, RemoteError

sys.path.insert(0, str(Path(__file__).parent / "wire"))
from value_corpus import IDS, VALUES, same, values

VERSIONS = ["2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
NEEDED = {"2.7", "3.6", "3.13"}  # on CI these must be there
ECHO = "for item in channel: channel.send(item)"
TYPE = "for item in channel: channel.send((type(item).__name__, repr(item)))"


@functools.cache
def pythons() -> dict[str, str]:
    """Version -> interpreter, the newest of each that pyenv has."""
    root = os.environ.get("PYENV_ROOT")
    if root is None and shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
    found = {}
    for path in sorted((Path(root or Path.home() / ".pyenv") / "versions").glob("[23].*/bin/python")):
        version = ".".join(path.parent.parent.name.split(".")[:2])
        if version in VERSIONS:
            found[version] = str(path)
    return found


def gateway_of(version: str) -> Iterator[Gateway]:
    """A gateway to that Python."""
    if version not in pythons():
        missing = f"pyenv has no Python {version} (found: {', '.join(pythons()) or 'none'}); pyenv install {version}"
        if os.environ.get("CI") and (version in NEEDED or not pythons()):
            pytest.fail(missing)
        pytest.skip(missing)
    with Group() as group:
        yield group.makegateway(f"popen//python={pythons()[version]}")


@pytest.fixture(scope="module", params=VERSIONS)
def gw(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    yield from gateway_of(request.param)


@pytest.fixture(scope="module")
def python2() -> Iterator[Gateway]:
    yield from gateway_of("2.7")


@pytest.fixture(scope="module")
def python3() -> Iterator[Gateway]:
    yield from gateway_of("3.6")


@pytest.fixture(scope="module")
def echo(gw: Gateway) -> Channel:
    channel = gw.remote_exec(ECHO)
    # Python 2 has one type for 8-bit strings; asked to keep them, they come back as the bytes that they were.
    channel.reconfigure(py2str_as_py3str=False)
    return channel


@pytest.mark.parametrize("value", VALUES, ids=IDS)
def test_each_value_comes_back_equal_and_of_the_same_type(gw: Gateway, echo: Channel, value: Any) -> None:
    echo.send(value)

    assert came_back(gw, echo.receive(10), value)


@given(value=values)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_comes_back_equal_and_of_the_same_type(gw: Gateway, echo: Channel, value: Any) -> None:
    echo.send(value)

    assert came_back(gw, echo.receive(10), value)


def came_back(gw: Gateway, one: Any, two: Any) -> bool:
    """Whether they are the same, but for what Python 2 cannot keep: the order of keys, and halves of one character."""
    if gw._rinfo().version_info[0] > 2:
        return same(one, two)
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return len(one) == len(two) and all(key in one and came_back(gw, one[key], two[key]) for key in two)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(came_back(gw, *pair) for pair in zip(one, two, strict=True))
    if isinstance(one, str):
        return one.encode("utf-16", "surrogatepass") == two.encode("utf-16", "surrogatepass")
    return same(one, two)


def test_all_values_at_once_come_back_in_one(echo: Channel) -> None:
    everything = [value for value in VALUES if not isinstance(value, (dict, set, frozenset))]

    echo.send(everything)

    assert same(echo.receive(10), everything)


def test_what_cannot_travel_is_refused_there_with_its_path(gw: Gateway) -> None:
    channel = gw.remote_exec("import socket\nchannel.send({'rows': [1, 2, 3, socket.socket()]})")

    with pytest.raises(RemoteError, match=r"value\['rows'\]\[3\]: cannot send <.*socket"):
        channel.receive(10)


@pytest.mark.parametrize(
    "thing", ["object()", "int", "len", "Text('x')", "type('A', (dict,), {})()", "range(3).__iter__()"]
)
def test_other_objects_are_refused_there(gw: Gateway, thing: str) -> None:
    channel = gw.remote_exec(f"class Text(type(u'')): pass\nchannel.send([0, ({thing},)])")

    with pytest.raises(RemoteError, match=r"value\[1\]\[0\]: cannot send"):
        channel.receive(10)


def test_a_cycle_and_too_deep_a_value_are_refused_there(gw: Gateway) -> None:
    cycle = gw.remote_exec("a = [1]\na.append(a)\nchannel.send(a)")
    deep = gw.remote_exec("a = None\nfor i in range(100000): a = [a]\nchannel.send(a)")

    with pytest.raises(RemoteError, match=r"value\[1\]: a list that contains itself"):
        cycle.receive(10)
    with pytest.raises(RemoteError, match="nested deeper than"):
        deep.receive(30)


def test_a_memoryview_and_an_array_arrive_there_or_are_refused_here(gw: Gateway) -> None:
    import array

    channel = gw.remote_exec(TYPE)
    if gw._rinfo().version_info[:2] < (3, 8):
        channel.send(memoryview(b"abc"))
        kind, _ = channel.receive(10)
        assert kind == "memoryview"
        return
    channel.send(memoryview(b"abc"))
    channel.send(array.array("i", [1, 2]))

    assert channel.receive(10)[0] == "memoryview"
    assert channel.receive(10) == ("array", "array('i', [1, 2])")


def test_a_channel_inside_a_value_is_that_channel_there(gw: Gateway) -> None:
    with gw.remote_exec("inner = channel.receive()['deep'][0]\ninner.send('through it')") as channel:
        inner = gw.newchannel()
        channel.send({"deep": (inner, 1)})

        assert inner.receive(10) == "through it"


# -- strings of Python 2


def test_strings_of_python_2_are_text_here_by_default(python2: Gateway) -> None:
    channel = python2.remote_exec(r"channel.send('caf\xe9'); channel.send(['caf\xe9', u'\xe9', {'k': ('v',)}])")

    assert same(channel.receive(10), "caf\xe9")
    assert same(channel.receive(10), ["caf\xe9", "\xe9", {"k": ("v",)}])


def test_strings_of_python_2_are_bytes_on_a_channel_that_asks_for_it(python2: Gateway) -> None:
    channel = python2.remote_exec(r"for i in range(2): channel.send('caf\xe9'); channel.send(['caf\xe9', u'\xe9'])")
    channel.reconfigure(py2str_as_py3str=False)

    assert same(channel.receive(10), b"caf\xe9")
    assert same(channel.receive(10), [b"caf\xe9", "\xe9"])


def test_text_is_unicode_on_python_2_and_bytes_are_str(python2: Gateway) -> None:
    channel = python2.remote_exec(TYPE)

    for value in ("text", b"bytes", ["text"], [b"bytes"]):
        channel.send(value)

    assert [channel.receive(10)[1] for _ in range(4)] == ["u'text'", "'bytes'", "[u'text']", "['bytes']"]


def test_a_gateway_can_be_told_that_text_is_str_on_python_2() -> None:
    for gw in gateway_of("2.7"):
        gw.reconfigure(py2str_as_py3str=True, py3str_as_py2str=True)
        channel = gw.remote_exec(TYPE)
        for value in ("text", ["text", {"k": ("v",)}], "\xe9"):
            channel.send(value)

        assert [channel.receive(10)[1] for _ in range(3)] == ["'text'", "['text', {'k': ('v',)}]", r"'\xc3\xa9'"]


def test_a_gateway_can_be_told_that_strings_of_python_2_are_bytes() -> None:
    for gw in gateway_of("2.7"):
        gw.reconfigure(py2str_as_py3str=False)
        channel = gw.remote_exec(ECHO)
        for value in (b"bytes", "text", [b"bytes", "text"]):
            channel.send(value)

        assert same([channel.receive(10) for _ in range(3)], [b"bytes", "text", [b"bytes", "text"]])


def test_a_gateway_to_python_3_is_reconfigured_without_effect(python3: Gateway) -> None:
    python3.reconfigure(py2str_as_py3str=False, py3str_as_py2str=True)
    channel = python3.remote_exec(ECHO)
    for value in (b"bytes", "text", [b"bytes", "text"]):
        channel.send(value)

    assert same([channel.receive(10) for _ in range(3)], [b"bytes", "text", [b"bytes", "text"]])


def test_a_value_that_cannot_be_read_here_closes_its_channel_and_no_other(python3: Gateway) -> None:
    damaged = python3.remote_exec(
        "peer = channel.gateway._peer\npeer.send(channel._port, 0, b'\\x80\\x04cos\\nsystem\\n.')\nchannel.receive()"
    )

    with pytest.raises(LoadError):
        damaged.receive(10)
    assert damaged.isclosed()
    again = python3.remote_exec("channel.send(1)")
    assert again.receive(10) == 1
