"""The receiver, once all is listed: what may have the content already, what is too much, hard links, directories."""

import os
import stat

from . import places
from .listing import Malformed
from .places import as_bytes, is_stale, join, mtime_of, native, split, temp_name
from .contents import ID, copy_range, reason

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

MOST_NAMES = 1000  # in one message
TEMP = places.TEMP.encode("ascii")
SMALLEST_OFFER = 16384
MILLI = 1000000  # nanoseconds: a Python that knows times only as floats must find the same
MOST_LOOKED_AT = 20000  # names in directories that are too much, among which renamed files are looked for


class Finishing(object):
    """The second half of a Receiver."""

    channel = places = writer = problem = here = None  # type: Any  # see receive.py
    totals = same_look = linkable = existing = None  # type: Any
    extras = hard = final = asked = judged = announced = None  # type: Any
    dry = delete = must_judge = checksum = False

    # -- too much

    def _extras(self, path):
        # type: (bytes) -> None
        """What is here and was not listed."""
        for name in self.existing:
            if name[: len(TEMP)] == TEMP:
                if is_stale(name) and not self.dry:
                    self._unlink_stale(name)
                    self.writer.touched.add(path)
            else:
                self.extras.append((path, name))

    def _unlink_stale(self, name):
        # type: (bytes) -> None
        try:
            self.here.unlink(native(name))
        except (OSError, ValueError):
            pass

    def _below(self, here, path, name, out):
        # type: (Any, bytes, Any, Any) -> None
        """All paths at and below one: (path, lstat)."""
        try:
            st = here.stat(name)
            out.append((join(path, as_bytes(name)), st))
            if stat.S_ISDIR(st.st_mode):
                sub = here.sub(name)
                try:
                    for inner, _ in sub.scan():
                        self._below(sub, join(path, as_bytes(name)), inner, out)
                finally:
                    sub.close()
        except (OSError, ValueError):  # it is told when it cannot be deleted
            pass

    def _all_listed(self, data):
        # type: (bytes) -> None
        if self.announced:
            raise Malformed("directories that were announced and not listed")
        if self.delete and self.must_judge and self.extras:
            found = []  # type: List[Tuple[bytes, Any]]
            for path, name in self.extras:
                self._below(self.places[path], path, native(name), found)
            self.asked = [(path, stat.S_ISDIR(st.st_mode)) for path, st in found]
            self._judge()
        self._offer()
        self.channel.send(b"M")

    def _judge(self):
        # type: () -> None
        """Ask the sender, who knows the filter."""
        for start in range(0, len(self.asked), MOST_NAMES):
            part = self.asked[start : start + MOST_NAMES]
            self.channel.send(b"E" + b"\0".join([(b"d" if is_dir else b"f") + path for path, is_dir in part]))

    def _judged(self, data):
        # type: (bytes) -> None
        self.judged.extend(bytearray(data[1:]))
        if len(self.judged) > len(self.asked):
            raise Malformed("more answers than there were questions")

    def _remove_extras(self):
        # type: () -> None
        if not self.delete:
            return
        gone = []  # type: List[bytes]
        if self.must_judge:
            if self.extras and len(self.judged) != len(self.asked):
                raise Malformed("fewer answers than there were questions")
            allowed = [item for item, answer in zip(self.asked, self.judged) if answer] if self.extras else []
            for path, is_dir in reversed(allowed):
                self._remove(path, is_dir, gone)
        else:
            for path, name in self.extras:
                try:
                    self._remove_tree(self.places[path], join(path, name), native(name), gone)
                    self.writer.touched.add(path)
                except (OSError, ValueError) as e:
                    self._cannot_delete(join(path, name), e)
        self.totals["deleted"] = len(gone)
        for start in range(0, len(gone), MOST_NAMES):
            self.channel.send(b"K" + b"\0".join(gone[start : start + MOST_NAMES]))

    def _cannot_delete(self, path, error):
        # type: (bytes, Exception) -> None
        self.problem(0, "%s: cannot delete it: %s" % (path.decode("utf-8", "replace"), reason(error)))

    def _remove(self, path, is_dir, gone):
        # type: (bytes, bool, List[bytes]) -> None
        parent, name = split(path)
        try:
            if not self.dry:
                if is_dir:
                    self.places.forget(path)
                    try:
                        self.places[parent].rmdir(native(name))
                    except OSError:
                        if self.places[path].scan():
                            return  # something in it is hidden, and stays
                        raise
                else:
                    self.places[parent].unlink(native(name))
                self.writer.touched.add(parent)
            gone.append(path)
        except (OSError, ValueError) as e:
            self._cannot_delete(path, e)

    def _remove_tree(self, here, path, name, gone):
        # type: (Any, bytes, Any, List[bytes]) -> None
        st = here.stat(name)
        if stat.S_ISDIR(st.st_mode):
            if st.st_mode & 0o700 != 0o700 and not self.dry:
                here.chmod(name, 0o700)
            sub = here.sub(name)
            try:
                for inner, _ in sub.scan():
                    self._remove_tree(sub, join(path, as_bytes(inner)), inner, gone)
            finally:
                sub.close()
            if not self.dry:
                here.rmdir(name)
        elif not self.dry:
            here.unlink(name)
        gone.append(path)

    # -- content that is here already, under this name or another

    def _offer(self):
        # type: () -> None
        look = self.same_look
        wanted = self.writer.wanted
        big = [w for w in wanted.values() if w.offer is None and w.size >= SMALLEST_OFFER]
        if [w for w in big if (w.size, w.mtime // MILLI) not in look] and self.extras and not self.checksum:
            found = []  # type: List[Tuple[bytes, Any]]
            for path, name in self.extras:
                if len(found) < MOST_LOOKED_AT:
                    self._below(self.places[path], path, native(name), found)
            for path, st in found:
                if stat.S_ISREG(st.st_mode):
                    look[st.st_size, mtime_of(st) // MILLI] = split(path)
        for w in big:
            other = look.get((w.size, w.mtime // MILLI))
            if other is not None:
                w.offer = other[0], other[1], w.size, w.mtime
        out = []
        for number in sorted(wanted):
            offer = wanted[number].offer
            if offer is not None:
                try:
                    out.append(ID.pack(number) + self.writer.digest(offer[0], offer[1]))
                except (OSError, ValueError):
                    wanted[number].offer = None
            if len(out) == MOST_NAMES:
                self.channel.send(b"m" + b"".join(out))
                out = []
        if out:
            self.channel.send(b"m" + b"".join(out))

    # -- the end

    def _finish(self):
        # type: () -> None
        if self.writer.now is not None:
            raise Malformed("the end within a file")
        for number, path, name, first in self.hard:
            self._hard_link(number, path, name, first)
        self._remove_extras()
        for path, mode, mtime, differs in reversed(self.final):
            if differs or path in self.writer.touched:
                try:
                    self.places[path].set_self(mode, mtime)
                except (OSError, ValueError) as e:
                    text = path.decode("utf-8", "replace")
                    self.problem(0, "%s: cannot set mode and time of this directory: %s" % (text, reason(e)))

    def _hard_link(self, number, path, name, first):
        # type: (int, bytes, bytes, int) -> None
        original = self.linkable.get(first)
        if original is None:
            raise Malformed("a hard link to what was not listed")
        other, old = native(original[1]), native(name)
        try:
            there, here = self.places[original[0]], self.places[path]
            try:
                st, present = there.stat(other), here.stat(old)
                if (st.st_dev, st.st_ino) == (present.st_dev, present.st_ino) and st.st_ino:
                    return
                if stat.S_ISDIR(present.st_mode):
                    here.rmdir(old)
            except OSError:
                st = there.stat(other)
            if not stat.S_ISREG(st.st_mode):
                raise OSError(0, "the other name is no regular file here")
            temp = temp_name()
            try:
                here.link(there, other, temp)
            except (OSError, AttributeError, NotImplementedError):
                self._copy_instead(there, other, here, temp, st)
            else:
                made = here.stat(temp)
                if (made.st_dev, made.st_ino) != (st.st_dev, st.st_ino):
                    here.unlink(temp)
                    raise OSError(0, "the other name became another file meanwhile")
            here.rename(temp, old)
            self.writer.touched.add(path)
            self.totals["hard"] += 1
        except (OSError, ValueError) as e:
            shown = join(*original).decode("utf-8", "replace")
            self.problem(number, "cannot make a hard link to %s: %s" % (shown, reason(e)))

    def _copy_instead(self, there, other, here, temp, st):
        # type: (Any, Any, Any, Any, Any) -> None
        """Where there are no hard links: a file of its own, with the same content."""
        source = there.open(other)
        try:
            target = here.open(temp, places.CREATE, 0o600)
            copy_range(source, target, 0, st.st_size)
            here.finish(target, temp, st.st_mode & 0o777, mtime_of(st))
        finally:
            os.close(source)
