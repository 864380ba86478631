"""What the near side pushes: the wheels of a wheelhouse, a project's file, its own uv."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..channel import Channel
from ..errors import LoadError, SpecError

BLOCK = 256 * 1024


@dataclass(frozen=True)
class Files:
    """Files by the names under which the far half asks for them; it gets no others."""

    paths: dict[str, Path] = field(default_factory=dict)
    wheels: dict[str, str] = field(default_factory=dict)  # name -> sha256
    uv: str = "auto"
    uv_id: str = ""

    def told(self) -> dict[str, Any]:
        """What the far half is told of them."""
        here = [sys.platform, platform.machine(), platform.libc_ver()[0]] if self.uv_id else None
        return {"wheels": self.wheels, "uv": self.uv, "uv_id": self.uv_id, "uv_platform": here}

    def send(self, channel: Channel, name: object) -> None:
        """Send one that was asked for."""
        path = self.paths.get(name) if isinstance(name, str) else None
        if path is None:
            raise LoadError(f"{channel!r}: the worker asks for {str(name)[:100]!r}, which it was not offered")
        with path.open("rb") as f:
            while block := f.read(BLOCK):
                channel.send(block)
        channel.send(None)


NONE = Files()


def sha256(path: Path) -> str:
    """The hash of a file."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(1024)
def _sha256(path: Path, size: int, time: int) -> str:
    with path.open("rb") as f:
        digest = hashlib.sha256()
        while block := f.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def find_uv() -> Path | None:
    """The uv of this side: beside its interpreter, or on the path."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("uv", path=places)
    return Path(found).resolve() if found else None


def files_of(wheelhouse: str | None, uv: str) -> Files:
    """The wheels and sdists of a directory, and uv if it is to be pushed."""
    paths: dict[str, Path] = {}
    wheels: dict[str, str] = {}
    if wheelhouse is not None:
        for path in sorted(Path(wheelhouse).iterdir()):
            if path.is_file() and path.name.endswith((".whl", ".tar.gz", ".zip")):
                paths[path.name], wheels[path.name] = path, sha256(path)
        if not wheels:
            raise SpecError(f"wheelhouse={wheelhouse!r} has no wheels; pip download -d DIR puts some there")
    uv_id = ""
    if uv == "push":
        found = find_uv()
        if found is None:
            raise SpecError("uv=push: this side has no uv; pip install uv")
        stat = found.stat()
        uv_id = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
        paths["uv"] = found
    return Files(paths, wheels, uv, uv_id)
