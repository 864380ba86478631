"""venv: builds environments where this worker is.  Python 3.6 and up; see venv_store.py, which comes before.

channel -> ("progress", text)           what is being done, and the lines of pip or uv
           ("need", [names])            files that are not here; for each comes (bytes, bytes, ..., None) in this order
           ("failed", text, last lines) it cannot be done
           ("done", value)
"""

# ruff: noqa: F821

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

FORMAT = "1"
TAIL = 30  # lines of pip that an error shows
OLDEST = (3, 6)
OLDEST_FOR_UV = (3, 8)
PIP_FOR_OTHERS = (22, 3)  # has --python
UNSET = ["PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"]
UNSET += ["VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"]


# -- running programs


class Runner(object):
    """Runs pip and uv, tells what they say, and keeps their last lines; secrets are in no argument and no line."""

    def __init__(self, tell, index, offline):
        import urllib.parse  # here, for an old Python is told its age in main()

        self.tell = tell
        self.tail = []
        environ = {name: os.environ[name] for name in os.environ if name not in UNSET}
        environ.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_PROGRESS_BAR="off")
        environ.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1", PYTHONUNBUFFERED="1", NO_COLOR="1")
        if index:
            environ["PIP_INDEX_URL"] = environ["UV_DEFAULT_INDEX"] = index[0]
            environ["UV_INDEX"] = " ".join(index[1:])
            environ["PIP_EXTRA_INDEX_URL"] = environ["UV_INDEX"] or " "  # an empty one would leave the configured ones
            for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
                environ.pop(name, None)
        if offline:
            environ.update(PIP_NO_INDEX="1", UV_OFFLINE="1", UV_NO_INDEX="1")
        self.environ = environ
        told = " ".join(environ[name] for name in environ if name.startswith(("PIP_", "UV_")))
        words = [word for part in re.findall(r"://([^/@\s]+)@", told) for word in part.split(":")]
        words += [urllib.parse.unquote(word) for word in words]
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


def pip_of(python):
    """The version of an interpreter's own pip, as numbers."""
    try:
        argv = [python, "-I", "-c", "import pip; print(pip.__version__)"]
        told = subprocess.check_output(argv, stderr=subprocess.DEVNULL, timeout=30).decode("ascii")
        return tuple([int(part) for part in told.split(".")[:2]])
    except (OSError, ValueError, subprocess.SubprocessError):
        return (0,)


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

    def installer(self, version, base, python):
        """(name, words): what installs into *python*'s environment; 'venv and pip' if it needs a pip of its own."""
        uv = self.find_uv(version)
        if uv:
            return "uv", [uv, "pip", "install", "--no-color", "-p", python]
        pip = pip_of(base)
        if pip >= PIP_FOR_OTHERS:  # three seconds less than a pip in each environment
            return "pip", [base, "-I", "-m", "pip", "--python", python, "install", "--no-color"]
        return "venv and pip", [python, "-I", "-m", "pip", "install", "--no-color"]

    def make_env(self, tool, words, base, env, fd):
        if tool == "uv":
            argv = [words[0], "venv", "--no-project", "-q", "-p", base, "--", env]
        else:
            argv = [base, "-I", "-m", "venv"] + (["--without-pip"] if tool == "pip" else []) + ["--", env]
        try:
            self.runner.run(argv, "making the environment with %s" % argv[0], os.path.dirname(env), fd)
        except Failed as e:
            if "ensurepip" in e.tail:
                e.args = (e.args[0] + "; this Python has no ensurepip: apt-get install python3-venv, or use uv=push",)
            raise

    def install(self, words, where, things, fd, more=()):
        """pip install of *things*, which are requirements or paths."""
        argv = list(words) + list(more)
        if self.offline:
            argv += ["--no-index"] + (["--offline"] if words[1] == "pip" else [])
        environ = {"TMPDIR": os.path.join(where, "tmp")}
        self.runner.run(argv + ["--"] + list(things), "installing " + " ".join(things), where, fd, environ)

    def build(self, record, base):
        """Make the environment of a record; nothing of it is left if that fails."""
        directory = tempfile.mkdtemp("", record["key"] + "-", self.root)
        fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in ("home", "tmp"):
                os.mkdir(os.path.join(directory, name), 0o700)
            env = os.path.join(directory, "env")
            python = os.path.join(env, "bin", "python")
            tool, words = self.installer(record["version"], base, python)
            self.tell("making an environment of Python %s with %s" % (record["version"], tool))
            self.make_env(tool, words, base, env, fd)
            if record["requirements"]:
                self.tell("installing " + " ".join(record["requirements"]))
                self.install(words, directory, record["requirements"], fd, self.links(directory))
            record.update(directory=directory, python=python, tool=tool.split()[-1], made=time.time())
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
    told += [without_secrets(" ".join(maker.index)), maker.offline, sorted(maker.wheels.items())]
    told.append(settings_of(os.environ))
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
                try:
                    record = maker.build(record, base)
                except BaseException:
                    os.unlink(os.path.join(root, key + ".lock"))
                    raise
    record["stamp"] = stamp_of(asked)
    return record


def installed_as(project):
    """Whether the environment of this worker has a project of that name."""
    import sysconfig

    shape = re.compile(re.sub(r"[-_.]+", "[-_.]+", project) + r"-[^-]*\.(dist|egg)-info\Z", re.IGNORECASE)
    return any(map(shape.match, os.listdir(sysconfig.get_paths()["purelib"])))


def put(maker, folder, path, project):
    """Install a file, in place of what is there of the same project."""
    import importlib.util  # here, for an old Python is told its age in main()

    tool, words = maker.installer("%d.%d" % sys.version_info[:2], identity_of(None)[2], sys.executable)
    links = maker.links(folder)
    if tool == "uv":
        maker.install(words, folder, [path], -1, ["--reinstall-package", project] + links)
        return
    if tool != "pip" and importlib.util.find_spec("pip") is None:  # another tool has made it, which is gone
        maker.runner.run([sys.executable, "-I", "-m", "ensurepip"], "getting pip", folder)
    if installed_as(project):
        maker.install(words, folder, [path], -1, ["--force-reinstall", "--no-deps"] + links)
    maker.install(words, folder, [path], -1, links)


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
