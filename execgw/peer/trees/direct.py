"""The receiver on the very host of a sender that trusts it: it reads the source itself, and no content travels.

It takes only the files that the sender lists and names, from the directory with the device and inode that the sender
has opened, without following links; what is not as it was listed is asked for (R), and then comes as anywhere else.
"""

import os
import stat

from . import places
from .contents import ID, copy_range, each, unchanged
from .places import CREATE, mtime_of, native, temp_name

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Optional, Tuple  # noqa: F401

    from .write import Wanted, Writer  # noqa: F401


def identity(st):
    # type: (os.stat_result) -> bytes
    """What tells a directory from all others of this host."""
    return ("%d:%d" % (st.st_dev, st.st_ino)).encode("ascii")


class Source(object):
    """The directory *path*, if it is the one that is meant; *writer* puts copies in their places."""

    def __init__(self, path, meant, writer):
        # type: (bytes, bytes, Writer) -> None
        self.writer = writer
        self.places = None  # type: Optional[places.Places]
        try:
            root = places.open_root(path)
            self.places = places.Places(root)
            if not places.HAS_FDS or identity(root.stat_self()) != meant:
                self.close()
        except (OSError, ValueError):  # another user, another root
            self.close()

    def close(self):
        # type: () -> None
        held, self.places = self.places, None
        if held is not None:
            held.close()

    def copy(self, data):
        # type: (bytes) -> None
        """Copy the files with these numbers."""
        writer = self.writer
        done = []
        for (number,) in each(ID, data, 1):
            wanted = writer.take(number, 0)
            temp = None
            try:
                found = self._open(wanted)
                if found is not None:
                    source, st = found
                    try:
                        directory = writer.places[wanted.directory]
                        temp = temp_name()
                        if self._copy(source, st, wanted, directory, temp):
                            directory.rename(temp, native(wanted.name))
                            writer.touched.add(wanted.directory)
                            writer.bytes += wanted.size
                            done.append(number)
                            continue
                    finally:
                        os.close(source)
            except (OSError, ValueError) as e:
                writer.failed(number, wanted, e, temp)
                continue
            writer.wanted[number] = wanted
            writer.tell(b"R" + ID.pack(number))
        writer.ack(done)

    def _open(self, wanted):
        # type: (Wanted) -> Optional[Tuple[int, os.stat_result]]
        """The file of the source and its status, or None if it is not here as it was listed."""
        if self.places is None:
            return None
        try:
            fd = self.places[wanted.directory].open(native(wanted.name))  # type: int
        except (OSError, ValueError):
            return None
        st = os.fstat(fd)
        if stat.S_ISREG(st.st_mode) and (st.st_size, mtime_of(st)) == (wanted.size, wanted.mtime):
            return fd, st
        os.close(fd)
        return None

    def _copy(self, source, before, wanted, directory, temp):
        # type: (int, os.stat_result, Wanted, Any, Any) -> bool
        """Make the temporary file; false, and nothing is left of it, if the source has changed meanwhile."""
        fd = directory.open(temp, CREATE, 0o600)
        try:
            whole = copy_range(source, fd, 0, wanted.size) and unchanged(before, os.fstat(source))
        except BaseException:
            os.close(fd)
            raise
        if not whole:
            os.close(fd)
            directory.unlink(temp)
            return False
        directory.finish(fd, temp, wanted.mode, wanted.mtime)
        return True
