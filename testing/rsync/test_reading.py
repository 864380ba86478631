"""Files that vanish, change or cannot be read while a tree is copied: told in the report, and nothing else suffers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trees import OLD, describe, noise, write
from workers import dest_fixture, source_fixture  # noqa: F401

from execgw import Gateway, Group, RSync
from execgw.peer.trees.files import FileSender
from execgw.rsync import Report


class Meddling(RSync):
    """Calls *meddle* when the tree is listed, and before anything of it is read."""

    meddle = staticmethod(lambda: None)

    def _add_total(self, count: int) -> None:
        type(self).meddle()


def push(gateway: Gateway, source: Path, dest: Path, meddle: Callable[[], object], direct: bool = True) -> Report:
    class Mine(Meddling):
        pass

    Mine.meddle = staticmethod(meddle)
    rsync = Mine(source, verbose=False, progress=lambda done, total: None, direct=direct)
    rsync.add_target(gateway, dest)
    return rsync.send()


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_file_that_vanishes_is_told_and_the_rest_is_copied(
    popen: Gateway, source: Path, dest: Path, size: int
) -> None:
    write(source / "fleeting", noise(size))
    write(source / "stays", b"1")

    report = push(popen, source, dest, (source / "fleeting").unlink)

    assert os.listdir(dest) == ["stays"]
    assert [(each.path, each.vanished) for each in report.skipped] == [("fleeting", True)]
    assert report.exit_code == 24


def test_an_old_copy_of_a_file_that_vanishes_stays(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "fleeting", noise(300_000))
    write(dest / "fleeting", noise(300_000, 1))

    push(popen, source, dest, (source / "fleeting").unlink)

    assert (dest / "fleeting").read_bytes() == noise(300_000, 1)


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_file_that_grew_is_copied_as_it_is_now_or_told(popen: Gateway, source: Path, dest: Path, size: int) -> None:
    write(source / "grows", noise(size))

    report = push(popen, source, dest, lambda: write(source / "grows", noise(size + 100)))

    assert report.skipped == []
    assert describe(dest) == describe(source)


def test_a_file_that_is_cut_while_it_is_read_is_told_and_not_written(
    popen: Gateway, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source / "big", noise(3_000_000))
    range_of = FileSender._range

    def cut_first(self: FileSender, number: int, fd: int, offset: int, end: int) -> bool:
        os.truncate(source / "big", 1_000_000)
        return range_of(self, number, fd, offset, end)

    monkeypatch.setattr(FileSender, "_range", cut_first)

    report = push(popen, source, dest, lambda: None, direct=False)

    assert os.listdir(dest) == []
    assert [(each.path, each.reason) for each in report.skipped] == [
        ("big", "cannot read it: it was cut while it was read")
    ]


def test_a_file_that_changes_while_it_is_read_is_told_and_a_second_run_puts_it_right(
    popen: Gateway, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source / "big", noise(3_000_000))
    range_of = FileSender._range

    def change_after(self: FileSender, number: int, fd: int, offset: int, end: int) -> bool:
        whole = range_of(self, number, fd, offset, end)
        write(source / "big", noise(3_000_000, 1), mtime=OLD + 1)
        return whole

    monkeypatch.setattr(FileSender, "_range", change_after)
    report = push(popen, source, dest, lambda: None, direct=False)
    monkeypatch.undo()

    assert "it changed while it was read" in report.skipped[0].reason
    assert push(popen, source, dest, lambda: None, direct=False).skipped == []
    assert describe(dest) == describe(source)


@pytest.fixture
def another_user() -> Iterator[Path]:
    """A directory of a user who may not do everything; this process, and so its worker in a thread, is that user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    top = Path(tempfile.mkdtemp())
    os.chown(top, 65534, 65534)
    os.seteuid(65534)
    yield top
    os.seteuid(0)
    shutil.rmtree(top)


def test_what_may_not_be_read_is_told_and_what_is_locked_is_locked_again(another_user: Path, group: Group) -> None:
    source, dest = another_user / "source", another_user / "dest"
    write(source / "fine", b"1")
    write(source / "forbidden", b"2", 0o000)
    write(source / "closed/file", b"3")
    write(source / "locked/new", b"5")
    write(source / "locked/old", b"6", mtime=OLD + 1)
    write(dest / "locked/old", b"4")
    write(dest / "closed/stays", b"there was no looking")
    (source / "closed").chmod(0o000)
    (source / "locked").chmod(0o555)
    (dest / "locked").chmod(0o555)
    rsync = RSync(source, verbose=False)
    rsync.add_target(group.makegateway("memory"), dest, delete=True)

    report = rsync.send()

    told = {each.path: each.reason for each in report.skipped}
    assert told == {
        "closed": "cannot open this directory: [Errno 13] Permission denied: 'closed'",
        "forbidden": "cannot read it: Permission denied",
    }
    assert (dest / "fine").read_bytes() == b"1"
    assert (dest / "locked/new").read_bytes() == b"5"
    assert (dest / "locked/old").read_bytes() == b"6"
    assert (dest / "closed/stays").exists()
    assert oct((dest / "locked").stat().st_mode) == "0o40555"


def test_an_unfinished_file_of_a_dead_process_is_cleared_and_one_of_a_live_one_is_not(
    group: Group, source: Path, dest: Path
) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    stale = f".execgw-rsync-{int(dead.stdout)}-0123456789abcdef-1"
    alive = f".execgw-rsync-{os.getpid()}-0123456789abcdef-1"
    write(dest / stale, b"half")
    write(dest / alive, b"half")
    write(source / stale, b"half")
    rsync = RSync(source, verbose=False)
    rsync.add_target(group.makegateway(), dest, delete=True)

    rsync.send()

    assert os.listdir(dest) == [alive]
