"""The far side of the protocol, spoken by hand and without execgw, so that every rule of it can be broken.

Started by cmd=, as `python hostile.py SCENARIO python3 -c PROGRAM`; the words after the scenario are those of the
bootstrap, of which only the size of the bundle matters here.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterator

HELLO, EXEC, DATA, CREDIT, END, CLOSE, ASK, TELL, BYE, ACK = range(1, 11)
MORE, ABORT = 1, 2
PICKLE, BYTES, TEXT, INT, FLOAT, ATOM, BUFFERS = range(7)
MARKER = b"\x00execgw\r\n\x1a\n\xff\x01"
HEADER = struct.Struct("!BBHIIII")
MAX_FRAME = 1 << 20

Frame = tuple[int, int, int, int, bytes]  # kind, flags, form, channel, payload


def pairs(*texts: str | bytes) -> bytes:
    """Names and texts, as HELLO, ASK and TELL carry them."""
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("!I", len(text)) + text for text in raw)


def unpairs(payload: bytes) -> dict[str, str]:
    texts, at = [], 0
    while at < len(payload):
        (size,) = struct.unpack_from("!I", payload, at)
        texts.append(payload[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return dict(zip(texts[::2], texts[1::2], strict=True))


def raw(kind: int, channel: int = 0, size: int = 0, seq: int = 1, ack: int = 0, flags: int = 0) -> bytes:
    """A header that says anything."""
    return HEADER.pack(kind, flags, 0, channel, seq, ack, size)


class Wire:
    """Bytes and frames to the near side, and from it.  This one writes to descriptor 1, through nothing."""

    def __init__(self) -> None:
        self.seq = 0
        self.buffer = b""

    # -- writing

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view[: 1 << 20]) :]
        except OSError:  # the near side has had enough of us
            sys.exit()

    def frame(self, kind: int, channel: int = 0, payload: bytes = b"", flags: int = 0, form: int = 0) -> bytes:
        """The bytes of the next frame in sequence."""
        self.seq = (self.seq + 1) & 0xFFFFFFFF
        return HEADER.pack(kind, flags, form, channel, self.seq, 0, len(payload)) + payload

    def send(self, kind: int, channel: int = 0, payload: bytes = b"", flags: int = 0, form: int = 0) -> None:
        self.write(self.frame(kind, channel, payload, flags, form))

    def value(self, channel: int, payload: bytes, form: int = PICKLE) -> None:
        self.send(DATA, channel, payload, form=form)

    def text(self, channel: int, text: str) -> None:
        self.value(channel, text.encode(), TEXT)

    def greet(self, *texts: str | bytes) -> None:
        """The start marker and a HELLO: an honest one, unless other texts are given."""
        payload = pairs(*(texts or ("version", "1", "protocol", "4", "python", "3.11", "platform", "linux")))
        self.write(MARKER + HEADER.pack(HELLO, 0, 0, 0, 0, 0, len(payload)) + payload)

    # -- reading

    def read(self, size: int) -> bytes:
        """Exactly that many bytes; ends the process at the end of the link."""
        while len(self.buffer) < size:
            data = os.read(0, 1 << 16)
            if not data:
                sys.exit()
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_bundle(self) -> None:
        """What an honest interpreter would run; the program of `python -c` says how long it is."""
        found = re.search(r"while len\(d\)<(\d+)", sys.argv[-1])
        if found:
            self.read(int(found[1]))

    def frames(self) -> Iterator[Frame]:
        """What the near side sends; ends the process when it says BYE."""
        while True:
            kind, flags, form, channel, _, _, size = HEADER.unpack(self.read(HEADER.size))
            if kind == BYE:
                sys.exit()
            yield kind, flags, form, channel, self.read(size)

    def wait(self, kind: int) -> tuple[int, bytes]:
        """The next frame of a kind: its channel and payload."""
        return next((frame[3], frame[4]) for frame in self.frames() if frame[0] == kind)

    def drain(self) -> None:
        """Read until the near side is gone."""
        for _ in self.frames():
            pass


class Inner(Wire):
    """A wire inside of a channel: what an honest relay would carry for the child that it has started."""

    def __init__(self, outer: Wire, channel: int) -> None:
        super().__init__()
        self.outer = outer
        self.channel = channel

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 16):
            self.outer.value(self.channel, data[at : at + (1 << 16)], BYTES)

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            kind, _, _, channel, payload = next(self.outer.frames())
            if kind == DATA and channel == self.channel:
                self.buffer += payload
                self.outer.send(CREDIT, channel, struct.pack("!Q", len(payload) + 96))
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data
