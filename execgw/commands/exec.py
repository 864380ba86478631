"""execgw exec SPEC... SCRIPT [ARG...]: run a script on gateways, and stream what it prints and sends."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _bundle, transports
from .._loop import run
from ..channel import Channel
from ..errors import RemoteError
from ..gateway import Gateway
from ..group import Group
from ..venv import scripts
from . import _colour, new_parser
from ._starting import expand, hops, start

if TYPE_CHECKING:
    from . import Commands

STDIN = "<stdin>"
USAGE_ERROR = 2
END_SECONDS = 3.0  # for scripts to clean up after Ctrl-C

MORE = """
SCRIPT is the first word that ends with .py or is a file; - reads it from stdin; after -- comes the
script in any case.  What follows it are its arguments.  Each SPEC may be N*SPEC.  A gateway that
another one goes through (via=) only leads there; --all runs the script on it, too.

The script runs as `python SCRIPT ARG...` would: __name__ is "__main__" and sys.argv is
[SCRIPT, ARG...], but the file is not there, and so __file__ is not set.  What it prints comes here at
once, line by line, and so does what the programs print that it starts.  It may use `channel`: text
that it sends is printed as a line, bytes as they are, and anything else as its repr().

If it has a `# /// script` block (PEP 723), it runs in a cached environment there, with what that
asks for; how this is made is shown on stderr.

The exit code is 0 if every script ended well, else the highest exit code among them (1 for an
exception or a lost gateway), 2 for a wrong command line, and 130 after Ctrl-C.

examples:
  execgw exec popen//python=python3.9 hello.py
  execgw exec 4*popen work.py --fast
  execgw exec ssh=web1 ssh=web2 docker=db uptime.py
  execgw exec ssh=host//id=host sudo=bob//via=host whoami.py
  echo 'import os; print(os.getpid())' | execgw exec 2*popen -
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "exec", "run a script on gateways and stream what it prints", MORE)
    parser.usage = "execgw exec [-h] [--prefix | --no-prefix] [--all] SPEC [SPEC ...] SCRIPT [ARG ...]"
    parser.add_argument(
        "--prefix",
        action=argparse.BooleanOptionalAction,
        help="write [id of the gateway] before each line, in colour on a terminal; without this only if there are "
        "several",
    )
    parser.add_argument("--all", action="store_true", help="run on gateways that others go through, too")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="SPEC... SCRIPT ARG...", help=argparse.SUPPRESS)
    parser.set_defaults(run=_run, parser=parser)


def split(words: list[str]) -> tuple[list[str], str, list[str]]:
    """(specs, script, its arguments); ValueError if there is no script or no spec."""
    for at, word in enumerate(words):
        if word.startswith("-") and word not in ("-", "--"):
            raise ValueError(f"{word}: options come before the first SPEC, or are the script's, behind it")
        if word == "--" or _is_script(word):
            script = at + 1 if word == "--" else at
            if at == 0:
                raise ValueError("there is no SPEC before the script; try: execgw exec popen SCRIPT")
            if script == len(words):
                break
            return words[:at], words[script], words[script + 1 :]
    raise ValueError("there is no SCRIPT; give a file, or - to read it from stdin")


def _is_script(word: str) -> bool:
    head = re.match(r"(?:\d+\*)?(\w+)(=|//|$)", word)
    if head and (head[2] == "=" or head[1] in transports.builtin_names()):
        return False  # a spec, whatever files there are
    return word == "-" or word.endswith(".py") or Path(word).is_file()


def _read(script: str) -> tuple[str, bytes]:
    """(what it is called, its bytes); how they are encoded they say themselves."""
    if script == "-":
        return STDIN, sys.stdin.buffer.read()
    return script, Path(script).read_bytes()


def _run(args: argparse.Namespace) -> int:
    parser: argparse.ArgumentParser = args.parser
    try:
        words, script, rest = split(args.words)
        specs = expand(words)
        name, source = _read(script)
    except ValueError as e:
        parser.error(str(e))
    except OSError as e:
        parser.error(f"cannot read the script {script!r}: {e.strerror}")
    with Group() as group:
        gateways = start(group, specs)
        leading = set() if args.all else hops(specs)
        targets = [gateway for gateway in gateways if gateway.id not in leading]
        prefix = len(targets) > 1 if args.prefix is None else args.prefix
        runs = _Runs(prefix, prefix or len(targets) > 1)
        try:
            shown = [gateway.id for gateway in targets]
            targets = _in_environments(targets, source)
            for gateway, id_ in zip(targets, shown, strict=True):
                runs.begin(gateway, id_, name, source, rest)
            return runs.wait()
        except KeyboardInterrupt:
            runs.interrupt(targets)
            group.terminate(1)
            raise


def _in_environments(gateways: list[Gateway], source: bytes) -> list[Gateway]:
    """Workers in environments with what the script's `# /// script` block asks for, if it has one."""
    want = scripts.wanted_of(source)
    if want is None:
        return gateways
    with ThreadPoolExecutor(len(gateways)) as threads:
        return list(threads.map(lambda gateway: scripts.place_for(gateway, want), gateways))


class _Runs:
    """One script on several gateways, and where what it says goes."""

    def __init__(self, prefix: bool, by_line: bool) -> None:
        self.prefix = prefix
        self.by_line = by_line  # no line of one gateway is broken by another's
        self.interrupted = False
        self.mark = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._prefixes: dict[tuple[str, int], bytes] = {}
        self._parts: dict[tuple[str, int], bytes] = {}  # the start of a line that is not yet complete
        self._codes: list[int] = []
        self._ended: set[str] = set()
        self._left = 0
        self._changed = threading.Condition()
        self._broken: OSError | None = None

    def begin(self, gateway: Gateway, shown: str, name: str, source: bytes, args: list[str]) -> None:
        """Run the script there; what it says is shown as that of *shown*."""
        options = {"mark": self.mark, "source": source, "filename": name, "args": args}
        if self.prefix:
            for stream, file in ((1, sys.stdout), (2, sys.stderr)):
                self._prefixes[shown, stream] = _colour.prefix(shown, self._left, file)
        self._left += 1
        code = 1  # until it says otherwise
        seen = {1: 0, 2: 0}  # bytes of stdout and stderr
        channel: Channel = run(gateway._run(("function", *_bundle.task("script"), "main", (), options)))

        def arrived(item: Any, error: Exception | None = None) -> None:
            if item is _ended:
                self._end(shown, code, error)
                return
            try:
                take(item)
            except Exception as e:  # it lies; who waits must hear of it
                self._end(shown, 1, e)
                raise

        def take(item: Any) -> None:
            nonlocal code
            if isinstance(item, tuple) and len(item) == 4 and item[0] == self.mark:
                if item[1] == 0:
                    code = int(item[3])
                else:
                    at, data = item[2:]
                    self._write(shown, item[1], bytes(data[seen[item[1]] - at :]))
                    seen[item[1]] = at + len(data)
            elif isinstance(item, (bytes, bytearray)):
                self._write(shown, 1, bytes(item))
            else:
                text = item if isinstance(item, str) else repr(item)
                self._write(shown, 1, text.encode("utf-8", "backslashreplace") + b"\n")

        channel.setcallback(arrived, endmarker=_ended, pass_error=True)

    def wait(self) -> int:
        """Wait for all; return the exit code."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left or self._broken)
        if self._broken is not None:
            raise self._broken
        return max(self._codes)

    def interrupt(self, gateways: list[Gateway]) -> None:
        """Raise KeyboardInterrupt in the scripts, and give them some time for their ends."""
        self.interrupted = True
        for gateway in gateways:
            try:
                gateway.remote_exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
            except OSError:  # noqa: PERF203  # it has ended
                pass
        with self._changed:
            self._changed.wait_for(lambda: not self._left or self._broken, END_SECONDS)

    def _end(self, gateway: str, code: int, error: Exception | None) -> None:
        if gateway in self._ended:
            return
        self._ended.add(gateway)
        if error is not None and not self.interrupted and self._broken is None:
            text = error.formatted if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
            self._write(gateway, 2, text.rstrip("\n").encode("utf-8", "backslashreplace") + b"\n")
        for number in (1, 2):
            if self._parts.get((gateway, number)):
                self._write(gateway, number, b"\n")
        with self._changed:
            self._codes.append(1 if error is not None else code)
            self._left -= 1
            self._changed.notify_all()

    def _write(self, gateway: str, number: int, data: bytes) -> None:
        if self.by_line:
            whole, newline, rest = (self._parts.get((gateway, number), b"") + data).rpartition(b"\n")
            self._parts[gateway, number] = rest
            lines = [line + b"\n" for line in whole.split(b"\n")] if newline else []
            before = self._prefixes.get((gateway, number), b"")
            data = b"".join([before + line for line in lines])
        if not data:
            return
        stream = sys.stdout if number == 1 else sys.stderr
        try:
            with self._lock:
                stream.flush()
                while data:
                    data = data[os.write(stream.fileno(), data) :]
        except OSError as e:  # nobody reads, or the disk is full
            with self._changed:
                self._broken = e
                self._changed.notify_all()


_ended = object()
