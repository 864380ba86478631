"""rsync: the far half, as sender or receiver; its modules (peer/trees/) come first over the channel.

channel -> b"c" code of them, marshalled, for the very interpreter of the near side
           b"z" their sources, packed: "name NUL text NUL name NUL text..."
           b"=" they are here already
        -> what to do, as "key NUL value NUL..."
"""

import sys
from types import ModuleType

PACKAGE = "_execgw_trees"


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def _modules(data):
    """(name, code) in the order in which they import one another."""
    if data[:1] == b"c":
        import marshal

        return marshal.loads(data[1:])
    import zlib

    parts = zlib.decompress(data[1:]).split(b"\0")
    found = []
    for name, text in zip(parts[::2], parts[1::2]):
        name = str(name.decode("ascii"))
        found.append((name, compile(text, "<execgw>/peer/trees/%s.py" % name, "exec", 0, True)))
    return found


def _load(data):
    if data[:1] == b"=":
        return
    package = ModuleType(PACKAGE)
    package.__path__ = []
    sys.modules[PACKAGE] = package
    for name, code in _modules(data):
        module = ModuleType(PACKAGE + "." + name)
        module.__package__ = PACKAGE
        sys.modules[module.__name__] = module
        _execute(code, module.__dict__)
        setattr(package, name, module)


def main(channel):
    """One run; see the file's head."""
    _load(channel.receive())
    sys.modules[PACKAGE + ".far"].serve(channel, channel.receive())


if __name__ == "__channelexec__":
    main(channel)  # noqa: F821
