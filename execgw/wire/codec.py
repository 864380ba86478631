"""Values <-> bytes, at the speed of the C pickler on both sides.

A value travels as (format, pieces): a small number that says how, and a list of bytes-like objects that are never
joined here.  Scalars, text and bytes have formats of their own; everything else is a checked subset of the pickle
format: a tree without memo (`fast` mode), so that a shared object arrives as copies and a cycle is refused.

    encode(value) -> format, pieces          raises DumpError with the path to what cannot travel
    decode(format, data) -> value            raises LoadError; runs no code of the sender on either level

*trusted* bytes (a child process of our own on this host) go to the C unpickler with a fixed table of names at once;
all others pass wire/scan.py first.
"""

import struct
import sys

from .compat import PY2, int_types, text_type
from .errors import DumpError, LoadError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List, Optional, Tuple, Type, Union  # noqa: F401

PICKLE, BYTES, TEXT, INT, FLOAT, ATOM, BUFFERS, NATIVE2 = range(8)

# The newest pickle protocol that this interpreter and its peer both read: 2 (2.7), 4 (3.4 to 3.7), 5.
PROTOCOL = 2 if PY2 else (5 if sys.version_info >= (3, 8) else 4)
HAS_OVERRIDE = sys.version_info >= (3, 8)

_int64 = struct.Struct("!q")
_double = struct.Struct("!d")
_ATOMS = [None, False, True]
PLAIN = frozenset([type(None), bool, float, complex, bytes, bytearray, text_type] + list(int_types))
CONTAINERS = frozenset([list, tuple, dict, set, frozenset])


# What may be called while a value is loaded.  Their names are the whole vocabulary of GLOBAL in the format.
def _complex(real, imag):
    # type: (float, float) -> complex
    return complex(float(real), float(imag))


def _bytearray(data=b"", encoding=None):
    # type: (Union[bytes, str], Optional[str]) -> bytearray
    return bytearray(data if isinstance(data, bytes) else data.encode("latin-1"))


def _latin1(text, encoding="latin1"):
    # type: (str, str) -> bytes
    """How the pickler of Python 3 writes bytes for one of Python 2."""
    return text.encode("latin-1")


def _set(items=()):
    # type: (Any) -> Any
    return set(items)


def _frozenset(items=()):
    # type: (Any) -> Any
    return frozenset(items)


def _no_bytes():
    # type: () -> bytes
    return b""


def _channel(number):
    # type: (int) -> Any
    raise LoadError("a channel outside of a gateway")


def _buffer(index, kind, meta):
    # type: (int, str, Any) -> Any
    raise LoadError("a buffer outside of a value with buffers")


_call = None  # type: Any
_HOMES = (__name__, "execgw.wire.codec", "_execgw.wire.codec")
_CALLABLE = {
    "_complex": _complex,
    "_channel": _channel,
    "_buffer": _buffer,
    "_frozenset": _frozenset,
}  # type: Dict[str, Callable[..., Any]]
_GLOBALS = {("_codecs", "encode"): _latin1}  # type: Dict[Tuple[str, str], Callable[..., Any]]
for _home in _HOMES:
    for _name in _CALLABLE:
        _GLOBALS[_home, _name] = _CALLABLE[_name]
for _home in ("builtins", "__builtin__"):
    for _name, _call in [
        ("complex", _complex),
        ("bytearray", _bytearray),
        ("set", _set),
        ("frozenset", _frozenset),
        ("bytes", _no_bytes),
        ("str", _no_bytes),
    ]:
        _GLOBALS[_home, _name] = _call
ALLOWED = frozenset([(_m.encode("ascii"), _n.encode("ascii")) for _m, _n in _GLOBALS])


class Codec(object):
    """The values of one session: what its peer reads, how far it is trusted, which channels it knows.

    *number_of(channel)* gives the number of a channel of this session and raises DumpError for another's;
    *channel_for(number)* is its inverse.  One codec may be used by many threads at a time.
    """

    def __init__(self, protocol=PROTOCOL, trusted=True, channel_type=(), number_of=None, channel_for=_channel):
        # type: (int, bool, Any, Any, Any) -> None
        self.protocol = min(protocol, PROTOCOL)
        self.trusted = trusted
        self.channel_type = channel_type
        self.number_of = number_of
        self.channel_for = channel_for
        self.py2str_as_py3str = True
        self.py3str_as_py2str = False
        self._encoders = []  # type: List[Any]

    def coercing(self, py2str_as_py3str, py3str_as_py2str):
        # type: (bool, bool) -> Codec
        """The same codec, but for what 8-bit strings of Python 2 and text of Python 3 become."""
        again = Codec(self.protocol, self.trusted, self.channel_type, self.number_of, self.channel_for)
        again.py2str_as_py3str = py2str_as_py3str
        again.py3str_as_py2str = py3str_as_py2str
        return again

    # -- values to bytes

    def encode(self, value):
        # type: (Any) -> Tuple[int, Any]
        """Return (format, data); data is bytes, or a list of bytes-like pieces."""
        kind = type(value)
        if kind is bytes:
            return (NATIVE2 if PY2 else BYTES), value
        if kind is int:
            try:
                return INT, _int64.pack(value)
            except struct.error:
                return self._encode_tree(value)
        if kind is text_type:
            try:
                return TEXT, value.encode("utf-8")
            except UnicodeEncodeError:  # lone surrogates, which the pickle format carries
                return self._encode_tree(value)
        if kind is float:
            return FLOAT, _double.pack(value)
        if value is None:
            return ATOM, b"\0"
        if kind is bool:
            return ATOM, b"\2" if value else b"\1"
        return self._encode_tree(value)

    def _encode_tree(self, value):
        # type: (Any) -> Tuple[int, Any]
        try:
            encoder = self._encoders.pop()
        except IndexError:
            # Only now: the pickle module takes a worker milliseconds to import.
            if HAS_OVERRIDE:
                from .trees import Encoder
            else:
                from .trees_old import Encoder  # type: ignore[assignment]

            encoder = Encoder(self)
        try:
            data, buffers = encoder.encode(value)
        except Exception as e:  # whatever the pickler or a hook of the object raises: it cannot travel
            from .refusal import encode_after

            data, buffers = encode_after(e, encoder, value)
        if self.protocol < 5 and HAS_OVERRIDE:
            from .refusal import refusal

            reason = refusal(self, value, 10000)
            if reason:
                raise DumpError(reason)
        self._encoders.append(encoder)
        if not buffers:
            return PICKLE, data
        from .buffers import pack

        return BUFFERS, pack(data, buffers)

    # -- bytes to values

    def decode(self, form, data):
        # type: (int, Any) -> Any
        """Return the value; *data* is bytes, or a list of pieces as they arrived.  Raises LoadError."""
        if type(data) is list:
            data = b"".join(data) if form != BUFFERS else bytearray().join(data)
        try:
            if form == PICKLE:
                return self._decode_tree(data)
            if form == INT:
                return _int64.unpack(data)[0]
            if form == TEXT:
                try:
                    return data if PY2 and self.py3str_as_py2str else data.decode("utf-8")
                except UnicodeDecodeError:  # lone surrogates of a Python 2
                    return data.decode("utf-8", "surrogatepass")
            if form == BYTES:
                return data
            if form == FLOAT:
                return _double.unpack(data)[0]
            if form == ATOM:
                return _ATOMS[b"\0\1\2".index(data)] if len(data) == 1 else _no_atom()
            if form == NATIVE2:
                return data.decode("latin-1") if self.py2str_as_py3str and not PY2 else data
            if form == BUFFERS:
                from .buffers import unpack

                return self._decode_tree(*unpack(data))
        except LoadError:
            raise
        except MemoryError:
            raise
        except Exception as e:  # damaged bytes make the loaders raise nearly anything
            raise LoadError("damaged value of format %d: %s: %s" % (form, type(e).__name__, str(e)[:200]))
        raise LoadError("unknown value format %r" % (form,))

    def _decode_tree(self, data, buffers=()):
        # type: (bytes, Any) -> Any
        from .trees import load

        value = load(self, data, buffers)
        if PY2 and self.py3str_as_py2str:
            from .buffers import to_native2

            value = to_native2(value)
        return value

    def encoding2(self):
        # type: () -> str
        """For an unpickler of Python 3: what 8-bit strings of Python 2 become."""
        return "latin-1" if self.py2str_as_py3str else "bytes"

    def find(self, module, name, buffers):
        # type: (str, str, Any) -> Callable[..., Any]
        """The function behind a name in a value: one of a fixed few."""
        call = _GLOBALS.get((module, name))
        if call is None:
            raise LoadError("%s.%s is not a type that may travel" % (module, name))
        if call is _channel:
            return self.channel_for  # type: ignore[no-any-return]
        if call is _buffer:
            from .buffers import rebuild_from

            return rebuild_from(buffers)  # type: ignore[no-any-return]
        return call


def _no_atom():
    # type: () -> Any
    raise LoadError("an atom is one byte")
