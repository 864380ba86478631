"""What a run has done: a Report, with one TargetReport for each target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Skipped:
    """A path that was not copied as asked, and why, in one sentence."""

    path: str
    reason: str
    vanished: bool = False  # it was there when the tree was listed


@dataclass
class TargetReport:
    """One target.

    files, dirs       in the source; total_bytes is the size of all files
    files_sent        of which content went over, or would go in a dry run; `sent` are their paths
    bytes_sent, bytes_received   on the wire, as the near side sees it, without the frames around them
    bytes_saved       that were there already, in an older file or one of another name
    links, hard_links made;  dirs_made;  modes_changed;  deleted: the paths
    """

    gateway: str
    destdir: str
    files: int = 0
    dirs: int = 0
    total_bytes: int = 0
    files_sent: int = 0
    sent: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_saved: int = 0
    links: int = 0
    hard_links: int = 0
    dirs_made: int = 0
    modes_changed: int = 0
    deleted: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    dry_run: bool = False

    def __str__(self) -> str:
        would = "would send" if self.dry_run else "sent"
        parts = [
            f"{self.gateway}:{self.destdir}: {would} {self.files_sent} of {self.files} files",
            f"{self.bytes_sent:,} bytes out, {self.bytes_received:,} in, {self.bytes_saved:,} saved",
        ]
        counts = [
            ("links", self.links + self.hard_links),
            ("deleted", len(self.deleted)),
            ("skipped", len(self.skipped)),
        ]
        parts += [f"{count} {name}" for name, count in counts if count]
        return ", ".join(parts) + f", {self.seconds:.2f} s"


@dataclass
class Report:
    """All targets of one run, in the order in which they were added.  True if nothing was skipped."""

    targets: list[TargetReport] = field(default_factory=list)

    def __iter__(self) -> Iterator[TargetReport]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> TargetReport:
        return self.targets[index]

    def __bool__(self) -> bool:
        return not self.skipped

    @property
    def skipped(self) -> list[Skipped]:
        """Of all targets."""
        return [skipped for target in self.targets for skipped in target.skipped]

    @property
    def files_sent(self) -> int:
        """To all targets."""
        return sum(target.files_sent for target in self.targets)

    @property
    def bytes_sent(self) -> int:
        """To all targets, on the wire."""
        return sum(target.bytes_sent for target in self.targets)

    @property
    def exit_code(self) -> int:
        """As the rsync command ends: 0, 24 if files have only vanished, 23 if anything else was skipped."""
        if not self.skipped:
            return 0
        return 24 if all(skipped.vanished for skipped in self.skipped) else 23

    def __str__(self) -> str:
        return "\n".join(map(str, self.targets))
