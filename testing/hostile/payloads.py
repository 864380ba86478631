"""Values that no honest worker sends, as (name, form, payload); each must be refused where it is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from speak import BUFFERS, INT, PICKLE, TEXT

CANARY = os.environ.get("EXECGW_CANARY", "/nonexistent/canary").encode()  # a file that code of ours would make
TOUCH = b"touch '%s'" % CANARY
P2, P4 = b"\x80\x02", b"\x80\x04"
PRIME = (1 << 61) - 1  # the modulus of the hashes of numbers


def short(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


def channel(number: bytes) -> bytes:
    """A reference to a channel; *number* are the opcodes of it."""
    return b"cexecgw.wire.codec\n_channel\n" + number + b"\x85R"


def long1(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<I", len(data))) + data


def many(items: Iterable[bytes]) -> bytes:
    """A list."""
    return P4 + b"](" + b"".join(items) + b"e."


def flood_of_hashes(count: int) -> bytes:
    """A dict of which all keys share one hash."""
    return P4 + b"}(" + b"".join(long1(n * PRIME) + b"N" for n in range(1, count + 1)) + b"u."


def with_buffer(kind: bytes, meta: bytes) -> bytes:
    """A value with one buffer of 8 bytes, which it says is *meta*."""
    tree = P4 + b"cexecgw.wire.codec\n_buffer\n(K\0" + short(kind) + meta + b"K\1\x85\x86tR."
    return struct.pack("!IQQ", 1, len(tree), 8) + tree + bytes(8)


CODE: list[tuple[str, int, bytes]] = [
    ("system", PICKLE, b'cos\nsystem\n(S"' + TOUCH + b'"\ntR.'),
    ("system by two texts", PICKLE, P4 + short(b"os") + short(b"system") + b"\x93" + short(TOUCH) + b"\x85R."),
    ("posix", PICKLE, P2 + b"cposix\nsystem\n" + short(TOUCH) + b"\x85R."),
    ("eval", PICKLE, P2 + b"cbuiltins\neval\n" + short(b"open(%r, 'w')" % CANARY) + b"\x85R."),
    ("INST", PICKLE, P2 + b'(S"' + TOUCH + b'"\nios\nsystem\n.'),
    ("OBJ", PICKLE, P2 + b"(cos\nsystem\n" + short(TOUCH) + b"o."),
    ("NEWOBJ", PICKLE, P2 + b"csubprocess\nPopen\n" + short(TOUCH) + b"\x85\x81."),
    ("BUILD", PICKLE, P2 + b"cbuiltins\nset\n)R}" + short(b"__setstate__") + b"cos\nsystem\nsb" + short(TOUCH) + b"b."),
    ("EXT1", PICKLE, P2 + b"\x82\x01."),
    ("EXT4", PICKLE, P2 + b"\x84\x01\x00\x00\x00."),
    ("PERSID", PICKLE, b"Pcanary\n."),
    ("a function of ours", PICKLE, P2 + b"cexecgw._bundle\nsource\n" + short(b"_execgw.wire.mux") + b"\x85R."),
    ("an attribute of a class of ours", PICKLE, P4 + short(b"builtins") + short(b"set.__init__") + b"\x93)R."),
]

SET_OF_CHARACTERS = b"cbuiltins\nset\n" + short(bytes(range(33, 110))) + b"\x85R"

BOMBS: list[tuple[str, int, bytes]] = [
    ("a memo of 128 MiB", PICKLE, P2 + b"Nr\xff\xff\x7f\x00."),
    ("doubled tuples", PICKLE, P2 + b")" + b"2\x86" * 60 + b"."),
    ("many empty sets", PICKLE, P4 + b"](" + b"\x8f" * 500_000 + b"e."),
    ("sets of characters", PICKLE, P2 + b"](" + SET_OF_CHARACTERS * 5000 + b"e."),
    ("a text of 2 GiB", PICKLE, P2 + b"X\xff\xff\xff\x7f."),
    ("bytes of 2**63", PICKLE, P4 + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."),
    ("a number of 2 GiB", PICKLE, P2 + b"\x8b\xff\xff\xff\x7f."),
    ("a frame of 2**63", PICKLE, P4 + b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."),
    ("lists in lists", PICKLE, P4 + b"]" * 400_000 + b"a" * 399_999 + b"."),
    ("tuples in tuples", PICKLE, P4 + b")" + b"\x85" * 900_000 + b"."),
    ("keys of one hash", PICKLE, flood_of_hashes(60_000)),
    ("channels of one hash", PICKLE, many(channel(long1(n * PRIME)) for n in range(2, 20_000, 2))),
    ("buffers without end", BUFFERS, b"\xff\xff\xff\xff" + bytes(8)),
    ("a buffer of 2**64", BUFFERS, b"\x00\x00\x00\x01" + struct.pack("!Q", 4) + b"\xff" * 8 + P4 + b"N."),
    ("a tree longer than all", BUFFERS, b"\x00\x00\x00\x00" + b"\xff" * 8 + P4 + b"N."),
    ("types of numpy", BUFFERS, with_buffer(b"n", short(b"O,O,O"))),
    ("an array of texts", BUFFERS, with_buffer(b"a", short(b"\x1bu"))),
    ("a view of text", BUFFERS, with_buffer(b"m", short(b"s"))),
    ("half a number", INT, b"\0\0\0"),
    ("no text", TEXT, b"\xff\xfe\xc0"),
    ("an unknown form", 999, b"anything"),
    ("nothing", PICKLE, b""),
]  # fmt: skip

CHANNELS: list[tuple[str, int, bytes]] = [
    ("number 0", PICKLE, P4 + channel(b"K\0") + b"."),
    ("a negative number", PICKLE, P4 + channel(long1(-2)) + b"."),
    ("a number of ours that is not opened", PICKLE, P4 + channel(b"M\x01\xf0") + b"."),
    ("a number of 100 digits", PICKLE, P4 + channel(long1(10**100)) + b"."),
    ("a float", PICKLE, P4 + channel(b"G" + struct.pack(">d", 2.0)) + b"."),
    ("a text", PICKLE, P4 + channel(short(b"1")) + b"."),
    ("a list", PICKLE, P4 + channel(b"]") + b"."),
    ("the far end of all numbers", PICKLE, P4 + channel(long1((1 << 32) - 2)) + b"."),
    ("more than may be open", PICKLE, many(channel(long1(n)) for n in range(100, 12_000, 2))),
]

REFUSED = CODE + BOMBS + CHANNELS


def table(**items: bytes) -> bytes:
    """A dict with these texts as keys; the values are opcodes."""
    return P4 + b"}(" + b"".join(short(name.encode()) + code for name, code in items.items()) + b"u."


ESCAPES = b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\xc2\x9b5m\x08\rwho"

TEXTS = ("formatted", "message", "type", "filename")

# The payloads of CLOSE: a byte for the form, and a value.
FAULTS: list[tuple[str, bytes]] = [
    ("no value", b"\xff"),
    ("code", b"\0" + CODE[0][2]),
    ("a number", b"\3" + bytes(8)),
    ("a list", b"\0" + P4 + b"]."),
    ("an empty dict", b"\0" + P4 + b"}."),
    ("numbers for texts", b"\0" + table(formatted=b"K\1", message=b"K\2", type=b"K\3", notes=b"K\4", cause=b"K\5")),
    ("lists for texts", b"\0" + table(formatted=b"]", message=b"]", type=b"]", args=b"]", lineno=b"]", filename=b"]")),
    (
        "a number of many digits",
        b"\0" + table(formatted=short(b"x"), message=long1(1 << 60_000), lineno=long1(1 << 999)),
    ),
    ("notes of notes", b"\0" + table(formatted=short(b"x"), notes=b"](" + b"K\1" * 100_000 + b"e")),
    ("causes of causes", b"\0" + P4 + (b"}" + short(b"cause")) * 400 + b"}" + b"s" * 400 + b"."),
    ("a text of a mebibyte", b"\2" + b"x" * ((1 << 20) - 1)),
    ("escape sequences", b"\2" + ESCAPES),
    (
        "escape sequences everywhere",
        b"\0" + table(**dict.fromkeys(("formatted", "message", "type", "filename"), short(ESCAPES))),
    ),
]
