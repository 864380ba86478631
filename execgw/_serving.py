"""What a worker may ask this side for: modules that workers are made of, files of execgw and of what import= names.

The list of what is served is made here, once, from the folders of the packages; a question is looked up in it and
nowhere else, so no name that a worker could think of leads to another file.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from . import _bundle
from .errors import SpecError, StartError
from .peer.compat import clock
from .wire import frames as f

if TYPE_CHECKING:
    from ._session import Session

CHUNK = 256 * 1024  # as in worker/served.py
MOST_FILES = 10_000  # of one package; their names travel, too
COMPILED = (".pyc", ".pyo", ".so", ".pyd", ".dylib")
OURS = __name__.partition(".")[0]
SERVED = "_execgw.worker.served"  # as the worker calls it


class Table:
    """The files of one package or module: their paths below the folder that it is in."""

    def __init__(self, folder: str, paths: Iterable[str]) -> None:
        self.folder = os.path.realpath(folder)
        self.paths = frozenset(paths)
        self.listed = "\n".join([self.folder, *sorted(self.paths)]).encode("utf-8")

    def read(self, path: str, index: int) -> bytes:
        """One chunk of a file; KeyError if it is not in the list, OSError if it has become another since."""
        if path not in self.paths:
            raise KeyError(path)
        name = f"{self.folder}/{path}"
        if os.path.realpath(name) != name:
            raise OSError("it was replaced by a link")
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("it is no file any more")
            return os.pread(fd, CHUNK, index * CHUNK)
        finally:
            os.close(fd)


@functools.cache
def _own_table() -> Table:
    if _bundle.IS_SERVED:
        return _Handed()
    folder = str(_bundle.HERE.resolve())
    return Table(os.path.dirname(folder), _walk(folder, OURS))


class _Handed(Table):
    """Of execgw itself, in a worker that has it from its own near side."""

    def __init__(self) -> None:
        self.served = __loader__.served  # type: ignore[name-defined]
        self.folder = self.served.root.rstrip("/")
        self.paths = self.served.files
        self.listed = "\n".join([self.folder, *sorted(self.paths)]).encode("utf-8")

    def read(self, path: str, index: int) -> bytes:
        data: bytes = self.served.read(path)
        return data[index * CHUNK :][:CHUNK]


def table_of(name: str, where: str) -> Table:
    """What is served of a package or module that can be imported here; SpecError if there is none of that name."""
    if name == OURS:
        return _own_table()
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError) as e:
        raise SpecError(f"{where}: import={name}: {e}") from e
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if len(folders) == 1 and os.path.isdir(folders[0]):
        folder = os.path.realpath(folders[0])
        if os.path.basename(folder) == name:
            return Table(os.path.dirname(folder), _walk(folder, name))
        raise SpecError(f"{where}: import={name}: its folder has another name, {folder!r}")
    if spec is not None and spec.origin and spec.origin.endswith(".py") and os.path.isfile(spec.origin):
        path = os.path.realpath(spec.origin)
        if os.path.basename(path) == f"{name}.py":
            return Table(os.path.dirname(path), [f"{name}.py"])
    what = "it has no source in one folder" if spec is not None else "no module of that name can be imported here"
    raise SpecError(f"{where}: import={name}: {what}; it takes names of packages and modules, with , between them")


def _walk(folder: str, name: str) -> Iterator[str]:
    """The files below a folder that may be served: none that is hidden, compiled, or a link that leads outside."""
    count = 0
    for where, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if inner[0] != "." and inner != "__pycache__"]
        for file in files:
            path = f"{where}/{file}"
            if file[0] == "." or file.endswith(COMPILED) or "\n" in path or not path.isprintable():
                continue
            if os.path.realpath(path) != path or not os.path.isfile(path):
                continue
            count += 1
            if count > MOST_FILES:
                raise SpecError(f"import={name}: {folder!r} holds more than {MOST_FILES} files")
            yield name + path[len(folder) :]


def names_of(value: str | None) -> list[str]:
    """The names in the value of import=."""
    return [name.strip() for name in (value or "").split(",") if name.strip()]


class Offers:
    """What one worker may ask for."""

    def __init__(self, names: Iterable[str] = (), where: str = "") -> None:
        self.tables = {name: table_of(name, where) for name in names}

    def answer(self, asked: dict[str, str]) -> dict[str, str]:
        """The answer to a question, which may be anything."""
        number = asked.get("number", "")
        if asked.get("verb") != "module":
            return {"problem": "no such question"}
        try:
            if number.startswith("served:"):
                return {"source": base64.b64encode(self._read(number)).decode("ascii")}
            return {"source": _bundle.source(number)}
        except (KeyError, ValueError, OSError):
            return {"problem": "no such module is served"}

    def _read(self, question: str) -> bytes:
        _, _, index, path = question.split(":", 3)
        if not index.isdecimal() or len(index) > 6:
            raise ValueError(index)
        name = path.partition("/")[0]
        name = name if name in self.tables else name.removesuffix(".py")
        table = _own_table() if name == OURS else self.tables[name]
        if path == name:
            return table.listed[int(index) * CHUNK :][:CHUNK]
        return table.read(path, int(index))


async def offer(session: Session, deadline: float) -> None:
    """Tell a new worker what the spec's import= offers, and wait until it is in force; StartError if that fails."""
    names = tuple(session.offers.tables)
    if not names:
        return
    form, data = session.codec.encode(("named", SERVED, "", "serve", names, {}))
    with session.lock:
        port = session.mux.open()
        port.claimed = True
    await session.loop.send(session, port, form, data, f.EXEC)
    await session.until(lambda port: port.items or port.ended, port, max(deadline - clock(), 0))
    done = bool(port.items)
    session.close(port)
    if not done:
        raise StartError(f"gateway {session.id!r}: import={','.join(names)}: the worker could not be told of it")
