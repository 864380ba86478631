"""A worker on this host reads new files from the source itself, and only what the sender has listed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_reading import push
from trees import OLD, build, describe, noise, write
from workers import dest_fixture, source_fixture  # noqa: F401

from execgw import Gateway, Group, RSync
from execgw.peer.trees import files
from execgw.peer.trees.direct import Source, identity


def test_what_a_child_on_this_host_can_read_does_not_travel(popen: Gateway, tmp_path: Path, dest: Path) -> None:
    source = build(tmp_path / "source", tmp_path / "outside")
    rsync = RSync(source, verbose=False)
    rsync.add_target(popen, dest)

    (report,) = rsync.send()

    assert describe(dest) == describe(source)
    assert report.bytes_sent < 10_000 < 600_000 < report.bytes_saved
    assert report.files_sent == len(report.sent) > 10


@pytest.mark.parametrize("spec", ["popen//python=OTHER", "popen//via=master", "popen", "cmd=nice//python=SAME"])
def test_all_others_get_it_through_their_channel(
    spec: str, group: Group, source: Path, dest: Path, python: Callable[[str], str]
) -> None:
    write(source / "file", noise(100_000))
    group.makegateway("popen//id=master")
    gateway = group.makegateway(spec.replace("OTHER", python("3.6.15")).replace("SAME", sys.executable))
    rsync = RSync(source, verbose=False, direct=spec != "popen")
    rsync.add_target(gateway, dest)

    (report,) = rsync.send()

    assert describe(dest) == describe(source)
    assert report.bytes_sent > 100_000


def test_a_file_that_is_not_as_it_was_listed_comes_through_the_channel(
    popen: Gateway, source: Path, dest: Path
) -> None:
    write(source / "same", noise(10_000))
    write(source / "other", noise(10_000))

    report = push(popen, source, dest, lambda: write(source / "other", noise(20_000, 1), mtime=OLD + 7))

    assert describe(dest) == describe(source)
    assert report.skipped == []
    assert 20_000 < report[0].bytes_sent < 25_000


def test_a_file_that_has_vanished_is_told_once(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "gone", noise(100))
    write(source / "here", noise(100))

    report = push(popen, source, dest, lambda: os.unlink(source / "gone"))

    assert [(each.path, each.vanished) for each in report.skipped] == [("gone", True)]
    assert os.listdir(dest) == ["here"]


def test_a_link_that_was_planted_in_place_of_a_file_leads_nowhere(
    popen: Gateway, source: Path, dest: Path, tmp_path: Path
) -> None:
    canary = write(tmp_path / "canary", noise(100))
    write(source / "file", noise(100, 1))

    def plant() -> None:
        os.unlink(source / "file")
        os.symlink(canary, source / "file")

    report = push(popen, source, dest, plant)

    assert [each.path for each in report.skipped] == ["file"]
    assert os.listdir(dest) == []


def test_another_directory_under_the_name_of_the_source_is_not_read(tmp_path: Path) -> None:
    meant, other = tmp_path / "meant", tmp_path / "other"
    meant.mkdir()
    other.mkdir()
    writer: Any = None

    right = Source(os.fsencode(meant), identity(os.stat(meant)), writer)
    wrong = Source(os.fsencode(other), identity(os.stat(meant)), writer)
    gone = Source(os.fsencode(tmp_path / "gone"), identity(os.stat(meant)), writer)

    assert [source.places is not None for source in (right, wrong, gone)] == [True, False, False]
    right.close()


def test_a_larger_file_than_can_be_copied_in_a_moment_is_sent(
    popen: Gateway, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_DIRECT", 50_000)
    write(source / "large", noise(60_000))
    write(source / "small", noise(40_000, 1))
    rsync = RSync(source, verbose=False)
    rsync.add_target(popen, dest)

    (report,) = rsync.send()

    assert describe(dest) == describe(source)
    assert 60_000 < report.bytes_sent < 65_000


def test_progress_counts_what_was_copied(popen: Gateway, source: Path, dest: Path) -> None:
    for number in range(20):
        write(source / str(number), noise(1 << 20, number))
    told: list[tuple[int, int]] = []
    rsync = RSync(source, verbose=False, progress=lambda done, total: told.append((done, total)))
    rsync.add_target(popen, dest)

    rsync.send()

    assert told[-1] == (20 << 20, 20 << 20)
    assert len({done for done, _ in told}) > 3
