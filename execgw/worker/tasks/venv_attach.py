"""venv: makes a worker that runs in an environment live there; sent alone at each start, so it is kept small.

channel -> None, or text: why the environment is not what it was found to be (removed, other settings)
"""

import os
import sys
import zlib

# Words in the names of variables that change no package, or that are secret.  No module re: its import takes long.
QUIET = "CACHE TIMEOUT VERSION_CHECK PROGRESS INPUT CERT USERNAME PASSWORD TOKEN PYTHON_DOWNLOADS".split()
held = []  # descriptors of the locks of environments that this process lives in


def without_secrets(text):
    """The same without what stands between :// and @ in addresses."""
    head = text.split("://")
    for at in range(1, len(head)):
        place = head[at].replace("\n", "/").replace(" ", "/").split("/")[0]
        if "@" in place:
            head[at] = head[at][place.rindex("@") + 1 :]
    return "://".join(head)


def settings_of(environ):
    """What pip and uv are told by variables and files here, without secrets: other settings, other packages."""
    home = os.path.expanduser("~")
    files = [environ.get("PIP_CONFIG_FILE"), environ.get("UV_CONFIG_FILE"), "/etc/pip.conf", "/etc/uv/uv.toml"]
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files += [os.path.join(config, "pip", "pip.conf"), os.path.join(config, "uv", "uv.toml")]
    files.append(os.path.join(home, ".pip", "pip.conf"))
    told = [
        "%s=%s" % (name, environ[name])
        for name in sorted(environ)
        if name.startswith(("PIP_", "UV_")) and not any(word in name for word in QUIET)
    ]
    for name in files:
        try:
            with open(name or os.devnull, "rb") as f:
                told.append(f.read().decode("utf-8", "replace"))
        except (IOError, OSError):
            told.append("")
    return without_secrets("\n".join(told))


def found_as(word):
    """The file that the name of an interpreter leads to here, and its age."""
    places = [""] if "/" in word else [place + "/" for place in os.environ.get("PATH", os.defpath).split(":")]
    for place in places:
        if os.access(place + word, os.X_OK) and os.path.isfile(place + word):
            return "%s %d" % (os.path.realpath(place + word), os.stat(place + word).st_mtime)
    return ""


def stamp_of(asked):
    """A number that changes with what an environment depends on here."""
    text = settings_of(os.environ) + "\n" + found_as(asked)
    return "%08x" % (zlib.crc32(text.encode("utf-8", "surrogateescape")) & 0xFFFFFFFF)


def attach(channel, directory, stamp, asked, own, chdir):
    """Hold the environment, so that nobody removes it, and live in it; *own* are variables that the user has set."""
    import fcntl

    path = os.path.join(directory, "lock")
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as e:
        return "%s: %s" % (path, e.strerror)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        alive = os.path.samestat(os.fstat(fd), os.stat(path))
    except (IOError, OSError):
        alive = False
    if not alive or os.path.dirname(sys.prefix) != os.path.realpath(directory):
        os.close(fd)
        return "%s is being removed" % directory
    if stamp and stamp_of(asked) != stamp:
        os.close(fd)
        return "the settings of its host have changed"
    held.append(fd)
    sys.modules["_execgw_venv"] = held  # the descriptor stays open as long as the process
    os.utime(path, None)  # last used
    variables = {"VIRTUAL_ENV": sys.prefix, "TMPDIR": os.path.join(directory, "tmp")}
    variables["PATH"] = os.path.join(sys.prefix, "bin") + ":" + os.environ.get("PATH", os.defpath)
    os.environ.update({name: variables[name] for name in variables if name not in own})
    if chdir:
        os.chdir(os.path.join(directory, "home"))
    return None


def main(channel, **options):
    """See the file's head."""
    channel.send(attach(channel, **options))
