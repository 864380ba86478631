"""Values as bytes: what a channel sends, for files and other ways to carry it."""

from __future__ import annotations

from typing import Any, Protocol

from .errors import LoadError
from .wire import codec

MAGIC = b"execgw\x01"


class _Writes(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Reads(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def dumps(obj: object) -> bytes:
    """Return the bytes of a value.  Raises DumpError for exactly what Channel.send refuses."""
    form, data = codec.Codec().encode(obj)
    return MAGIC + bytes([form]) + (b"".join(data) if isinstance(data, list) else data)


def loads(data: bytes, py2str_as_py3str: bool = False, py3str_as_py2str: bool = False) -> Any:
    """Return the value of such bytes.  They may come from anywhere: nothing in them is run.

    8-bit strings that a Python 2 wrote become bytes, or text with *py2str_as_py3str*.  Raises LoadError.
    """
    data = bytes(data)
    if data[: len(MAGIC)] != MAGIC or len(data) <= len(MAGIC):
        raise LoadError(f"no value starts with {data[:8]!r}; dumps() writes {MAGIC!r} first")
    reader = codec.Codec(trusted=False).coercing(py2str_as_py3str, py3str_as_py2str)
    return reader.decode(data[len(MAGIC)], data[len(MAGIC) + 1 :])


def dump(file: _Writes, obj: object) -> None:
    """Write the bytes of a value, with their length before them, to a binary file."""
    data = dumps(obj)
    file.write(len(data).to_bytes(8, "big"))
    file.write(data)


def load(file: _Reads, py2str_as_py3str: bool = False, py3str_as_py2str: bool = False) -> Any:
    """Read one value that dump() wrote.  Raises LoadError, also at the end of the file."""
    head = file.read(8)
    if len(head) != 8:
        raise LoadError(f"no value here: {len(head)} of 8 bytes of its length")
    size = int.from_bytes(head, "big")
    parts, left = [], size
    while left:
        part = file.read(min(left, 1 << 20))
        if not part:
            raise LoadError(f"a value of {size} bytes is announced, {size - left} are there")
        parts.append(part)
        left -= len(part)
    return loads(b"".join(parts), py2str_as_py3str, py3str_as_py2str)
