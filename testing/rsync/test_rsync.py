"""RSync as users know it from execnet, and its report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from trees import OLD, describe, noise, write
from workers import dest_fixture, jython_fixture, source_fixture, worker_fixture  # noqa: F401

from execgw import Gateway, Group, RSync
from execgw.peer.trees import files


def push(gateway: Gateway, source: Path, dest: Path, delete: bool = False, **options: Any) -> Any:
    rsync = RSync(source, verbose=False, **options)
    rsync.add_target(gateway, dest, delete=delete)
    return rsync.send()


# -- as in execnet


def test_send_without_targets_raises_unless_told_not_to(source: Path) -> None:
    rsync = RSync(source)

    with pytest.raises(OSError, match="no targets"):
        rsync.send()
    assert len(rsync.send(raises=False)) == 0


def test_targets_are_used_up_by_one_send(popen: Gateway, source: Path, dest: Path) -> None:
    rsync = RSync(source)
    rsync.add_target(popen, dest)
    rsync.send()

    with pytest.raises(OSError, match="no targets"):
        rsync.send()


def test_the_callback_hears_of_the_total_and_of_each_file(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "a", b"12345")
    write(source / "sub/b", b"1234567")
    calls: list[tuple[str, int, Any]] = []
    rsync = RSync(source, callback=lambda *call: calls.append(call), verbose=False)
    rsync.add_target(popen, f"{dest}/")

    rsync.send()

    assert [(what, size) for what, size, _ in calls] == [("list", 12), ("ack", 5), ("ack", 7)]
    assert {channel.gateway for _, _, channel in calls} == {popen}


def test_each_target_tells_when_it_has_finished(group: Group, source: Path, tmp_path: Path) -> None:
    write(source / "a", b"1")
    finished: list[str] = []
    rsync = RSync(source, verbose=False)
    for name in ("one", "two"):
        rsync.add_target(group.makegateway(), tmp_path / name, finishedcallback=lambda name=name: finished.append(name))

    rsync.send()

    assert sorted(finished) == ["one", "two"]


def test_files_that_are_sent_are_printed(
    popen: Gateway, source: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source / "sub/a", b"1")
    rsync = RSync(source)
    rsync.add_target(popen, dest)

    rsync.send()

    shown = capsys.readouterr().out
    assert shown.startswith("<Gateway id='gw0'")
    assert shown.endswith("> <= sub/a\n")


def test_an_overridden_filter_and_report_are_used(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "a.py", b"1")
    write(source / "a.pyc", b"1")
    write(source / "__pycache__/b.py", b"1")
    asked, told = [], []

    class Mine(RSync):
        def filter(self, path: str) -> bool:
            asked.append(path)
            return not path.endswith((".pyc", "__pycache__"))

        def _report_send_file(self, gateway: Gateway, modified_rel_path: str) -> None:
            told.append((gateway, modified_rel_path, self._sourcedir, self._verbose))

    rsync = Mine(source, verbose=False)
    rsync.add_target(popen, dest)
    rsync.send()

    assert sorted(os.listdir(dest)) == ["a.py"]
    assert sorted(asked) == [f"{source}/{name}" for name in ("__pycache__", "a.py", "a.pyc")]
    assert told == [(popen, "a.py", str(source), False)]


def test_a_relative_destination_is_relative_to_the_directory_of_the_worker(
    group: Group, source: Path, tmp_path: Path
) -> None:
    write(source / "a", b"1")
    gateway = group.makegateway(f"popen//chdir={tmp_path}/there")

    push(gateway, source, Path("sub/copy"))

    assert (tmp_path / "there/sub/copy/a").read_bytes() == b"1"


def test_a_link_below_the_source_is_right_whatever_the_own_directory_is(
    popen: Gateway, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source / "sub/target", b"1")
    os.symlink("target", source / "sub/link")
    monkeypatch.chdir(source)

    push(popen, Path("."), dest)

    assert os.readlink(dest / "sub/link") == "target"


# -- beyond


def test_the_report_says_what_was_done(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "a", noise(100_000))
    write(source / "sub/b", b"1")
    os.symlink("a", source / "link")
    write(dest / "old", b"1")

    (report,) = push(popen, source, dest, delete=True, direct=False)

    assert (report.gateway, report.destdir, report.files, report.dirs) == (popen.id, str(dest), 3, 1)
    assert (report.files_sent, sorted(report.sent), report.deleted) == (2, ["a", "sub/b"], ["old"])
    assert (report.links, report.total_bytes, report.dirs_made) == (1, 100_001, 1)
    assert 100_001 < report.bytes_sent < 101_000
    assert report.seconds > 0
    assert "sent 2 of 3 files" in str(report)


def test_a_change_in_a_big_file_sends_the_change(worker: Gateway, source: Path, dest: Path) -> None:
    content = noise(3 << 20)
    write(source / "big", content)
    push(worker, source, dest)
    write(source / "big", b"!" + content, mtime=OLD + 1_000_000_000)

    (report,) = push(worker, source, dest)

    assert (dest / "big").read_bytes() == b"!" + content
    assert report.files_sent == 1
    assert report.bytes_sent + report.bytes_received < len(content) / 100
    assert report.bytes_saved > len(content) - 10_000


def test_what_comes_from_a_worker_is_a_change_only_too(worker: Gateway, source: Path, dest: Path) -> None:
    content = noise(3 << 20)
    write(source / "big", content)
    RSync.fetch(worker, source, dest)
    write(source / "big", b"!" + content, mtime=OLD + 1_000_000_000)

    (report,) = RSync.fetch(worker, source, dest)

    assert (dest / "big").read_bytes() == b"!" + content
    assert report.bytes_sent + report.bytes_received < len(content) / 100


def test_the_same_content_is_sent_once(popen: Gateway, source: Path, dest: Path) -> None:
    for name in ("a", "b", "sub/c"):
        write(source / name, noise(500_000))
    for name in ("d", "e"):
        write(source / name, noise(3000, 1))

    (report,) = push(popen, source, dest)

    assert describe(dest) == describe(source)
    assert report.files_sent == 5
    assert report.bytes_sent < 510_000


def test_a_renamed_file_is_found_there(worker: Gateway, source: Path, dest: Path) -> None:
    write(source / "old/name", noise(500_000))
    push(worker, source, dest)
    (source / "old").rename(source / "new")

    (report,) = push(worker, source, dest, delete=True)

    assert (dest / "new/name").read_bytes() == noise(500_000)
    assert not (dest / "old").exists()
    assert report.bytes_sent < 10_000


def test_a_change_that_keeps_size_and_time_needs_checksum(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "a", b"before")
    push(popen, source, dest)
    write(source / "a", b"AFTER!")

    without = push(popen, source, dest)
    with_checksum = push(popen, source, dest, checksum=True)
    again = push(popen, source, dest, checksum=True)

    assert (without.files_sent, with_checksum.files_sent) == (0, 1)
    assert (dest / "a").read_bytes() == b"AFTER!"
    assert again[0].bytes_sent < 1000


def test_on_a_slow_link_what_can_be_made_smaller_is(
    worker: Gateway, source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEAST_SPENT", 0)
    monkeypatch.setattr(files, "SLOW", float("inf"))
    write(source / "text", b"the same words again and again, " * 30_000)
    write(source / "noise", noise(500_000))

    (report,) = push(worker, source, dest)

    assert (dest / "text").read_bytes() == (source / "text").read_bytes()
    assert (dest / "noise").read_bytes() == (source / "noise").read_bytes()
    assert report.bytes_sent < 600_000


@pytest.mark.parametrize("checksum", [False, True])
def test_a_dry_run_changes_nothing_and_tells_all(popen: Gateway, source: Path, dest: Path, checksum: bool) -> None:
    write(source / "new/file", b"1")
    write(source / "changed", b"2")
    write(source / "same", b"3")
    write(dest / "changed", b"!", mtime=OLD - 5)
    write(dest / "same", b"3")
    write(dest / "gone/file", b"4")
    before = describe(dest)

    (report,) = push(popen, source, dest, delete=True, dry_run=True, checksum=checksum)
    (fetched,) = RSync.fetch(popen, source, dest, delete=True, dry_run=True, checksum=checksum)

    assert describe(dest) == before
    assert sorted(report.sent) == sorted(fetched.sent) == ["changed", "new/file"]
    assert sorted(report.deleted) == sorted(fetched.deleted) == ["gone", "gone/file"]


def test_a_dry_run_does_not_make_the_destination(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "sub/file", b"1")

    report = push(popen, source, dest, dry_run=True)

    assert report.files_sent == 1
    assert not dest.exists()


def test_what_is_hidden_is_not_deleted_unless_asked(popen: Gateway, source: Path, dest: Path) -> None:
    write(source / "a.o", b"hidden here")
    for name in ("a.o", "b.o", "keep/c.o", "keep/d", "gone/e"):
        write(dest / name, b"1")

    (report,) = push(popen, source, dest, delete=True, exclude=["*.o"])

    assert sorted(report.deleted) == ["gone", "gone/e", "keep/d"]
    assert sorted(str(path.relative_to(dest)) for path in dest.rglob("*.o")) == ["a.o", "b.o", "keep/c.o"]

    push(popen, source, dest, delete=True, exclude=["*.o"], delete_excluded=True)

    assert os.listdir(dest) == []


def test_what_an_overridden_filter_hides_is_not_deleted(popen: Gateway, source: Path, dest: Path) -> None:
    write(dest / "mine/file", b"1")
    write(dest / "gone", b"1")
    rsync = RSync(source, verbose=False)
    rsync.filter = lambda path: not path.endswith("mine")  # type: ignore[method-assign]
    rsync.add_target(popen, dest, delete=True)

    rsync.send()

    assert sorted(path.name for path in dest.rglob("*")) == ["file", "mine"]


def test_progress_counts_to_the_total(group: Group, source: Path, tmp_path: Path) -> None:
    write(source / "big", noise(5 << 20))
    write(source / "small", b"1")
    told: list[tuple[int, int]] = []
    rsync = RSync(source, verbose=False, progress=lambda done, total: told.append((done, total)), direct=False)
    for name in ("one", "two"):
        rsync.add_target(group.makegateway(), tmp_path / name)

    rsync.send()

    assert told[-1] == (2 * (5 << 20) + 2, 2 * (5 << 20) + 2)
    assert len(told) > 5
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_many_targets_get_the_same_tree(group: Group, source: Path, tmp_path: Path) -> None:
    for number in range(300):
        write(source / f"d{number % 7}/f{number}", noise(number * 10, number))
    write(source / "big", noise(3 << 20))
    places = [tmp_path / str(number) for number in range(4)]
    write(places[1] / "big", b"!" + noise(3 << 20))
    write(places[2] / "d1/f1", b"another")
    rsync = RSync(source, verbose=False, direct=False)
    for gateway, place in zip(group.makegateways(["popen"] * 4), places, strict=True):
        rsync.add_target(gateway, place)

    report = rsync.send()

    assert len(report) == 4
    for place in places:
        assert describe(place) == describe(source)
    assert report[1].bytes_sent < report[0].bytes_sent / 2


def test_links_can_be_copied_skipped_or_refused(popen: Gateway, source: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/file", b"content")
    os.symlink(outside, source / "file")
    os.symlink(outside.parent, source / "directory")
    os.symlink(".", source / "loop")

    copied = push(popen, source, tmp_path / "copied", links="copy")
    skipped = push(popen, source, tmp_path / "skipped", links="skip")
    with pytest.raises(ValueError, match="has symbolic links: 'directory', 'file', 'loop'"):
        push(popen, source, tmp_path / "refused", links="error")

    assert (tmp_path / "copied/file").read_bytes() == b"content"
    assert (tmp_path / "copied/directory/file").read_bytes() == b"content"
    assert [each.path for each in copied.skipped] == ["loop"]
    assert os.listdir(tmp_path / "skipped") == []
    assert len(skipped.skipped) == 3
    assert list((tmp_path / "refused").glob("*")) == []


NO_LINKS = """
import os
def refused(*args, **kwargs):
    error = OSError("symbolic link privilege not held")
    error.winerror = 1314
    raise error
os.symlink = refused
"""


def test_where_links_cannot_be_made_each_is_told_and_the_rest_is_copied(
    worker: Gateway, source: Path, dest: Path
) -> None:
    if worker.kind == "jython":
        pytest.skip("its worker is shared by the tests of this file")
    worker.remote_exec(NO_LINKS).waitclose()
    write(source / "file", b"1")
    os.symlink("file", source / "one")
    os.symlink("file", source / "two")

    report = push(worker, source, dest)

    assert (dest / "file").read_bytes() == b"1"
    why = "cannot make a link to file here: symbolic link privilege not held; links='copy' copies what it points to"
    assert [(each.path, each.reason) for each in report.skipped] == [("one", why), ("two", why)]
    assert push(worker, source, dest, links="copy").skipped == []
    assert (dest / "one").read_bytes() == b"1"


def test_a_source_or_a_destination_that_cannot_be_opened_is_an_oserror(
    popen: Gateway, source: Path, dest: Path, tmp_path: Path
) -> None:
    write(tmp_path / "file", b"1")

    with pytest.raises(FileNotFoundError):
        push(popen, tmp_path / "nowhere", dest)
    with pytest.raises(OSError, match=r"cannot use '.*file' there: "):
        push(popen, source, tmp_path / "file")
    with pytest.raises(OSError, match=r"cannot use '.*nowhere' there: No such file"):
        RSync.fetch(popen, tmp_path / "nowhere", dest)


def test_arguments_that_make_no_sense_are_refused(popen: Gateway, source: Path) -> None:
    with pytest.raises(ValueError, match="links must be one of"):
        RSync(source, links="follow")
    with pytest.raises(TypeError, match="exclude must be a list"):
        RSync(source, exclude="*.pyc")
    with pytest.raises(ValueError, match="is no rule"):
        RSync(source, filters=["*.pyc"])
    with pytest.raises(TypeError):
        RSync(source).add_target(popen, "x", remove=True)  # type: ignore[call-arg]
