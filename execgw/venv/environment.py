"""Environments where a gateway's worker is: asking for one, starting a worker in it, making that live there.

The far halves are worker/tasks/venv.py, which builds, and worker/tasks/venv_attach.py, which each start sends.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import _bundle
from .._loop import run
from ..errors import EnvironmentFailed, LoadError, RemoteError, SpecError
from ..gateway import Gateway
from ..spec import XSpec
from . import push
from .requirements import check_index, check_name, parse, parse_versions

Progress = Callable[[str], object]
UV = ("auto", "push", "no")


@dataclass(frozen=True)
class Wanted:
    """What an environment is to be; see create_venv_gateway."""

    name: str = ""
    requirements: tuple[str, ...] = ()
    requires_python: str | None = None
    wheelhouse: str | None = None
    offline: bool = False
    uv: str = "auto"
    index: tuple[str, ...] = field(default=(), repr=False)  # the index, and further ones; may hold passwords


class Environment(NamedTuple):
    """One that is there: `python` is its interpreter, `stamp` changes with the settings of its host."""

    key: str
    directory: str
    python: str
    version: str
    tool: str
    stamp: str


def wanted(
    name: str = "",
    requirements: str | Iterable[str] = (),
    *,
    requires_python: str | None = None,
    wheelhouse: str | os.PathLike[str] | None = None,
    offline: bool = False,
    uv: str = "auto",
    index_url: str | None = None,
    extra_index_urls: Iterable[str] = (),
    allow_paths: bool = False,
    where: str = "index_url ",
) -> Wanted:
    """Check all that is asked for; SpecError says what is wrong, before anything is started."""
    if name:
        check_name(name)
    if uv not in UV:
        raise SpecError(f"uv={uv!r}: it is one of {', '.join(UV)}")
    parse_versions(requires_python)
    index = [check_index(url, where) for url in ([index_url] if index_url else []) + list(extra_index_urls)]
    if index and not index_url:
        raise SpecError("extra_index_urls go with index_url")
    folder = None if wheelhouse is None else os.path.abspath(os.path.expanduser(os.fspath(wheelhouse)))
    if folder is not None and not os.path.isdir(folder):
        raise SpecError(f"wheelhouse={folder!r} is no directory on this host; pip download -d DIR makes one")
    return Wanted(
        name=name,
        requirements=parse(requirements, allow_paths),
        requires_python=requires_python,
        wheelhouse=folder,
        offline=offline or folder is not None,
        uv=uv,
        index=tuple(index),
    )


# -- asking the far half

shown: Progress | None = None  # who hears what is done where nobody gave a progress=; the command line sets it


def ask(
    gateway: Gateway, what: str, progress: Progress | None = None, files: push.Files = push.NONE, **more: Any
) -> Any:
    """Have one request done where *gateway* leads; EnvironmentFailed with the last lines of what failed."""
    store, build, attach, kept = [_bundle.task(f"venv{part}")[0] for part in ("_store", "", "_attach", "_kept")]
    progress = progress or shown
    # One text, so that they share their functions; only one main() may be in it.
    source = "\n".join([store, build, attach.replace("def main(", "def attach_main("), kept])
    channel = run(gateway._run(("function", source, "<execgw>/worker/tasks/venv.py", "main", (), {"what": what, **more})))
    try:
        for item in channel:
            match item:
                case ("progress", str(text)):
                    if progress is not None:
                        progress(printable(text))
                case ("need", list(names)):
                    for name in names:
                        files.send(channel, name)
                case ("failed", str(text), str(tail)):
                    raise _failed(gateway, text, tail)
                case ("done", value):
                    return value
                case _:
                    raise LoadError(f"gateway {gateway.id!r}: no answer of ours is {str(item)[:200]!r}")
    except RemoteError as e:
        raise _failed(gateway, e.formatted.strip().splitlines()[-1], e.formatted) from None
    finally:
        channel.close()
    raise _failed(gateway, "its worker ended without an answer", "")


def printable(text: str) -> str:
    """What a worker says, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _failed(gateway: Gateway, text: str, tail: str) -> EnvironmentFailed:
    lines = [printable(line) for line in tail.splitlines()]
    shown = "".join(f"\n  {line}" for line in lines)
    return EnvironmentFailed(f"gateway {gateway.id!r}: {printable(text)}{shown}", output="\n".join(lines))


def make(gateway: Gateway, want: Wanted, progress: Progress | None = None, asked: str = "") -> Environment:
    """The environment on the host of *gateway*, built if it is not there."""
    files = push.files_of(want.wheelhouse, want.uv)
    python = _find_python(gateway, want, progress)
    record = ask(
        gateway,
        "make",
        progress,
        files,
        name=want.name,
        requirements=list(want.requirements),
        python=python,
        asked=asked,
        index=list(want.index),
        offline=want.offline,
        **files.told(),
    )
    return checked(gateway, [record.get(name) for name in Environment._fields] if isinstance(record, dict) else [])


def checked(gateway: Gateway | None, told: list[Any]) -> Environment:
    """What a worker, or a file, says of an environment: its path becomes the first word of a command."""
    texts = [value for value in told if isinstance(value, str) and value.isprintable()]
    if len(texts) != len(Environment._fields) or not (texts[1].startswith("/") and texts[2].startswith("/")):
        raise LoadError(f"{gateway!r}: the facts about its environment make no sense")
    return Environment(*texts)


def _find_python(gateway: Gateway, want: Wanted, progress: Progress | None) -> str | None:
    """An interpreter there that requires-python allows; None for the worker's own."""
    allowed = parse_versions(want.requires_python)
    own = ".".join(map(str, gateway._rinfo().version_info[:3])) if allowed is not None else ""
    if allowed is None or allowed.contains(own, prereleases=True):
        return None
    tell = progress or shown
    if tell is not None:
        tell(f"looking for a Python {want.requires_python}")
    told = ask(gateway, "interpreters", progress)
    found = [(version, path) for version, path in told if isinstance(version, str) and isinstance(path, str)]
    found = [one for one in found if one[1].startswith("/") and allowed.contains(one[0], prereleases=True)]
    if not found:
        there = ", ".join(sorted({str(version) for version, _ in told})) or "none"
        raise EnvironmentFailed(
            f"gateway {gateway.id!r}: no Python {want.requires_python} is there; found: {there}; "
            "install one, or put it on PATH there"
        )
    return max(found, key=lambda one: [int(part) for part in one[0].split(".")])[1]


# -- living in one


def attach(
    gateway: Gateway, env: Environment, asked: str = "", own: Iterable[str] = (), chdir: bool = True
) -> str | None:
    """Let the worker of a new gateway live in its environment; text says why it cannot."""
    source, filename = _bundle.task("venv_attach")
    options = {"directory": env.directory, "stamp": env.stamp if asked else "", "asked": asked}
    channel = run(gateway._run(("function", source, filename, "main", (), {**options, "own": sorted(own), "chdir": chdir})))
    told = channel.receive()
    if told is not None and not isinstance(told, str):
        raise LoadError(f"gateway {gateway.id!r}: no answer of ours is {str(told)[:200]!r}")
    return None if told is None else printable(told)


def beside(gateway: Gateway, env: Environment, id: str | None) -> Gateway:  # the key's name
    """A gateway to a new worker in the environment, on the very host where *gateway*'s worker is."""
    spec = gateway.spec
    given: dict[str, Any] = {"id": id, "python": shlex.quote(env.python), "execmodel": spec.execmodel}
    if _is_child(spec):
        new = XSpec("popen").changed(nice=spec.nice, dont_write_bytecode=spec.dont_write_bytecode, **given)
        new.env.update(spec.env)
        new = new.changed()
    else:  # env and nice are those of the worker that starts it
        new = XSpec("popen").changed(via=gateway.id, keepalive=spec.keepalive, **given)
    made = gateway._group.makegateway(new)
    why = attach(made, env, own=spec.env)
    if why is not None:
        with made:
            raise EnvironmentFailed(f"gateway {made.id!r}: {why}; try again")
    return made


def _is_child(spec: XSpec) -> bool:
    return bool(spec.popen) and not spec.via and not _words_before(spec)


def _words_before(spec: XSpec) -> bool:
    return len(shlex.split(str(spec.python))) > 1 if spec.python else False
