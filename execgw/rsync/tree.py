"""The source tree of a run, listed and read once for all its targets."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from ..peer.trees import places
from ..peer.trees.files import Content
from ..peer.trees.listing import DIR, FILE, HARD, LINK, Patterns, Walk, as_rules

MOST_KEPT = 32 << 20  # bytes that were read for one target and may serve another


def rules_of(filters: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """One list of rules in rsync's syntax; ValueError for what is none."""
    for name, given in (("filters", filters), ("include", include), ("exclude", exclude)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list of patterns, not the text {given!r}")
    rules = [*filters, *(f"+ {pattern}" for pattern in include), *(f"- {pattern}" for pattern in exclude)]
    if any("\n" in rule or "\0" in rule for rule in rules):
        raise ValueError("a pattern cannot have a line end or a NUL")
    Patterns(rules)
    return rules


class Tree:
    """Lists *sourcedir* as it is asked for; several threads may iterate over `lists()` and read `content`."""

    def __init__(
        self,
        sourcedir: str,
        rules: Sequence[str],
        keep: Callable[[str], bool] | None,
        links: str,
        protect: bool,
        shared: bool,
    ) -> None:
        self.sourcedir = sourcedir
        self.patterns = Patterns(as_rules(rules))
        self.keep = keep
        self.problems: list[tuple[bytes, str]] = []
        hide = self.hides if rules or keep is not None else None
        root = places.open_root(os.fsencode(sourcedir))
        self.walk = Walk(root, hide, self._told, links, protect)
        self.content = SharedContent(self.walk) if shared else Content(self.walk)
        self._lock = threading.Lock()
        self._messages: list[bytes] = []
        self._rest: Iterator[bytes] | None = iter(self.walk)
        self._shared = shared

    def close(self) -> None:
        self.walk.places.close()

    def _told(self, path: bytes, text: str) -> None:
        self.problems.append((path, text))

    def hides(self, path: bytes, is_dir: bool) -> bool:
        """Whether a path is hidden by the patterns, or by the filter of the user."""
        if self.patterns.hides(path, is_dir):
            return True
        return self.keep is not None and not self.keep(os.path.join(self.sourcedir, os.fsdecode(path)))

    def may_delete(self, names: list[tuple[bytes, bool]]) -> list[bool]:
        """For (path, is directory): what is hidden, or in a hidden directory, stays."""
        hidden: dict[bytes, bool] = {}

        def is_hidden(path: bytes, is_dir: bool) -> bool:
            if not path:
                return False
            if path not in hidden:
                hidden[path] = is_hidden(path.rpartition(b"/")[0], True) or self.hides(path, is_dir)
            return hidden[path]

        return [not is_hidden(path, is_dir) for path, is_dir in names]

    def lists(self) -> Iterator[bytes]:
        """The messages that list the tree; listed once, whoever asks first."""
        if not self._shared and self._rest is not None and not self._messages:
            rest, self._rest = self._rest, None
            yield from rest
            return
        at = 0
        while True:
            with self._lock:
                if at == len(self._messages):
                    message = next(self._rest, None) if self._rest is not None else None
                    if message is None:
                        self._rest = None
                        return
                    self._messages.append(message)
                message = self._messages[at]
            at += 1
            yield message

    def list_all(self) -> None:
        """List the whole tree now."""
        self._messages.extend(self._rest or ())
        self._rest = None

    @property
    def counts(self) -> tuple[int, int]:
        """(files, directories)"""
        counts = self.walk.counts
        return counts[FILE] + counts[LINK] + counts[HARD], counts[DIR]


class SharedContent(Content):
    """What was read for one target is kept for a while for the others."""

    def __init__(self, walk: Walk) -> None:
        super().__init__(walk)
        self._lock = threading.RLock()
        self._kept: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()
        self._size = 0

    def _keep(self, key: tuple[int, int], found: tuple[bytes, int]) -> None:
        self._kept[key] = found
        self._size += len(found[0])
        while self._size > MOST_KEPT:
            self._size -= len(self._kept.popitem(last=False)[1][0])

    def open(self, number: int) -> tuple[int, os.stat_result]:
        with self._lock:
            found: tuple[int, os.stat_result] = super().open(number)
            return found

    def stat(self, number: int, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def whole(self, number: int) -> tuple[bytes, int]:
        with self._lock:
            found = self._kept.get((number, -1))
            if found is None:
                found = super().whole(number)
                self._keep((number, -1), found)
            return found

    def digest(self, number: int) -> bytes:
        with self._lock:
            return super().digest(number)

    def piece(self, number: int, fd: int, offset: int, size: int) -> bytes:
        with self._lock:
            found = self._kept.get((number, offset))
            if found is not None and found[1] == size:
                return found[0]
            data = os.pread(fd, size, offset)
            self._keep((number, offset), (data, size))
            return data
