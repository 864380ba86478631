"""Directories that are held open: a name in one is never followed out of it, whatever links others plant meanwhile.

FdDir    names are looked up relative to a descriptor (openat and its kin): Python 3.3 and newer on POSIX
PathDir  the same through /proc/self/fd on Linux (Python 2.7); elsewhere by path, after a look at each part (Windows,
         Jython), which a race can get around
"""

import binascii
import errno
import os
import stat
import sys

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

PY2 = sys.version_info[0] == 2
JAVA = sys.platform.startswith("java")
WINDOWS = os.name == "nt" or (JAVA and os.sep == "\\")
LINUX = sys.platform.startswith("linux") and not JAVA
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0o2000000 if LINUX else 0)
READ = os.O_RDONLY | NOFOLLOW | PLAIN | getattr(os, "O_NONBLOCK", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | PLAIN
OPEN_DIR = os.O_RDONLY | NOFOLLOW | DIRECTORY | PLAIN
HAS_FDS = os.open in getattr(os, "supports_dir_fd", ()) and os.listdir in os.supports_fd
HAS_NS = sys.version_info >= (3, 3)
ENCODING = sys.getfilesystemencoding()
ERRORS = "strict" if PY2 else getattr(sys, "getfilesystemencodeerrors", lambda: "surrogateescape")()
TEMP = ".execgw-rsync-"  # then the pid of the writer and a number
MOST_OPEN = 64  # directories


class Unsafe(Exception):
    """A name that must not be used."""


def native(name):
    # type: (bytes) -> Any
    """A name as this Python's os functions take it; ValueError if it has none."""
    if JAVA:
        return name.decode("utf-8")
    return name if PY2 else os.fsdecode(name)


def as_bytes(name):
    # type: (Any) -> bytes
    """The inverse of native()."""
    if isinstance(name, bytes):
        return name
    encoded = name.encode("utf-8") if PY2 else name.encode(ENCODING, ERRORS)  # type: bytes
    return encoded


def check_name(name):
    # type: (bytes) -> None
    """Raise Unsafe unless it is one plain name."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise Unsafe("%r is not the name of a file" % (name,))
    if WINDOWS and (b"\\" in name or b":" in name or name[-1:] in b". "):
        raise Unsafe("%r cannot be a name on Windows" % (name,))


def mtime_of(st):
    # type: (Any) -> int
    """Modification time in nanoseconds, as far as this Python knows it."""
    return st.st_mtime_ns if HAS_NS or JAVA else int(round(st.st_mtime * 1e6)) * 1000


def write_all(fd, data):
    # type: (Any, Any) -> None
    done = os.write(fd, data)
    while done < len(data):
        data = data[done:]
        done = os.write(fd, data)


class FdDir(object):
    """A directory by its descriptor."""

    def __init__(self, fd):
        # type: (int) -> None
        self.fd = fd

    def close(self):
        # type: () -> None
        os.close(self.fd)

    def stat_self(self):
        # type: () -> Any
        return os.fstat(self.fd)

    def set_self(self, mode, mtime):
        # type: (Optional[int], Optional[int]) -> None
        if mode is not None:
            os.fchmod(self.fd, mode)
        if mtime is not None:
            os.utime(self.fd, ns=(mtime, mtime))

    def stat(self, name):
        # type: (Any) -> Any
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def scan(self):
        # type: () -> List[Tuple[Any, Any]]
        """(name, lstat) of all that is here."""
        if sys.version_info >= (3, 7):
            try:
                with os.scandir(self.fd) as entries:
                    return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            except (OSError, TypeError):  # one has just vanished
                pass
        return _stat_each(self, os.listdir(self.fd))

    def open(self, name, flags=READ, mode=0o600):
        # type: (Any, int, int) -> int
        return os.open(name, flags, mode, dir_fd=self.fd)

    def fstat(self, fd, name, follow=False):
        # type: (Any, Any, bool) -> Any
        """Of a file that is open under a name; only Jython must look at the name again."""
        return os.fstat(fd)

    def sub(self, name, follow=False):
        # type: (Any, bool) -> FdDir
        return FdDir(os.open(name, OPEN_DIR & ~NOFOLLOW if follow else OPEN_DIR, dir_fd=self.fd))

    def mkdir(self, name, mode):
        # type: (Any, int) -> None
        os.mkdir(name, mode, dir_fd=self.fd)

    def unlink(self, name):
        # type: (Any) -> None
        os.unlink(name, dir_fd=self.fd)

    def rmdir(self, name):
        # type: (Any) -> None
        os.rmdir(name, dir_fd=self.fd)

    def rename(self, old, new):
        # type: (Any, Any) -> None
        os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def symlink(self, text, name):
        # type: (Any, Any) -> None
        os.symlink(text, name, dir_fd=self.fd)

    def readlink(self, name):
        # type: (Any) -> Any
        return os.readlink(name, dir_fd=self.fd)

    def link(self, other, old, new):
        # type: (Any, Any, Any) -> None
        try:
            os.link(old, new, src_dir_fd=other.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            os.link(old, new, src_dir_fd=other.fd, dst_dir_fd=self.fd)  # PyPy; the caller looks what came of it

    def utime(self, name, mtime):
        # type: (Any, int) -> None
        os.utime(name, ns=(mtime, mtime), dir_fd=self.fd, follow_symlinks=False)

    def finish(self, fd, name, mode, mtime):
        # type: (Any, Any, int, int) -> None
        """Set mode and time of a file that is open under a name, and close it."""
        try:
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def chmod(self, name, mode):
        # type: (Any, int) -> None
        try:
            fd = self.open(name)
        except OSError as e:
            if e.errno != errno.EACCES or not hasattr(os, "O_PATH"):
                raise
            fd = self.open(name, os.O_PATH | NOFOLLOW | PLAIN)  # one that we may not read
            try:
                os.chmod("/proc/self/fd/%d" % fd, mode)
            finally:
                os.close(fd)
            return
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


class PathDir(object):
    """A directory by a path: that of an open descriptor where Linux gives one."""

    def __init__(self, path, fd=None):
        # type: (Any, Any) -> None
        self.path = path
        self.fd = fd

    def close(self):
        # type: () -> None
        if self.fd is not None:
            os.close(self.fd)

    def _at(self, name):
        # type: (Any) -> Any
        return self.path + os.sep.encode("ascii") + name if isinstance(self.path, bytes) else self.path + os.sep + name

    def stat_self(self):
        # type: () -> Any
        return os.stat(self.path) if not JAVA else _JavaStat(self.path, os.stat)

    def set_self(self, mode, mtime):
        # type: (Optional[int], Optional[int]) -> None
        if mode is not None:
            os.chmod(self.path, mode)
        if mtime is not None:
            _utime(self.path, mtime)

    def stat(self, name):
        # type: (Any) -> Any
        return os.lstat(self._at(name)) if not JAVA else _JavaStat(self._at(name), os.lstat)

    def scan(self):
        # type: () -> List[Tuple[Any, Any]]
        return _stat_each(self, os.listdir(self.path))

    def open(self, name, flags=READ, mode=0o600):
        # type: (Any, int, int) -> Any
        if not NOFOLLOW and flags == READ and stat.S_ISLNK(self.stat(name).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link is in the way", name)
        return os.open(self._at(name), flags, mode)

    def fstat(self, fd, name, follow=False):
        # type: (Any, Any, bool) -> Any
        if not JAVA:
            return os.fstat(fd)
        return _JavaStat(self._at(name), os.stat if follow else os.lstat)

    def sub(self, name, follow=False):
        # type: (Any, bool) -> PathDir
        path = self._at(name)
        if self.fd is not None:
            return open_fd_path(os.open(path, OPEN_DIR & ~NOFOLLOW if follow else OPEN_DIR))
        if not stat.S_ISDIR((os.stat if follow else os.lstat)(path).st_mode):
            raise OSError(errno.ENOTDIR, "no directory, or a link to one", path)
        return PathDir(path)

    def mkdir(self, name, mode):
        # type: (Any, int) -> None
        os.mkdir(self._at(name), mode)

    def unlink(self, name):
        # type: (Any) -> None
        os.unlink(self._at(name))

    def rmdir(self, name):
        # type: (Any) -> None
        os.rmdir(self._at(name))

    def rename(self, old, new):
        # type: (Any, Any) -> None
        getattr(os, "replace", os.rename)(self._at(old), self._at(new))

    def symlink(self, text, name):
        # type: (Any, Any) -> None
        os.symlink(text, self._at(name))

    def readlink(self, name):
        # type: (Any) -> Any
        return os.readlink(self._at(name))

    def link(self, other, old, new):
        # type: (Any, Any, Any) -> None
        os.link(other._at(old), self._at(new))

    def utime(self, name, mtime):
        # type: (Any, int) -> None
        if stat.S_ISLNK(self.stat(name).st_mode):
            return  # no way to set it without following
        _utime(self._at(name), mtime)

    def finish(self, fd, name, mode, mtime):
        # type: (Any, Any, int, int) -> None
        os.close(fd)
        os.chmod(self._at(name), mode)
        _utime(self._at(name), mtime)

    def chmod(self, name, mode):
        # type: (Any, int) -> None
        if stat.S_ISLNK(self.stat(name).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link is in the way", name)
        os.chmod(self._at(name), mode)


class _JavaStat(object):
    """A stat of Jython, whose own times are whole seconds."""

    def __init__(self, path, stat_of):
        # type: (Any, Any) -> None
        from java.io import File  # type: ignore[import-not-found]
        from java.nio.file import Files, LinkOption  # type: ignore[import-not-found]
        from java.util.concurrent import TimeUnit  # type: ignore[import-not-found]

        st = stat_of(path)
        for name in ("st_mode", "st_size", "st_dev", "st_ino", "st_nlink", "st_ctime"):
            setattr(self, name, getattr(st, name))
        options = [LinkOption.NOFOLLOW_LINKS] if stat_of is os.lstat else []
        self.st_mtime_ns = int(Files.getLastModifiedTime(File(path).toPath(), options).to(TimeUnit.NANOSECONDS))
        self.st_mtime = self.st_mtime_ns / 1e9


def _utime(path, mtime):
    # type: (Any, int) -> None
    if HAS_NS:
        os.utime(path, ns=(mtime, mtime))
    else:
        # A little more: the float is cut, not rounded, to microseconds; those before 1970 to seconds, or they are lost.
        seconds = mtime // 1000 / 1e6 + 2e-7 if mtime >= 0 else float(mtime // 1000000000)
        os.utime(path, (seconds, seconds))


def _stat_each(directory, names):
    # type: (Any, List[Any]) -> List[Tuple[Any, Any]]
    found = []
    for name in names:
        try:
            found.append((name, directory.stat(name)))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise
    return found


def open_fd_path(fd):
    # type: (Any) -> PathDir
    """A PathDir through the descriptor of a directory."""
    return PathDir(("/proc/self/fd/%d" % fd).encode("ascii"), fd)


def open_root(path, create=False):
    # type: (bytes, bool) -> Any
    """The directory that the user named: links on the way to it are followed.  Makes it, if asked to."""
    there = native(path)
    if not JAVA and not WINDOWS:
        there = as_bytes(there) if PY2 else there
    if create and not os.path.isdir(there):
        os.makedirs(there)
    if HAS_FDS:
        return FdDir(os.open(there, os.O_RDONLY | DIRECTORY | PLAIN))
    if LINUX and os.path.isdir("/proc/self/fd"):
        return open_fd_path(os.open(there, os.O_RDONLY | DIRECTORY | PLAIN))
    if not os.path.isdir(there):
        raise OSError(errno.ENOTDIR if os.path.exists(there) else errno.ENOENT, "no such directory", there)
    return PathDir(os.path.abspath(there))


class Places(object):
    """The directories below a root, by their paths from it (bytes, with slashes; b"" is the root); some stay open."""

    def __init__(self, root):
        # type: (Any) -> None
        self.root = root
        self.follow = set()  # type: Any  # paths of links that are taken for the directories that they point to
        self.open = {}  # type: Dict[bytes, Any]
        self.order = []  # type: List[bytes]

    def __getitem__(self, path):
        # type: (bytes) -> Any
        if not path:
            return self.root
        found = self.open.get(path)
        if found is None:
            parent, _, name = path.rpartition(b"/")
            check_name(name)
            found = self[parent].sub(native(name), path in self.follow)
            if len(self.order) >= MOST_OPEN:
                for old in self.order[: MOST_OPEN // 2]:
                    self.open.pop(old).close()
                del self.order[: MOST_OPEN // 2]
            self.open[path] = found
            self.order.append(path)
        return found

    def forget(self, path=b""):
        # type: (bytes) -> None
        """Close what is open at a path and below."""
        for known in [known for known in self.order if not path or known == path or known.startswith(path + b"/")]:
            self.open.pop(known).close()
            self.order.remove(known)

    def close(self):
        # type: () -> None
        self.forget()
        self.root.close()


def split(path):
    # type: (bytes) -> Tuple[bytes, bytes]
    """(directory, name)"""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join(parent, name):
    # type: (bytes, bytes) -> bytes
    return parent + b"/" + name if parent else name


_TOKEN = binascii.hexlify(os.urandom(8)).decode("ascii")
_numbers = [0]


def temp_name():
    # type: () -> str
    """A name for a file that is not finished; nobody can guess it."""
    _numbers[0] += 1
    return "%s%d-%s-%d" % (TEMP, os.getpid(), _TOKEN, _numbers[0])


def is_stale(name):
    # type: (bytes) -> bool
    """Whether a temporary file is of a process that is no more."""
    parts = name[len(TEMP) :].split(b"-")
    if len(parts) != 3 or not parts[0].isdigit() or not hasattr(os, "kill") or WINDOWS:
        return False
    if int(parts[0]) == os.getpid():
        return parts[1] != _TOKEN.encode("ascii")
    try:
        os.kill(int(parts[0]), 0)
    except OSError as e:
        return e.errno == errno.ESRCH
    except OverflowError:
        pass
    return False
