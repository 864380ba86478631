"""Values that are one block of memory: they travel beside the pickle, uncopied (memoryview, array, numpy arrays)."""

import re
import struct
import sys

from .compat import PY2, text_type
from .errors import LoadError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Optional, Tuple  # noqa: F401

DTYPE = re.compile(r"[<>|=]?[biufcmMSU][0-9]{1,10}(\[[0-9A-Za-z]{1,16}\])?\Z")


def rebuild(kind, meta, data):
    # type: (str, Any, Any) -> Any
    """Make again what travelled as a buffer: 'm'emoryview, 'a'rray or 'n'umpy array."""
    if kind == "m":
        view = memoryview(data)  # type: Any
        return view if PY2 or not view.nbytes else view.cast(str(meta[0]), tuple(meta[1]))
    if kind == "a":
        import array

        again = array.array(str(meta[0]))
        if again.itemsize != meta[1]:
            raise LoadError("array type %r has %d bytes there and %d here" % (meta[0], meta[1], again.itemsize))
        if PY2:
            again.fromstring(bytes(data))
        else:
            again.frombytes(data)
        if meta[2] != sys.byteorder and again.itemsize > 1:
            again.byteswap()
        return again
    if kind == "n":
        try:
            import numpy  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise LoadError("a numpy array arrived, and numpy is not installed here; send array.tolist()")
        if not DTYPE.match(str(meta[0])):  # numpy would parse lists of types, too, in its own time
            raise LoadError("a numpy array of type %r" % (str(meta[0])[:80],))
        return numpy.frombuffer(data, dtype=str(meta[0])).reshape(meta[1])
    raise LoadError("a buffer of kind %r" % (kind,))


def rebuild_from(buffers):
    # type: (Any) -> Any
    """What a value calls for each of its buffers, which it may do once: each time could make a copy."""

    def take(index, kind, meta):
        # type: (int, str, Any) -> Any
        data, buffers[index] = buffers[index], None
        if data is None:
            raise LoadError("buffer %r was used before" % (index,))
        return rebuild(kind, meta, data)

    return take


def take_apart(item):
    # type: (Any) -> Optional[Tuple[str, Any, Any]]
    """Take apart what can travel as a buffer: (kind, meta, bytes-like), or None if it is no such thing."""
    kind = type(item)
    if kind is memoryview:
        if not item.c_contiguous or len(item.format) != 1:
            return "m", ("B", (item.nbytes,)), item.tobytes()
        return "m", (item.format, item.shape), item.cast("B") if item.nbytes else b""
    if kind.__name__ == "array" and kind.__module__ == "array" and item.typecode not in "uw":
        return "a", (item.typecode, item.itemsize, sys.byteorder), memoryview(item).cast("B") if len(item) else b""
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy" and item.dtype.kind in "biufcmMSU":
        flat = sys.modules["numpy"].ascontiguousarray(item).reshape(-1)
        return "n", (flat.dtype.str, item.shape), memoryview(flat.view("u1")) if flat.nbytes else b""
    return None


def pack(tree, buffers):
    # type: (Any, List[Any]) -> List[Any]
    """Count and sizes, the pickle, the buffers: pieces that are not joined."""
    parts = tree if type(tree) is list else [tree]
    head = [struct.pack("!IQ", len(buffers), sum([len(part) for part in parts]))]
    head.extend([struct.pack("!Q", len(item)) for item in buffers])
    return [b"".join(head)] + parts + buffers


def unpack(data):
    # type: (Any) -> Tuple[bytes, List[Any]]
    """The inverse: the pickle's bytes, and views of the buffers."""
    if PY2:
        data = bytes(data)
    count, size = struct.unpack_from("!IQ", data, 0)
    at = 12 + 8 * count
    if at + size > len(data):
        raise LoadError("%d buffers are announced in %d bytes" % (count, len(data)))
    sizes = struct.unpack_from("!%dQ" % count, data, 12)
    if at + size + sum(sizes) != len(data):
        raise LoadError("the buffers' sizes do not add up")
    view = data if PY2 else memoryview(data)
    tree = bytes(view[at : at + size])
    at += size
    buffers = []
    for size in sizes:
        buffers.append(view[at : at + size])
        at += size
    return tree, buffers


def to_native2(value):
    # type: (Any) -> Any
    """On Python 2, when asked for: text becomes 8-bit strings (UTF-8), at every depth."""
    if isinstance(value, text_type):
        return value.encode("utf-8")
    if isinstance(value, dict):
        return dict([(to_native2(k), to_native2(value[k])) for k in value])
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)([to_native2(item) for item in value])
    return value
