"""The receiver: compares the lists that come with what is here, asks for what differs, and puts it there.

It believes nothing: every name is one plain name in a directory that was announced, every file one that it asked for.

    W lists of directories -> N what is needed      F B l z c h e U S O content -> A written, R once more
    L all is listed       -> E extra names, M files here that may have the content of wanted ones
    T all is sent         -> hard links, deletions, times of directories -> K deleted names, Z totals
"""

import os
import stat
import struct

from . import places
from .finish import MILLI, Finishing
from .listing import BROKEN, DIR, FILE, FIRST, HARD, HIDDEN, LAST, LINK, LINKED, Malformed, retarget, unpack
from .places import HAS_NS, Places, as_bytes, check_name, join, mtime_of, native, temp_name
from .contents import ID, reason
from .direct import Source
from .write import MODES, Wanted, Writer

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

FULL, DELTA = range(2)
WITH_CONTENT = frozenset([b"F", b"B", b"l", b"z", b"h", b"c", b"e", b"U", b"G", b"O"])
MOST_NEEDS = 10000  # in one message
MOST_ITEM = 32 << 20  # bytes of one message
TICK = 1 if HAS_NS else 2000  # nanoseconds by which the same time may differ
BAD_NAMES = frozenset([b"", b".", b".."])
TOTALS = ("links", "deleted", "hard", "made", "meta")


class Receiver(Finishing):
    """One run.  *options*: path, delete, checksum, dry_run, judge, source, most_bytes, most_files,
    direct (what tells the source from other directories, if this side may read it itself)."""

    def __init__(self, channel, options):
        # type: (Any, Dict[str, Any]) -> None
        self.channel = channel
        self.dry = bool(options.get("dry_run"))
        self.delete = bool(options.get("delete"))
        self.checksum = bool(options.get("checksum"))
        self.must_judge = bool(options.get("judge"))
        self.source = options.get("source") or b""
        self.most_bytes = options.get("most_bytes")
        self.most_files = options.get("most_files")
        self.is_root = getattr(os, "geteuid", lambda: 1)() == 0  # who needs no permission to write
        path = options["path"]
        there = native(path)
        self.path = as_bytes(os.path.abspath(there))
        self.is_new = not os.path.isdir(there)
        root = None if self.dry and self.is_new else places.open_root(path, create=True)
        self.places = Places(root)
        self.writer = Writer(self.places, channel.send, self.problem)
        direct = options.get("direct")
        self.direct = Source(self.source, direct, self.writer) if direct else None
        self.announced = {b"": (self.is_new, None)}  # type: Dict[bytes, Tuple[bool, Any]]
        self.refused = set()  # type: Any
        self.final = []  # type: List[Any]  # (path, mode, mtime, must be set)
        self.here = None  # type: Any
        self.current = None  # type: Optional[bytes]
        self.existing = {}  # type: Dict[bytes, Any]
        self.extras = []  # type: List[Tuple[bytes, bytes]]
        self.hard = []  # type: List[Tuple[int, bytes, bytes, int]]
        self.linkable = {}  # type: Dict[int, Tuple[bytes, bytes]]
        self.same_look = {}  # type: Dict[Tuple[int, int], Tuple[bytes, bytes]]
        self.totals = dict.fromkeys(TOTALS, 0)
        self.asked = []  # type: List[Tuple[bytes, bool]]
        self.judged = []  # type: List[int]
        self.answers = 0
        self.needs = []  # type: List[int]
        self.listed = 0
        self.listed_bytes = 0
        self.tick = TICK
        self.tick_known = False
        self.hear = {
            b"W": self._lists,
            b"L": self._all_listed,
            b"X": self._judged,
            b"F": self.writer.small,
            b"B": self.writer.begin,
            b"l": self.writer.literal,
            b"z": self.writer.packed,
            b"h": self.writer.holes,
            b"c": self.writer.copies,
            b"e": self.writer.end,
            b"U": self.writer.again,
            b"S": self.writer.give_up if self.dry else self.writer.same,
            b"G": self.writer.describe,
            b"V": self.writer.give_up,
        }
        if self.direct is not None:
            self.hear[b"O"] = self.direct.copy

    def problem(self, number, text):
        # type: (int, str) -> None
        """One sentence about one entry."""
        if not isinstance(text, bytes):
            text = text.encode("utf-8", "replace")  # type: ignore[assignment]
        self.channel.send(b"P" + ID.pack(number) + text)  # type: ignore[operator]

    def on_item(self):
        # type: () -> None
        """A message was dealt with; for subclasses."""

    def run(self):
        # type: () -> None
        """Until the sender has said that this is all."""
        try:
            while True:
                item = self.channel.receive()
                if not isinstance(item, bytes) or len(item) > MOST_ITEM:
                    raise Malformed("a message that is none")
                kind = item[:1]
                if kind == b"T":
                    break
                hear = self.hear.get(kind)
                if hear is None or (self.dry and kind in WITH_CONTENT):
                    raise Malformed("a message of kind %r" % (kind,))
                try:
                    hear(item)
                except struct.error:
                    raise Malformed("a message that is cut off")
                self.on_item()
            if not self.dry:
                self._finish()
            else:
                self._remove_extras()
            self.channel.send(b"Z" + struct.pack("!6q", self.writer.bytes, *[self.totals[k] for k in TOTALS]))
        finally:
            self.writer.close()
            if self.direct is not None:
                self.direct.close()
            if self.places.root is not None:
                self.places.close()

    # -- a directory

    def _listing(self, data):
        # type: (bytes) -> None
        number, flags, mode, mtime, path, entries, texts = unpack(data)
        if flags & FIRST:
            if path not in self.announced:
                raise Malformed("a list of %r, which is no known directory" % (path,))
            fresh, old = self.announced.pop(path)
            self.current = path
            self._enter(path, mode, mtime, fresh, old, flags)
        elif path != self.current:
            raise Malformed("a list of %r within another" % (path,))
        self.listed += len(entries)
        if self.most_files is not None and self.listed > self.most_files:
            raise Malformed("more than %d names" % self.most_files)
        self.answers += 1
        if path not in self.refused:
            self._entries(path, number, entries, iter(texts), self.needs)
        elif self.current is not None:
            for kind, _, _, _, name in entries:
                if kind == DIR:
                    self._announce(path, name, True, None)
                    self.refused.add(join(path, name))
        if flags & LAST:
            if not flags & BROKEN:
                self._extras(path)
            self.current = None
            self.existing = {}

    def _lists(self, data):
        # type: (bytes) -> None
        """Lists of several directories, and one answer to them."""
        at = 1
        while at < len(data):
            (size,) = ID.unpack_from(data, at)
            at += 4
            self._listing(data[at : at + size])
            at += size
            if len(self.needs) > MOST_NEEDS:
                self._answer()
        self._answer()

    def _answer(self):
        # type: () -> None
        needs, self.needs = self.needs, []
        self.channel.send(b"N" + ID.pack(self.answers) + struct.pack("!%dI" % len(needs), *needs))
        self.answers = 0

    def _announce(self, path, name, fresh, old):
        # type: (bytes, bytes, bool, Any) -> None
        self.announced[join(path, name)] = fresh, old

    def _enter(self, path, mode, mtime, fresh, old, flags):
        # type: (bytes, int, int, bool, Any, int) -> None
        """Open a directory here, and see what is in it."""
        self.existing = {}
        self.here = None
        if path in self.refused or (self.dry and fresh):
            return
        try:
            self.here = self.places[path]
            st = old or self.here.stat_self()
            locked = st.st_mode & 0o700 != 0o700 and not self.dry and os.name == "posix" and not self.is_root
            if locked:
                self.here.set_self(st.st_mode & MODES | 0o700, None)
            if not fresh:
                for name, status in self.here.scan():
                    self.existing[as_bytes(name)] = status
        except (OSError, ValueError) as e:
            self.problem(0, "%s: cannot open this directory: %s" % (path.decode("utf-8", "replace"), reason(e)))
            self.refused.add(path)
            return
        if not flags & BROKEN or mode:
            mode &= MODES | stat.S_ISVTX
            differs = fresh or locked or st.st_mode & 0o7777 != mode or abs(mtime_of(st) - mtime) >= self.tick
            self.final.append((path, mode, mtime, differs))

    def _entries(self, path, number, entries, texts, out):
        # type: (bytes, int, List[Any], Any, List[int]) -> None
        existing, take, tick = self.existing, self.existing.pop, self.tick
        is_regular = stat.S_ISREG
        for kind, mode, size, mtime, name in entries:
            if name in BAD_NAMES or b"/" in name or places.WINDOWS:
                try:
                    check_name(name)
                except places.Unsafe as e:
                    raise Malformed(str(e))
            old = take(name, None) if existing else None
            if kind == FILE:
                self.listed_bytes += size
                if mode & LINKED:
                    self.linkable[number] = path, name
                if old is not None and is_regular(old.st_mode):
                    if size >= 16384:
                        self.same_look[size, mtime_of(old) // MILLI] = path, name
                    if old.st_size == size and not self.checksum:
                        if -tick < mtime - mtime_of(old) < tick or self._coarse(path, mtime, mtime_of(old)):
                            if (old.st_mode ^ mode) & 0o777 or old.st_mode & 0o7000:
                                self._change_mode(path, number, name, mode)
                            number += 1
                            continue
                self._want(path, number, name, mode, size, mtime, old, out)
            elif kind == DIR:
                self._directory(path, number, name, old)
            elif kind == LINK:
                self._link(path, number, name, next(texts), mtime, old)
            elif kind == HARD:
                self.hard.append((number, path, name, size))
            elif kind != HIDDEN:
                raise Malformed("an entry of kind %r" % (kind,))
            number += 1
        if self.most_bytes is not None and self.listed_bytes > self.most_bytes:
            raise Malformed("more than %d bytes of files" % self.most_bytes)

    def _coarse(self, path, mtime, old):
        # type: (bytes, int, int) -> bool
        """Whether two times are the same to a file system that keeps no nanoseconds; tried when it may matter."""
        if old % 1000 or self.dry or abs(mtime - old) >= 2000000000:
            return False
        if not self.tick_known:
            self.tick_known = True
            self.tick = max(self.tick, self._find_tick())
        return abs(mtime - old) < self.tick

    def _find_tick(self):
        # type: () -> int
        temp = temp_name()
        root = self.places.root
        try:
            os.close(root.open(temp, places.CREATE, 0o600))
            root.utime(temp, 1234567891987654321)
            kept = mtime_of(root.stat(temp))
            root.unlink(temp)
            self.writer.touched.add(b"")
        except OSError:
            return TICK
        return abs(1234567891987654321 - kept) * 2 if kept % 1000 == 0 else TICK

    def _want(self, path, number, name, mode, size, mtime, old, out):
        # type: (bytes, int, bytes, int, int, int, Any, List[int]) -> None
        how = FULL
        if size < 0:
            raise Malformed("a file of %d bytes" % size)
        if old is not None:
            if stat.S_ISDIR(old.st_mode):
                if not self._make_way(path, number, name):
                    return
            elif stat.S_ISREG(old.st_mode) and old.st_size >= 16384 and size >= 16384:
                how = DELTA
        self.writer.wanted[number] = wanted = Wanted(path, name, size, mtime, mode)
        if self.checksum and old is not None and stat.S_ISREG(old.st_mode) and old.st_size == size:
            wanted.offer = path, name, size, mtime
        out.append(number << 1 | how)

    def _change_mode(self, path, number, name, mode):
        # type: (bytes, int, bytes, int) -> None
        self.totals["meta"] += 1
        if not self.dry:
            try:
                self.here.chmod(native(name), mode & MODES)
            except (OSError, ValueError) as e:
                self.problem(number, "cannot change its mode: %s" % reason(e))

    def _make_way(self, path, number, name):
        # type: (bytes, int, bytes) -> bool
        """A directory is where something else is to be."""
        if self.dry:
            return True
        try:
            if self.delete:
                self.places.forget(join(path, name))
                self._remove_tree(self.here, join(path, name), native(name), [])
            else:
                self.here.rmdir(native(name))
            return True
        except (OSError, ValueError) as e:
            self.problem(number, "a directory is in its place (%s); delete=True removes it" % reason(e))
            return False

    def _directory(self, path, number, name, old):
        # type: (bytes, int, bytes, Any) -> None
        where = join(path, name)
        if old is not None and stat.S_ISDIR(old.st_mode):
            self._announce(path, name, False, old)
            return
        self._announce(path, name, True, None)
        self.totals["made"] += 1
        if self.dry:
            return
        try:
            if old is not None:
                self.here.unlink(native(name))
            self.here.mkdir(native(name), 0o700)
            self.writer.touched.add(path)
        except (OSError, ValueError) as e:
            self.refused.add(where)
            self.problem(number, "cannot make this directory: %s" % reason(e))

    def _link(self, path, number, name, text, mtime, old):
        # type: (bytes, int, bytes, bytes, int, Any) -> None
        text = retarget(text, self.source, self.path)
        try:
            if old is not None and stat.S_ISLNK(old.st_mode) and as_bytes(self.here.readlink(native(name))) == text:
                if abs(mtime_of(old) - mtime) >= self.tick and not self.dry:
                    self.here.utime(native(name), mtime)
                return
            self.totals["links"] += 1
            if self.dry:
                return
            if old is not None and stat.S_ISDIR(old.st_mode) and not self._make_way(path, number, name):
                return
            temp = temp_name()
            self.here.symlink(native(text), temp)
            try:
                self.here.utime(temp, mtime)
            except (OSError, NotImplementedError):
                pass
            self.here.rename(temp, native(name))
            self.writer.touched.add(path)
        except (OSError, ValueError, NotImplementedError, AttributeError) as e:
            self.totals["links"] -= 1
            shown = text.decode("utf-8", "replace")
            self.problem(
                number, "cannot make a link to %s here: %s; links='copy' copies what it points to" % (shown, reason(e))
            )
