"""Values that are one block of memory: they travel beside the pickle, uncopied (memoryview, array, numpy arrays)."""

from __future__ import absolute_import

import sys

from .errors import LoadError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Optional, Tuple  # noqa: F401

PY2 = sys.version_info[0] == 2


def rebuild(kind, meta, data):
    # type: (str, Any, Any) -> Any
    """Make again what travelled as a buffer: 'm'emoryview, 'a'rray or 'n'umpy array."""
    if kind == "m":
        view = memoryview(data)
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
            import numpy
        except ImportError:
            raise LoadError("a numpy array arrived, and numpy is not installed here; send array.tolist()")
        return numpy.frombuffer(data, dtype=str(meta[0])).reshape(meta[1])
    raise LoadError("a buffer of kind %r" % (kind,))


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
