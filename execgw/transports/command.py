"""cmd=: a worker at the end of any command that runs a program elsewhere and carries its stdin and stdout.

cmd=srun -u -n1//python=python3.11     the words before the interpreter, split as a shell would, run without a shell
docker=NAME podman=NAME kubectl=POD    docker exec -i NAME, podman exec -i NAME, kubectl exec -i POD --
sudo=USER                              sudo -n -u USER --

env, chdir and nice are applied at the far end, before the interpreter starts, and are in no argument list.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import _bundle
from ..errors import AuthenticationFailed, HostNotReached, PythonNotFound, SpecError, StartError
from .base import Ended, Launch
from .channel import RelayTransport
from .process import ProcessTransport, interpreter

if TYPE_CHECKING:
    from .._session import Session
    from .base import Explanation, Transport

KEEPALIVE = 30.0  # seconds; for everything that may be on another host
DEFAULT_PYTHON = "python3"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:/-]*\Z")


class CommandTransport(ProcessTransport):
    """A local process that carries the bytes of a worker elsewhere."""

    chunk = 64 * 1024  # it may be slow beyond: 5 ms at 100 Mbit/s
    window = 4 << 20
    keepalive = KEEPALIVE


def start(
    launch: Launch,
    via: Session | None,
    argv: Callable[[str], list[str]],
    explain: Callable[[Ended], Explanation | None],
    local: type[CommandTransport] = CommandTransport,
    before: str = "",
) -> Transport:
    """Start argv(program) here, or beside the worker of *via*; *program* is what the interpreter gets with -c.

    *local* carries its bytes if that is here.  *before* is code that runs in the worker first of all.
    """
    flavour = _bundle.flavour_of(interpreter(launch))
    if flavour == "pyodide" and launch.keepalive:
        raise SpecError(f"{str(launch.spec)!r}: keepalive: a Pyodide has no thread that could answer while code runs")
    program, boot = launch.bundle(1, flavour)
    program, head = _bundle.in_surroundings(before + program, launch.env, launch.chdir, launch.nice, flavour)
    words = argv(program)
    transport: Transport
    if via is None:
        try:
            transport = local(launch.bare(), words, head + boot, trusted=False, stdout=True)
        except PythonNotFound as e:  # what is missing is the program that leads there
            raise StartError(str(e)) from e
    else:
        transport = RelayTransport(launch.bare(), [*words], head + boot, via)
        transport.keepalive = KEEPALIVE
    if flavour == "pyodide":
        transport.keepalive = 0.0
    transport.explain = explain
    return transport


def python_words(launch: Launch, default: str = DEFAULT_PYTHON) -> list[str]:
    """The interpreter and its options, as words."""
    words = interpreter(launch) or [default]
    return [*words, "-B"] if launch.spec.dont_write_bytecode else words


def value_of(launch: Launch, key: str) -> str:
    """The value of the key that asks for this kind of gateway."""
    value = getattr(launch.spec, key)
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{str(launch.spec)!r}: {key} needs a value: {key}=...")
    return value


def checked_name(launch: Launch, key: str, value: str) -> str:
    """A name that no program can take for an option or for two arguments."""
    if not NAME.match(value):
        raise SpecError(
            f"{str(launch.spec)!r}: {key}={value!r} is no name: letters, digits and _.@:/- only, no '-' first"
        )
    return value


class CommandKind:
    """cmd=ARGV PREFIX"""

    keys: tuple[str, ...] = ()
    quick = True

    def start(self, launch: Launch, via: Session | None) -> Transport:
        text = value_of(launch, "cmd")
        try:
            prefix = shlex.split(text)
        except ValueError as e:
            raise SpecError(f"{str(launch.spec)!r}: cmd={text!r}: {e}") from e
        words = python_words(launch)
        transport = start(launch, via, lambda program: [*prefix, *words, "-c", program], _explain(launch, words))
        transport.hears_of_death = False  # it may lead to another host
        return transport


class ShorthandKind:
    """docker=NAME and the like: a fixed prefix around one name."""

    keys: tuple[str, ...] = ()
    quick = True

    def __init__(self, key: str, before: tuple[str, ...], after: tuple[str, ...] = ()) -> None:
        self.key, self.before, self.after = key, before, after

    def start(self, launch: Launch, via: Session | None) -> Transport:
        name = checked_name(launch, self.key, value_of(launch, self.key))
        prefix = [*self.before, name, *self.after]
        words = python_words(launch)
        transport = start(launch, via, lambda program: [*prefix, *words, "-c", program], _explain(launch, words))
        transport.hears_of_death = self.key != "kubectl"
        return transport


SHORTHANDS: dict[str, Callable[[], ShorthandKind]] = {
    "docker": lambda: ShorthandKind("docker", ("docker", "exec", "-i")),
    "podman": lambda: ShorthandKind("podman", ("podman", "exec", "-i")),
    "kubectl": lambda: ShorthandKind("kubectl", ("kubectl", "exec", "-i"), ("--",)),
    "sudo": lambda: ShorthandKind("sudo", ("sudo", "-n", "-u"), ("--",)),
}

# (in the command's last words, what it means, what to do next); the first that fits counts
_MEANINGS: list[tuple[str, type[StartError], str]] = [
    ("a password is required", AuthenticationFailed, "allow it without a password (NOPASSWD in sudoers)"),
    ("not in the sudoers file", AuthenticationFailed, "ask for a line in sudoers, with NOPASSWD"),
    ("is not allowed to execute", AuthenticationFailed, "ask for a line in sudoers that allows the interpreter"),
    ("unknown user", HostNotReached, "name a user that is there; getent passwd lists them"),
    ("no such container", HostNotReached, "name a container that runs; docker ps or podman ps lists them"),
    ("is not running", HostNotReached, "start the container first: docker start NAME"),
    ("container state improper", HostNotReached, "start the container first: podman start NAME"),
    ("error from server (notfound)", HostNotReached, "name a pod that runs; kubectl get pods lists them"),
    ("container not found", HostNotReached, "wait until the pod runs; kubectl get pods tells"),
    ("error from server (forbidden)", AuthenticationFailed, "try: kubectl auth can-i create pods/exec"),
    ("you must be logged in to the server", AuthenticationFailed, "log in to the cluster again; try: kubectl get pods"),
    ("unable to connect to the server", HostNotReached, "try: kubectl cluster-info"),
    ("cannot connect to the docker daemon", HostNotReached, "start the daemon; try: docker ps"),
    ("permission denied while trying to connect to the docker", AuthenticationFailed, "join its group; try: docker ps"),
]


def _explain(launch: Launch, words: list[str]) -> Callable[[Ended], Explanation | None]:
    name = words[0]
    missing = re.compile(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])(?=.*(no such file|not found))", re.IGNORECASE)

    def explain(ended: Ended) -> Explanation | None:
        stderr = ended.stderr.lower()
        for text, error, hint in _MEANINGS:
            if text in stderr:
                return error, hint
        if ended.exit_code == 126:
            return PythonNotFound, f"{name!r} cannot be executed there; name another interpreter: python=/path/of/it"
        # Not every command gives an exit code of its own to that; a traceback, say, has other such lines.
        if ended.exit_code == 127 or any(map(missing.search, ended.stderr.splitlines())):
            return PythonNotFound, f"there seems to be no {name!r} there; name the interpreter: python=/path/of/it"
        return None

    return explain
