"""Trees over links that are not trusted, or not direct: ssh, and a gateway behind another; several kinds at once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from sshd import Sshd, sshd_fixture  # noqa: F401
from trees import OLD, build, describe, noise, write
from workers import dest_fixture, source_fixture  # noqa: F401

from execgw import Group, RSync

HERE = shlex.quote(sys.executable)


def test_a_tree_goes_over_ssh_and_back(sshd: Sshd, group: Group, source: Path, dest: Path, tmp_path: Path) -> None:
    build(source, write(tmp_path / "outside"))
    gateway = group.makegateway(f"{sshd.spec}//python={HERE}")
    rsync = RSync(source, verbose=False)
    rsync.add_target(gateway, dest)

    report = rsync.send()
    fetched = RSync.fetch(gateway, dest, tmp_path / "back")

    assert (report.skipped, fetched.skipped) == ([], [])
    assert describe(dest) == describe(tmp_path / "back") == describe(source)


def test_targets_of_several_kinds_get_what_each_needs(
    sshd: Sshd, group: Group, source: Path, tmp_path: Path, python: Callable[[str], str]
) -> None:
    content = noise(2 << 20)
    write(source / "big", b"!" + content)
    write(source / "small", b"1")
    group.makegateway("popen//id=master")
    specs = ["popen", "popen//via=master", f"popen//python={python('2.7.18')}", f"{sshd.spec}//python={HERE}"]
    places = [tmp_path / str(number) for number in range(len(specs))]
    write(places[1] / "big", content, mtime=OLD - 1)
    write(places[3] / "big", content, mtime=OLD - 1)
    rsync = RSync(source, verbose=False)
    for spec, place in zip(specs, places, strict=True):
        rsync.add_target(group.makegateway(spec), place)

    report = rsync.send()

    assert report.skipped == []
    for place in places:
        assert (place / "big").read_bytes() == b"!" + content
        assert (place / "small").read_bytes() == b"1"
    # The first is our own child and reads the source itself; the second and the last get what has changed.
    assert [target.bytes_sent > len(content) for target in report] == [False, False, True, False]
