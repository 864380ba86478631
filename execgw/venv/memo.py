"""Where the environments of specs are, remembered between processes: a start in a known one takes one step, not two.

A file for each spec, named by a hash of all that it asks for.  A memory that is wrong costs time and nothing else: the
worker that starts there looks whether the environment is what it was (worker/tasks/venv_attach.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from ..errors import LoadError
from ..spec import XSpec
from .environment import Environment, Wanted, checked


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("EXECGW_VENVS") or os.path.join(cache, "execgw", "venvs")) / "known"


def place_of(inner: XSpec, want: Wanted) -> Path:
    """The file of a spec without its venv keys."""
    keys = sorted((key, getattr(inner, key)) for key in inner.keys() if key != "id")  # noqa: SIM118
    told: list[object] = [keys, sorted(inner.env.items()), repr(want), want.index, sys.executable, os.getuid()]
    told.append([os.environ.get(name) for name in ("EXECGW_VENVS", "XDG_CACHE_HOME", "HOME")])
    if want.wheelhouse is not None:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(want.wheelhouse)]
        told.append(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in entries))
    return _folder() / hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()


def recall(place: Path | None) -> Environment | None:
    """What was known last."""
    if place is None:
        return None
    try:
        told = json.loads(place.read_text("utf-8"))
        return checked(None, told if isinstance(told, list) else [])
    except (OSError, ValueError, LoadError):
        return None


def keep(place: Path | None, env: Environment) -> None:
    """Remember; a side that cannot write does without."""
    if place is None:
        return
    try:
        place.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            json.dump(list(env), f)
        os.replace(name, place)
    except OSError:
        pass
