"""Packages of the near side, imported here though they are not installed: execgw, and what the spec's import= names.

The near side's come before what is installed here, but for execgw where Python is new enough for one that is
installed.  The near side sends the list of a package's files once, so that what is not there
is known without asking, and then each file when it is imported or opened.  execgw itself starts as an empty package:
its modules come as they are imported, and its names (execgw.Group) when one is used, where Python is new enough.
"""

import base64
import io
import itertools
import linecache
import sys

from ..peer.compat import PY2, allocate_lock, get_ident
from .execute import _execute

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional  # noqa: F401

CHUNK = 256 * 1024  # bytes of a file in one answer; less is the end of it
NEEDS = (3, 10)  # for the names of execgw itself
SHARED = ("execgw.wire.", "execgw.peer.")  # these modules are here already, under a name of our own

# Shipped to no worker, but a worker that is a near side itself needs them beside those that it has.
NEAR_ONLY = (
    "_execgw.wire.careful",
    "_execgw.wire.guarded",
    "_execgw.wire.kept",
    "_execgw.wire.kept_mux",
    "_execgw.wire.printable",
)

_numbers = itertools.count(1)
_fetch = __loader__.fetch  # type: ignore[name-defined]  # noqa: F821


def _ask(path):
    # type: (str) -> bytes
    """What a file holds, or for the name of a package the list of its files."""
    parts = []  # type: List[bytes]
    while True:
        # The number makes each question another one, for threads may ask the same.
        question = "served:%d:%d:%s" % (next(_numbers), len(parts), path)
        part = base64.b64decode(_fetch(question))
        parts.append(part)
        if len(part) < CHUNK:
            return b"".join(parts)


class Package(object):
    """A package of the near side: the paths of its files, with / between names, below the folder that it is in."""

    def __init__(self, name):
        # type: (str) -> None
        texts = _ask(name).decode("utf-8").split("\n")
        self.root = _native(texts[0]) + "/"  # type: str
        self.files = frozenset([_native(text) for text in texts[1:]])
        self.folders = frozenset([path[:at] for path in self.files for at in range(len(path)) if path[at] == "/"])

    def read(self, path):
        # type: (str) -> bytes
        """What a file holds; OSError if there is none."""
        if path not in self.files:
            raise IOError(2, "No such file in what the near side serves", path)
        return _ask(path)

    def loader(self, name):
        # type: (str) -> Optional[Loader]
        """The loader of a module; None if the near side has none of that name."""
        path = name.replace(".", "/")
        kind = ExecgwLoader if name == "execgw" else Loader
        if path + "/__init__.py" in self.files:
            return kind(self, name, path + "/__init__.py", True)
        if path + ".py" in self.files:
            return kind(self, name, path + ".py", False)
        return kind(self, name, "", True) if path in self.folders else None


class Finder(object):
    """Before all others in sys.meta_path."""

    def __init__(self):
        # type: () -> None
        self.packages = {}  # type: Dict[str, Package]

    def find_spec(self, name, path=None, target=None):
        # type: (str, Any, Any) -> Any
        loader = self.find_module(name)
        if loader is None:
            return None
        from _frozen_importlib import ModuleSpec

        spec = ModuleSpec(name, loader, origin=loader.filename, is_package=loader.package)
        if loader.package:
            spec.submodule_search_locations = [loader.folder]
        spec.has_location = bool(loader.path)
        return spec

    def find_module(self, name, path=None):
        # type: (str, Any) -> Any
        package = self.packages.get(name.split(".")[0])
        if package is None:
            return None
        if name.startswith(SHARED) and _is_shared(name):
            return Alias("_" + name)
        return package.loader(name)


class Loader(object):
    """Loads one module or package; shows its source to tracebacks, and its files to pkgutil and importlib.resources."""

    def __init__(self, served, name, path, package):
        # type: (Package, str, str, bool) -> None
        self.served = served
        self.name = name
        self.path = path  # "" for a folder without __init__.py
        self.package = package
        self.inside = path.rpartition("/")[0] if path else name.replace(".", "/")  # the folder, as the list has it
        self.folder = served.root + self.inside
        self.filename = served.root + path if path else None  # type: Any
        self._source = None  # type: Optional[bytes]

    def source(self):
        # type: () -> bytes
        if self._source is None:
            self._source = self.served.read(self.path) if self.path else b""
        return self._source

    # -- import statements

    def create_module(self, spec):
        # type: (Any) -> Any
        return None

    def exec_module(self, module):
        # type: (Any) -> None
        module.__file__ = self.filename
        if self.package:
            module.__path__ = [self.folder]
        if not self.path:
            return
        code = self.get_code()
        # A file of this name may be here, too, and be another.
        text = self.get_source()
        linecache.cache[self.filename] = len(text), None, text.splitlines(True), self.filename
        _execute(code, module.__dict__)

    def load_module(self, name):
        # type: (str) -> Any
        """Python 2"""
        if name in sys.modules:
            return sys.modules[name]
        module = type(linecache)(name)
        module.__loader__ = self
        module.__package__ = name if self.package else name.rpartition(".")[0]
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    # -- what else asks for code: runpy, inspect, linecache

    def is_package(self, name=None):
        # type: (Any) -> bool
        return self.package

    def get_filename(self, name=None):
        # type: (Any) -> Any
        return self.filename

    def get_code(self, name=None):
        # type: (Any) -> Any
        return compile(self.source(), self.filename or self.folder, "exec", 0, True)

    def get_source(self, name=None):
        # type: (Any) -> Any
        if PY2:
            return self.source()
        from importlib.util import decode_source

        return decode_source(self.source())

    # -- package data

    def get_data(self, path):
        # type: (str) -> bytes
        """For pkgutil.get_data(); *path* begins as __file__ does."""
        path = path.replace("\\", "/")
        if not path.startswith(self.served.root):
            raise IOError(2, "No such file in what the near side serves", path)
        return self.served.read(path[len(self.served.root) :])

    def get_resource_reader(self, name):
        # type: (str) -> Any
        return self if self.package else None

    def files(self):
        # type: () -> Any
        return Entry(self.served, self.inside)

    def open_resource(self, name):
        # type: (str) -> Any
        return io.BytesIO(self.served.read(self.inside + "/" + name))

    def resource_path(self, name):
        # type: (str) -> Any
        raise IOError(2, "It is no file here, the near side serves it", name)

    def is_resource(self, name):
        # type: (str) -> bool
        return self.inside + "/" + name in self.served.files

    def contents(self):
        # type: () -> Any
        return [entry.name for entry in self.files().iterdir()]


class ExecgwLoader(Loader):
    """The package execgw: modules as they are imported, its own names when one of them is used."""

    def exec_module(self, module):
        # type: (Any) -> None
        module.__file__, module.__path__, module.__package__ = self.filename, [self.folder], self.name
        if not PY2:  # boot.py, which has made it, knew none of this
            module.__spec__.origin, module.__spec__.submodule_search_locations = self.filename, [self.folder]
        module.__getattr__ = lambda name: self.attribute(module, name)
        self.lock, self.owner = allocate_lock(), 0

    def attribute(self, module, name):
        # type: (Any, str) -> Any
        """A module of the package, or a name that its __init__.py makes; from Python 3.7 on modules are asked so."""
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if name == "__version__":
            __import__("execgw._version")
            return sys.modules["execgw._version"].__version__
        path = self.inside + "/" + name
        if path + ".py" in self.served.files or path in self.served.folders:
            __import__("execgw." + name)
            return sys.modules["execgw." + name]
        if sys.version_info < NEEDS:
            text = "execgw.%s needs Python %d.%d or newer, and this is %s; execgw.service works everywhere"
            raise AttributeError(text % ((name,) + NEEDS + (sys.version.split()[0],)))
        if self.owner != get_ident():
            with self.lock:
                if name not in module.__dict__:
                    self.owner = get_ident()
                    try:
                        Loader.exec_module(self, module)
                    finally:
                        self.owner = 0
        if name not in module.__dict__:
            raise AttributeError("module 'execgw' has no attribute %r" % (name,))
        return module.__dict__[name]


class Alias(object):
    """Gives a module that this worker has already under another name: its classes must be the same ones."""

    path = package = filename = None  # type: Any

    def __init__(self, name):
        # type: (str) -> None
        self.name = name

    def create_module(self, spec):
        # type: (Any) -> Any
        __import__(self.name)
        module = sys.modules[self.name]
        self.spec = module.__spec__
        return module

    def exec_module(self, module):
        # type: (Any) -> None
        module.__spec__ = self.spec

    def load_module(self, name):
        # type: (str) -> Any
        __import__(self.name)
        sys.modules[name] = sys.modules[self.name]
        return sys.modules[name]


def _is_shared(name):
    # type: (str) -> bool
    """Whether it is one of those that workers are made of; the near side alone has others in these folders."""
    try:
        __import__("_" + name)
    except ImportError:
        return False
    return True


class Entry(object):
    """A file or folder of a served package, as importlib.resources wants it (a Traversable)."""

    def __init__(self, served, path):
        # type: (Package, str) -> None
        self.served = served
        self.path = path
        self.name = path.rpartition("/")[2]

    def is_dir(self):
        # type: () -> bool
        return self.path in self.served.folders

    def is_file(self):
        # type: () -> bool
        return self.path in self.served.files

    def iterdir(self):
        # type: () -> Any
        start = self.path + "/"
        names = [path[len(start) :].partition("/")[0] for path in self.served.files if path.startswith(start)]
        return iter([self.joinpath(name) for name in sorted(set(names))])

    def joinpath(self, *names):
        # type: (*str) -> Entry
        return Entry(self.served, "/".join((self.path,) + names))

    __truediv__ = joinpath

    def read_bytes(self):
        # type: () -> bytes
        return self.served.read(self.path)

    def read_text(self, encoding="utf-8"):
        # type: (str) -> Any
        return self.read_bytes().decode(encoding)

    def open(self, mode="r", *args, **kwargs):
        # type: (str, *Any, **Any) -> Any
        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, *args, **kwargs)

    def __str__(self):
        # type: () -> str
        return self.served.root + self.path


def _native(text):
    # type: (Any) -> Any
    return text.encode("utf-8") if PY2 else text


def _fetch_module(name):
    # type: (str) -> Any
    """For boot.py: the source of a module of ours."""
    if name in NEAR_ONLY and "execgw" in finder.packages:
        return _ask(name[1:].replace(".", "/") + ".py").decode("utf-8")
    return _fetch(name)


def serve(*names):
    # type: (*str) -> None
    """Make packages of the near side importable from now on."""
    for name in names:
        finder.packages[str(name)] = Package(str(name))


def _is_installed(name):
    # type: (str) -> bool
    others = [other for other in sys.meta_path if other is not __loader__]  # type: ignore[name-defined]  # noqa: F821
    return any([getattr(other, "find_spec", lambda *_: None)(name, None) for other in others])


finder = Finder()
loader = None  # type: Any  # of execgw, for boot.py
if sys.version_info < NEEDS or not _is_installed("execgw"):
    serve("execgw")
    loader = finder.find_module("execgw")
__loader__.fetch = _fetch_module  # type: ignore[name-defined]  # noqa: F821
sys.meta_path.insert(0, finder)
