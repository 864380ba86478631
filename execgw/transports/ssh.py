"""ssh=: a worker on another host, through the OpenSSH client, and so with the user's configuration, keys and agent.

ssh=[user@]host[:port]  ssh=user@[v6 address]:port  ssh=-p 2222 -i key user@host    ssh_config=FILE
vagrant_ssh=BOX         the same, with what `vagrant ssh-config BOX` says

What a spec says of ssh is taken apart and put together again: it never becomes ssh's arguments as it stands.  One
connection serves all gateways of this process on a host, see ssh_master.py; through via= each has its own.
"""

from __future__ import annotations

import getopt
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import (
    AuthenticationFailed,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    PythonNotFound,
    SpecError,
    StartError,
)
from . import command
from .base import Ended, Launch
from .process import interpreter
from .ssh_master import WAIT, SharedTransport, master_for, private_file

if TYPE_CHECKING:
    from .._session import Session
    from .base import Explanation, Transport

START_SECONDS = 30.0  # where a spec has no start_timeout
NAME = re.compile(r"[\w](?:[\w.+-]*[\w.])?")  # a host, or what a configuration calls it
V6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?")
USER = re.compile(r"\w[\w.+@\\-]*\$?")
PORT = re.compile(r"[0-9]{1,5}")
# What may follow -o: these name no program that would be run, and no other host.
SETTINGS = {
    "addressfamily",
    "connecttimeout",
    "globalknownhostsfile",
    "hostkeyalgorithms",
    "identitiesonly",
    "identityfile",
    "preferredauthentications",
    "pubkeyacceptedalgorithms",
    "stricthostkeychecking",
    "userknownhostsfile",
}
# A gateway is no login: nobody types, and the forwardings of a configuration are for the sessions of a person.
ALWAYS = ["-T", "-x", "-e", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
ALWAYS += ["-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none"]
FLAGS = {"-4": "AddressFamily=inet", "-6": "AddressFamily=inet6", "-C": "Compression=yes"}


@dataclass(frozen=True)
class Target:
    """Where to, and how: `options` are the user's, as arguments of ssh."""

    host: str
    options: tuple[str, ...] = ()


# -- what a spec says


def parse(text: str, config: str | None = None) -> Target:
    """Take the value of ssh= apart; SpecError says what is wrong with it."""
    options: list[str] = []
    port = user = None
    if text.startswith("-") or re.search(r"\s", text):
        text, options, port, user = _parse_options(text)
    user_here, host, port_here = _parse_destination(text)
    if (user and user_here) or (port and port_here):
        raise SpecError(f"ssh: user or port of {text!r} is given twice")
    user, port = user or user_here, port or port_here
    if user is not None:
        _check(USER, user, "user name")
        options += ["-l", user]
    if port is not None:
        if not PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise SpecError(f"ssh: {port!r} is no port: 1 to 65535")
        options += ["-p", port]
    if config is not None:
        if "-F" in options[::2]:
            raise SpecError("ssh: -F and ssh_config= are the same; give one")
        options = ["-F", config, *options]
    return Target(host, tuple(options))


def _parse_options(text: str) -> tuple[str, list[str], str | None, str | None]:
    try:
        pairs, rest = getopt.gnu_getopt(shlex.split(text), "p:l:i:F:J:o:46TC")
    except (getopt.GetoptError, ValueError) as e:
        raise SpecError(
            f"ssh={text!r}: {e}; known are -p -l -i -F -J -o -4 -6 -C, write others into a file: ssh_config=FILE"
        ) from None
    if len(rest) != 1:
        raise SpecError(f"ssh={text!r}: it must name one host, and no command: ssh=-p 2222 user@host")
    options: list[str] = []
    port = user = None
    for option, value in pairs:
        if option == "-p":
            port = value
        elif option == "-l":
            user = value
        elif option == "-J":
            options += ["-J", ",".join(map(_checked_hop, value.split(",")))]
        elif option == "-o":
            options += ["-o", _checked_setting(value)]
        elif option in ("-i", "-F"):
            options += [option, value]
        elif option != "-T":  # which is always given
            options += [
                "-o",
                {"-4": "AddressFamily=inet", "-6": "AddressFamily=inet6", "-C": "Compression=yes"}[option],
            ]
    return rest[0], options, port, user


def _checked_setting(text: str) -> str:
    name, _, value = text.replace("=", " ", 1).strip().partition(" ")
    if name.lower() not in SETTINGS or "\n" in value:
        raise SpecError(f"ssh: -o {text!r} is not taken from a spec; write it into a file: ssh_config=FILE")
    return f"{name}={value.strip()}"


def _checked_hop(text: str) -> str:
    user, host, port = _parse_destination(text)
    if user is not None:
        _check(USER, user, "user name")
    if port is not None:
        _check(PORT, port, "port")
    name = f"[{host}]" if ":" in host else host
    return (f"{user}@" if user else "") + name + (f":{port}" if port else "")


def _parse_destination(text: str) -> tuple[str | None, str, str | None]:
    """'user@host:port' -> its three parts; an IPv6 address is in brackets if a port follows it."""
    user, at, rest = text.rpartition("@")
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        if not V6.fullmatch(host) or (tail and not tail.startswith(":")):
            raise SpecError(f"ssh: {text!r}: {rest!r} is no address; it must be [ADDRESS]:PORT")
        port = tail[1:] if tail else None
    elif rest.count(":") > 1:
        host, port = rest, None
        _check(V6, host, "IPv6 address")
    else:
        host, colon, after = rest.partition(":")
        port = after if colon else None
        _check(NAME, host, "host name")
    return (user if at else None), host, port


def _check(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise SpecError(f"ssh: {text!r} is no {what}; it must not begin with '-', nor have signs of a shell in it")


# -- what ssh gets


def _options(target: Target, keepalive: float | None) -> list[str]:
    """All that makes one connection another than the next."""
    seconds = command.KEEPALIVE if keepalive is None else keepalive
    # ssh gives up when it has been silent for once more than CountMax; 0 for CountMax would mean never.
    count = 2 if seconds >= 3 else 1
    interval = max(int(seconds / (count + 1)), 1) if seconds else 0
    alive = ["-o", f"ServerAliveInterval={interval}", "-o", f"ServerAliveCountMax={count}"]
    return [*target.options, *ALWAYS, *alive]


def _connect_seconds(start_seconds: float) -> int:
    """A little less than the start may take, so that ssh can say which host does not answer."""
    return max(int(start_seconds - max(1.0, start_seconds / 10)), 1)


def _literal(program: str) -> str:
    """exec("...") on one line, without quotes, line ends and other signs that some login shell changes in quotes.

    csh wants no line end and no '!' there, fish makes one backslash of two.
    """
    text = re.sub(r"[^ -~]|[\"'\\!`]", lambda m: rf"\x{ord(m[0]):02x}" if m[0] != "\n" else r"\n", program)
    return f'exec("{text}")'


def _remote_word(word: str) -> str:
    """Quoted for any login shell; a home directory (~/ or ~user/) is that of the other host."""
    home = re.match(r"~[\w.-]*(?:/|$)", word)
    if home is None:
        return shlex.quote(word)
    rest = word[home.end() :]
    return home[0] + (shlex.quote(rest) if rest else "")


# No quote, '!' or backslash in them, see _literal.
GIVEN = (
    'command -v "$1" >/dev/null 2>&1 && exec "$@"; '
    'echo "execgw: there is no $1 on this host, or it cannot be executed" >&2; exit 127'
)
TRIED = (
    'for p in python3 python; do command -v $p >/dev/null 2>&1 && exec $p "$@"; done; '
    'echo "execgw: there is neither python3 nor python on the PATH of this host" >&2; exit 127'
)


def remote_command(words: list[str], options: list[str], program: str) -> str:
    """The line for the login shell of the other host; no *words*: python3, or python, whichever is there."""
    line = f"exec sh -c {shlex.quote(GIVEN if words else TRIED)} sh"
    return " ".join([line, *map(_remote_word, [*words, *options]), "-c", shlex.quote(_literal(program))])


# What a worker has started ends with it, as it does on this host, where the near side sees to that: the group is that
# of the login shell, which sshd made a session.  Registered first, so it runs when all other ends have run.
LAST_ACT = """\
def _():
 import atexit,os,sys
 p=os.getpid()
 def end():
  if os.getpid()==p==getattr(os,'getpgrp',int)():
   for f in sys.stdout,sys.stderr:
    try:f.flush()
    except Exception:pass
   os.kill(0,9)
 atexit.register(end)
_()
"""


# -- what went wrong

_FAILURES: list[tuple[str, type[StartError], str]] = [
    (r"could not resolve hostname", HostNotFound, "try: {try_it}"),
    (
        r"host identification has changed",
        HostKeyRefused,
        "if the host was set up anew, remove its old key with ssh-keygen -R and accept the new one: {try_it}",
    ),
    (r"host key verification failed|host key is known", HostKeyRefused, "look at its key, and accept it: {try_it}"),
    (
        r"permission denied \(|too many authentication failures",
        AuthenticationFailed,
        "ssh may ask for nothing here: log in by a key or an agent (ssh-add -l); try: {try_it}",
    ),
    (
        r"can't open user config|bad configuration option|terminating, \d+ bad",
        StartError,
        "correct the file; try: {try_it}",
    ),
    (r"cannot start 'ssh'", StartError, "install the OpenSSH client there"),
]


def _explain(target: Target, words: list[str]) -> Callable[[Ended], Explanation | None]:
    try_it = shlex.join(["ssh", *target.options, "--", target.host, "true"])

    def explain(ended: Ended) -> Explanation | None:
        if ended.exit_code in (126, 127):
            what = repr(words[0]) if words else "python3 or python"
            return PythonNotFound, f"there is no {what} that runs; name another one there: python=/path/of/it"
        for pattern, error, hint in _FAILURES:
            if re.search(pattern, ended.stderr, re.IGNORECASE):
                return error, hint.format(try_it=try_it)
        if ended.exit_code == 255:  # ssh's own, whatever it says: refused, timed out, unreachable, closed
            return HostNotReached, f"try: {try_it}"
        return None

    return explain


# -- the kinds


def _start(launch: Launch, via: Session | None, target: Target, address: str) -> Transport:
    words = interpreter(launch)
    flags = ["-B"] if launch.spec.dont_write_bytecode else []
    options = _options(target, launch.keepalive)
    seconds = float(str(launch.spec.start_timeout or START_SECONDS))
    connect = _connect_seconds(seconds)
    changing = ["-o", f"ConnectTimeout={connect}"]
    explain = _explain(target, words)

    def argv(program: str) -> list[str]:
        return ["ssh", *options, *changing, "-o", "ControlMaster=no", "--", target.host, remote(program)]

    def remote(program: str) -> str:
        return remote_command(words, flags, program)

    if via is not None:
        transport = command.start(launch, via, argv, explain, before=LAST_ACT)
    else:
        if shutil.which("ssh") is None:
            raise StartError(f"gateway {launch.id!r}: there is no 'ssh' on this host; install the OpenSSH client")
        try:
            master = master_for(options, changing, target.host, (seconds + connect) / 2)
        except OSError as e:
            raise StartError(f"gateway {launch.id!r}: no place for the socket of a shared connection: {e}") from e

        def waiting(program: str) -> list[str]:
            ssh = [*options, *changing, "--", target.host, remote(program)]
            return ["sh", "-c", WAIT, "sh", master.path, *ssh]

        transport = command.start(launch, None, waiting, explain, SharedTransport, LAST_ACT)
        assert isinstance(transport, SharedTransport)
        master.serve(transport)
        transport.program = shlex.join(["ssh", *options, *changing, "--", target.host]) + " ..."
        transport.group = 1  # that of the other host's login shell, which we do not know
    transport.remoteaddress = address
    return transport


class SshKind:
    """ssh=[user@]host[:port]"""

    keys = ("ssh_config",)

    def start(self, launch: Launch, via: Session | None) -> Transport:
        text = command.value_of(launch, "ssh")
        config = None
        if launch.spec.ssh_config is not None:
            config = command.value_of(launch, "ssh_config")
            if via is None:  # else it is a file of that host
                config = os.path.abspath(os.path.expanduser(config))
        try:
            target = parse(text.strip(), config)
        except SpecError as e:
            raise SpecError(f"{str(launch.spec)!r}: {e}") from None
        return _start(launch, via, target, text)


class VagrantKind:
    """vagrant_ssh=BOX"""

    keys: tuple[str, ...] = ()

    def start(self, launch: Launch, via: Session | None) -> Transport:
        box = command.value_of(launch, "vagrant_ssh")
        if not NAME.fullmatch(box):
            raise SpecError(f"{str(launch.spec)!r}: vagrant_ssh={box!r} is no name of a box")
        if via is not None:
            raise SpecError(f"{str(launch.spec)!r}: vagrant is asked on this host, so via= cannot be")
        text = self._config(launch, box)
        found = re.search(r"(?m)^\s*Host\s+(\S+)", text)
        if found is None or not NAME.fullmatch(found[1]):
            raise StartError(f"gateway {launch.id!r}: vagrant ssh-config {box} names no host: {text[:200]!r}")
        name = "vagrant-" + hashlib.sha256(text.encode()).hexdigest()[:16]
        return _start(launch, None, Target(found[1], ("-F", private_file(name, text))), box)

    def _config(self, launch: Launch, box: str) -> str:
        seconds = float(str(launch.spec.start_timeout or START_SECONDS))
        try:
            done = subprocess.run(
                ["vagrant", "ssh-config", box],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except FileNotFoundError:
            raise StartError(f"gateway {launch.id!r}: there is no 'vagrant' on this host; install it") from None
        except subprocess.TimeoutExpired:
            text = f"gateway {launch.id!r}: 'vagrant ssh-config {box}' took more than {seconds:g} s"
            raise HostNotReached(text) from None
        if done.returncode != 0:
            text = f"gateway {launch.id!r}: 'vagrant ssh-config {box}' failed (exit code {done.returncode}): "
            words = done.stderr.strip()[-1000:]
            raise HostNotReached(f"{text}{words}; try: vagrant up {box}", done.returncode, words)
        return done.stdout


KINDS: dict[str, Callable[[], SshKind | VagrantKind]] = {"ssh": SshKind, "vagrant_ssh": VagrantKind}
