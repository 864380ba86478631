"""venv: where environments are kept, and which Pythons there are.  Goes before venv.py, which uses its functions.

ROOT/KEY.lock        held while an environment of that key is built, changed or removed
ROOT/KEY.json        what is known of the environment; there, by one rename, once it is complete
ROOT/KEY-XXXXXXXX/   env/ the virtual environment, home/ the working directory, tmp/, and `lock`: held by all who use
                     it, and by whatever builds it, so that nobody takes a directory away from anybody
ROOT/wheels/ ROOT/tools/  what was pushed, by its hash
"""

import fcntl
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile

IDENTITY = """
import os, sys
base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
print("\\n".join(["%d.%d.%d" % sys.version_info[:3], sys.implementation.cache_tag or "", base]))
"""


class Failed(Exception):
    """What the near side is to be told; `tail` has the last lines of what failed."""

    def __init__(self, text, tail=""):
        Exception.__init__(self, text)
        self.tail = tail


# -- places


def root_of(environ):
    """The directory of all environments, this user's alone."""
    root = environ.get("EXECGW_VENVS")
    if not root:
        cache = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        root = os.path.join(cache, "execgw", "venvs")
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        found = os.stat(root)
    except OSError as e:
        raise Failed("cannot make %s: %s; name another place there: env:EXECGW_VENVS=DIR" % (root, e.strerror))
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise Failed("%s can be written by others than this user; chmod 700, or name another: EXECGW_VENVS" % root)
    return os.path.realpath(root)


class Lock(object):
    """with Lock(root, key): nobody else builds, changes or removes the environment."""

    def __init__(self, root, key, wait=True, tell=None):
        self.path = os.path.join(root, key + ".lock")
        self.wait = wait
        self.tell = tell
        self.fd = -1

    def __enter__(self):
        while self.fd < 0:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._take(fd)
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):  # else it was removed as we came
                    self.fd = fd
            except FileNotFoundError:
                pass
            finally:
                if self.fd < 0:
                    os.close(fd)
        return self

    def _take(self, fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (IOError, OSError):
            if not self.wait:
                raise Failed("it is being built or changed")
            if self.tell is not None:
                self.tell("waiting: another process is building it")
            fcntl.flock(fd, fcntl.LOCK_EX)

    def __exit__(self, *exc_info):
        os.close(self.fd)
        self.fd = -1


def is_free(directory):
    """Whether nobody uses or builds what is in a directory; the descriptor that keeps it so, or None."""
    try:
        fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # half made, or half removed
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except (IOError, OSError):
        os.close(fd)
        return None


def remove(directory):
    """Remove a directory that nobody uses; false if somebody does."""
    fd = is_free(directory)
    if fd is None:
        return False
    try:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        if fd >= 0:
            os.close(fd)
    return not os.path.exists(directory)


def record_of(root, key):
    """What is known of a complete environment, or None."""
    try:
        with open(os.path.join(root, key + ".json"), encoding="utf-8") as f:
            record = json.load(f)
    except (OSError, ValueError):
        return None
    return record if os.access(record["python"], os.X_OK) else None


def write_record(root, record):
    """There or not there, never half."""
    fd, name = tempfile.mkstemp(".new", "record-", root)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        json.dump(record, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(name, os.path.join(root, record["key"] + ".json"))


def directories_of(root, key):
    """The directories of all that were ever begun for a key, and are not yet removed."""
    shape = re.compile(re.escape(key) + r"-[0-9a-z_]{8}\Z")
    return [os.path.join(root, name) for name in os.listdir(root) if shape.match(name)]


# -- what may be used here


def identity_of(python):
    """(version, tag, base interpreter) of an interpreter."""
    if python is None:
        base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable or "")
        return "%d.%d.%d" % sys.version_info[:3], sys.implementation.cache_tag or "", base
    try:
        told = subprocess.check_output([python, "-I", "-c", IDENTITY], stderr=subprocess.DEVNULL, timeout=30)
        version, tag, base = told.decode("utf-8").splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        raise Failed("%s is no Python that starts" % python)
    return version, tag, base


def interpreters():
    """All (version, path) that are found here, this worker's own first."""
    places = os.environ.get("PATH", os.defpath).split(":") + ["/usr/local/bin", "/usr/bin"]
    pyenv = os.path.join(os.environ.get("PYENV_ROOT") or os.path.join(os.path.expanduser("~"), ".pyenv"), "versions")
    for parent, inside in ((pyenv, "bin"), ("/opt/python", "bin"), ("/opt", "bin")):
        if os.path.isdir(parent):
            places += [os.path.join(parent, name, inside) for name in sorted(os.listdir(parent))]
    places = [place for place in places if not place.endswith("/shims")]  # scripts that choose one for themselves
    found = [identity_of(None)]
    seen = {found[0][2]}
    for place in places:
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        for name in names:
            path = os.path.realpath(os.path.join(place, name))
            if re.match(r"python3(\.\d+)?\Z", name) and path not in seen and os.access(path, os.X_OK):
                seen.add(path)
                try:
                    one = identity_of(path)
                except Failed:
                    continue
                if one[2] not in seen or one[2] == path:
                    seen.add(one[2])
                    found.append(one)
    return [(version, base) for version, _, base in found]


def platform_of():
    """What a program that runs here was made for."""
    return [sys.platform, platform.machine(), platform.libc_ver()[0]]


def find_uv():
    """The uv of this host, or None."""
    homes = [os.path.join(os.path.expanduser("~"), place) for place in (".local/bin", ".cargo/bin")]
    places = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)] + homes
    return shutil.which("uv", path=os.pathsep.join(places))
