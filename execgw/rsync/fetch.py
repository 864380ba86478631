"""The other direction: the far side sends, and this side is a Receiver that believes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RemoteProtocolError
from ..peer.compat import clock
from ..peer.trees.contents import ID
from ..peer.trees.listing import FILE, Malformed, Patterns, as_rules
from ..peer.trees.places import join
from ..peer.trees.receive import Receiver
from . import ship
from .push import MOST_SKIPPED, shown
from .report import Skipped, TargetReport

if TYPE_CHECKING:
    from ..channel import Channel
    from ..gateway import Gateway


@dataclass(frozen=True)
class How:
    """What RSync.fetch was asked for."""

    remotedir: bytes
    destdir: bytes
    rules: list[str]
    links: str
    delete: bool
    checksum: bool
    dry_run: bool
    delete_excluded: bool
    progress: Callable[[int, int], object] | None
    most_bytes: int | None
    most_files: int | None


class _Wire:
    """A channel whose bytes are counted; what the Receiver tells the sender of problems, the report hears, too."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.sent = self.received = 0
        self.receiver: Fetch | None = None

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        if self.receiver is not None:
            self.receiver.said(data)
        self.channel.send(data)

    def receive(self) -> Any:
        item = self.channel.receive()
        if isinstance(item, bytes):
            self.received += len(item)
        return item


class Fetch(Receiver):
    """The near side as receiver."""

    def __init__(self, wire: _Wire, how: How, report: TargetReport) -> None:
        options = {
            "path": how.destdir,
            "delete": how.delete,
            "checksum": how.checksum,
            "dry_run": how.dry_run,
            "judge": how.delete and not how.delete_excluded and bool(how.rules),
            "most_bytes": how.most_bytes,
            "most_files": how.most_files,
        }
        super().__init__(wire, options)
        self.how = how
        self.report = report
        self.names: dict[int, bytes] = {}
        self.patterns = Patterns(as_rules(how.rules))
        self.needed = self.done = self.told = 0
        wire.receiver = self
        self.hear[b"!"] = self._unreadable
        self.hear[b"@"] = self._source_is
        self.hear[b"Q"] = self._refused

    def _refused(self, data: bytes) -> None:
        raise OSError(data[1:2000].decode("utf-8", "replace"))

    def _source_is(self, data: bytes) -> None:
        if self.source or self.listed:
            raise Malformed("a second source")
        self.source = data[1:5000]

    def _unreadable(self, data: bytes) -> None:
        path, _, text = data[1:20000].partition(b"\0")
        if len(self.report.skipped) >= MOST_SKIPPED:
            raise Malformed(f"more than {MOST_SKIPPED} paths that it cannot read")
        reason = text.decode("utf-8", "replace")
        gone = reason == os.strerror(2)
        reason = "it vanished while the tree was copied" if gone else reason
        self.report.skipped.append(Skipped(shown(path), reason, gone))

    def _entries(self, path: bytes, number: int, entries: list[Any], texts: Any, out: list[int]) -> None:
        for offset, (kind, _, size, _, name) in enumerate(entries):
            if kind == FILE:
                self.report.files += 1
                self.report.total_bytes += size
            self.names[number + offset] = join(path, name)
        super()._entries(path, number, entries, texts, out)

    def _all_listed(self, data: bytes) -> None:
        self.needed = sum(each.size for each in self.writer.wanted.values())
        super()._all_listed(data)

    def would_send(self) -> list[str]:
        """In a dry run: what is left of what is wanted."""
        return sorted(shown(join(each.directory, each.name)) for each in self.writer.wanted.values())

    def _judge(self) -> None:
        hidden: set[bytes] = set()
        for path, is_dir in self.asked:
            if path.rpartition(b"/")[0] in hidden or self.patterns.hides(path, is_dir):
                hidden.add(path)
        self.judged = [path not in hidden for path, _ in self.asked]

    def said(self, data: bytes) -> None:
        """What this side tells the other."""
        kind = data[:1]
        if kind == b"A":
            for at in range(1, len(data), 4):
                self.report.files_sent += 1
                self.report.sent.append(shown(self.names[ID.unpack_from(data, at)[0]]))
        elif kind == b"P":
            (number,) = ID.unpack_from(data, 1)
            text = data[5:].decode("utf-8", "replace")
            path = shown(self.names[number]) if number in self.names else ""
            if number == 0 and ": " in text:
                path, _, text = text.partition(": ")
            self.report.skipped.append(Skipped(path, text))
        elif kind == b"K":
            self.report.deleted.extend(map(shown, data[1:].split(b"\0")))

    def on_item(self) -> None:
        done = self.writer.bytes
        if self.how.progress is not None and done - self.told >= 1 << 20:
            self.told = done
            self.how.progress(min(done, self.needed), self.needed)


def fetch(gateway: Gateway, how: How) -> TargetReport:
    """See RSync.fetch."""
    begun = clock()
    options = {
        b"role": b"sender",
        b"path": how.remotedir,
        b"links": how.links.encode(),
        b"rules": "\n".join(as_rules(how.rules)).encode("latin-1"),
        b"protect": b"0" if how.delete_excluded else b"1",
        b"dry_run": b"1" if how.dry_run else b"0",
    }
    report = TargetReport(gateway.id, shown(how.destdir), dry_run=how.dry_run)
    channel = ship.start(gateway, options)
    wire = _Wire(channel)
    try:
        receiver = Fetch(wire, how, report)
        receiver.run()
    except Malformed as e:
        raise RemoteProtocolError(f"gateway {gateway.id!r}: rsync: {e}") from e
    finally:
        channel.close()
        report.seconds = clock() - begun
    ship.started(gateway)
    totals = receiver.totals
    if how.dry_run:
        report.sent = receiver.would_send()
        report.files_sent = len(report.sent)
    report.links, report.hard_links = totals["links"], totals["hard"]
    report.dirs_made, report.modes_changed = totals["made"], totals["meta"]
    report.bytes_sent, report.bytes_received = wire.sent, wire.received
    if how.progress is not None:
        how.progress(receiver.needed, receiver.needed)
    return report
