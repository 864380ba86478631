"""One target of a run: a Sender that keeps its report and tells the hooks of the RSync."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import RemoteProtocolError
from ..peer.compat import clock
from ..peer.trees.contents import reason
from ..peer.trees.listing import Malformed
from ..peer.trees.send import Sender
from . import ship
from .report import Skipped, TargetReport

if TYPE_CHECKING:
    from ..channel import Channel
    from ..gateway import Gateway
    from .rsync import RSync
    from .tree import Tree

MOST_SKIPPED = 100_000  # sentences that the far side may say, beside one for each file
MOST_DELETED = 10_000_000
Tell = Callable[..., None]


def shown(path: bytes) -> str:
    return os.fsdecode(path)


class Target:
    """Where to, and what to do when it is there.  The far half is started at once, and waits."""

    def __init__(
        self, gateway: Gateway, destdir: str, finished: Callable[[], None] | None, options: dict[bytes, bytes]
    ) -> None:
        self.gateway = gateway
        self.destdir = destdir
        self.finished = finished
        self.direct = b"direct" in options
        self.channel: Channel = ship.start(gateway, options)


class Push(Sender):
    """The run to one target.  *tell(function, *args)* calls a hook in the thread that waits in RSync.send()."""

    def __init__(self, rsync: RSync, target: Target, tree: Tree, tell: Tell, dry: bool) -> None:
        super().__init__(target.channel, tree.content, tree.lists(), dry)
        self.rsync = rsync
        self.target = target
        self.direct = target.direct
        self.tree = tree
        self.tell = tell
        self.report = TargetReport(target.gateway.id, target.destdir, dry_run=dry)
        self._reports = rsync._reports_files()
        self._callback = rsync._callback
        self._progress = rsync._progress is not None
        self.judge = tree.may_delete  # type: ignore[method-assign]
        self.problems: dict[int, str] = {}

    def transfer(self) -> TargetReport:
        """Run it; what the far side does against the rules is a RemoteProtocolError."""
        begun = clock()
        try:
            self.run()
        except Malformed as e:
            raise RemoteProtocolError(f"gateway {self.target.gateway.id!r}: rsync: {e}") from e
        finally:
            self.report.seconds = clock() - begun
            if self.totals is None:
                self.target.channel.close()
        self.target.channel.close()  # all was said; a far side that goes on holds nobody up
        ship.started(self.target.gateway)
        report = self.report
        report.files, report.dirs = self.tree.counts
        report.total_bytes = self.tree.walk.bytes
        report.bytes_sent, report.bytes_received, report.bytes_saved = self.sent, self.received, self.saved
        _, report.links, _, report.hard_links, report.dirs_made, report.modes_changed = self.totals or (0,) * 6
        return report

    # -- what the Sender says

    def on_listed(self) -> None:
        needed = self.full + self.changed
        total = sum(self.files[number][2] for number in needed)
        if self.dry:
            self.report.files_sent = len(needed)
            self.report.sent = [shown(self.content.path(number)) for number in sorted(needed)]
        if self._callback is not None:
            self.tell(self._callback, "list", total, self.channel)
        if self._progress:
            self.tell(self.rsync._add_total, total)

    def on_send(self, number: int) -> None:
        if self._reports:
            self.tell(self.rsync._report_send_file, self.target.gateway, shown(self.content.path(number)))

    def on_done(self, number: int) -> None:
        self.report.files_sent += 1
        self.report.sent.append(shown(self.content.path(number)))
        if self._callback is not None:
            self.tell(self._callback, "ack", self.files[number][2], self.channel)

    def on_bytes(self, count: int) -> None:
        if self._progress:
            self.tell(self.rsync._add_done, count)

    def on_problem(self, number: int, text: str) -> None:
        if len(self.report.skipped) >= MOST_SKIPPED + len(self.known):
            raise Malformed("more problems than there are files")
        self.report.skipped.append(Skipped(*self._place(number, text)))

    def _place(self, number: int, text: str) -> tuple[str, str]:
        walk = self.tree.walk
        if number in self.files:
            return shown(self.content.path(number)), text
        if number in walk.dirs:
            return shown(walk.dirs[number]), text
        if number in walk.others:
            directory, name = walk.others[number]
            return os.path.join(shown(directory), name), text
        path, colon, rest = text.partition(": ")
        return (path, rest) if colon else ("", text)

    def on_unreadable(self, number: int, error: Exception) -> None:
        gone = isinstance(error, FileNotFoundError)
        text = "it vanished while the tree was copied" if gone else f"cannot read it: {reason(error)}"
        self.report.skipped.append(Skipped(shown(self.content.path(number)), text, gone))

    def on_deleted(self, paths: list[bytes]) -> None:
        if len(self.report.deleted) + len(paths) > MOST_DELETED:
            raise Malformed(f"more than {MOST_DELETED} names are said to be deleted")
        self.report.deleted.extend(map(shown, paths))


class Events:
    """Calls of other threads, made in the one that waits."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tell(self, function: Callable[..., object], *args: object) -> None:
        """Have it called."""
        self._calls.put((function, args))

    def ended(self) -> None:
        """One of the threads has nothing more to say."""
        self._calls.put(None)

    def run(self, threads: int) -> None:
        """Make the calls until so many threads have ended."""
        while threads:
            call = self._calls.get()
            if call is None:
                threads -= 1
            else:
                call[0](*call[1])
