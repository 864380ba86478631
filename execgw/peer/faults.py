"""Exceptions across the wire: raised there, told in a CLOSE frame; see remote.py for the other side."""

from ..wire.compat import text_type

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401


def as_text(value):
    # type: (Any) -> str
    """str(value), whatever it raises; text on Python 2, too."""
    try:
        if isinstance(value, text_type):
            return value
        text = str(value)
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    except Exception as e:
        return text_type("<unprintable %s: %s>" % (type(value).__name__, type(e).__name__))


def pack_error(codec, fault):
    # type: (Any, Any) -> bytes
    """The payload of a CLOSE: a byte for the value format, then a sentence or what describe() gave."""
    form, data = codec.encode(as_text(fault) if not isinstance(fault, dict) else fault)
    if type(data) is list:
        data = b"".join(data)
    if len(data) > 900 * 1024 and isinstance(fault, dict):
        return pack_error(codec, fault["formatted"])
    return bytes(bytearray([form])) + data  # type: ignore[no-any-return]


def again(exc):
    # type: (BaseException) -> BaseException
    """A fresh copy of an exception: one instance raised in many threads would gather all their tracebacks."""
    copy = exc.__class__.__new__(exc.__class__)
    copy.args = exc.args
    copy.__dict__.update(exc.__dict__)
    return copy
