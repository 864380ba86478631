"""Patterns hide what they hide from the real rsync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import copy_with_rsync, write
from workers import dest_fixture, source_fixture  # noqa: F401

from execgw import Gateway, RSync
from execgw.peer.trees.listing import Patterns
from execgw.rsync.tree import Tree

NAMES = ["a.txt", "b.o", "core", "x[1]", "src/a.txt", "src/b.o", "src/core/y", "src/core/a.txt", "src/deep/er/b.o"]
NAMES += ["build/out.o", "src/build/out.o", "build.txt", ".hidden", "src/.hidden/z", "a/b/c/d/e.txt"]

RULES = [
    ["- *.o"],
    ["- /core"],
    ["- core/"],
    ["- /build/", "- *.txt"],
    ["+ src/", "+ *.txt", "- *"],
    ["+ */", "+ *.o", "- *"],
    ["- src/*.o"],
    ["- src/**/*.o"],
    ["- src/**.o"],
    ["- **/deep"],
    ["- a/***"],
    ["+ /a/***", "- /*"],
    ["- [ab].*"],
    ["- [!a].txt"],
    ["- ?.txt"],
    ["- .*"],
    ["- x\\[1\\]"],
    ["- /src/core/a.txt", "- e.txt"],
    ["- b/c"],
    ["- /b/c"],
    ["- build"],
    ["- *"],
]


@pytest.fixture
def tree(source: Path) -> Path:
    for name in NAMES:
        write(source / name, b"1")
    return source


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("rules", RULES, ids=" ".join)
def test_the_same_names_are_listed_as_rsync_copies(tree: Path, tmp_path: Path, rules: list[str]) -> None:
    expected = tmp_path / "expected"
    copy_with_rsync(tree, expected, *(f"--filter={rule}" for rule in rules))

    listed = Tree(str(tree), rules, None, "preserve", protect=False, shared=False)
    for _ in listed.lists():
        pass
    walk = listed.walk
    listed.close()

    files = [os.path.join(os.fsdecode(directory), name) for directory, name, *_ in walk.files.values()]
    assert sorted([*files, *map(os.fsdecode, walk.dirs.values())]) == below(expected)


def test_both_directions_use_the_patterns(popen: Gateway, tree: Path, dest: Path, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    copy_with_rsync(tree, expected, "--exclude=*.o", "--exclude=/src/core")

    rsync = RSync(tree, verbose=False, exclude=["*.o", "/src/core"])
    rsync.add_target(popen, dest)
    rsync.send()
    RSync.fetch(popen, tree, tmp_path / "fetched", exclude=["*.o", "/src/core"])

    assert below(dest) == below(expected)
    assert below(tmp_path / "fetched") == below(expected)


@pytest.mark.parametrize("rules", RULES[:6], ids=" ".join)
def test_the_same_names_are_deleted_as_by_rsync(
    popen: Gateway, source: Path, dest: Path, tmp_path: Path, rules: list[str]
) -> None:
    expected = tmp_path / "expected"
    for name in NAMES:
        write(dest / name, b"1")
        write(expected / name, b"1")
    write(source / "new", b"1")
    copy_with_rsync(source, expected, "--delete", *(f"--filter={rule}" for rule in rules))

    RSync.fetch(popen, source, dest, delete=True, filters=rules)

    assert below(dest) == below(expected)


pattern = st.text(alphabet="ab/.*?[]!-\\", min_size=1, max_size=8)
path = st.text(alphabet="ab/.", min_size=1, max_size=8)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pattern, path)
def test_any_pattern_says_yes_or_no_to_any_path(pattern: str, path: str) -> None:
    assert Patterns([f"- {pattern}"]).hides(os.fsencode(path), False) in (True, False)
