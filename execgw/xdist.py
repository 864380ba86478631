"""pytest -p execgw.xdist -n 4: an unmodified pytest-xdist that runs on execgw.

pytest-xdist says `import execnet`, in the controller and in its workers.  This module answers to that name in the
controller.  In each worker the first thing that runs is _prelude(), which makes a module `execnet` of the worker's own
pieces: the far Python needs pytest and pytest-xdist, and neither execnet nor execgw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

import execgw

from .values import MAGIC

__execgw__ = True  # so that another import of this module knows whose `execnet` it finds
# pluggy asks every plugin for this, and must not hear of it from the package.
pytest_plugins: tuple[str, ...] = ()


def _prelude(channel: Any, magic: bytes, version: str) -> None:
    """Runs first in each worker; in the syntax of Python 2.7, as all that a worker gets."""
    import struct
    import sys
    from types import ModuleType

    from _execgw.peer.channel import Channel  # type: ignore[import-not-found]
    from _execgw.wire import errors  # type: ignore[import-not-found]
    from _execgw.wire.codec import Codec  # type: ignore[import-not-found]

    codec = channel.gateway._peer.codec

    class Module(ModuleType):
        """`execnet` here; and `execgw` where there is none, for the worker's pytest is told -p execgw.xdist, too."""

        __execgw__ = True

        def __getattr__(self, name):
            # type: (str) -> Any
            if self.__name__ == "execnet" and not name.startswith("_"):
                try:
                    from execgw import xdist
                except Exception:  # there is none, or it is not for this Python
                    xdist = self
                if not isinstance(xdist, Module):
                    return getattr(xdist, name)
            where = (self.__name__, name, sys.executable)
            text = "%s.%s is not there: it needs execgw installed for %s (Python 3.10 or newer)"
            raise AttributeError(text % where)

    class Finder(object):  # noqa: UP004
        """Finds an empty execgw and execgw.xdist."""

        def find_spec(self, name, path=None, target=None):
            # type: (str, Any, Any) -> Any
            if name not in ("execgw", "execgw.xdist"):
                return None
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self, is_package=name == "execgw")  # type: ignore[arg-type]

        def create_module(self, spec):
            # type: (Any) -> Any
            return Module(spec.name)

        def exec_module(self, module):
            # type: (Any) -> None
            pass

    def dumps(obj):
        # type: (Any) -> bytes
        form, data = codec.encode(obj)
        return magic + bytes(bytearray([form])) + (b"".join(data) if isinstance(data, list) else data)

    def loads(data, py2str_as_py3str=False, py3str_as_py2str=False):
        # type: (bytes, bool, bool) -> Any
        size = len(magic)
        if data[:size] != magic or len(data) <= size:
            text = "no value starts with %r; dumps() writes %r first"
            raise errors.LoadError(text % (data[:8], magic))
        reader = Codec().coercing(py2str_as_py3str, py3str_as_py2str)
        return reader.decode(bytearray(data[size : size + 1])[0], data[size + 1 :])

    def dump(file, obj):
        # type: (Any, Any) -> None
        data = dumps(obj)
        file.write(struct.pack("!Q", len(data)) + data)

    def load(file, py2str_as_py3str=False, py3str_as_py2str=False):
        # type: (Any, bool, bool) -> Any
        head = file.read(8)
        size = struct.unpack("!Q", head)[0] if len(head) == 8 else 0
        data = file.read(size)
        if not size or len(data) < size:
            text = "a value of %d bytes is announced, %d are there"
            raise errors.LoadError(text % (size, len(data)))
        return loads(data, py2str_as_py3str, py3str_as_py2str)

    module = Module("execnet")
    for part in (Channel, dumps, loads, dump, load):
        setattr(module, part.__name__, part)
    for name in ("RemoteError", "TimeoutError", "DataFormatError", "DumpError", "LoadError"):
        setattr(module, name, getattr(errors, name))
    module.__version__ = version  # type: ignore[attr-defined]
    module.__file__ = "<execgw>/xdist.py"
    sys.modules["execnet"] = module
    if sys.version_info[0] > 2:  # noqa: UP036
        # pytest-xdist gives popen workers the controller's sys.path, whatever their Python is.  What it has of execgw
        # is of use from 3.10 on; then it goes first.
        place = len(sys.meta_path) if sys.version_info >= (3, 10) else 0
        sys.meta_path.insert(place, Finder())


class Group(execgw.Group):
    """A group whose workers know `execnet`, too."""

    def makegateways(self, specs: Iterable[execgw.XSpec | str | None]) -> list[execgw.Gateway]:
        """Start many workers at the same time; see execgw.Group."""
        gateways = super().makegateways(specs)
        try:
            begun = [gateway.remote_exec(_prelude, magic=MAGIC, version=execgw.__version__) for gateway in gateways]
            for channel in begun:
                channel.waitclose()
        except BaseException:
            self._end(gateways, 0)
            raise
        return gateways


default_group = Group()
makegateway = default_group.makegateway
makegateways = default_group.makegateways
set_execmodel = default_group.set_execmodel


def __getattr__(name: str) -> Any:
    """All else is execgw's."""
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(execgw, name)


def _answer_to_execnet() -> None:
    known = sys.modules.setdefault("execnet", sys.modules[__name__])
    if not getattr(known, "__execgw__", False):
        raise pytest.UsageError(
            f"execgw.xdist comes too late: execnet is imported already (from {getattr(known, '__file__', None)}); put "
            "-p execgw.xdist before every other -p, on the command line, in addopts or in PYTEST_ADDOPTS "
            "(PYTEST_PLUGINS and a conftest.py's pytest_plugins are too late)"
        )


_answer_to_execnet()
