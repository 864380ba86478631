"""Trees of values <-> pickle bytes: the pickler in C, told what it may write and what it may call.

Imported when the first such value travels: the pickle module takes a worker milliseconds.
"""

import gc
import sys
from _codecs import encode as _codecs_encode
from io import BytesIO

from .codec import CONTAINERS, HAS_OVERRIDE, PLAIN, _buffer, _channel, _complex, _frozenset
from .compat import PY2
from .errors import LoadError

if PY2:
    import cPickle as _pickle

    if sys.platform.startswith("java"):  # Jython's cPickle writes a memo even in fast mode
        import pickle as _pickle
else:
    try:
        import _pickle
    except ImportError:  # PyPy: its pickle module is the fast one
        import pickle as _pickle  # type: ignore[no-redef]

pickle_module = _pickle  # type: Any

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Tuple  # noqa: F401

MANY = 16 * 1024  # bytes of a value that make many objects

# The pickler in Python, unlike the one in C, asks reducer_override about plain types too.
PURE = not PY2 and _pickle.__name__ != "_pickle"


class Refused(Exception):
    """Raised inside a pickler: this object is not for the wire."""


class Frozen(object):
    """Stands for a frozenset that the pickler in C cannot write; see refusal.encode_after."""

    def __init__(self, items):
        # type: (List[Any]) -> None
        self.items = items

    def __reduce__(self):
        # type: () -> Any
        return _frozenset, (self.items,)


class _Sink(object):
    """What a pickler writes to: each write is one piece; bytes of 64 KiB and more come uncopied (C pickler)."""

    __slots__ = ("parts", "write")

    def __init__(self):
        # type: () -> None
        self.parts = []  # type: List[Any]
        self.write = self.parts.append

    def take(self):
        # type: () -> Any
        """The bytes written so far, as one piece or a list of pieces."""
        parts = self.parts[:]
        del self.parts[:]
        return parts[0] if len(parts) == 1 else parts


if HAS_OVERRIDE:
    _OURS = (_channel, _complex, _buffer, _frozenset)  # type: Tuple[Any, ...]
    # Protocols below 5 write these plain types by calling their class, which then comes by here as an object.
    _CLASSES = (set, frozenset, bytearray, bytes, _codecs_encode)  # type: Tuple[Any, ...]

    class Encoder(_pickle.Pickler):
        """Writes one tree after the other; asks _reduce about everything that is not exactly a plain type."""

        def __init__(self, codec):
            # type: (Any) -> None
            self.sink = _Sink()
            _pickle.Pickler.__init__(self, self.sink, codec.protocol)
            self.fast = True
            self.codec = codec
            self.buffers = []  # type: List[Any]

        def reducer_override(self, item):
            # type: (Any) -> Any
            codec = self.codec
            kind = type(item)
            if PURE and kind is not complex and (kind in PLAIN or kind in CONTAINERS):
                return NotImplemented
            if kind is complex:
                return _complex, (item.real, item.imag)
            if isinstance(item, codec.channel_type):
                return _channel, (codec.number_of(item),)
            if kind is Frozen:
                return item.__reduce__()
            for known in _OURS:
                if item is known:
                    return NotImplemented
            from .buffers import take_apart  # shipped when asked for, like scan

            taken = take_apart(item)
            if taken is not None:
                self.buffers.append(taken[2])
                return _buffer, (len(self.buffers) - 1, taken[0], taken[1])
            if codec.protocol < 5:
                for known in _CLASSES:
                    if item is known:
                        return NotImplemented
            raise Refused

        def encode(self, value):
            # type: (Any) -> Tuple[Any, List[Any]]
            self.dump(value)
            buffers, self.buffers = self.buffers, []
            return self.sink.take(), buffers


if not PY2:

    class Decoder(_pickle.Unpickler):
        """Knows the names of _GLOBALS and no others."""

        codec = None  # type: Any
        buffers = ()  # type: Any

        def find_class(self, module, name):
            # type: (str, str) -> Any
            return self.codec.find(module, name, self.buffers)


def load(codec, data, buffers):
    # type: (Any, bytes, Any) -> Any
    """The value of pickle bytes; on the untrusted level only after scan() has let them pass."""
    if not codec.trusted:
        from .careful import careful_load

        careful = careful_load(codec, data, buffers)
        if careful:
            return careful[0]
    stream = BytesIO(data)
    if PY2:
        loader = _pickle.Unpickler(stream)
        name = "find_global" if _pickle.__name__ == "cPickle" else "find_class"
        setattr(loader, name, lambda module, name: codec.find(module, name, buffers))
    else:
        loader = Decoder(stream, encoding=codec.encoding2())
        loader.codec = codec
        loader.buffers = buffers
    if len(data) < MANY or _pickle.__name__ == "pickle" or not gc.isenabled():
        value = loader.load()
    else:
        # The collector would walk the half-made tree again and again, and find nothing: measured, 20-40% of the time.
        # The C unpickler does not let other threads run meanwhile, so nobody sees it switched off; others do, and
        # Jython cannot switch it off.
        gc.disable()
        try:
            value = loader.load()
        finally:
            gc.enable()
    if stream.read(1):
        raise LoadError("bytes after the end of the value")
    return value
