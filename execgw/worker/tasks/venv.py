"""venv: builds environments where this worker is, keeps them, and removes them.  Python 3.6 and up; venv_attach.py follows.

channel -> ("progress", text)           what is being done, and the lines of pip or uv
           ("need", [names])            files that are not here; for each comes (bytes, bytes, ..., None) in this order
           ("failed", text, last lines) it cannot be done
           ("done", value)

ROOT/KEY.lock        held while an environment of that key is built, changed or removed
ROOT/KEY.json        what is known of the environment; there, by one rename, once it is complete
ROOT/KEY-XXXXXXXX/   env/ the virtual environment, home/ the working directory, tmp/, and `lock`: held by all that use it,
                     and by whatever builds it, so that nobody takes a directory away from anybody
ROOT/wheels/ ROOT/tools/  what was pushed, by its hash
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

FORMAT = "1"
TAIL = 30  # lines of pip that an error shows
OLDEST = (3, 6)
OLDEST_FOR_UV = (3, 8)
UNSET = ["PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"]
UNSET += ["VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"]
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


# -- running programs


class Runner(object):
    """Runs pip and uv, tells what they say, and keeps their last lines; secrets are in no argument and no line."""

    def __init__(self, tell, index, offline):
        self.tell = tell
        self.tail = []
        environ = {name: os.environ[name] for name in os.environ if name not in UNSET}
        environ.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_PROGRESS_BAR="off")
        environ.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1", PYTHONUNBUFFERED="1", NO_COLOR="1")
        if index:
            environ["PIP_INDEX_URL"] = environ["UV_DEFAULT_INDEX"] = index[0]
            environ["PIP_EXTRA_INDEX_URL"] = environ["UV_INDEX"] = " ".join(index[1:])
            for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
                environ.pop(name, None)
        if offline:
            environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1", UV_NO_INDEX="1")
        self.environ = environ
        told = " ".join(environ[name] for name in environ if name.startswith(("PIP_", "UV_")))
        words = [word for part in re.findall(r"://([^/@\s]+)@", told) for word in part.split(":")]
        words += [environ[name] for name in environ if re.search("PASSWORD|TOKEN", name) and name.startswith("UV_")]
        self.secrets = [word for word in words if len(word) > 3]

    def clean(self, text):
        text = re.sub(r"://[^/@\s]+@", "://****@", text)
        for word in self.secrets:
            text = text.replace(word, "****")
        return text

    def run(self, argv, what, cwd, fd=-1, environ=None):
        """Run it; Failed, with its last lines, if it fails.  *fd* is a lock that its children hold, too."""
        self.tail = []
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(self.environ, **(environ or {})),
                pass_fds=[fd] if fd >= 0 else [],
            )
        except OSError as e:
            raise Failed("%s: cannot start %s: %s" % (what, argv[0], e.strerror))
        try:
            for data in process.stdout:
                line = self.clean(data.decode("utf-8", "replace").rstrip())
                if line.strip():
                    self.tail = (self.tail + [line[:2000]])[-TAIL:]
                    self.tell(line[:2000])
            code = process.wait()
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(2)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if code != 0:
            raise Failed("%s failed (exit code %d)" % (what, code), "\n".join(self.tail))


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


def receive_file(channel, path, sha):
    """One file from the near side, there by a rename once it is complete."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    fd, name = tempfile.mkstemp(".new", "", os.path.dirname(path))
    digest = hashlib.sha256()
    try:
        with os.fdopen(fd, "wb") as f:
            for block in iter(channel.receive, None):
                f.write(block)
                digest.update(block)
        if sha and digest.hexdigest() != sha:
            raise Failed("%s changed on its way here" % os.path.basename(path))
        os.rename(name, path)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


class Maker(object):
    """What is wanted, and how it is made here; see main()."""

    def __init__(self, channel, root, index=(), offline=False, wheels=None, uv="auto", uv_id="", uv_platform=None):
        self.channel = channel
        self.root = root
        self.offline = offline
        self.wheels = wheels or {}
        self.uv, self.uv_id, self.uv_platform = uv, uv_id, uv_platform
        self.index = index
        self.runner = Runner(self.tell, index, offline)

    def tell(self, text):
        self.channel.send(("progress", text))

    def fetch(self, wanted):
        """Have files pushed that are not here: [(name, path, sha)]."""
        missing = [one for one in wanted if not os.path.exists(one[1])]
        if missing:
            self.channel.send(("need", [name for name, _, _ in missing]))
            for name, path, sha in missing:
                self.tell("receiving " + name)
                receive_file(self.channel, path, sha)

    def find_uv(self, version):
        """The path of the uv to use, or None for pip."""
        if self.uv == "no" or tuple(map(int, version.split(".")[:2])) < OLDEST_FOR_UV:
            return None
        found = find_uv()
        if found is None and self.uv == "push":
            if list(self.uv_platform or ()) != platform_of():
                self.tell("the near side's uv does not run here: it is for %s" % " ".join(self.uv_platform or ()))
                return None
            found = os.path.join(self.root, "tools", "uv-" + self.uv_id, "uv")
            self.fetch([("uv", found, "")])
            os.chmod(found, 0o700)
        return found

    def links(self, directory):
        """The pushed wheels, under their names, as arguments."""
        if not self.wheels:
            return []
        folder = os.path.join(directory, "wheels")
        os.makedirs(folder, exist_ok=True)
        sources = {name: os.path.join(self.root, "wheels", self.wheels[name]) for name in self.wheels}
        self.fetch([(name, sources[name], self.wheels[name]) for name in sorted(sources)])
        for name in sources:
            place = os.path.join(folder, os.path.basename(name))
            try:
                os.link(sources[name], place)
            except OSError:
                shutil.copy(sources[name], place)
        return ["--find-links", folder]

    def make_env(self, uv, base, env, fd):
        where = os.path.dirname(env)
        if uv:
            argv = [uv, "venv", "--no-project", "-q", "-p", base, "--", env]
        else:
            argv = [base, "-I", "-m", "venv", "--", env]
        try:
            self.runner.run(argv, "making the environment with %s" % ("uv" if uv else base), where, fd)
        except Failed as e:
            if "ensurepip" in e.tail:
                e.args = (e.args[0] + "; this Python has no ensurepip: apt-get install python3-venv, or use uv=push",)
            raise

    def install(self, uv, python, where, things, fd, more=()):
        """pip install of *things*, which are requirements or paths."""
        if uv:
            argv = [uv, "pip", "install", "--no-color", "-p", python]
        else:
            argv = [python, "-I", "-m", "pip", "install", "--no-color"]
        if self.offline:
            argv += ["--no-index", "--offline"] if uv else ["--no-index"]
        environ = {"TMPDIR": os.path.join(where, "tmp")}
        self.runner.run(argv + list(more) + ["--"] + list(things), "installing " + " ".join(things), where, fd, environ)

    def build(self, record, base):
        """Make the environment of a record; nothing of it is left if that fails."""
        directory = tempfile.mkdtemp("", record["key"] + "-", self.root)
        fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in ("home", "tmp"):
                os.mkdir(os.path.join(directory, name), 0o700)
            uv = self.find_uv(record["version"])
            self.tell(
                "making an environment of Python %s with %s" % (record["version"], "uv" if uv else "venv and pip")
            )
            env = os.path.join(directory, "env")
            self.make_env(uv, base, env, fd)
            python = os.path.join(env, "bin", "python")
            if record["requirements"]:
                self.tell("installing " + " ".join(record["requirements"]))
                self.install(uv, python, directory, record["requirements"], fd, self.links(directory))
            record.update(directory=directory, python=python, tool="uv" if uv else "pip", made=time.time())
            write_record(self.root, record)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            os.close(fd)
        return record


def make(channel, name, requirements, python, asked, **how):
    """The environment of these requirements, found or built: its record."""
    root = root_of(os.environ)
    maker = Maker(channel, root, **how)
    version, tag, base = identity_of(python)
    if not base or not os.path.isfile(base):
        raise Failed("this worker does not know its own interpreter; name one: python=/path/of/it")
    found = os.stat(base)
    told = [FORMAT, name, sorted(requirements), version, tag, base, found.st_size, int(found.st_mtime)]
    told += [SECRET.sub("://", " ".join(maker.index)), maker.offline, sorted(maker.wheels.items())]  # noqa: F821
    told.append(settings_of(os.environ))  # noqa: F821
    digest = hashlib.sha256(json.dumps(told).encode("utf-8")).hexdigest()[:20]
    key = (name + "-" if name else "") + digest
    record = record_of(root, key)
    if record is None:
        with Lock(root, key, tell=maker.tell):
            record = record_of(root, key)
            if record is None:
                for left in directories_of(root, key):
                    remove(left)
                record = {"key": key, "name": name, "requirements": list(requirements), "version": version}
                record["installed"] = []
                record = maker.build(record, base)
    record["stamp"] = stamp_of(asked)  # noqa: F821
    return record


def installed_as(project):
    """Whether the environment of this worker has a project of that name."""
    import sysconfig

    shape = re.compile(re.sub(r"[-_.]+", "[-_.]+", project) + r"-[^-]*\.(dist|egg)-info\Z", re.IGNORECASE)
    return any(map(shape.match, os.listdir(sysconfig.get_paths()["purelib"])))


def put(maker, folder, path, project):
    """Install a file, in place of what is there of the same project."""
    uv = maker.find_uv("%d.%d" % sys.version_info[:2])
    links = maker.links(folder)
    if uv:
        maker.install(uv, sys.executable, folder, [path], -1, ["--reinstall-package", project] + links)
        return
    try:
        import pip  # noqa: F401
    except ImportError:  # an environment that uv has made, which is no longer here
        maker.runner.run([sys.executable, "-I", "-m", "ensurepip"], "getting pip", folder)
    if installed_as(project):
        maker.install(uv, sys.executable, folder, [path], -1, ["--force-reinstall", "--no-deps"] + links)
    maker.install(uv, sys.executable, folder, [path], -1, links)


def install(channel, filename, project, sha, **how):
    """Install a file that the near side sends into the environment that this worker lives in."""
    if sys.prefix == sys.base_prefix:
        raise Failed("this worker's Python, %s, is in no virtual environment" % sys.executable)
    directory = os.path.dirname(sys.prefix)
    root = os.path.dirname(directory)
    key = os.path.basename(directory).rpartition("-")[0]
    ours = os.path.exists(os.path.join(directory, "lock")) and record_of(root, key)
    folder = tempfile.mkdtemp("", "execgw-install-")
    try:
        os.mkdir(os.path.join(folder, "tmp"))
        maker = Maker(channel, root if ours else folder, **how)
        path = os.path.join(folder, os.path.basename(filename))
        maker.fetch([(os.path.basename(filename), path, sha)])
        if ours:
            with Lock(root, key, tell=maker.tell):
                put(maker, folder, path, project)
                ours["installed"] = sorted(set(ours["installed"] + [os.path.basename(path)]))
                write_record(root, ours)
        else:
            put(maker, folder, path, project)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    import importlib

    importlib.invalidate_caches()
    return os.path.basename(path)


def main(channel, what, **options):
    """One request of the near side."""
    if sys.version_info < OLDEST:
        channel.send(("failed", "environments need Python 3.6 or newer, and this is %s" % sys.version.split()[0], ""))
        return
    try:
        channel.send(("done", REQUESTS[what](channel, **options)))
    except Failed as e:
        channel.send(("failed", str(e), e.tail))
    except OSError as e:
        channel.send(("failed", "%s: %s" % (e.filename or "the environment", e.strerror or e), ""))


REQUESTS = {"make": make, "install": install, "interpreters": lambda channel: interpreters()}  # and see venv_kept.py
