"""A worker that means harm: `cmd=python hostile.py SCENARIO` breaks the protocol in one way, or tries to.

It reads the bundle from its stdin and, but for the scenarios of the start, answers with the start marker and a HELLO.
Then it waits for the first code that it is to run, and attacks instead of running it.  A scenario that breaks no rule
that ends a session sends the text "still here" on that channel at last.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable

import payloads
from payloads import CANARY
from speak import (
    ABORT,
    ACK,
    ASK,
    BYE,
    BYTES,
    CLOSE,
    CREDIT,
    DATA,
    END,
    EXEC,
    MAX_FRAME,
    MORE,
    PICKLE,
    TELL,
    TEXT,
    Inner,
    Wire,
    pairs,
    raw,
    unpairs,
)
from starts import AT_START

ALL = (1 << 32) - 1
SMALL = b"x"

Attack = Callable[[Wire, int], None]  # the channel is that of the code which it was to run

ENDING: dict[str, Attack] = {}  # what ends a session
HARMLESS: dict[str, Attack] = {}  # what must not
GREEDY: dict[str, Attack] = {}  # what takes memory or time, and ends a session


def ends(attack: Attack) -> None:
    ENDING[attack.__name__] = attack


def harmless(attack: Attack) -> None:
    HARMLESS[attack.__name__] = attack


def greedy(attack: Attack) -> None:
    GREEDY[attack.__name__] = attack


# -- what ends a session


def breaking(name: str, data: bytes) -> None:
    ENDING[name] = lambda wire, channel: wire.write(data)


breaking("kind_0", raw(0))
breaking("kind_11", raw(11))
breaking("kind_255", raw(255))
breaking("a_frame_of_4_gib", raw(DATA, 1, size=ALL))
breaking("a_frame_too_long", raw(DATA, 1, size=MAX_FRAME + 1))
breaking("a_gap", raw(DATA, 1, seq=3))
breaking("half_way_round", raw(DATA, 1, seq=(1 << 31) - 1))
breaking("credit_of_4_bytes", raw(CREDIT, 1, size=4) + b"\0\0\0\1")
breaking("credit_of_a_mebibyte", raw(CREDIT, 1, size=MAX_FRAME) + bytes(MAX_FRAME))
breaking("a_channel_too_far", raw(DATA, 2_000_000))
breaking("the_last_channel", raw(DATA, ALL - 1))
breaking("a_question_of_no_text", raw(ASK, size=8) + b"\0\0\0\2\xff\xfe\0\0")
breaking("an_answer_of_no_text", raw(TELL, size=3) + b"\0\0\0")


@ends
def a_second_hello(wire: Wire, channel: int) -> None:
    wire.greet()


@ends
def code_to_run(wire: Wire, channel: int) -> None:
    wire.send(EXEC, 2, b"open(%r, 'w')" % CANARY, form=TEXT)


@ends
def code_to_run_on_our_channel(wire: Wire, channel: int) -> None:
    wire.send(EXEC, channel, b"open(%r, 'w')" % CANARY, form=TEXT)


@ends
def code_in_pieces(wire: Wire, channel: int) -> None:
    wire.send(EXEC, 2, b"open(", MORE, form=TEXT)


@ends
def more_than_the_credit(wire: Wire, channel: int) -> None:
    for _ in range(20):
        wire.value(2, bytes(MAX_FRAME), BYTES)


@ends
def empty_values_without_end(wire: Wire, channel: int) -> None:
    for _ in range(100):
        wire.write(b"".join(wire.frame(DATA, 2, form=BYTES) for _ in range(10_000)))


@ends
def channels_without_end(wire: Wire, channel: int) -> None:
    for number in range(2, 20_000, 2):
        wire.send(DATA, number, SMALL, form=BYTES)


@ends
def questions_without_end(wire: Wire, channel: int) -> None:
    """And it does not read the answers."""
    question = pairs("number", "_execgw.wire.buffers", "verb", "module")
    for _ in range(100):
        wire.write(b"".join(wire.frame(ASK, payload=question) for _ in range(10_000)))


# -- what takes memory, and ends a session


@greedy
def unfinished_values_on_many_channels(wire: Wire, channel: int) -> None:
    piece = bytes(MAX_FRAME)
    for number in range(2, 8000, 2):
        for _ in range(16):
            wire.send(DATA, number, piece, MORE, BYTES)


@greedy
def finished_values_on_many_channels(wire: Wire, channel: int) -> None:
    piece = bytes(MAX_FRAME)
    for number in range(2, 8000, 2):
        for at in range(40):
            wire.send(DATA, number, piece, MORE if at < 39 else 0, BYTES)


@greedy
def values_on_many_channels(wire: Wire, channel: int) -> None:
    for number in range(2, 8000, 2):
        for _ in range(4):
            wire.value(number, bytes(MAX_FRAME - 200), BYTES)


@greedy
def small_values_on_many_channels(wire: Wire, channel: int) -> None:
    for number in range(2, 8000, 2):
        wire.write(b"".join(wire.frame(DATA, number, b"xy", form=BYTES) for _ in range(40_000)))


@greedy
def one_unfinished_value(wire: Wire, channel: int) -> None:
    """The channel is closed for it; then the next."""
    for number in range(2, 8, 2):
        for _ in range(130):
            wire.send(DATA, number, bytes(MAX_FRAME), MORE, BYTES)
    wire.send(EXEC, 9998)


@greedy
def reasons_of_closed_channels(wire: Wire, channel: int) -> None:
    reason = b"\2" + b"x" * (MAX_FRAME - 1)
    for number in range(2, 3000, 2):
        wire.send(CLOSE, number, reason)
    wire.send(EXEC, 9998)


# -- what breaks no rule, or one that only drops the frame


@harmless
def frames_for_closed_channels(wire: Wire, channel: int) -> None:
    wire.send(DATA, 2, SMALL, form=BYTES)
    wire.send(CLOSE, 2)
    for kind in (DATA, CREDIT, END, CLOSE):
        for number in (0, 2, channel + 2, channel + 200, ALL):
            wire.send(kind, number, bytes(8))


@harmless
def sequence_numbers_again(wire: Wire, channel: int) -> None:
    wire.text(channel, "once")
    for _ in range(1000):
        wire.write(b"".join(raw(DATA, channel, seq=seq) for seq in (wire.seq, wire.seq - 1, ALL, (1 << 31) + 1)))


@harmless
def wrong_acks(wire: Wire, channel: int) -> None:
    for ack in (ALL, 1 << 31, 5, 0):
        wire.seq += 1
        wire.write(raw(ACK, seq=wire.seq, ack=ack))


@harmless
def credit_without_end(wire: Wire, channel: int) -> None:
    for _ in range(30_000):
        wire.send(CREDIT, channel, b"\xff" * 8)


@harmless
def storms(wire: Wire, channel: int) -> None:
    for number in range(2, 20_000, 2):
        wire.write(wire.frame(END, number) + wire.frame(CLOSE, number) + wire.frame(ACK) + wire.frame(BYE))


@harmless
def values_given_up_without_end(wire: Wire, channel: int) -> None:
    for _ in range(1000):
        wire.send(DATA, channel, bytes(50_000), MORE, BYTES)
        wire.send(DATA, channel, b"", ABORT)


@harmless
def answers_to_no_question(wire: Wire, channel: int) -> None:
    for number in range(20_000):
        wire.send(TELL, payload=pairs("number", str(number), "numchannels", "1"))


@harmless
def questions_for_what_is_not_served(wire: Wire, channel: int) -> None:
    """Tells what was served of what is none of its business."""
    names = ["", "_", "../x", "_../spec", "os", "execgw.spec", "_execgw.spec", "_execgw._session", "/etc/passwd"]
    names += [
        "_/etc/passwd",
        "_execgw.wire.careful",
        "_execgw.wire.guarded",
        "_execgw.wire.printable",
        "\0",
        "x" * 9999,
    ]
    names += ["_execgw.wire/../spec", "_execgw.worker.tasks.relay", "_execgw.wire.mux.py", "_execgw.cli"]
    served = []
    for name in names:
        wire.send(ASK, payload=pairs("number", name, "verb", "module", "name", name))
        if "source" in unpairs(wire.wait(TELL)[1]):
            served.append(name)
    for question in (["verb", "status"], ["number", "1"], ["verb", "exec", "source", "1"], []):
        wire.send(ASK, payload=pairs(*question))
        if "problem" not in unpairs(wire.wait(TELL)[1]):
            served.append(str(question))
    wire.text(channel, repr(served))


@harmless
def a_million_questions(wire: Wire, channel: int) -> None:
    """And it reads the answers; fewer in the suite."""
    question = pairs("number", "_execgw.wire.buffers", "verb", "module")
    for _ in range(int(os.environ.get("EXECGW_QUESTIONS", "10000")) // 500):
        wire.write(b"".join(wire.frame(ASK, payload=question) for _ in range(500)))
        for _ in range(500):
            wire.wait(TELL)


@harmless
def escapes_on_stderr(wire: Wire, channel: int) -> None:
    for _ in range(60):
        os.write(2, payloads.ESCAPES * 500 + b"\n")


# -- one channel after the other, for tests that open several


def serve(wire: Wire, answer: Callable[[int, int], None]) -> None:
    """Call answer(channel, how many there were before) for each piece of code that comes."""
    count = 0
    for kind, _, _, channel, _ in wire.frames():
        if kind == EXEC:
            answer(channel, count)
            count += 1


def values(wire: Wire) -> None:
    """Each channel gets one of the values that are to be refused."""

    def answer(channel: int, count: int) -> None:
        _, form, payload = payloads.REFUSED[count % len(payloads.REFUSED)]
        pieces = [payload[at : at + MAX_FRAME] for at in range(0, len(payload), MAX_FRAME)] or [b""]
        for piece in pieces[:-1]:
            wire.send(DATA, channel, piece, MORE, form)
        wire.value(channel, pieces[-1], form)

    serve(wire, answer)


def faults(wire: Wire) -> None:
    """Each channel is closed with one of the reasons."""
    serve(wire, lambda channel, count: wire.send(CLOSE, channel, payloads.FAULTS[count % len(payloads.FAULTS)][1]))


def others(wire: Wire) -> None:
    """Each call is answered on the channel of the call before it, and then on its own."""

    def answer(channel: int, count: int) -> None:
        wire.text(max(channel - 2, 0), f"for {channel}")
        wire.text(channel, f"own {channel}")

    serve(wire, answer)


def status(wire: Wire) -> None:
    """Questions get answers that make no sense, one after the other; code gets strange facts."""
    answers = [(), ("numchannels", "many"), ("numchannels", "9" * 5000, "numexecuting", "1", "numqueued", "1")]
    asked = 0
    for kind, _, _, channel, payload in wire.frames():
        if kind == ASK:
            wire.send(TELL, payload=pairs("number", unpairs(payload)["number"], *answers[asked % len(answers)]))
            asked += 1
        elif kind == EXEC:
            wire.value(channel, payloads.P4 + b"(N)NNNt.")


def mute(wire: Wire) -> None:
    """Says hello, and reads nothing any more."""
    select.select([], [], [])


# -- the hostile master of a worker that looks honest

ENDINGS: list[tuple[str, int, bytes]] = [
    ("a channel", PICKLE, payloads.P4 + payloads.channel(b"K\2") + b"N\x86."),
    ("a code of many digits", PICKLE, payloads.P4 + payloads.long1(1 << 60_000) + b"\x8c\1x\x86."),
    ("no signal", PICKLE, payloads.P4 + b"J\x38\xff\xff\xff\x8c\1x\x86."),
    ("lists in lists", PICKLE, payloads.P4 + b"N" + b"]" * 900 + b"a" * 899 + b"\x86."),
    ("a long text", PICKLE, payloads.P4 + b"N" + payloads.short(b"x" * 900_000) + b"\x86."),
    ("code", *payloads.CODE[0][1:]),
    ("escapes", PICKLE, payloads.P4 + b"K\1" + payloads.short(payloads.ESCAPES) + b"\x86."),
]


def master(wire: Wire, how: str) -> None:
    """Carry what an honest child would say; at the first code for that one tell its end, or attack as the child."""
    channel, task = wire.wait(EXEC)
    inner = Inner(wire, channel)
    size = re.search(rb"while len\(d\)<(\d+)", task)
    assert size is not None
    inner.read(int(size[1]))
    inner.greet()
    code = inner.wait(EXEC)[0]
    if how.isdigit():
        _, form, payload = ENDINGS[int(how)]
        wire.value(channel, payload, form)
        return
    {**ENDING, **HARMLESS, **GREEDY}[how](inner, code)
    inner.text(code, "still here")


def main() -> None:
    scenario = sys.argv[1]
    wire = Wire()
    wire.read_bundle()
    if scenario in AT_START:
        AT_START[scenario](wire)
        wire.drain()
    wire.greet()
    attacks = {**ENDING, **GREEDY, **HARMLESS}
    if scenario in attacks:
        channel = wire.wait(EXEC)[0]
        attacks[scenario](wire, channel)
        if scenario in HARMLESS:
            wire.text(channel, "still here")
    elif scenario.startswith("master:"):
        master(wire, scenario.partition(":")[2])
    else:
        {"values": values, "faults": faults, "others": others, "status": status, "mute": mute}[scenario](wire)
    wire.drain()


if __name__ == "__main__":
    main()
