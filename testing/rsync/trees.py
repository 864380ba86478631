"""Trees for the tests of rsync: one with everything in it, what a tree is, and the rsync command beside."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

OLD = 1_600_000_000_123_456_000  # nanoseconds; Python 2 knows no more than microseconds


@functools.cache
def rsync_binary() -> str:
    """The rsync command; a test that needs it is skipped where there is none, but not on CI."""
    found = shutil.which("rsync")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no rsync; apt-get install rsync")
    return str(found)


def write(path: Path, content: bytes = b"", mode: int = 0o644, mtime: int = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(mtime, mtime))
    return path


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def build(root: Path, outside: Path) -> Path:
    """Everything that rsync -a copies, but owners and devices."""
    write(root / "plain.txt", b"plain")
    write(root / "empty")
    write(root / "run.sh", b"#!/bin/sh\n", 0o755)
    write(root / "secret", b"only mine", 0o600, OLD + 5_000_000_000)
    write(root / "before 1970", b"old", 0o644, -5_000_000_000)
    write(root / "deep/er/and/deeper/file", b"deep")
    write(root / "big.bin", noise(300_000))
    write(root / "same.bin", noise(300_000))
    write(root / "small/double", b"x" * 2000)
    write(root / "small/same", b"x" * 2000)
    write(root / "read-only/inside", b"r", 0o444)
    (root / "nothing in it").mkdir()
    os.symlink("plain.txt", root / "relative")
    os.symlink("../plain.txt", root / "deep/up")
    os.symlink("nowhere", root / "dangling")
    os.symlink("deep", root / "to-directory")
    os.symlink(outside, root / "outside")
    os.symlink("../../..", root / "far-up")
    os.link(root / "plain.txt", root / "deep/hard")
    os.link(root / "plain.txt", root / "hard")
    with (root / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)
    if os.name == "posix":
        write(Path(os.fsdecode(bytes(root) + b"/not utf-8 \xff\xfe")), b"bytes")
    (root / "read-only").chmod(0o555)
    for directory in [root, *root.rglob("*")]:
        if directory.is_dir() and not directory.is_symlink():
            os.utime(directory, ns=(OLD - 7_000_000_000, OLD - 7_000_000_000))
    return root


def add_special(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root)  # the path of a socket is at most 108 bytes
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)


def describe(root: Path, times: int = 1, link_times: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Each path with its kind, mode, mtime in *times* nanoseconds, content or link text, and to what it is linked."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    for path in sorted([root, *root.rglob("*")], key=bytes):
        st = path.lstat()
        name = bytes(path)[len(bytes(root)) + 1 :]
        mtime: object = st.st_mtime_ns // times
        if stat.S_ISLNK(st.st_mode):
            found[name] = ("link", os.readlink(bytes(path)), mtime if link_times else None)
        elif stat.S_ISDIR(st.st_mode):
            found[name] = ("directory", oct(st.st_mode), mtime)
        elif stat.S_ISREG(st.st_mode):
            first = inodes.setdefault(st.st_ino, name)
            found[name] = ("file", oct(st.st_mode), mtime, hashlib.sha256(path.read_bytes()).hexdigest(), first)
        else:
            found[name] = ("special", oct(st.st_mode), None)
    return found


def copy_with_rsync(source: Path, dest: Path, *options: str) -> None:
    subprocess.run([rsync_binary(), "-aH", "--no-o", "--no-g", *options, f"{source}/", f"{dest}"], check=True)
