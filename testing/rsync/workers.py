"""Gateways of the kinds of Python that copy trees, and where to copy; a file of tests imports the fixtures it uses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from execgw import Gateway, Group

KINDS = ["popen", "2.7.18", "3.6.15", "pypy3", "jython"]


def _spec(kind: str, python: Callable[[str], str]) -> str:
    if kind == "popen":
        return kind
    if kind[0].isdigit():
        return f"popen//python={python(kind)}"
    found = shutil.which(kind)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no {kind}; apt-get install {kind}")
    return f"popen//python={found}"


@pytest.fixture(name="jython_group", scope="module")
def jython_fixture() -> Iterator[Group]:
    """One for all tests of a file: a JVM takes seconds to start."""
    group = Group()
    yield group
    group.terminate(timeout=5)


@pytest.fixture(name="worker", params=KINDS)
def worker_fixture(request: pytest.FixtureRequest, jython_group: Group, python: Callable[[str], str]) -> Gateway:
    """A worker of each kind of Python; `worker.kind` is its name."""
    if request.param == "jython":
        gateway = jython_group[0] if len(jython_group) else jython_group.makegateway(_spec("jython", python))
    else:
        gateway = request.getfixturevalue("group").makegateway(_spec(request.param, python))
    gateway.kind = request.param  # type: ignore[attr-defined]
    return gateway


@pytest.fixture(name="source")
def source_fixture(tmp_path: Path) -> Path:
    """An empty directory to copy from."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture(name="dest")
def dest_fixture(tmp_path: Path) -> Path:
    """A path to copy to."""
    return tmp_path / "dest"
