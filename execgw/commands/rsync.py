"""execgw rsync SRC [SPEC//]DEST...: copies a tree to workers, or from one; only what differs travels."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import ExecgwError
from ..group import Group
from ..peer.compat import clock
from ..rsync import Report, RSync
from . import new_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from . import Commands

EXAMPLES = """
A place is a path of this host, or SPEC//PATH: ssh=build7//work is `work` in the home directory there, and
ssh=build7///work is /work.  As with rsync, SRC/ stands for what is in the directory, SRC for the directory itself.
Modes, times, links and hard links are kept (rsync -a without owners); of a changed big file only the change is sent.

examples:
  execgw rsync -v --delete src/ ssh=build7//src
  execgw rsync --exclude '*.pyc' src/ ssh=a//src ssh=b//src popen//python=jython///tmp/src
  execgw rsync ssh=build7//results .

exit codes: 0 all is copied, 23 something was not (it is told), 24 files vanished meanwhile, 1 nothing was done.
"""
_PART = re.compile(r"(?:popen|[A-Za-z_]\w*(?::\w+)?=.*?)\Z")


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "rsync", "copy a tree to workers, or from one; only what differs travels", EXAMPLES)
    _add_arguments(parser)
    parser.set_defaults(run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `execgw-rsync`."""
    parser = argparse.ArgumentParser(
        prog="execgw-rsync", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return 20  # as rsync's


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a directory or file of this host, or SPEC//PATH")
    parser.add_argument("dest", metavar="DEST", nargs="+", help="a directory of this host, or SPEC//PATH")
    flag = parser.add_argument
    flag("-a", "--archive", action="store_true", help="does nothing: it is always so")
    flag("-n", "--dry-run", action="store_true", help="change nothing; say what would be done")
    flag("-v", "--verbose", action="store_true", help="name each file, and sum up")
    flag("-c", "--checksum", action="store_true", help="compare by content, not by size and time")
    flag(
        "-L",
        "--copy-links",
        action="store_const",
        const="copy",
        dest="links",
        default="preserve",
        help="the same as --links=copy",
    )
    flag("--links", choices=["preserve", "copy", "skip", "error"], default="preserve", help="what is done with links")
    flag("--delete", action="store_true", help="delete what is not in SRC, but for what the patterns hide")
    flag("--delete-excluded", action="store_true", help="the same, and what the patterns hide, too")
    flag("--exclude", action=_Rule, default=[], metavar="P", dest="filters", help="leave out what matches the pattern")
    flag("--include", action=_Rule, default=[], metavar="P", dest="filters", help="but not this; the first one decides")
    flag("-f", "--filter", action=_Rule, default=[], metavar="RULE", dest="filters", help="'- PATTERN' or '+ PATTERN'")
    flag("--progress", action="store_true", help="show how far it is")
    flag("--stats", action="store_true", help="sum up at the end")


class _Rule(argparse.Action):
    """Patterns of all options, in one order."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        sign = {"--exclude": "- ", "--include": "+ "}.get(option or "", "")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), sign + values])


def split_place(place: str) -> tuple[str | None, str]:
    """(spec, path) of an argument; None for a path of this host."""
    parts: list[str] = []
    rest = place
    while "//" in rest:
        part, _, behind = rest.partition("//")
        if not _PART.match(part):
            break
        parts.append(part)
        rest = behind
    if not parts:
        return None, place
    return "//".join(parts), rest or "."


def run(args: argparse.Namespace) -> int:
    """Copy; returns the exit code."""
    spec, source = split_place(args.src)
    try:
        with _progress(args.progress) as show, Group() as group:
            report = _push(args, group, source, show) if spec is None else _fetch(args, group, spec, source, show)
    except (ValueError, OSError, ExecgwError) as e:
        print(f"execgw rsync: {e}", file=sys.stderr)
        return 1
    for skipped in report.skipped:
        print(f"{skipped.path}: {skipped.reason}", file=sys.stderr)
    if args.verbose or args.stats or args.dry_run:
        _sum_up(report, args)
    return report.exit_code


def _push(args: argparse.Namespace, group: Group, source: str, show: Callable[[int, int], None] | None) -> Report:
    filters = list(args.filters)
    below = "" if source.endswith(os.sep) or os.path.basename(source) in (".", "..") else os.path.basename(source)
    if os.path.isfile(source):
        name = re.sub(r"([*?\[\\])", r"\\\1", os.path.basename(source))
        source, below, filters = os.path.dirname(source) or ".", "", [f"+ /{name}", "- *"]
    elif not os.path.isdir(source):
        raise ValueError(f"{source!r} is neither a directory nor a file of this host")
    rsync = _Printing(
        source,
        verbose=args.verbose,
        links=args.links,
        checksum=args.checksum,
        dry_run=args.dry_run,
        filters=filters,
        delete_excluded=args.delete_excluded,
        progress=show,
    )
    places = [split_place(dest) for dest in args.dest]
    specs = [spec or "popen" for spec, _ in places]
    for gateway, (spec, dest) in zip(group.makegateways(specs), places, strict=True):
        path = os.path.join(dest, below) if below else dest
        there = os.path.abspath(path) if spec is None else path
        rsync.add_target(gateway, there, delete=args.delete or args.delete_excluded)
    return rsync.send()


class _Printing(RSync):
    """Names each file once, whatever the number of targets."""

    _named: str | None = None

    def _report_send_file(self, gateway: object, modified_rel_path: str) -> None:
        if self._verbose and modified_rel_path != self._named:
            self._named = modified_rel_path
            print(modified_rel_path.encode("utf-8", "backslashreplace").decode())


def _fetch(
    args: argparse.Namespace, group: Group, spec: str, source: str, show: Callable[[int, int], None] | None
) -> Report:
    if len(args.dest) > 1 or split_place(args.dest[0])[0] is not None:
        raise ValueError(f"with a source behind {spec!r} there is one DEST, a directory of this host")
    dest = args.dest[0]
    if not source.endswith("/") and os.path.basename(source) not in (".", ".."):
        dest = os.path.join(dest, os.path.basename(source))
    report = RSync.fetch(
        group.makegateway(spec),
        source,
        dest,
        delete=args.delete or args.delete_excluded,
        links=args.links,
        checksum=args.checksum,
        dry_run=args.dry_run,
        filters=args.filters,
        delete_excluded=args.delete_excluded,
        progress=show,
    )
    if args.verbose:
        for path in report[0].sent:
            print(path.encode("utf-8", "backslashreplace").decode())
    return report


def _sum_up(report: Report, args: argparse.Namespace) -> None:
    """Like rsync --stats."""
    for target in report:
        if args.verbose or args.dry_run:
            for path in target.deleted:
                print("deleting", path.encode("utf-8", "backslashreplace").decode())
        if args.dry_run and not args.verbose:
            for path in target.sent:
                print(path.encode("utf-8", "backslashreplace").decode())
        print(f"{target.gateway}:{target.destdir}{' (dry run)' if target.dry_run else ''}")
        print(f"  files: {target.files:,} ({target.total_bytes:,} bytes), directories: {target.dirs:,}")
        print(f"  sent: {target.files_sent:,}, links made: {target.links + target.hard_links:,}", end="")
        print(f", deleted: {len(target.deleted):,}, not copied: {len(target.skipped):,}")
        print(f"  bytes out: {target.bytes_sent:,}, in: {target.bytes_received:,}", end="")
        rate = (target.bytes_sent + target.bytes_received) / max(target.seconds, 1e-6)
        print(f", saved: {target.bytes_saved:,}; {target.seconds:.2f} s, {rate:,.0f} bytes a second")


# -- progress


def _progress(wanted: bool) -> AbstractContextManager[Callable[[int, int], None] | None]:
    if not wanted:
        return nullcontext()
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return _plain_bar()
    return _rich_bar()


@contextmanager
def _rich_bar() -> Iterator[Callable[[int, int], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rsync", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _plain_bar() -> Iterator[Callable[[int, int], None]]:
    begun = clock()
    last = [begun]

    def show(done: int, total: int) -> None:
        now = clock()
        if now - last[0] < 0.5 and done < total:
            return
        last[0] = now
        rate = done / max(now - begun, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        share = 100 * done // total if total else 100
        print(f"\r{done:,} of {total:,} bytes, {share} %, {rate / 1e6:.1f} MB/s{left}   ", end="", file=sys.stderr)

    yield show
    print(file=sys.stderr)
