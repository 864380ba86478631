"""Neither side believes the other: names, numbers and links that lead elsewhere are refused, and races lose."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from trees import OLD, noise, write
from workers import dest_fixture, jython_fixture, source_fixture, worker_fixture  # noqa: F401

from execgw import Gateway, Group, ProtocolError, RSync
from execgw.peer.trees import listing
from execgw.peer.trees.listing import DIR, FILE, FIRST, HARD, LAST, LINK
from execgw.rsync import ship

# -- a far side that says whatever the test wants


SCRIPTED = """
for item in channel.receive():
    channel.send(item)
for item in channel:
    pass
"""


@pytest.fixture
def scripted(popen: Gateway, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """scripted(*messages): the worker of `popen` sends these, and then takes whatever comes."""

    def script(*messages: bytes) -> None:
        def start(gateway: Gateway, options: dict[bytes, bytes]) -> object:
            channel = gateway.remote_exec(
                "for item in channel.receive(): channel.send(item)\nfor item in channel: pass"
            )
            channel.send(list(messages))
            return channel

        monkeypatch.setattr(ship, "start", start)

    return script


def listed(
    entries: list[tuple[int, int, int, bytes]],
    path: bytes = b"",
    number: int = 0,
    texts: tuple[bytes, ...] | list[bytes] = (),
    mode: int = 0o755,
) -> bytes:
    """A list of a directory: entries are (kind, mode, size, name)."""
    kinds, modes, sizes, names = zip(*entries, strict=True) if entries else ((), (), (), ())
    mtimes = [OLD] * len(kinds)
    message = listing.pack(
        number, FIRST | LAST, mode, OLD, path, list(kinds), list(modes), list(sizes), mtimes, list(names), list(texts)
    )
    return b"W" + struct.pack("!I", len(message)) + message


def small(number: int, content: bytes) -> bytes:
    return b"F" + struct.pack("!I", 1) + struct.pack("!Iqq", number, len(content), OLD) + content


BEGUN = b"B" + struct.pack("!IqqB", 0, 3, OLD, 0)


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc/passwd", b"../up", b"a\0b"])
def test_a_name_that_is_no_plain_name_is_refused(
    scripted, popen: Gateway, dest: Path, tmp_path: Path, name: bytes
) -> None:
    scripted(listed([(FILE, 0o644, 3, name)]), b"L", small(0, b"bad"))

    with pytest.raises(ProtocolError, match="rsync: "):
        RSync.fetch(popen, "x", dest)

    assert sorted(os.listdir(tmp_path)) == ["dest"]
    assert os.listdir(dest) == []


@pytest.mark.parametrize(
    "messages",
    [
        [listed([]), listed([(FILE, 0o644, 1, b"a")], b"../up")],
        [listed([]), listed([(FILE, 0o644, 1, b"a")], b"/tmp")],
        [listed([]), listed([])],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", small(1, b"bad")],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", small(0, b"one"), small(0, b"two")],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", small(0, b"one")[:-1]],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", b"F" + struct.pack("!I", 1 << 30)],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", BEGUN, b"l" + b"four"],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", BEGUN, b"l" + b"12", b"e\0"],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", b"B" + struct.pack("!IqqB", 0, 3, OLD, 1), b"c" + bytes(16)],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", b"B" + struct.pack("!IqqB", 0, -3, OLD, 0)],
        [
            listed([(FILE, 0o644, 3, b"a")]),
            b"L",
            BEGUN,
            b"h" + struct.pack("!q", -1),
        ],
        [listed([(FILE, 0o644, 3, b"a")]), b"L", BEGUN, b"T"],
        [listed([(HARD, 0o644, 7, b"a")]), b"L", b"T"],
        [listed([(LINK, 0o777, 1 << 40, b"a")])],
        [listed([(77, 0o777, 0, b"a")])],
        [listed([(DIR, 0o755, 0, b"a")]), b"L"],
        [listed([(FILE, 0o644, -1, b"a")])],
        [b"W" + struct.pack("!I", 1) + b"D"],
        [b"W" + b"\xff" * 40],
        [b"U" + bytes(8)],
        [b"S" + bytes(4)],
        [b"G" + bytes(4)],
        [b"?"],
        [b""],
        ["text"],
        [None],
    ],
    ids=range(27),
)
def test_messages_that_break_the_rules_are_refused_and_leave_no_file(
    scripted, popen: Gateway, dest: Path, messages: list[bytes]
) -> None:
    scripted(*messages)

    with pytest.raises(ProtocolError, match="rsync: "):
        RSync.fetch(popen, "x", dest)

    assert [name for name in os.listdir(dest) if name != "a"] == []
    assert not (dest / "a").is_file() or (dest / "a").read_bytes() == b"one"
    assert popen.call(abs, -1) == 1


def test_a_link_that_the_sender_planted_is_not_followed(scripted, popen: Gateway, dest: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    text = os.fsencode(outside)
    scripted(
        listed([(LINK, 0o777, len(text), b"trap"), (DIR, 0o755, 0, b"trap")], texts=[text]),
        listed([(FILE, 0o644, 3, b"file")], b"trap", number=2),
        b"L",
        small(2, b"bad"),
        b"T",
    )

    with suppress(ProtocolError):
        RSync.fetch(popen, "x", dest)

    assert os.listdir(outside) == []


def test_modes_bring_no_setuid_and_no_device(scripted, popen: Gateway, dest: Path) -> None:
    scripted(
        listed([(FILE, 0o6755, 3, b"file"), (DIR, 0o7777, 0, b"directory"), (FILE, 0o62755, 3, b"odd")]),
        listed([], b"directory", number=3, mode=0o7777),
        b"L",
        small(0, b"abc"),
        small(2, b"abc"),
        b"T",
    )

    RSync.fetch(popen, "x", dest)

    modes = {path.name: oct(path.stat().st_mode) for path in dest.iterdir()}
    assert modes == {"file": "0o100755", "directory": "0o41777", "odd": "0o100755"}


def test_more_than_was_allowed_is_refused(popen: Gateway, source: Path, dest: Path) -> None:
    for name in "abc":
        write(source / name, bytes(1000))

    with pytest.raises(ProtocolError, match="more than 2 names"):
        RSync.fetch(popen, source, dest, most_files=2)
    with pytest.raises(ProtocolError, match="more than 2999 bytes"):
        RSync.fetch(popen, source, dest, most_bytes=2999)
    RSync.fetch(popen, source, dest, most_files=3, most_bytes=3000)

    assert sorted(os.listdir(dest)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "messages",
    [
        [b"N" + struct.pack("!II", 1, 99 << 1), b"M"],
        [b"N" + struct.pack("!III", 1, 0, 0), b"M"],
        [b"N" + struct.pack("!I", 1) + b"x", b"M"],
        [b"A" + struct.pack("!I", 0)],
        [b"R" + struct.pack("!I", 0)],
        [b"m" + bytes(36)],
        [b"s" + bytes(21)],
        [b"M"],
        [b"/etc/passwd"],
        [b"Z"],
        ["N"],
    ],
    ids=range(11),
)
def test_a_receiver_gets_only_what_was_listed_and_only_once(
    scripted, popen: Gateway, source: Path, messages: list[bytes]
) -> None:
    write(source / "a", b"1")
    scripted(*messages)
    rsync = RSync(source, verbose=False)
    rsync.add_target(popen, "x")

    with pytest.raises(ProtocolError, match="rsync: "):
        rsync.send()

    assert popen.call(abs, -1) == 1


# -- races


@contextmanager
def swapping(path: Path, other: Path) -> Iterator[threading.Event]:
    """Make *path* a link to *other* and itself again, as fast as can be."""
    kept = path.with_name("kept")
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with suppress(OSError):
                path.rename(kept)
                os.symlink(other, path)
                path.unlink()
                kept.rename(path)
            if kept.is_dir() and path.is_dir():  # the copy has replaced the link by a directory of its own
                shutil.rmtree(kept)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_link_swapped_in_while_the_tree_is_read_leaks_nothing(
    popen: Gateway, source: Path, tmp_path: Path, what: str
) -> None:
    canary = b"canary"
    write(tmp_path / "outside/secret", canary)
    write(source / "sub/secret", b"harmless")
    path = source / "sub" if what == "directory" else source / "sub/secret"
    other = tmp_path / "outside" if what == "directory" else tmp_path / "outside/secret"

    with swapping(path, other):
        for number in range(60):
            dest = tmp_path / f"dest{number}"
            rsync = RSync(source, verbose=False)
            rsync.add_target(popen, dest)
            rsync.send()

    copies = [path for path in tmp_path.glob("dest*/**/*") if path.is_file() and not path.is_symlink()]
    assert [path for path in copies if path.read_bytes() == canary and "outside" not in os.path.realpath(path)] == []


def test_a_link_swapped_in_while_the_copy_is_written_leads_nowhere(
    worker: Gateway, source: Path, dest: Path, tmp_path: Path
) -> None:
    if worker.kind == "jython":
        pytest.skip("its standard library has no way to open without following links")
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(20):
        write(source / f"sub/{number}", noise(100, number))
    (dest / "sub").mkdir(parents=True)

    with swapping(dest / "sub", outside):
        for number in range(30):
            write(source / "sub/0", noise(200 + number, number), mtime=OLD + number * 1_000_000)
            rsync = RSync(source, verbose=False)
            rsync.add_target(worker, dest)
            rsync.send()

    assert os.listdir(outside) == []


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(group: Group, source: Path, dest: Path) -> None:
    write(source / "big", noise(100_000))
    dest.mkdir()
    os.mkfifo(dest / "big")
    rsync = RSync(source, verbose=False)
    rsync.add_target(group.makegateway(), dest)

    rsync.send()

    assert stat.S_ISREG((dest / "big").stat().st_mode)
