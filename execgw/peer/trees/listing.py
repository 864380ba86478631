"""What is in a tree: one message for each directory, packed in columns; and the rsync patterns that hide names.

A message lists up to MOST_ENTRIES entries; all entries of a tree are numbered in the order in which they are listed.
"""

import os
import re
import stat
import struct

from . import places

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Optional, Tuple  # noqa: F401

FILE, DIR, LINK, HARD, HIDDEN, SPARSE = range(6)
FIRST, LAST, BROKEN = 1, 2, 4  # flags: first and last message of a directory; it could not be read in full
LINKED = 0x8000  # in a mode: other entries are hard links to this one
MOST_ENTRIES = 5000
MOST_NAME = 4096

_head = struct.Struct("!IBHqIII")


class Malformed(Exception):
    """The other side sent what makes no sense."""


def pack(number, flags, mode, mtime, path, kinds, modes, sizes, mtimes, names, texts):
    # type: (int, int, int, int, bytes, List[int], List[int], List[int], List[int], List[bytes], List[bytes]) -> bytes
    """The message of a directory; *number* is that of its first entry.

    A size is the number of the other entry for HARD, and the length of its text for LINK.
    """
    count = len(kinds)
    joined = b"\0".join(names)
    return b"".join(
        [
            b"D",
            _head.pack(number, flags, mode & 0xFFFF, mtime, count, len(path), len(joined)),
            path,
            bytes(bytearray(kinds)),
            struct.pack("!%dH" % count, *modes),
            struct.pack("!%dq" % count, *sizes),
            struct.pack("!%dq" % count, *mtimes),
            joined,
        ]
        + texts
    )


def unpack(data):
    # type: (bytes) -> Tuple[int, int, int, int, bytes, List[Tuple[Any, ...]], List[bytes]]
    """(number, flags, mode, mtime, path, entries, texts) of a message; entries are (kind, mode, size, mtime, name)."""
    try:
        number, flags, mode, mtime, count, path_size, names_size = _head.unpack_from(data, 1)
        at = 1 + _head.size
        path = data[at : at + path_size]
        at += path_size
        if len(data) < at + 19 * count + names_size or count > MOST_ENTRIES:
            raise Malformed("a list of %d entries in %d bytes" % (count, len(data)))
        kinds = bytearray(data[at : at + count])
        at += count
        modes = struct.unpack_from("!%dH" % count, data, at)
        at += 2 * count
        sizes = struct.unpack_from("!%dq" % count, data, at)
        at += 8 * count
        mtimes = struct.unpack_from("!%dq" % count, data, at)
        at += 8 * count
        names = data[at : at + names_size].split(b"\0") if count else []
        at += names_size
    except struct.error:
        raise Malformed("a list that is cut off")
    texts = []
    for kind, size in zip(kinds, sizes):
        if kind == LINK:
            if not 0 <= size <= len(data) - at:
                raise Malformed("the text of a link is cut off")
            texts.append(data[at : at + size])
            at += size
    if len(names) != count or at != len(data):
        raise Malformed("a list whose parts do not add up")
    return number, flags, mode, mtime, path, list(zip(kinds, modes, sizes, mtimes, names)), texts


def kind_of(mode):
    # type: (int) -> Optional[int]
    """FILE, DIR, LINK or None for what cannot be copied."""
    if stat.S_ISREG(mode):
        return FILE
    if stat.S_ISDIR(mode):
        return DIR
    return LINK if stat.S_ISLNK(mode) else None


SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def retarget(text, source, dest):
    # type: (bytes, bytes, bytes) -> bytes
    """The text of a link in the copy: an absolute one into the source points to the same place in the destination."""
    if source and text == source:
        return dest
    if source and text.startswith(source.rstrip(b"/") + b"/"):
        return dest.rstrip(b"/") + text[len(source.rstrip(b"/")) :]
    return text


# -- patterns


def _regex(pattern):
    # type: (str) -> str
    """The regular expression of an rsync pattern: * and ? stop at a slash, ** does not."""
    out, i = [], 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            if pattern[i : i + 1] == "*":
                while pattern[i : i + 1] == "*":
                    i += 1
                out.append(".*")
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and "]" in pattern[i + 1 :]:
            end = pattern.index("]", i + 1)
            inside = pattern[i:end].replace("\\", "\\\\")
            if inside[:1] in "!^":
                inside = "^/" + inside[1:]
            out.append("[" + re.sub(r"\[(?!:)", r"\\[", inside) + "]")
            i = end + 1
        elif char == "\\" and i < len(pattern):
            out.append(re.escape(pattern[i]))
            i += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


class Patterns(object):
    """Rules in rsync's syntax, '+ PATTERN' or '- PATTERN'; the first that matches decides.  None hides nothing."""

    def __init__(self, rules):
        # type: (List[str]) -> None
        self.rules = []  # type: List[Tuple[bool, bool, Any]]
        for rule in rules:
            sign, gap, pattern = rule[:1], rule[1:2], rule[2:]
            if sign not in ("+", "-") or gap != " " or not pattern:
                raise ValueError("%r is no rule: it must be '+ PATTERN' or '- PATTERN'" % (rule,))
            self._add(sign == "+", pattern)

    def _add(self, shown, pattern):
        # type: (bool, str) -> None
        only_dirs = pattern.endswith("/") and len(pattern) > 1
        if only_dirs:
            pattern = pattern[:-1]
        inside = pattern.endswith("/***")  # the directory itself, too
        if inside:
            pattern = pattern[:-4]
        anchored = pattern.startswith("/")
        pattern = pattern.lstrip("/") if anchored else pattern
        text = _regex(pattern)
        if not anchored:
            text = "(?:.*/)?" + text  # the end of the path, one name or several
        self.rules.append((shown, only_dirs, re.compile("(?s)" + text + ("(?:/.*)?" if inside else "") + r"\Z")))

    def hides(self, path, is_dir):
        # type: (bytes, bool) -> bool
        """Whether a path from the root is hidden by itself; what is below a hidden directory is never asked."""
        if not self.rules:
            return False
        text = path.decode("latin-1")
        for shown, only_dirs, regex in self.rules:
            if (is_dir or not only_dirs) and regex.match(text):
                return not shown
        return False


def as_rules(rules):
    # type: (Any) -> List[str]
    """The same rules with each byte of their UTF-8 as one character, which is how paths are matched."""
    return [rule.encode("utf-8").decode("latin-1") for rule in rules]


class Walk(object):
    """Lists a source tree, directory by directory, and remembers the files by their numbers.

    *hide(path, is_dir)* says what is left out; *told(path, reason)* hears of what cannot be copied.
    """

    def __init__(self, root, hide, told, links="preserve", protect=True):
        # type: (Any, Any, Any, str, bool) -> None
        self.places = places.Places(root)
        self.hide = hide
        self.told = told
        self.links = links
        self.protect = protect  # what is hidden stays there, too
        self.files = {}  # type: Any  # number -> (path of the directory, name, size, mtime, mode, sparse)
        self.dirs = {}  # type: Any  # number -> path
        self.others = {}  # type: Any  # number -> (path of the directory, name)
        self.inodes = {}  # type: Any
        self.next_number = 0
        self.bytes = 0
        self.counts = {FILE: 0, DIR: 0, LINK: 0, HARD: 0}
        self.inside = {}  # type: Any  # path -> (device, inode), for links="copy": a link into itself has no end

    def __iter__(self):
        # type: () -> Any
        todo = [b""]
        while todo:
            path = todo.pop()
            below = []  # type: List[bytes]
            for message in self._directory(path, below):
                yield message
            todo.extend(reversed(below))

    def _directory(self, path, below):
        # type: (bytes, List[bytes]) -> Any
        flags = FIRST
        try:
            here = self.places[path]
            st = here.stat_self()
            self.inside[path] = st.st_dev, st.st_ino
        except (OSError, ValueError) as e:
            self.told(path, "cannot open this directory: %s" % (e,))
            yield pack(self.next_number, FIRST | LAST | BROKEN, 0, 0, path, [], [], [], [], [], [])
            return
        try:
            found = here.scan()
        except OSError as e:
            self.told(path, "cannot list this directory: %s" % (e,))
            found = []
            flags |= BROKEN
        entries = []
        for name, status in found:
            raw = places.as_bytes(name)
            if raw[: len(places.TEMP)] != places.TEMP.encode("ascii"):
                entries.append((raw, name, status))
        entries.sort(key=lambda entry: entry[0])
        start = 0
        while start == 0 or start < len(entries):
            part = entries[start : start + MOST_ENTRIES]
            start += MOST_ENTRIES
            if start >= len(entries):
                flags |= LAST
            yield self._part(path, here, st, flags, part, below)
            flags &= ~FIRST

    def _part(self, path, here, st, flags, entries, below):
        # type: (bytes, Any, Any, int, List[Any], List[bytes]) -> bytes
        kinds, modes, sizes, mtimes = [], [], [], []  # type: List[int], List[int], List[int], List[int]
        names, texts = [], []  # type: List[bytes], List[bytes]
        number = self.next_number
        files, prefix = self.files, path + b"/" if path else b""
        mtime_of, hide = places.mtime_of, self.hide
        for raw, name, status in entries:
            mode, mtime, size = status.st_mode, mtime_of(status), status.st_size
            kind = FILE if stat.S_ISREG(mode) else kind_of(mode)
            mark = 0
            if hide is not None and hide(prefix + raw, kind == DIR):
                if not self.protect:
                    continue
                kind, size, mtime = HIDDEN, 0, 0
            elif kind == FILE:
                sparse = size > 65536 and getattr(status, "st_blocks", size) * 512 < size
                if status.st_nlink > 1:
                    kind, size = self._hard(status, number, size)
                    mark = LINKED if kind == FILE else 0
                if kind == FILE:
                    files[number] = (path, name, size, mtime, mode, sparse)
                    self.bytes += size
                else:
                    self.others[number] = (path, name)
            elif kind == DIR:
                below.append(prefix + raw)
                self.dirs[number] = prefix + raw
            elif kind == LINK:
                kind, size, mode, mtime = self._link(path, here, raw, name, number, status, texts, below)
            else:
                self.told(prefix + raw, "%s is not copied" % SPECIAL.get(stat.S_IFMT(mode), "a special file"))
                kind, size = HIDDEN, 0
            kinds.append(kind)
            modes.append(mode & 0o7777 | mark)
            sizes.append(size)
            mtimes.append(mtime)
            names.append(raw)
            number += 1
        for kind in (FILE, DIR, LINK, HARD):
            self.counts[kind] += kinds.count(kind)
        packed = pack(
            self.next_number,
            flags,
            st.st_mode & 0o7777,
            mtime_of(st),
            path,
            kinds,
            modes,
            sizes,
            mtimes,
            names,
            texts,
        )
        self.next_number = number
        return packed

    def _hard(self, status, number, size):
        # type: (Any, int, int) -> Tuple[int, int]
        key = status.st_dev, status.st_ino
        first = self.inodes.setdefault(key, number)
        return (FILE, size) if first == number or not status.st_ino else (HARD, first)

    def _link(self, path, here, raw, name, number, status, texts, below):
        # type: (bytes, Any, bytes, Any, int, Any, List[bytes], List[bytes]) -> Tuple[int, int, int, int]
        where = places.join(path, raw)
        mode, mtime = status.st_mode, places.mtime_of(status)
        if self.links in ("skip", "error"):
            self.told(where, "a symbolic link is not copied: links=%r" % str(self.links))
            return HIDDEN, 0, mode, mtime
        if self.links == "copy":
            return self._copied(path, here, where, name, number, below)
        try:
            text = places.as_bytes(here.readlink(name))
        except OSError as e:
            self.told(where, "cannot read this link: %s" % (e,))
            return HIDDEN, 0, mode, mtime
        self.others[number] = (path, name)
        texts.append(text)
        return LINK, len(text), mode, mtime

    def _copied(self, path, here, where, name, number, below):
        # type: (bytes, Any, bytes, Any, int, List[bytes]) -> Tuple[int, int, int, int]
        """links="copy": what a link points to, wherever that is; the owner of the source asked for it."""
        try:
            fd = here.open(name, places.READ & ~places.NOFOLLOW)
        except (OSError, ValueError) as e:
            self.told(where, "this link points to nothing that can be read: %s" % (e,))
            return HIDDEN, 0, 0, 0
        try:
            status = here.fstat(fd, name, True)
        finally:
            os.close(fd)
        mtime = places.mtime_of(status)
        if stat.S_ISREG(status.st_mode):
            self.files[number] = (path, name, status.st_size, mtime, status.st_mode, None)
            self.bytes += status.st_size
            return FILE, status.st_size, status.st_mode, mtime
        above = [path[:at] for at in range(len(path) + 1) if path[at : at + 1] in (b"/", b"")] + [b""]
        if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in [self.inside[p] for p in above]:
            self.told(where, "this link points to a special file or to a directory around it, and is not copied")
            return HIDDEN, 0, 0, 0
        self.places.follow.add(where)
        self.dirs[number] = where
        below.append(where)
        return DIR, 0, status.st_mode, mtime
