"""The command execgw rsync: places, options like rsync's, what it says, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trees import describe, noise, write
from workers import dest_fixture, source_fixture  # noqa: F401

from execgw.commands.rsync import split_place


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "execgw", "rsync", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("dir/sub", (None, "dir/sub")),
        ("/tmp//x", (None, "/tmp//x")),
        ("popen//dir", ("popen", "dir")),
        ("popen///tmp/dir", ("popen", "/tmp/dir")),
        ("ssh=host//", ("ssh=host", ".")),
        ("ssh=-p 22 host//python=python3.9//work/tree", ("ssh=-p 22 host//python=python3.9", "work/tree")),
        ("ssh=host//env:LANG=C///srv/x", ("ssh=host//env:LANG=C", "/srv/x")),
        ("popen//python=/usr/bin/python3//a", ("popen//python=/usr/bin/python3", "a")),
    ],
)
def test_a_place_is_a_path_or_a_spec_and_a_path(place: str, expected: tuple[str | None, str]) -> None:
    assert split_place(place) == expected


def test_a_tree_goes_to_several_places(source: Path, tmp_path: Path) -> None:
    write(source / "sub/file", b"1")
    write(source / "file.pyc", b"1")
    write(tmp_path / "two/extra", b"1")

    done = run("-v", "--delete", "--exclude=*.pyc", f"{source}/", tmp_path / "one", f"popen//{tmp_path}/two")

    for name in ("one", "two"):
        assert [str(path.relative_to(tmp_path / name)) for path in sorted((tmp_path / name).rglob("*"))] == [
            "sub",
            "sub/file",
        ]
    assert "sub/file" in done.stdout
    assert "deleting extra" in done.stdout
    assert "sent: 1, links made: 0, deleted: 1, not copied: 0" in done.stdout


def test_without_a_slash_the_directory_itself_is_copied(source: Path, tmp_path: Path) -> None:
    write(source / "file", b"1")

    run(source, tmp_path / "dest")
    run(f"popen//{source}", tmp_path / "fetched")

    assert (tmp_path / "dest/source/file").exists()
    assert (tmp_path / "fetched/source/file").exists()


def test_a_single_file_is_copied_into_the_directory(source: Path, dest: Path) -> None:
    write(source / "a[1].txt", b"1")
    write(source / "b.txt", b"1")

    run(source / "a[1].txt", dest)

    assert os.listdir(dest) == ["a[1].txt"]


def test_a_tree_comes_from_a_worker(source: Path, dest: Path) -> None:
    write(source / "sub/file", noise(100_000))

    done = run("-v", f"popen//{source}/", dest)

    assert describe(dest) == describe(source)
    assert "sub/file" in done.stdout


def test_a_dry_run_names_what_it_would_do(source: Path, dest: Path) -> None:
    write(source / "new", b"1")
    write(dest / "old", b"1")

    done = run("-n", "--delete", f"{source}/", dest)

    assert done.stdout.splitlines()[:2] == ["deleting old", "new"]
    assert "(dry run)" in done.stdout
    assert os.listdir(dest) == ["old"]


def test_what_is_not_copied_is_told_and_ends_with_23(source: Path, dest: Path) -> None:
    os.mkfifo(source / "pipe")

    done = run(f"{source}/", dest, code=23)

    assert done.stderr == "pipe: a named pipe is not copied\n"


def test_links_are_copied_if_asked(source: Path, dest: Path) -> None:
    write(source / "file", b"1")
    os.symlink("file", source / "link")

    run("-L", f"{source}/", dest)

    assert not (dest / "link").is_symlink()


def test_progress_is_shown(source: Path, dest: Path) -> None:
    write(source / "big", noise(3 << 20))

    done = run("--progress", f"{source}/", dest)

    assert "3.0/3.0 MiB" in done.stderr or "of 3,145,728 bytes" in done.stderr


def test_a_line_is_shown_where_rich_is_not(source: Path, dest: Path) -> None:
    write(source / "big", noise(3 << 20))
    program = (
        "import sys; sys.modules['rich'] = None; from execgw.commands.rsync import main; sys.exit(main(sys.argv[1:]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "--progress", f"{source}/", str(dest)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "3,145,728 of 3,145,728 bytes, 100 %" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "dest"], "'nowhere' is neither a directory nor a file of this host"),
        (["popen//x", "popen//y"], "with a source behind 'popen' there is one DEST"),
        (["popen///nowhere-at-all/", "dest"], "cannot use '/nowhere-at-all/' there: No such file or directory"),
        (["--filter=x", ".", "dest"], "'x' is no rule"),
        ([".", "popen//pyhton=3//x"], "unknown key 'pyhton'"),
    ],
)
def test_what_cannot_begin_is_told_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "execgw", "rsync", *words]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
