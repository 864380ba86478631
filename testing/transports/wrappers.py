"""Wrappers of all sorts between the two sides of a gateway, for the tests of cmd=; see test_command.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BWRAP = "bwrap --ro-bind / / --dev-bind /dev /dev --proc /proc --bind /tmp /tmp --unshare-all --die-with-parent"
# Each with a probe that fails where this machine or this user cannot have it.
WRAPPERS = {
    "env": ("env", "true"),
    "shell": ("""sh -c '"$0" "$@"'""", "true"),
    "bwrap": (BWRAP, f"{BWRAP} true"),
    "unshare": ("unshare -Urnpf --kill-child", "unshare -Urnpf --kill-child true"),
    "sudo": ("sudo -n -u nobody", "sudo -n -u nobody true"),
    "setpriv": ("setpriv --no-new-privs", "setpriv --no-new-privs true"),
}


def _system_python() -> str:
    """An interpreter that every user of this machine can run; the one of the tests may lie in somebody's home."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(path, os.X_OK):
            return path
    return sys.executable


PYTHON = _system_python()


def need(probe: str) -> None:
    """A wrapper that does not work here fails the test on CI, and skips it elsewhere."""
    done = subprocess.run(probe, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        missing = f"{probe!r} does not work here: {done.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def words_of(name: str) -> str:
    """The words of one of WRAPPERS, if it works here."""
    words, probe = WRAPPERS[name]
    need(probe)
    return words


# A program that passes bytes on, changed in one direction: PYTHON -c FILTER in|out WHAT PROGRAM [ARGS...]
FILTER = """
import os, subprocess, sys, threading
changes = {
    "line ends": lambda data: data.replace(b"\\n", b"\\r\\n"),
    "the 8th bit": lambda data: bytes(byte & 127 for byte in data),
    "NUL": lambda data: data.replace(b"\\0", b""),
    "nothing": lambda data: data,
}
way, what = sys.argv[1:3]
child = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def carry(source, target, change):
    while True:
        data = os.read(source, 65536)
        if not data:
            break
        data = change(data)
        while data:
            data = data[os.write(target, data):]
    os.close(target)
there, back = (what, "nothing") if way == "in" else ("nothing", what)
thread = threading.Thread(target=carry, args=(0, child.stdin.fileno(), changes[there]))
thread.daemon = True
thread.start()
carry(child.stdout.fileno(), 1, changes[back])
os._exit(child.wait())
"""
# A program that runs another on a terminal, and tells its end as ssh, docker and script do.
PTY = """
import os, pty, sys
status = pty.spawn(sys.argv[1:])
sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"""
