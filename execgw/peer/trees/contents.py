"""Files of this side: hashing and copying them, and what is said of them."""

import os
import struct

from . import delta
from .listing import Malformed
from .places import write_all

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401

COPY_SIZE = 1 << 20
ID = struct.Struct("!I")
BEGIN = struct.Struct("!IqqB")  # number, size, mtime, one of:
PLAIN, DELTA, HOLES = range(3)
SMALL_FILE = struct.Struct("!Iqq")  # number, size, mtime


def reason(error):
    # type: (Any) -> str
    """What went wrong, without the number and the temporary name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def each(form, data, at):
    # type: (struct.Struct, bytes, int) -> Any
    if (len(data) - at) % form.size:
        raise Malformed("a message that is cut off")
    return [form.unpack_from(data, place) for place in range(at, len(data), form.size)]


def unchanged(before, after):
    # type: (Any, Any) -> bool
    return (before.st_size, before.st_mtime, before.st_ctime) == (after.st_size, after.st_mtime, after.st_ctime)


def digest_of(fd):
    # type: (Any) -> bytes
    """SHA-256 of what is left to read."""
    total = delta.sha256()
    while True:
        data = os.read(fd, COPY_SIZE)
        if not data:
            break
        total.update(data)
    digest = total.digest()  # type: bytes
    return digest


def copy_range(source, target, offset, length):
    # type: (Any, Any, int, int) -> bool
    """Append a part of one file to another; false if it ended before.  The kernel does it where it can."""
    copy = getattr(os, "copy_file_range", None)
    while length and copy is not None:
        try:
            done = copy(source, target, length, offset)
        except OSError:
            break  # other file systems, an old kernel
        if not done:
            break
        offset += done
        length -= done
    if length:
        os.lseek(source, offset, os.SEEK_SET)
    while length:
        data = os.read(source, min(length, COPY_SIZE))
        if not data:
            return False
        write_all(target, data)
        length -= len(data)
    return True
