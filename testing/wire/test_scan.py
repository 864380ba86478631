"""Bytes of a sender that is not trusted: known attacks are refused at once; no value costs more than promised."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from execgw.wire.codec import BUFFERS, PICKLE, Codec
from execgw.wire.errors import LoadError
from execgw.wire.scan import MAX_DEPTH, MEMORY_FACTOR, MEMORY_FLOOR

HERE = Path(__file__).parent
PRIME = 2**61 - 1  # the modulus of the hashes of numbers
TINY_SECONDS = 0.05  # an attack of a few bytes takes microseconds; a busy machine is given this much
P2, P4, P5 = b"\x80\x02", b"\x80\x04", b"\x80\x05"


def decode(data: bytes, form: int = PICKLE) -> Any:
    return Codec(trusted=False).decode(form, data)


def refused(data: bytes, form: int = PICKLE) -> str:
    """Assert that it is refused at once and without memory; return the message."""
    codec = Codec(trusted=False)
    codec.decode(PICKLE, P4 + b"].")  # so that imports are not measured
    tracemalloc.start()
    start = time.thread_time()
    try:
        with pytest.raises(LoadError) as caught:
            codec.decode(form, data)
        seconds = time.thread_time() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < TINY_SECONDS + len(data) * 1e-5
    assert peak < MEMORY_FLOOR + 100 * len(data)
    return str(caught.value)


# -- opcodes that values never have


def test_long_binput_cannot_allocate_a_huge_memo() -> None:
    assert "0x72" in refused(P2 + b"Nr\xff\xff\x7f\x00.")


def test_put_binput_and_memoize_are_refused() -> None:
    refused(P2 + b"Np9999999\n.")
    refused(P2 + b"Nq\x00.")
    refused(P4 + b"N\x94.")


def test_get_binget_and_long_binget_are_refused() -> None:
    refused(P2 + b"g0\n.")
    refused(P2 + b"h\x00.")
    refused(P2 + b"j\x00\x00\x00\x00.")


def test_doubling_a_tuple_with_dup_is_refused() -> None:
    assert "0x32" in refused(P2 + b")" + b"2\x86" * 30 + b".")


def test_doubling_a_tuple_through_the_memo_as_a_dict_key_is_refused() -> None:
    doubling = b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(25))

    refused(P2 + b"})" + doubling + b"Ns.")


def test_a_list_of_empty_sets_is_refused() -> None:
    """One byte of it would be 216 of memory."""
    assert "memory" in refused(P4 + b"](" + b"\x8f" * 100_000 + b"e.")


@pytest.mark.parametrize(
    "opcode", [b"]", b"}", b"\x8f", b")", b"N\x85", b"]\x85", b"K\x01\x85", b"(\x91", b"G" + bytes(8)]
)
def test_many_small_things_need_no_more_memory_than_published(opcode: bytes) -> None:
    data = P4 + b"](" + opcode * (200_000 // len(opcode)) + b"e."

    assert_bounded(data)


def assert_bounded(data: bytes) -> None:
    """Assert that data is refused, or costs what is published."""
    tracemalloc.start()
    try:
        value = decode(data)
        used = tracemalloc.get_traced_memory()[0]
        assert used <= MEMORY_FACTOR * len(data) + MEMORY_FLOOR
        del value
    except LoadError:
        pass
    finally:
        tracemalloc.stop()


# -- names and calls


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        P2 + b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        P4 + b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        P2 + b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        P2 + b"c__builtin__\ngetattr\n(tR.",
        P2 + b"cexecgw.wire.codec\nCodec\n)R.",
        P4 + b"\x8c\x08builtins\x8c\x09set.clear\x93)R.",
    ],
)
def test_global_of_any_other_name_is_refused(data: bytes) -> None:
    refused(data)


def test_a_name_that_is_longer_than_ours_is_refused() -> None:
    refused(P2 + b"c" + b"a" * 30_000 + b"\nset\n)R.")


def test_reduce_calls_nothing_but_our_names() -> None:
    refused(P2 + b"N)R.")
    refused(P2 + b"X\x03\x00\x00\x00set)R.")
    refused(P2 + b"]])R.")


@pytest.mark.parametrize("where", [b"%s.", b"](%se.", b"%s\x85.", b"}X\x01\x00\x00\x00a%ss."])
def test_a_name_alone_is_no_value(where: bytes) -> None:
    refused(P2 + where % b"cbuiltins\nset\n")


def test_a_name_as_an_argument_of_another_is_refused() -> None:
    refused(P2 + b"cbuiltins\nset\ncbuiltins\nset\n\x85R.")


@pytest.mark.parametrize(
    "data",
    [
        P2 + b"}}b.",  # BUILD
        P2 + b")\x81.",  # NEWOBJ
        P4 + b")}\x92.",  # NEWOBJ_EX
        P2 + b"(i__main__\nA\n.",  # INST
        P2 + b"(co.",  # OBJ
        P2 + b"\x82\x01.",  # EXT1
        P2 + b"\x83\x01\x00.",  # EXT2
        P2 + b"\x84\x01\x00\x00\x00.",  # EXT4
        b"Pid\n.",  # PERSID
        P2 + b"NQ.",  # BINPERSID
        P5 + b"\x97.",  # NEXT_BUFFER
        P5 + b"N\x98.",  # READONLY_BUFFER
        P2 + b"N0N.",  # POP
        P2 + b"(N1N.",  # POP_MARK
        P2 + b"I1\n.",  # the text opcodes of protocol 0
        P2 + b"L1L\n.",
        P2 + b"F1\n.",
        P2 + b"Va\n.",
    ],
)
def test_build_ext_persid_and_other_opcodes_are_refused(data: bytes) -> None:
    refused(data)


def test_every_opcode_that_is_not_on_the_list_is_refused_by_number() -> None:
    known = set(b"N\x88\x89KMJ\x8a\x8bUTCB\x8e\x8cX\x8d\x96]}\x8f\x85\x86\x87te\x61us\x90\x91R().Gc\x93\x95")

    for byte in set(range(256)) - known:
        refused(P4 + b"]N" + bytes([byte]) + b".")


# -- lengths, depth, ends


@pytest.mark.parametrize(
    "data",
    [
        P2 + b"X\xff\xff\xff\x7f.",
        P2 + b"T\xff\xff\xff\x7f.",
        P2 + b"T\xff\xff\xff\xff.",
        P4 + b"B\xff\xff\xff\xff.",
        P4 + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        P4 + b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        P5 + b"\x96\x00\x00\x00\x00\x01\x00\x00\x00.",
        P2 + b"\x8b\xff\xff\xff\x7f.",
        P2 + b"\x8b\xff\xff\xff\xff.",
        P4 + b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
        P4 + b"\x95\x05\x00\x00\x00\x00\x00\x00\x00N.",
    ],
)
def test_a_length_that_lies_is_refused_before_anything_is_allocated(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + bytes(8),
        b"\x00\x00\x00\x01" + b"\xff" * 8,
        b"\x00\x00\x00\x01" + bytes(8) + b"\xff" * 8,
        b"\x00\x00\x00\x00" + (3).to_bytes(8, "big") + P4,
        b"\x00",
    ],
)
def test_sizes_of_buffers_that_lie_are_refused(data: bytes) -> None:
    refused(data, BUFFERS)


def test_a_frame_that_ends_inside_of_an_opcode_is_refused() -> None:
    """The C unpickler drops what is left of the frame, and would read other opcodes than those that were checked."""
    body = b"](K\x01\x96" + (1).to_bytes(8, "little") + b"xN\x88\x8a\x0d" + bytes(12) + b"\x10e."
    assert decode(P5 + b"\x95" + len(body).to_bytes(8, "little") + body) == [1, bytearray(b"x"), None, True, 2**100]

    for size in set(range(len(body))) - {0, 1, 2, 4, 14, 15, 16, 31, 32}:
        assert "frame" in refused(P5 + b"\x95" + size.to_bytes(8, "little") + body)


def test_a_frame_in_a_frame_is_refused() -> None:
    inner = b"\x95" + (2).to_bytes(8, "little") + b"N."

    assert "frame" in refused(P4 + b"\x95" + (11).to_bytes(8, "little") + inner)


def test_a_number_without_its_bytes_is_refused() -> None:
    for opcode in b"KMJG\x8a\x8bUTCB\x8e\x8cX\x8d\x96\x95":
        refused(P4 + bytes([opcode]))
        refused(P4 + bytes([opcode]) + b".")


@pytest.mark.parametrize(
    ("begin", "end"), [(b"]" * 20_000, b"a" * 20_000), (b")", b"\x85" * 20_000), (b"(" * 20_000, b"")]
)
def test_deep_nesting_is_refused(begin: bytes, end: bytes) -> None:
    assert "deeper" in refused(P4 + begin + end + b".")


def test_the_deepest_key_that_is_let_in_can_be_hashed() -> None:
    assert len(decode(P4 + b"})" + b"\x85" * (MAX_DEPTH - 2) + b"Ns.")) == 1


def test_truncated_bytes_are_refused() -> None:
    whole = pickle.dumps([1, {"a": (1, 2.5, b"x")}], 4).replace(b"\x94", b"")
    whole = P4 + whole[11:]
    assert decode(whole) == [1, {"a": (1, 2.5, b"x")}]

    for size in range(len(whole)):
        refused(whole[:size])


def test_trailing_bytes_are_refused() -> None:
    refused(P4 + b"N.N")
    refused(P4 + b"N..")
    refused(P4 + b"N." + b"x" * 1000)


@pytest.mark.parametrize(
    "data",
    [
        b".",
        b"N",
        b"a.",
        b"e.",
        b"](a.",
        b"(e.",
        b"t.",
        b"\x86.",
        b"N\x86.",
        b"(N\x85\x86.",
        b"(}(s.",
        b"]s.",
        b"NN.",
        b"(N.",
        b"R.",
    ],
)
def test_opcodes_without_their_items_are_refused(data: bytes) -> None:
    refused(P4 + data)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x06N.", b"\x80\xffN.", b"N.", b"(lp0\n."])
def test_other_protocols_are_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    "data", [b"}](Ns.", b"}]Ns.", b"\x8f(]\x90.", b"(]\x91.", b"}(KAu.", b"N(Ne.", b")(Ne.", b"](Nu.", b"Na."]
)
def test_items_in_the_wrong_place_are_refused(data: bytes) -> None:
    refused(P4 + data)


@pytest.mark.parametrize("argument", [b"N", b"K\x05", b"J\xff\xff\xff\x7f", b"]", b"G" + bytes(8)])
def test_bytearray_of_a_number_does_not_allocate_it(argument: bytes) -> None:
    refused(P2 + b"cbuiltins\nbytearray\n" + argument + b"\x85R.")


# -- keys that share a hash


def flood_of_ints(count: int) -> list[Any]:
    return [i * PRIME for i in range(1, count + 1)]


def flood_of_tuples(count: int) -> list[Any]:
    return [(i * PRIME, 1) for i in range(1, count + 1)]


def flood_of_nested_tuples(count: int) -> list[Any]:
    return [((i * PRIME,), "x") for i in range(1, count + 1)]


FLOODS = [flood_of_ints, flood_of_tuples, flood_of_nested_tuples]


def is_refused_soon(make: Any, pack: Any) -> None:
    """Assert that a flood is refused, in a time that is not the square of its size."""
    seconds = []
    for count in (4_000, 16_000):
        data = pack(make(count))
        start = time.thread_time()
        with pytest.raises(LoadError, match="share a hash"):
            decode(data)
        seconds.append(time.thread_time() - start)
    assert seconds[1] < 1.0


def packed(value: Any, protocol: int) -> bytes:
    form, data = Codec(protocol).encode(value)
    assert form == PICKLE
    return b"".join(data) if isinstance(data, list) else data


@pytest.mark.parametrize("make", FLOODS)
def test_a_dict_flooded_with_one_hash_is_refused(make: Any) -> None:
    is_refused_soon(make, lambda keys: P4 + b"}(" + b"".join(key_bytes(key) + b"N" for key in keys) + b"u.")


@pytest.mark.parametrize("make", FLOODS)
def test_a_dict_flooded_key_by_key_is_refused(make: Any) -> None:
    is_refused_soon(make, lambda keys: P4 + b"}" + b"".join(key_bytes(key) + b"Ns" for key in keys) + b".")


@pytest.mark.parametrize("make", FLOODS)
def test_a_set_flooded_with_one_hash_is_refused(make: Any) -> None:
    is_refused_soon(make, lambda keys: P4 + b"\x8f(" + b"".join(map(key_bytes, keys)) + b"\x90.")


@pytest.mark.parametrize("make", FLOODS)
def test_a_frozenset_flooded_with_one_hash_is_refused(make: Any) -> None:
    is_refused_soon(make, lambda keys: P4 + b"(" + b"".join(map(key_bytes, keys)) + b"\x91.")


@pytest.mark.parametrize("name", [b"set", b"frozenset"])
@pytest.mark.parametrize("home", [b"builtins", b"__builtin__"])
@pytest.mark.parametrize("make", FLOODS)
def test_set_called_with_a_list_of_one_hash_is_refused(make: Any, home: bytes, name: bytes) -> None:
    """As protocol 2 writes sets."""
    call = b"c%s\n%s\n" % (home, name)

    is_refused_soon(make, lambda keys: P2 + call + b"](" + b"".join(map(key_bytes, keys)) + b"e\x85R.")


@pytest.mark.parametrize("make", FLOODS)
def test_set_called_with_a_tuple_of_one_hash_is_refused(make: Any) -> None:
    is_refused_soon(make, lambda keys: P2 + b"cbuiltins\nset\n(" + b"".join(map(key_bytes, keys)) + b"t\x85R.")


def key_bytes(key: Any) -> bytes:
    """Pickle one key by hand: who attacks does not build the value first."""
    if isinstance(key, tuple):
        return b"(" + b"".join(map(key_bytes, key)) + b"t"
    if isinstance(key, str):
        return b"\x8c" + bytes([len(key)]) + key.encode()
    if -(2**31) <= key < 2**31:
        return b"J" + key.to_bytes(4, "little", signed=True)
    size = key.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + key.to_bytes(size, "little", signed=True)


def test_many_honest_keys_of_choosable_hash_are_let_in() -> None:
    rng = random.Random(1)
    value = {
        "floats": {rng.random(): i for i in range(3000)},
        "wide": {rng.randrange(2**63, 2**70) for _ in range(3000)},
        "tuples": {(i, str(i)): None for i in range(3000)},
        "frozen": frozenset((i, i + 1) for i in range(3000)),
    }

    for protocol in (2, 4, 5):
        assert decode(packed(value, protocol)) == value


# -- fuzzing


@pytest.mark.timeout(110)
def test_a_sample_of_damaged_values_keeps_all_promises_under_a_memory_limit() -> None:
    command = [sys.executable, str(HERE / "fuzz_values.py"), "--iterations", "2000", "--seed", "20"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
    assert "2000 inputs" in done.stdout


def keys_along_one_path(bits: int, extra: int) -> list[int]:
    """Ints of 32 bits: many fill a path of slots in a dict of 2**bits slots, and *extra* ones walk along all of it."""
    size = 1 << bits
    place, slot = {}, 1
    for i in range(int(size * 0.6)):
        place[slot] = i
        slot = (slot * 5 + 1) % size
    rng = random.Random(1)
    walkers: list[int] = []
    while len(walkers) < extra:
        key = rest = rng.randrange(size, 2**31)
        slot = key % size
        while slot in place and rest:
            rest >>= 5
            slot = (slot * 5 + rest + 1) % size
        if place.get(slot, size) < size // 20:
            walkers.append(key)
    return [*place, *walkers]


@pytest.mark.parametrize(
    "pack", [lambda pairs: b"(" + b"N".join(pairs) + b"Nu", lambda pairs: b"Ns".join(pairs) + b"Ns"]
)
def test_keys_of_different_hashes_that_try_the_same_slots_are_refused(pack: Any) -> None:
    data = P4 + b"}" + pack([key_bytes(key) for key in keys_along_one_path(17, 4000)]) + b"."

    with pytest.raises(LoadError, match="chosen to collide"):
        decode(data)
