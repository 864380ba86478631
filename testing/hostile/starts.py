"""What a hostile worker says instead of a hello; for hostile.py."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable

import payloads
from speak import HELLO, MARKER, MAX_FRAME, Wire, raw

ALL = (1 << 32) - 1

AT_START: dict[str, Callable[[Wire], None]] = {}


def start(attack: Callable[[Wire], None]) -> None:
    AT_START[attack.__name__] = attack


@start
def silence(wire: Wire) -> None:
    wire.drain()


@start
def endless_banner(wire: Wire) -> None:
    while True:
        wire.write(b"Welcome to this machine.\r\n" * 10_000)


@start
def trickle(wire: Wire) -> None:
    while True:
        wire.write(b".")
        select.select([], [], [], 0.0005)


@start
def endless_stderr(wire: Wire) -> None:
    while True:
        os.write(2, payloads.ESCAPES * 5000)


@start
def half_a_hello(wire: Wire) -> None:
    wire.write(MARKER + raw(HELLO, size=MAX_FRAME, seq=0) + b"\0" * 1000)
    wire.drain()


@start
def another_version(wire: Wire) -> None:
    wire.greet("version", "2" + "\x1b[2J" * 10_000, "protocol", "4")


@start
def no_numbers(wire: Wire) -> None:
    wire.greet("version", "1", "protocol", "four", "window", "-1", "chunk", "0")


@start
def no_protocol(wire: Wire) -> None:
    wire.greet("version", "1")


@start
def a_number_of_many_digits(wire: Wire) -> None:
    wire.greet("version", "1", "protocol", "9" * 900_000)


@start
def no_text(wire: Wire) -> None:
    wire.greet("version", b"\xff\xfe")


@start
def an_odd_hello(wire: Wire) -> None:
    wire.greet("version", "1", "protocol")


@start
def a_hello_of_many_pairs(wire: Wire) -> None:
    wire.greet(*(text for number in range(40_000) for text in (str(number), "")))


@start
def a_hello_that_lies_about_its_length(wire: Wire) -> None:
    payload = struct.pack("!I", ALL) + b"version"
    wire.write(MARKER + raw(HELLO, size=len(payload), seq=0) + payload)


@start
def a_problem_with_escapes(wire: Wire) -> None:
    wire.greet("version", "1", "protocol", "4", "problem", "\x1b]0;owned\x07 no" * 50_000)


@start
def no_frame(wire: Wire) -> None:
    wire.write(MARKER + b"\xff" * 100)
