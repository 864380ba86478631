"""Feeds damaged and random bytes to the untrusted level of the codec, under a memory limit.

    python fuzz_values.py [--seconds S | --iterations N] [--seed SEED]

Fails (exit code 1, with the input in hex) if anything but a plain value or a LoadError comes out, if an accepted value
needs more memory than scan.py publishes, or if one decode takes more than a second of CPU time.
"""

from __future__ import annotations

import argparse
import array
import itertools
import pickle
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from execgw.wire.codec import BUFFERS, PICKLE, Codec
from execgw.wire.errors import LoadError
from execgw.wire.scan import MEMORY_FACTOR, MEMORY_FLOOR

ADDRESS_SPACE = 1 << 30
MOST_SECONDS = 1.0  # of CPU time, with tracemalloc at work
ATOMS = (bool, int, float, complex, bytes, bytearray, str, memoryview, array.array)
OPCODES = bytes(op.code.encode("latin-1")[0] for op in __import__("pickletools").opcodes)

SEEDS: list[Any] = [
    [1, 2.5, 3j, "text", b"bytes", bytearray(b"x"), None, True, 2**100, -5, 70000],
    {"a": {"b": {"c": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}}, 5: {6, 7}, (1, 2): frozenset([8])},
    [[[[[[[]]]]]]],
    [set(), frozenset(), {}, [], ()],
    [array.array("d", [1.0] * 10), memoryview(b"abc")],
    {i * (2**61 - 1): str(i) for i in range(300)},
    [{float(i): i} for i in range(300)],
    ["x" * 100, b"y" * 300, "\u20ac" * 50, "\ud800"],
]


def damaged(rng: random.Random, seeds: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """One input: a valid value with changes, random opcodes, or random bytes; sometimes very many of one opcode."""
    form, data = rng.choice(seeds)
    dice = rng.random()
    if dice < 0.05:
        return rng.randrange(10), rng.randbytes(rng.randrange(60))
    if dice < 0.2:
        body = b"".join(random_opcode(rng) for _ in range(rng.randrange(1, 40)))
        return PICKLE, b"\x80\x04" + body + b"."
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed))
        what = rng.random()
        if what < 0.3:
            changed[at] = rng.randrange(256)
        elif what < 0.5:
            changed[at] = rng.choice(OPCODES)
        elif what < 0.6:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x40"))
        elif what < 0.7:
            del changed[at : at + rng.randrange(1, 10)]
        elif what < 0.8:
            changed[at:at] = changed[at : at + rng.randrange(1, 30)]
        elif what < 0.95:
            changed[at:at] = random_opcode(rng)
        else:
            changed[at:at] = rng.choice((b"]", b"}", b"\x8f", b")", b"(", b"N\x85", b"M\1\1", b"]a")) * rng.randrange(
                30000
            )
        if not changed:
            break
    return form, bytes(changed)


def random_opcode(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        # The allowed ones, whole, so that accepted values are not rare.
        return rng.choice(
            (b"N", b"\x88", b"K\x05", b"M\1\2", b"J\1\2\3\4", b"\x8a\x01\xff", b"G?\xf0\0\0\0\0\0\0", b"C\x02ab")
            + (b"\x8c\x01a", b"]", b"}", b"\x8f", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u")
            + (b"\x90", b"\x91", b"R", b"cbuiltins\nset\n", b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n")
        )
    return bytes([rng.choice(OPCODES)]) + rng.randbytes(rng.randrange(5))


def all_plain(value: Any) -> bool:
    """Whether a decoded value is made of plain types alone."""
    todo = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is dict:
            todo.extend(item.keys())
            todo.extend(item.values())
        elif kind in (list, tuple, set, frozenset):
            todo.extend(item)
        elif item is not None and kind not in ATOMS:
            return False
    return True


def check(form: int, data: bytes) -> bool:
    """Decode one input; raise AssertionError for a broken promise.  Returns whether it was a value."""
    tracemalloc.clear_traces()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.thread_time()
    try:
        value = Codec(trusted=False).decode(form, data)
    except LoadError:
        accepted, value = False, None
    else:
        accepted = True
    seconds = time.thread_time() - start
    used, peak = tracemalloc.get_traced_memory()
    assert seconds < MOST_SECONDS, f"{seconds:.2f} s"
    if accepted:
        bound = MEMORY_FACTOR * len(data) + MEMORY_FLOOR
        assert used - before <= bound, f"{used - before} bytes are held, at most {bound} were promised"
        # While it loads there are the unpickler's stacks, too.
        assert peak - before <= 2 * bound, f"{peak - before} bytes at the peak, {bound} were promised for the value"
        assert all_plain(value), f"no plain value: {value!r:.200}"
    return accepted


def seeds() -> Iterator[tuple[int, bytes]]:
    for value, protocol in itertools.product(SEEDS, (2, 4, 5)):
        try:
            form, data = Codec(protocol).encode(value)
        except Exception:
            continue
        yield form, b"".join(data) if isinstance(data, list) else data
    yield PICKLE, pickle.dumps(SEEDS[1], 4)  # with a memo


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    rng = random.Random(args.seed)
    known = list(seeds())
    assert any(form == BUFFERS for form, _ in known)
    tracemalloc.start()
    for form, data in known:
        check(form, data)  # imports what it needs, so that this is not taken for memory of a value
    end = time.monotonic() + args.seconds
    tried = accepted = 0
    while tried < args.iterations if args.iterations is not None else time.monotonic() < end:
        form, data = damaged(rng, known)
        tried += 1
        try:
            accepted += check(form, data)
        except BaseException as e:
            text = data.hex() if len(data) < 2000 else data[:2000].hex() + f"... ({len(data)} bytes)"
            print(f"input {tried} of seed {args.seed}: {type(e).__name__}: {e}\nform {form}: {text}", file=sys.stderr)
            return 1
    print(f"{tried} inputs, {accepted} of them values, seed {args.seed}: all promises kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
