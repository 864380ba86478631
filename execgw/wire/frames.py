"""Frames: bytes <-> frames; half a frame waits.

A frame is a header of 20 bytes, big-endian, and its payload:

    kind u8 | flags u8 | form u16 | channel u32 | seq u32 | ack u32 | size u32 | payload (size bytes)

seq    the number of this frame in its direction, from 1, modulo 2**32
ack    the last seq that the sender of this frame has received
form   for DATA and EXEC: the value format (codec.py); otherwise 0
"""

import struct

from .compat import PY2
from .errors import RemoteProtocolError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

HEADER = struct.Struct("!BBHIIII")
HEADER_SIZE = HEADER.size

VERSION = 1  # of frames, values and questions; each side says it in its HELLO

# kinds
HELLO = 1  # first frame of each side: version, features, limits
EXEC = 2  # a value (source, ...) that opens its channel
DATA = 3  # a value, or a chunk of one
CREDIT = 4  # the receiver of a channel allows `size of payload as u64` more bytes
END = 5  # the sender will send no more on this channel, but still reads
CLOSE = 6  # the sender neither sends nor reads any more; payload: an error, or nothing
ASK = 7  # a request to the other side itself (status, ...); payload: a value (number, verb, arguments)
TELL = 8  # its answer: a value (number, ok, result)
BYE = 9  # end in order; nothing follows
ACK = 10  # nothing but its ack
LAST_KIND = ACK
# Between the near side and the keeper of a resumable session, and never the worker's: see kept.py.
TAKEN = 11  # near side: so many values of these channels were taken by code
ORDER = 12  # near side: what the keeper is to do; names and texts; outside of the sequence, as the next
OVER = 13  # keeper: why nothing more will come; names and texts

# flags
MORE = 1  # DATA, EXEC: the value goes on in the next frame of this channel
ABORT = 2  # DATA: forget the chunks of the unfinished value

MAX_FRAME = 1 << 20

# Survives login banners; its line ends show what a terminal or a text-mode pipe does to bytes.
MARKER = b"\x00execgw\r\n\x1a\n\xff\x01"
MANGLED = b"\x00execgw"

_credit = struct.Struct("!Q")


def pack_credit(amount):
    # type: (int) -> bytes
    return _credit.pack(amount)


def unpack_credit(payload):
    # type: (bytes) -> int
    if len(payload) != 8:
        raise RemoteProtocolError("CREDIT has %d bytes of payload, not 8" % len(payload))
    return int(_credit.unpack(payload)[0])


def pack_pairs(pairs):
    # type: (Dict[str, str]) -> bytes
    """Names and texts of a HELLO, each with its length before it; needs no codec."""
    out = []
    for name in sorted(pairs):
        for text in (name, pairs[name]):
            data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
            out.append(struct.pack("!I", len(data)) + data)
    return b"".join(out)


def unpack_pairs(payload):
    # type: (bytes) -> Dict[str, str]
    """The inverse of pack_pairs; RemoteProtocolError for anything else."""
    texts = []  # type: List[Any]
    at = 0
    try:
        while at < len(payload):
            (size,) = struct.unpack_from("!I", payload, at)
            at += 4 + size
            if at > len(payload):
                raise ValueError("truncated")
            data = payload[at - size : at]
            texts.append(data if PY2 else data.decode("utf-8"))
        if len(texts) % 2:
            raise ValueError("a name without a text")
        return dict(zip(texts[::2], texts[1::2]))
    except (ValueError, struct.error) as e:
        raise RemoteProtocolError("HELLO cannot be read: %s" % (e,))


def _part(data, start, stop):
    # type: (bytes, int, int) -> Any
    """A slice; uncopied if it is large, where join() takes views (Python 3)."""
    if stop - start < 4096 or PY2:
        return data[start:stop]
    return memoryview(data)[start:stop]


class FrameReader(object):
    """Cuts a stream of bytes into frames (kind, flags, form, channel, seq, ack, payload).

    The payload is bytes, or a list of pieces where it arrived in several reads; it is never joined here.
    """

    last_kind = LAST_KIND

    def __init__(self, max_frame=MAX_FRAME):
        # type: (int) -> None
        self.max_frame = max_frame
        self._tail = b""  # the start of a header or of a small frame
        self._parts = []  # type: List[Any]  # what has come of a large frame
        self._head = None  # type: Any  # its header
        self._missing = 0

    def feed(self, data):
        # type: (bytes) -> List[Tuple[int, int, int, int, int, int, Any]]
        frames = []  # type: List[Any]
        at = 0
        if self._head is not None:
            if len(data) < self._missing:
                self._parts.append(data)
                self._missing -= len(data)
                return frames
            at = self._missing
            self._parts.append(_part(data, 0, at))
            frames.append(self._head + (self._parts,))
            self._head = None
            self._parts = []
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        end = len(data)
        unpack, size_of_header, limit, add = HEADER.unpack_from, HEADER_SIZE, self.max_frame, frames.append
        last = self.last_kind
        while end - at >= size_of_header:
            kind, flags, form, channel, seq, ack, size = unpack(data, at)
            at += size_of_header
            if size > limit or kind > last or kind == 0:
                raise RemoteProtocolError("no frame: kind %d, %d bytes (at most %d)" % (kind, size, limit))
            stop = at + size
            if stop <= end:
                add((kind, flags, form, channel, seq, ack, data[at:stop]))
                at = stop
            else:
                self._head = (kind, flags, form, channel, seq, ack)
                self._parts = [_part(data, at, end)] if at < end else []
                self._missing = stop - end
                return frames
        if at < end:
            self._tail = data[at:]
        return frames
