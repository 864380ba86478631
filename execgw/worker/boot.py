"""The first file that runs in a worker: makes the shipped modules importable, as package _execgw, and starts to serve.

The near side runs this text in a scratch namespace and calls boot(modules, root): {name: source text or marshalled
code}, and the folder that their file names start with.  What is not there is asked for when it is imported.  Nothing
is unpacked before it is imported.
"""

import sys


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


class Shipped(object):
    """Finder and loader of the shipped modules, for Python 2 and 3."""

    def __init__(self, modules, root):
        self.modules = modules
        self.root = root
        self.fetch = None

    def file_of(self, name):
        """'_execgw.wire.codec' -> ROOT/wire/codec.py"""
        return self.root + "/" + "/".join(name.split(".")[1:]) + ".py"

    def add(self, name):
        """Import one module, or create one of the packages."""
        make = type(sys) if not sys.platform.startswith("java") else __import__("types").ModuleType
        module = make(name)
        module.__loader__ = self
        parent, _, child = name.rpartition(".")
        module.__package__ = parent
        sys.modules[name] = module
        if name.count(".") < 2:
            module.__package__ = name
            module.__path__ = []
        else:
            try:
                self.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        if parent:
            setattr(sys.modules[parent], child, module)
        return module

    def exec_module(self, module):
        module.__file__ = self.file_of(module.__name__)
        code = self.modules.get(module.__name__)
        if not code:
            code = self.modules[module.__name__] = self.fetch(module.__name__)
        if code[:1] == b"\xe3" or code[:1] == b"c":  # marshal's mark of a code object
            import marshal

            code = marshal.loads(code)
        else:
            # Else Python 2 would ask for our os when one of ours imports os.
            absolute = __import__("__future__").absolute_import.compiler_flag
            code = compile(code, self.file_of(module.__name__), "exec", absolute, True)
        _execute(code, module.__dict__)

    # Python 3
    def find_spec(self, name, path=None, target=None):
        loader = self.find_module(name)
        if loader:
            from _frozen_importlib import ModuleSpec

            return ModuleSpec(name, loader, origin=self.file_of(name))

    def create_module(self, spec):
        return None

    # Python 2
    def find_module(self, name, path=None):
        if name == "execgw":  # None if it is installed
            from _execgw.worker.served import loader

            return loader
        if name[:8] == "_execgw.":
            return self

    def load_module(self, name):
        return sys.modules.get(name) or self.add(name)

    def get_source(self, name):
        """For tracebacks (linecache)."""
        source = self.modules.get(name)
        return source if isinstance(source, str) else None  # compiled: only this very interpreter's


def boot(modules, root, readable, writable):
    """Serve on two file descriptors, or two files on Jython, until the near side goes."""
    shipped = Shipped(modules, root)
    sys.meta_path.insert(0, shipped)
    for package in ("_execgw", "_execgw.wire", "_execgw.peer", "_execgw.worker"):
        shipped.add(package)
    from _execgw.worker.serve import main

    main(shipped, readable, writable)
