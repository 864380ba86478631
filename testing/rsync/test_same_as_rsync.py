"""A copy is what `rsync -a` makes of the same tree: content, modes, times, links, hard links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trees import OLD, add_special, build, copy_with_rsync, describe, noise, write
from workers import dest_fixture, jython_fixture, source_fixture, worker_fixture  # noqa: F401

from execgw import Gateway, RSync


def _push(gateway: Gateway, source: Path, dest: Path, **options: object):
    delete = bool(options.pop("delete", False))
    rsync = RSync(source, verbose=False, **options)
    rsync.add_target(gateway, dest, delete=delete)
    return rsync.send()


def _precision(gateway: Gateway) -> dict[str, object]:
    """Python 2 and Jython set no time of a link, and know no nanoseconds."""
    old = gateway.kind in ("2.7.18", "jython")
    return {"times": 1_000_000 if old else 1, "link_times": not old}


def _without_link_times(gateway: Gateway, root: Path) -> dict[bytes, tuple[object, ...]]:
    """The rsync of some systems does not set them."""
    return describe(root, **{**_precision(gateway), "link_times": False})


@pytest.fixture
def full(source: Path, tmp_path: Path, worker: Gateway) -> Path:
    outside = write(tmp_path / "outside.txt", b"outside")
    tree = build(source, outside)
    if worker.kind == "jython":  # its names are text
        os.unlink(bytes(tree) + b"/not utf-8 \xff\xfe")
        os.utime(tree, ns=(OLD, OLD))
    return tree


def test_a_new_copy_is_what_rsync_makes(worker: Gateway, full: Path, dest: Path, tmp_path: Path) -> None:
    copy_with_rsync(full, tmp_path / "expected")

    report = _push(worker, full, dest)

    assert report.skipped == []
    assert _without_link_times(worker, dest) == _without_link_times(worker, tmp_path / "expected")
    assert describe(dest, **_precision(worker)) == describe(full, **_precision(worker))


def test_what_comes_from_a_worker_is_what_rsync_makes(worker: Gateway, full: Path, dest: Path, tmp_path: Path) -> None:
    copy_with_rsync(full, tmp_path / "expected")

    report = RSync.fetch(worker, full, dest)

    assert report.skipped == []
    assert _without_link_times(worker, dest) == _without_link_times(worker, tmp_path / "expected")


def test_a_second_run_sends_no_file_and_changes_nothing(worker: Gateway, full: Path, dest: Path) -> None:
    _push(worker, full, dest)
    before = {path: path.lstat().st_ctime_ns for path in dest.rglob("*")}

    report = _push(worker, full, dest)

    assert (report.files_sent, report.skipped) == (0, [])
    after = {path: path.lstat().st_ctime_ns for path in dest.rglob("*")}
    if worker.kind not in ("2.7.18", "jython"):
        assert after == before


def test_an_older_copy_becomes_what_rsync_makes_of_it(worker: Gateway, full: Path, dest: Path, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    for there in (dest, expected):
        there.mkdir()
        write(there / "big.bin", noise(150_000) + b"!" + noise(300_000)[150_000:])
        write(there / "deep/er", b"a file where a directory is to be")
        write(there / "relative", b"a file where a link is to be")
        os.symlink("/etc", there / "small")
        (there / "secret").mkdir()
        write(there / "run.sh", b"#!/bin/sh\n", 0o600)
        write(there / "too much/in/here", b"x")
        write(there / "hard", b"plain")
    copy_with_rsync(full, expected, "--delete")

    report = _push(worker, full, dest, delete=True)

    assert report.skipped == []
    assert _without_link_times(worker, dest) == _without_link_times(worker, expected)
    assert sorted(report[0].deleted) == ["too much", "too much/in", "too much/in/here"]


def test_special_files_are_told_and_passed_over(worker: Gateway, source: Path, dest: Path) -> None:
    write(source / "file", b"1")
    add_special(source)

    report = _push(worker, source, dest)

    assert sorted(os.listdir(dest)) == ["file"]
    told = [(skipped.path, skipped.reason) for skipped in report.skipped]
    assert told == [("pipe", "a named pipe is not copied"), ("socket", "a socket is not copied")]
    assert report.exit_code == 23


def test_an_absolute_link_into_the_source_points_into_the_copy(worker: Gateway, source: Path, dest: Path) -> None:
    write(source / "sub/file", b"1")
    os.symlink(source / "sub/file", source / "absolute")
    os.symlink(source, source / "sub/root")

    _push(worker, source, dest)

    assert os.readlink(dest / "absolute") == str(dest / "sub/file")
    assert os.readlink(dest / "sub/root") == str(dest)


def test_holes_stay_holes(worker: Gateway, source: Path, dest: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.seek(16 << 20)
        file.write(b"end")
        file.truncate(32 << 20)

    report = _push(worker, source, dest)

    assert (dest / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (dest / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert report.bytes_sent < 1 << 20
