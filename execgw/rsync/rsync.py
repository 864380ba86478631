"""RSync: a tree of this side to many targets, or one of a worker to this side."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..peer.trees.direct import identity
from . import fetch as _fetch
from . import ship
from .push import Events, Push, Target
from .report import Report, Skipped, TargetReport
from .tree import Tree, rules_of

if TYPE_CHECKING:
    from ..gateway import Gateway

LINKS = ("preserve", "copy", "skip", "error")
PROGRESS_STEP = 1 << 20  # bytes between two calls of progress


def check_links(links: str) -> None:
    """ValueError unless it is one of LINKS."""
    if links not in LINKS:
        raise ValueError(f"links must be one of {', '.join(map(repr, LINKS))}, not {links!r}")


class RSync:
    """Copies a directory of this side to directories of workers; only what differs is sent.

    Add targets, then send().  *callback(what, size, channel)* is called with "list" and the bytes that a target needs,
    then with "ack" and the size of each file that it has got.  With *verbose* each file that is sent is printed.

    links      "preserve" symbolic links, "copy" what they point to, "skip" them (told in the report), or "error"
    checksum   compare files of the same size by content, not by modification time
    dry_run    change nothing; the report says what would be done
    include, exclude   patterns in rsync's syntax, those of *include* first; or *filters*, rules such as "- *.pyc" in
               their own order, before both.  The method filter(path) can be overridden, too.
    delete_excluded    with delete=True, also what the patterns and filter() hide
    progress   progress(done, total) is called with bytes, of all targets together
    direct     a worker on this host that runs as this process does (popen) reads new files from the source itself;
               False: all that it gets goes through its channel
    """

    def __init__(
        self,
        sourcedir: str | os.PathLike[str],
        callback: Callable[[str, int, Any], object] | None = None,
        verbose: bool = True,
        *,
        links: str = "preserve",
        checksum: bool = False,
        dry_run: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        filters: Sequence[str] = (),
        delete_excluded: bool = False,
        progress: Callable[[int, int], object] | None = None,
        direct: bool = True,
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        check_links(links)
        self._sourcedir = str(sourcedir)
        self._verbose = verbose
        self._callback = callback
        self._links = links
        self._checksum = checksum
        self._dry_run = dry_run
        self._rules = rules_of(filters, include, exclude)
        self._delete_excluded = delete_excluded
        self._progress = progress
        self._direct = direct
        self._done = self._total = self._told = 0
        self._targets: list[Target] = []

    # -- to be overridden

    def filter(self, path: str) -> bool:
        """Whether to copy a path, which is that of this side; override it.  The source itself is not asked about."""
        return True

    def _report_send_file(self, gateway: Gateway, modified_rel_path: str) -> None:
        if self._verbose:
            print(f"{gateway} <= {modified_rel_path}")

    def _reports_files(self) -> bool:
        return bool(self._verbose) or type(self)._report_send_file is not RSync._report_send_file

    # -- targets

    def add_target(
        self,
        gateway: Gateway,
        destdir: str | os.PathLike[str],
        finishedcallback: Callable[[], None] | None = None,
        delete: bool = False,
    ) -> None:
        """Copy to *destdir* of a worker, which is made if it is not there; relative to the worker's directory.

        *delete* removes what is there and not in the source, but for what is hidden by patterns or filter().
        *finishedcallback()* is called when this target has all.
        """
        dest = os.fsencode(destdir)
        if b"\0" in dest or not dest:
            raise ValueError(f"{destdir!r} is no directory")
        judged = delete and not self._delete_excluded and (bool(self._rules) or self._filters())
        options = {
            b"role": b"receiver",
            b"path": dest,
            b"source": os.fsencode(os.path.abspath(self._sourcedir)),
            b"delete": b"1" if delete else b"0",
            b"checksum": b"1" if self._checksum else b"0",
            b"dry_run": b"1" if self._dry_run else b"0",
            b"judge": b"1" if judged else b"0",
        }
        if self._direct and ship.is_ours(gateway):
            with contextlib.suppress(OSError):  # told by send()
                options[b"direct"] = identity(os.stat(self._sourcedir))
        self._targets.append(Target(gateway, os.fsdecode(destdir), finishedcallback, options))

    def _filters(self) -> bool:
        return type(self).filter is not RSync.filter or "filter" in vars(self)

    # -- sending

    def send(self, raises: bool = True) -> Report:
        """Copy to all targets that were added since the last send(); return the Report.

        A path that cannot be copied is no error: it is in the report, with the reason, and the rest is copied.
        Raises OSError if there are no targets (an empty report without *raises*), or if the source or a destination
        cannot be opened; ConnectionLost if a worker dies.  What went wrong with one target is raised after the
        others have finished.
        """
        targets, self._targets = self._targets, []
        if not targets:
            if raises:
                raise OSError("no targets: call add_target() before each send()")
            return Report()
        try:
            tree = Tree(
                os.path.dirname(os.path.join(self._sourcedir, "x")),
                self._rules,
                self.filter if self._filters() else None,
                self._links,
                not self._delete_excluded,
                len(targets) > 1,
            )
        except BaseException:
            for target in targets:
                target.channel.close()
            raise
        try:
            if self._links == "error":
                tree.list_all()
                self._refuse_links(tree)
            return self._send(targets, tree)
        finally:
            for target in targets:
                target.channel.close()
            tree.close()

    def _refuse_links(self, tree: Tree) -> None:
        links = [os.fsdecode(path) for path, text in tree.problems if "symbolic link" in text]
        if links:
            more = f" and {len(links) - 3} more" if len(links) > 3 else ""
            names = ", ".join(map(repr, links[:3]))
            raise ValueError(f"{self._sourcedir!r} has symbolic links: {names}{more}; links='error' takes none")

    def _send(self, targets: list[Target], tree: Tree) -> Report:
        self._done = self._total = self._told = 0
        report = Report()
        if len(targets) == 1:
            push = Push(self, targets[0], tree, lambda function, *args: function(*args), self._dry_run)
            report.targets.append(push.transfer())
            self._finish(push)
        else:
            self._send_all(targets, tree, report)
        problems = [Skipped(os.fsdecode(path), text) for path, text in tree.problems]
        for each in report.targets:
            each.skipped[:0] = problems
        if self._progress is not None:
            self._progress(self._total, self._total)
        return report

    def _send_all(self, targets: list[Target], tree: Tree, report: Report) -> None:
        events = Events()
        pushes = [Push(self, target, tree, events.tell, self._dry_run) for target in targets]
        failed: list[BaseException] = []

        def run(push: Push) -> None:
            try:
                push.transfer()
                events.tell(self._finish, push)
            except BaseException as e:
                failed.append(e)
            finally:
                events.ended()

        threads = [threading.Thread(target=run, args=(push,), name="execgw rsync", daemon=True) for push in pushes]
        for thread in threads:
            thread.start()
        try:
            events.run(len(threads))
        finally:
            for target in targets:  # a hook that raised, or Ctrl-C: whoever still sends finds its channel closed
                target.channel.close()
            for thread in threads:
                thread.join()
        if failed:
            raise failed[0]
        report.targets.extend(push.report for push in pushes)

    def _finish(self, push: Push) -> None:
        if push.target.finished is not None:
            push.target.finished()

    def _add_total(self, count: int) -> None:
        self._total += count
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _add_done(self, count: int) -> None:
        self._done += count
        if self._progress is not None and self._done - self._told >= PROGRESS_STEP:
            self._told = self._done
            self._progress(self._done, self._total)

    # -- the other direction

    @staticmethod
    def fetch(
        gateway: Gateway,
        remotedir: str | os.PathLike[str],
        destdir: str | os.PathLike[str],
        *,
        delete: bool = False,
        links: str = "preserve",
        checksum: bool = False,
        dry_run: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        filters: Sequence[str] = (),
        delete_excluded: bool = False,
        progress: Callable[[int, int], object] | None = None,
        most_bytes: int | None = None,
        most_files: int | None = 10_000_000,
    ) -> Report:
        """Copy a directory of a worker to one of this side; return the Report.

        The worker is not trusted: it can make no file outside of *destdir*, no device, nothing setuid.  A tree with
        more than *most_files* names or *most_bytes* in all files is refused.  The other arguments are those of RSync.
        Raises OSError if one of the two cannot be opened, ProtocolError if the worker breaks the rules.
        """
        check_links(links)
        rules = rules_of(filters, include, exclude)
        how = _fetch.How(
            os.fsencode(remotedir),
            os.fsencode(destdir),
            rules,
            links,
            delete,
            checksum,
            dry_run,
            delete_excluded,
            progress,
            most_bytes,
            most_files,
        )
        report: TargetReport = _fetch.fetch(gateway, how)
        return Report([report])
