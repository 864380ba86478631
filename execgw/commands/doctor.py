"""execgw doctor SPEC: what works and what does not on the way to a worker, step by step, and what to do next."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .. import _rooms, transports
from ..errors import (
    AuthenticationFailed,
    ExecgwError,
    HandshakeError,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    PythonNotFound,
    SpecError,
    StartError,
)
from ..gateway import Gateway
from ..group import Group
from ..peer.compat import clock
from ..spec import XSpec
from ..transports.ssh import parse
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

TRIPS = 100
ENOUGH_SECONDS = 0.25  # of traffic in one direction
MOST_BYTES = 64 << 20
LOOKUP_SECONDS = 10
VIA = "put the spec of that gateway before this one: execgw doctor SPEC//id=NAME SPEC//via=NAME"

MORE = """
Starts a gateway for each SPEC, in this order, and tells what it did: one line for each step, ok or
FAILED. It stops at the first step of a spec that fails, with what to do next. A later spec may go
through an earlier one (via=).

The exit code is 0 if all is well, and 1 if not. --json writes the same for programs:
  {"ok": true, "specs": [{"spec": "popen", "ok": true, "steps": [{"name", "ok", "detail", "next"}, ...],
   "measured": {"start_seconds", "round_trip_seconds", "bytes_per_second_there", "bytes_per_second_back"}}]}

examples:
  execgw doctor ssh=web1
  execgw doctor docker=db//python=python3.9
  execgw doctor ssh=host//id=host sudo=bob//via=host
  execgw doctor --json popen | jq .specs[0].measured
"""

# The steps of a start that an error tells of: which failed, and what to do when the error does not say it itself.
_FAILED_AT: list[tuple[type[ExecgwError], str, str]] = [
    (HostNotFound, "name lookup", "check how the name is written; getent hosts NAME must find it"),
    (HostKeyRefused, "host key", "compare the host's key with what its owner says before you accept it"),
    (AuthenticationFailed, "login", "log in by hand as this user, without being asked for anything; then try again"),
    (HostNotReached, "connect", "see that it runs and that nothing blocks the way"),
    (PythonNotFound, "python", "name an interpreter that is there: python=/path/of/python3"),
    (HandshakeError, "handshake", "what is between may neither ask for a terminal nor change bytes"),
    (StartError, "start", "run by hand what it was started as"),
]
# What must have worked, in order, before each kind of worker says hello.
_STAGES = {
    "ssh": ["name lookup", "connect", "host key", "login", "python", "handshake"],
    "vagrant_ssh": ["connect", "host key", "login", "python", "handshake"],
    "socket": ["name lookup", "connect", "host key", "login", "handshake"],
    "docker": ["connect", "python", "handshake"],
    "podman": ["connect", "python", "handshake"],
    "kubectl": ["connect", "login", "python", "handshake"],
    "sudo": ["login", "python", "handshake"],
    "memory": ["handshake"],
}
_PROGRAMS = {name: name for name in ("docker", "podman", "kubectl", "sudo", "ssh")} | {"vagrant_ssh": "vagrant"}


def add(commands: Commands) -> None:
    """Register the command."""
    parser = new_parser(commands, "doctor", "say step by step what works on the way to a worker", MORE)
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of text")
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="gateway specs, in the order in which they start")
    parser.set_defaults(run=_run)


@dataclass
class Step:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str
    next: str = ""


@dataclass
class Report:
    """What was found out about one spec."""

    spec: str
    ok: bool = True
    steps: list[Step] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)


def _run(args: argparse.Namespace) -> int:
    reports = []
    with Group() as group:
        for text in args.specs:
            report = Report(text)
            reports.append(report)
            if not args.json:
                print(text)
            for step in _examine(group, text, report):
                report.steps.append(step)
                report.ok = report.ok and step.ok
                if not args.json:
                    _show(step)
    ok = all(report.ok for report in reports)
    if args.json:
        json.dump({"ok": ok, "specs": [asdict(report) for report in reports]}, sys.stdout, indent=2)
        print()
    return 0 if ok else 1


def _show(step: Step) -> None:
    first, *rest = step.detail.splitlines() or [""]
    print(f"  {'ok' if step.ok else 'FAILED':<8}{step.name:<14}{first}", flush=True)
    for line in rest:
        print(f"{'':24}{line}")
    if step.next:
        print(f"  {'next':<8}{'':<14}{step.next}", flush=True)


def _examine(group: Group, text: str, report: Report) -> Iterator[Step]:
    """Try one step after the other, up to the first that fails."""
    try:
        spec = XSpec(text)
        kind = _kind_of(spec)
    except SpecError as e:
        yield Step("spec", False, str(e), "execgw doctor --help has examples; docs/guide/specs.md has all keys")
        return
    if spec.via and spec.via not in group:
        yield Step("spec", False, f"via={spec.via}: no earlier spec of this line works and has id={spec.via}", VIA)
        return
    yield Step("spec", True, f"kind {kind}" + (f", beside the worker of {spec.via}" if spec.via else ""))
    program = _program(kind, spec)
    if program:
        found, where = shutil.which(program), "on this host"
        if spec.via:
            found = group[str(spec.via)].remote_exec(_WHICH.format(program)).receive()
            where = f"where gateway {spec.via} is"
        if not found:
            yield Step("program", False, f"there is no program {program!r} {where}", "install it, or put it on PATH")
            return
        yield Step("program", True, str(found))
    begun = clock()
    try:
        gateway = group.makegateway(spec)
    except (ExecgwError, ValueError) as e:
        yield from _failed_start(kind, spec, e)
        return
    report.measured["start_seconds"] = clock() - begun
    yield from _passed(kind, spec)
    try:
        yield from _try_out(gateway, report)
    except (ExecgwError, OSError, EOFError) as e:
        yield Step("traffic", False, f"{type(e).__name__}: {e}", "the worker was there and broke; see its stderr above")


def _kind_of(spec: XSpec) -> str:
    wrapper = _rooms.wrapper_of(spec)
    if wrapper is not None:
        spec = spec.changed(wrapper.keys)
    names = transports.names()
    chosen = [key for key in spec.keys() if key in names]  # noqa: SIM118  # keys() of a spec is no dict
    return spec.check(names, transports.kind(chosen[0]).keys if len(chosen) == 1 else ())


def _program(kind: str, spec: XSpec) -> str | None:
    """The program that leads to the interpreter."""
    if kind == "cmd":
        try:
            return shlex.split(str(spec.cmd))[0]
        except (ValueError, IndexError):
            return None
    return _PROGRAMS.get(kind)


def _stages(kind: str) -> list[str]:
    return _STAGES.get(kind, ["python", "handshake"])


def _failed_start(kind: str, spec: XSpec, error: Exception) -> Iterator[Step]:
    named = ((name, hint) for cls, name, hint in _FAILED_AT if isinstance(error, cls))
    name, hint = next(named, ("spec", "docs/guide/specs.md says what each key takes"))
    stages = _stages(kind)
    for stage in stages[: stages.index(name)] if name in stages else []:
        yield Step(stage, True, _lookup(spec) if stage == "name lookup" and kind == "ssh" else "")
    lines = [line.strip() for line in str(error).splitlines()]
    if len(lines) > 1 and "it was started as" in lines[-2]:
        hint = lines.pop()  # the error's own, which knows more
    yield Step(name, False, "\n".join(lines), hint)


def _passed(kind: str, spec: XSpec) -> Iterator[Step]:
    for stage in _stages(kind):
        if stage not in ("python", "handshake"):
            yield Step(stage, True, _lookup(spec) if stage == "name lookup" and kind == "ssh" else "")


def _lookup(spec: XSpec) -> str:
    """The addresses of an ssh host, as far as this side looks them up."""
    if spec.via:
        return f"looked up where gateway {spec.via} is"
    target = parse(str(spec.ssh).strip(), os.path.expanduser(str(spec.ssh_config)) if spec.ssh_config else None)
    argv = ["ssh", "-G", *target.options, "--", target.host]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LOOKUP_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return target.host
    settings = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    host = settings.get("hostname", "")
    for way in ("proxyjump", "proxycommand"):
        if settings.get(way, "none") != "none":
            return f"{host}, reached through {settings[way]}"
    try:
        found = socket.getaddrinfo(host, int(settings.get("port", "22")), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return host
    return f"{host} is {', '.join(dict.fromkeys(str(entry[4][0]) for entry in found))}"


# -- traffic

_WHICH = """
import os
name = {!r}
places = [""] if "/" in name else [folder + "/" for folder in os.environ.get("PATH", os.defpath).split(":")]
found = [place + name for place in places if os.path.isfile(place + name) and os.access(place + name, os.X_OK)]
channel.send(found[0] if found else None)
"""

_ALL = bytes(range(256)) * 64

_FAR = """
import sys
for item in channel:
    if isinstance(item, int):
        block = bytearray(1 << 16)
        for _ in range(item):
            channel.send(block)
    elif item == "bytes":
        expected = bytearray(range(256)) * 64
        channel.send(bytearray(channel.receive()) == expected)
        channel.send(expected)
    elif item == "done":
        channel.send(item)
"""


def _try_out(gateway: Gateway, report: Report) -> Iterator[Step]:
    facts = gateway._rinfo()
    version = ".".join(map(str, facts.version_info[:3]))
    yield Step("python", True, f"{version} at {facts.executable}, {facts.platform}, pid {facts.pid}, in {facts.cwd}")
    yield Step("handshake", True, f"said hello after {report.measured['start_seconds'] * 1e3:.0f} ms")
    channel = gateway.remote_exec(_FAR)
    channel.send("bytes")
    channel.send(_ALL)
    there, back = channel.receive(), bytes(channel.receive()) == _ALL
    ways = " and ".join(way for way, fine in (("there", there), ("back", back)) if not fine)
    detail = f"changed on the way {ways}" if ways else "all 256 values unchanged, there and back"
    yield Step("bytes", not ways, detail, "what is between must carry all of them" if ways else "")
    trips = []
    for _ in range(TRIPS):
        begun = clock()
        channel.send("done")
        channel.receive()
        trips.append(clock() - begun)
    middle = report.measured["round_trip_seconds"] = sorted(trips)[TRIPS // 2]
    yield Step("round trip", True, f"{middle * 1e6:.0f} us (median of {TRIPS}, slowest {max(trips) * 1e6:.0f} us)")
    speeds = []
    for way, carry in (("there", _carry_there), ("back", _carry_back)):
        blocks, seconds = 4, 0.0
        while seconds < ENOUGH_SECONDS and blocks << 17 <= MOST_BYTES:
            blocks *= 2
            begun = clock()
            carry(channel, blocks)
            seconds = clock() - begun
        report.measured[f"bytes_per_second_{way}"] = (blocks << 16) / seconds
        speeds.append(f"{(blocks << 16) / seconds / 1e6:.1f} MB/s {way}")
    yield Step("throughput", True, ", ".join(speeds))


def _carry_there(channel: Any, blocks: int) -> None:
    block = bytes(1 << 16)
    for _ in range(blocks):
        channel.send(block)
    channel.send("done")
    channel.receive()


def _carry_back(channel: Any, blocks: int) -> None:
    channel.send(blocks)
    for _ in range(blocks):
        channel.receive()
