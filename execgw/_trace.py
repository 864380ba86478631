"""EXECGW_TRACE=FILE: every byte of every gateway of this process, recorded; read_trace() and describe() read it back.

One record: time f64 | direction u8 | size of the id u16 | size of the data u32 | id | data; the direction is 0 to the
worker, 1 from it, and 2 for how many bytes go to it before the first frame (u32).
The file holds all that was sent, secrets too: it is made for its owner alone (mode 0600).
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ExecgwError, RemoteProtocolError
from .values import MAGIC as VALUE
from .values import loads
from .wire import frames as f

if TYPE_CHECKING:
    from ._session import Session

VARIABLE = "EXECGW_TRACE"
MAGIC = b"execgw trace 1\n"
_size = struct.Struct("!I")
_head = struct.Struct("!dBHI")
KINDS = dict(
    enumerate("HELLO EXEC DATA CREDIT END CLOSE ASK TELL BYE ACK".split(), 1)  # noqa: SIM905  # in wire/frames.py
)
TO_WORKER, FROM_WORKER, BOOTSTRAP = 0, 1, 2


class Record(NamedTuple):
    """Bytes that went one way at one time (seconds since the epoch)."""

    time: float
    direction: int
    gateway: str
    data: bytes


class Trace:
    """A file that records are added to, by any thread."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "ab", buffering=0)
        if os.fstat(fd).st_size == 0:
            self._file.write(MAGIC)

    def add(self, direction: int, gateway: str, data: bytes) -> None:
        """Write one record at once, so that a crash loses none."""
        name = gateway.encode("utf-8", "replace")
        with self._lock:
            self._file.write(_head.pack(time.time(), direction, len(name), len(data)) + name + data)

    def attach(self, session: Session) -> None:
        """Record what this session reads and writes from now on."""
        take_in, write = session.take_in, session.transport.write
        self.add(BOOTSTRAP, session.id, _size.pack(len(session.transport.bootstrap())))

        def recorded_take_in(data: bytes) -> None:
            self.add(FROM_WORKER, session.id, bytes(data))
            take_in(data)

        def recorded_write(pieces: list[Any]) -> int:
            done = write(pieces)
            self.add(TO_WORKER, session.id, b"".join(pieces)[:done])
            return done

        session.take_in = recorded_take_in  # type: ignore[method-assign]
        session.transport.write = recorded_write  # type: ignore[method-assign]


_traces: dict[str, Trace] = {}


def attach_if_asked(session: Session) -> None:
    """Record a session if the environment asks for it."""
    path = os.environ.get(VARIABLE)
    if path:
        try:
            if path not in _traces:
                _traces[path] = Trace(path)
        except OSError as e:
            raise ExecgwError(f"{VARIABLE}={path}: {e.strerror}") from e
        _traces[path].attach(session)


def read_trace(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a trace file, the last one left out if it is torn.  ValueError if it is no such file."""
    data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"{os.fspath(path)}: no trace of execgw; {VARIABLE}=FILE makes one")
    at = len(MAGIC)
    while at + _head.size <= len(data):
        when, direction, name_size, size = _head.unpack_from(data, at)
        at += _head.size
        if at + name_size + size > len(data):
            return
        name = data[at : at + name_size].decode("utf-8", "replace")
        at += name_size
        yield Record(when, direction, name, data[at : at + size])
        at += size


class _Stream:
    """One direction of one gateway: bytes before the frames, then frames."""

    def __init__(self) -> None:
        self.reader: f.FrameReader | None = None
        self.before = b""
        self.bootstrap: int | None = None  # bytes, if this goes to the worker

    def feed(self, data: bytes) -> Iterator[str]:
        if self.reader is None:
            self.before += data
            start = self._start()
            if start is None:
                return
            yield f"{start} bytes before the first frame"
            self.reader, data, self.before = f.FrameReader(), self.before[start:], b""
        try:
            for frame in self.reader.feed(data):
                yield _describe_frame(*frame)
        except RemoteProtocolError as e:
            yield f"!! {e}"

    def _start(self) -> int | None:
        if self.bootstrap is None:
            at = self.before.find(f.MARKER)
            return None if at < 0 else at + len(f.MARKER)
        return self.bootstrap if len(self.before) >= self.bootstrap else None


def _describe_frame(kind: int, flags: int, form: int, channel: int, seq: int, ack: int, payload: Any) -> str:
    data = b"".join(payload) if isinstance(payload, list) else bytes(payload)
    marks = ("+" if flags & f.MORE else "") + (" abort" if flags & f.ABORT else "")
    text = f"{KINDS[kind]:6} channel {channel:<4} seq {seq:<6} ack {ack:<6} {len(data):>7} bytes{marks}"
    return f"{text}  {_preview(kind, flags, form, data)}".rstrip()


def _preview(kind: int, flags: int, form: int, data: bytes) -> str:
    try:
        if kind in (f.HELLO, f.ASK, f.TELL):
            return ascii(f.unpack_pairs(data))[:160]
        if kind == f.CREDIT:
            return f"{f.unpack_credit(data)} more bytes"
        if kind in (f.DATA, f.EXEC) and not flags & f.MORE:
            return ascii(loads(VALUE + bytes([form]) + data))[:160]
        if kind == f.CLOSE and data:
            return ascii(loads(VALUE + data))[:160]
    except (ExecgwError, ValueError):
        return ascii(data[:60])
    return ""


def describe(path: str | os.PathLike[str], gateway: str | None = None) -> Iterator[str]:
    """A trace as text, a line for each frame: time, gateway, direction (-> to the worker), what it is, its value.

    With *gateway* only the frames of that one.
    """
    streams: dict[tuple[str, int], _Stream] = {}
    begun: float | None = None
    for record in read_trace(path):
        begun = record.time if begun is None else begun
        if gateway is not None and record.gateway != gateway:
            continue
        if record.direction == BOOTSTRAP:  # a new session of that name
            streams[record.gateway, TO_WORKER] = _Stream()
            streams[record.gateway, TO_WORKER].bootstrap = _size.unpack(record.data)[0]
            streams[record.gateway, FROM_WORKER] = _Stream()
            continue
        arrow = "<-" if record.direction == FROM_WORKER else "->"
        for text in streams[record.gateway, record.direction].feed(record.data):
            yield f"{record.time - begun:10.6f} {record.gateway:8} {arrow} {text}"
