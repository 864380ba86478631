"""Brings the far half to a worker: its code to one with our interpreter, its text to any other, and only once."""

from __future__ import annotations

import functools
import importlib.util
import marshal
import sys
import weakref
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from .._bundle import strip
from ..peer.trees.far import pack_options

if TYPE_CHECKING:
    from ..channel import Channel
    from ..gateway import Gateway

# In the order in which they import one another.
MODULES = ["places", "delta", "listing", "contents", "write", "direct", "finish", "receive", "files", "send", "far"]
HERE = Path(__file__).parent.parent
_loaded: weakref.WeakSet[Gateway] = weakref.WeakSet()


@functools.cache
def _task() -> str:
    return (HERE / "worker" / "tasks" / "rsync.py").read_text("utf-8")


@functools.cache
def _code() -> bytes:
    found = []
    for name in MODULES:
        full = f"execgw.peer.trees.{name}"
        spec = importlib.util.find_spec(full)
        assert spec is not None and spec.loader is not None
        found.append((name, spec.loader.get_code(full)))  # type: ignore[attr-defined]
    return b"c" + marshal.dumps(found)


@functools.cache
def _texts() -> bytes:
    parts = []
    for name in MODULES:
        parts += [name, strip((HERE / "peer" / "trees" / f"{name}.py").read_text("utf-8"))]
    return b"z" + zlib.compress("\0".join(parts).encode("ascii"), 9)


def is_ours(gateway: Gateway) -> bool:
    """Whether the worker is our own child, with this very interpreter."""
    session = gateway._session
    about = session.about or {}
    version = ".".join(map(str, sys.version_info[:3]))
    return session.transport.trusted and about.get("executable") == sys.executable and about.get("python") == version


def start(gateway: Gateway, options: dict[bytes, bytes]) -> Channel:
    """Start the far half; it does as *options* say."""
    channel = gateway.remote_exec(_task())
    channel.reconfigure(py2str_as_py3str=False)
    if gateway in _loaded:
        channel.send(b"=")
    else:
        channel.send(_code() if is_ours(gateway) else _texts())
    channel.send(pack_options(options))
    return channel


def started(gateway: Gateway) -> None:
    """A run has ended well: the modules are there."""
    _loaded.add(gateway)
