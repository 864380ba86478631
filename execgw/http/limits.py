"""How much one process may use, how much the server takes in all, and the places that processes are counted by.

A place is taken before a start and given back when the process has ended or the start has failed, so that starts at the
same time cannot exceed what there is.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..errors import SpecError, StartError
from .access import Caller, Denied

SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
TIMES = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LARGEST = 1 << 62  # more than any limit; what the kernel's own types hold
RETRY_FULL = 5.0  # seconds after which it is worth to ask a full server again

T = TypeVar("T", "Limits", "ServerLimits")


def read_size(value: object) -> int:
    """Bytes: 1048576, '512 MiB', '2 GB'.  Raises ValueError, whose text says what may be."""
    return int(_read(value, SIZES, "a number of bytes, or like '512 MiB'"))


def read_seconds(value: object) -> float:
    """Seconds: 30, '30 s', '10 min', '2 h', '7 d'.  Raises ValueError, whose text says what may be."""
    return _read(value, TIMES, "a number of seconds, or like '10 min', '2 h', '7 d'")


def _read(value: object, units: Mapping[str, float], may_be: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number, unit = float(value), ""
    else:
        text = value if isinstance(value, str) else ""
        found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text)
        if found is None or found[2].lower() not in units:
            raise ValueError(f"{value!r} is not {may_be}")
        number, unit = float(found[1]), found[2].lower()
    if not 0 < number * units[unit] < LARGEST:
        raise ValueError(f"{value!r} is not {may_be}, and more than 0")
    return number * units[unit]


@dataclass(frozen=True)
class Limits:
    """What one process may use; None: no limit.

    memory  bytes of address space
    cpu     seconds of processor time; then it gets SIGXCPU, and a second later SIGKILL
    wall    seconds after its start when it is ended
    idle    seconds without code that runs, and without anybody who follows it, after which it is ended
    queue   bytes of what it has sent and nobody has taken
    files   open descriptors
    grace   seconds that it may live on with nobody connected, where a client asks for that (protocol "frames")
    """

    memory: int | None = None
    cpu: float | None = None
    wall: float | None = None
    idle: float | None = 3600.0
    queue: int = 8 << 20
    files: int | None = None
    grace: float = 600.0

    def apply(self, pid: int) -> None:
        """Put a process that has just been started under memory, cpu and files, with all that it will start.

        What it has started already is put under them as well: an interpreter may be at the end of sudo or bwrap.
        Raises StartError if the kernel refuses; the process must not be used then.
        """
        wanted = self._kernels()
        if not wanted:
            return
        import resource

        if not hasattr(resource, "prlimit"):
            raise StartError("memory, cpu and files of the policy can be limited on Linux only; take them out of it")
        for one in _with_descendants(pid):
            try:
                for kind, (soft, hard) in wanted.items():
                    most = resource.prlimit(one, kind)[1]
                    if most != resource.RLIM_INFINITY:  # what there is cannot be raised
                        soft, hard = min(soft, most), min(hard, most)
                    resource.prlimit(one, kind, (soft, hard))
            except ProcessLookupError:  # noqa: PERF203  # each of them may end meanwhile
                continue
            except (OSError, ValueError) as e:
                raise StartError(
                    f"the limits of the policy cannot be set for process {one}: {e}; if it runs as another user, let "
                    "its command set them: python = ['sudo', '-n', '-u', 'joe', 'prlimit', '--as=...', 'python3']"
                ) from e

    def _kernels(self) -> dict[int, tuple[int, int]]:
        import resource

        wanted: dict[int, tuple[int, int]] = {}
        if self.memory is not None:
            wanted[resource.RLIMIT_AS] = (self.memory, self.memory)
        if self.cpu is not None:
            seconds = max(1, round(self.cpu))
            wanted[resource.RLIMIT_CPU] = (seconds, seconds + 1)
        if self.files is not None:
            wanted[resource.RLIMIT_NOFILE] = (self.files, self.files)
        return wanted


@dataclass(frozen=True)
class ServerLimits:
    """What the server takes in all.

    processes    at a time, in all
    per_token    at a time, for each token
    body         bytes of a request's body
    header       bytes of a request's head
    connections  open at a time
    slow         seconds within which a request's head must have come, and then each 64 KiB of its body
    drain        seconds that the end may take after SIGTERM
    """

    processes: int = 64
    per_token: int = 16
    body: int = 16 << 20
    header: int = 16 << 10
    connections: int = 8192
    slow: float = 10.0
    drain: float = 10.0


_READERS = {
    **dict.fromkeys(("memory", "queue", "body", "header"), read_size),
    **dict.fromkeys(("cpu", "wall", "idle", "grace", "slow", "drain"), read_seconds),
}


def read_limits(table: object, base: T, where: str) -> T:
    """*base* with what a TOML table says; false takes a limit away.  SpecError names the key that is none."""
    if not isinstance(table, Mapping):
        raise SpecError(f"{where} is no table")
    known = {field.name: field.default for field in fields(base)}
    new: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise SpecError(f"{where}: there is no limit {key!r}; known are {', '.join(known)}")
        if value is False:
            if "None" not in str(type(base).__annotations__[key]):
                raise SpecError(f"{where}.{key}: this one cannot be taken away; give a large value")
            new[key] = None
            continue
        try:
            new[key] = _READERS.get(key, _read_count)(value)
        except ValueError as e:
            raise SpecError(f"{where}.{key}: {e}") from e
    return replace(base, **new)


def _read_count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a number of 1 or more")
    return value


def _with_descendants(pid: int) -> list[int]:
    """A process and all below it, as far as the kernel tells (Linux)."""
    found = [pid]
    for one in found:
        try:
            threads = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
            except OSError:  # noqa: PERF203  # each of them may end meanwhile
                continue
    return found


class Place:
    """One process that may be started, or runs; free() gives the place back, once."""

    def __init__(self, places: Places, owner: str) -> None:
        self._places = places
        self._owner: str | None = owner

    def free(self) -> None:
        """Give the place back.  To be called when the process has ended, and when its start has failed."""
        owner, self._owner = self._owner, None
        if owner is not None:
            self._places._free(owner)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()


class Places:
    """As many places as the limits say, in all and for each token.  May be used from any thread."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are in use."""
        with self._lock:
            return self._taken.total()

    def reserve(self, caller: Caller) -> Place:
        """A place for one process of *caller*.  Raises Denied: 429 if it has its share, 503 if all are taken."""
        with self._lock:
            if self._taken[caller.name] >= self.limits.per_token:
                raise Denied(
                    429,
                    "limit",
                    f"the token {caller.name!r} has {self.limits.per_token} processes, and may have no more; "
                    "end one with DELETE /exec/PID",
                    retry_after=RETRY_FULL,
                )
            if self._taken.total() >= self.limits.processes:
                raise Denied(
                    503,
                    "full",
                    f"all {self.limits.processes} processes that this server may have are taken; try again later",
                    retry_after=RETRY_FULL,
                )
            self._taken[caller.name] += 1
        return Place(self, caller.name)

    def _free(self, owner: str) -> None:
        with self._lock:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
