"""Is this pickle a plain tree of data?  The check that untrusted bytes pass before the C unpickler sees them.

The scan walks the opcodes once, with a shadow stack that holds one small number for each object: twice its depth, plus
one if an attacker can choose its hash.  It refuses what the value format never contains: memo opcodes, DUP, globals
other than ours, BUILD, extensions, persistent ids; lying lengths; values deeper than MAX_DEPTH; bytes after the end.

Memory: an accepted value of n bytes needs at most MEMORY_FACTOR * n + MEMORY_FLOOR bytes once it is loaded.
Time: linear.  A container with many keys whose hashes can be chosen (ints, floats, tuples) is told to the caller,
who then loads it with a loader that counts collisions (see codec.py).
"""

from .errors import LoadError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Dict, FrozenSet, List, Optional, Tuple  # noqa: F401

MAX_DEPTH = 1000  # what the pickler of most Pythons writes at all; hashing deeper keys could use up the C stack
MEMORY_FACTOR = 80
MEMORY_FLOOR = 1 << 20
STACK_COST = 18  # bytes of an item between a MARK and its list, while it is put there
RISKY_KEYS = 1000

# opcode -> bytes of argument, for those that push one atom of fixed size.
# None, True, False, int8, uint16, int32.
_ATOMS = {0x4E: 0, 0x88: 0, 0x89: 0, 0x4B: 1, 0x4D: 2, 0x4A: 4}
# opcode -> bytes that hold the length of what follows: LONG1, LONG4 (wide ints: an attacker chooses their hash);
# 8-bit strings of Python 2, bytes, text, bytearray.
_COUNTED = {0x8A: 1, 0x8B: 4, 0x55: 1, 0x54: 4, 0x43: 1, 0x42: 4, 0x8E: 8, 0x8C: 1, 0x58: 4, 0x8D: 8, 0x96: 8}
_BYTES = (0x43, 0x42, 0x8E, 0x96)
_WIDE_INTS = (0x8A, 0x8B)
_CHOSEN = (0x4A, 0x4D)  # uint16, int32: an attacker can choose slots of a table with them
# opcode -> rough bytes of the empty container that it pushes (measured on 64-bit CPython): list, dict, set
_EMPTY = {0x5D: 56, 0x7D: 64, 0x8F: 216}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_NO_ARGUMENT_TEXT = {0x8C: "text", 0x58: "text"}
_CALLEE = -2  # on the shadow stack: one of our names; only REDUCE may take it
_SET_MAKER = -4  # likewise: set or frozenset
_ATOMS_ALONE = 3  # likewise: a tuple of atoms
_TOO_MUCH = "a value of %d bytes would need more than %d bytes of memory"


def _little(data, start, size):
    # type: (bytes, int, int) -> int
    number = 0
    for byte in bytearray(data[start : start + size][::-1]):
        number = number << 8 | byte
    return number


class _Scan(object):
    """The state of one walk; see the file's head for what its numbers mean."""

    def __init__(self, data, allowed, most=None):
        # type: (bytes, FrozenSet[Tuple[bytes, bytes]], Optional[int]) -> None
        self.data = data
        limit = MEMORY_FACTOR * len(data) + MEMORY_FLOOR
        self.limit = limit if most is None else min(limit, most)
        self.allowed = allowed
        self.stack = []  # type: List[int]
        self.marks = []  # type: List[int]
        self.memory = 0
        self.batch = 0  # most items that wait on the unpickler's own stack
        self.risky = 0
        self.texts = {}  # type: Dict[int, bytes]
        self.callees = 0  # names on the stack
        self.listed = False  # set(list) or the like may come: items of lists and tuples may be keys

    def since_mark(self, at):
        # type: (int) -> List[int]
        if not self.marks:
            raise LoadError("at byte %d: no MARK for this opcode" % at)
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        self.batch = max(self.batch, len(items))
        return items

    def push_container(self, items, hashable, at):
        # type: (List[int], int, int) -> None
        depth = max(items) // 2 + 1 if items else 1
        if depth > MAX_DEPTH:
            raise LoadError("at byte %d: nested deeper than %d" % (at, MAX_DEPTH))
        self.stack.append(depth * 2 + hashable)
        self.memory += 56 + 8 * len(items)
        if self.listed:
            self.risky += sum([item & 1 for item in items])

    def grow_top(self, items, keys, per_item, at):
        # type: (List[int], List[int], int, int) -> None
        """Put items into the list, dict or set that is now on top."""
        if not self.stack or (self.marks and self.marks[-1] == len(self.stack)):
            raise LoadError("at byte %d: nothing to put items into" % at)
        depth = max(items) // 2 + 1 if items else 1
        if depth > MAX_DEPTH:
            raise LoadError("at byte %d: nested deeper than %d" % (at, MAX_DEPTH))
        self.stack[-1] = max(self.stack[-1], depth * 2)
        self.risky += sum([key & 1 for key in (items if self.listed else keys)])
        self.memory += per_item * len(items)

    def container(self, op, at):
        # type: (int, int) -> None
        """One opcode that takes items from the stack."""
        stack = self.stack
        if op in _TUPLES:
            count = _TUPLES[op]
            if len(stack) - (self.marks[-1] if self.marks else 0) < count:
                raise LoadError("at byte %d: too few items for a tuple" % at)
            items = stack[-count:]
            del stack[-count:]
            self.push_container(items, 1, at)
        elif op == 0x74:  # TUPLE
            self.push_container(self.since_mark(at), 1, at)
        elif op == 0x65:  # APPENDS
            self.grow_top(self.since_mark(at), [], 9, at)
        elif op == 0x61:  # APPEND
            self.grow_top(self.pop(1, at), [], 9, at)
        elif op == 0x75:  # SETITEMS
            items = self.since_mark(at)
            self.grow_top(items, items[::2], 60, at)
        elif op == 0x73:  # SETITEM
            items = self.pop(2, at)
            self.grow_top(items, items[::2], 60, at)
        elif op == 0x90:  # ADDITEMS
            items = self.since_mark(at)
            self.grow_top(items, items, 80, at)
        elif op == 0x91:  # FROZENSET
            items = self.since_mark(at)
            self.risky += sum([key & 1 for key in items])
            self.memory += 216 + 80 * len(items)
            self.push_container(items, 1, at)
        elif op == 0x52:  # REDUCE: what is called can only be one of ours, for nothing else was let in
            callee, args = self.pop(2, at)
            if callee not in (_CALLEE, _SET_MAKER):
                raise LoadError("at byte %d: nothing that may be called" % at)
            if callee == _SET_MAKER and args == _ATOMS_ALONE:  # of a text each character would be an item
                raise LoadError("at byte %d: a set of something that is no list" % at)
            self.callees -= 1
            self.push_container([args], 1, at)
            self.memory += 216
        else:
            raise LoadError("at byte %d: opcode 0x%02x is not part of the value format" % (at, op))

    def pop(self, count, at):
        # type: (int, int) -> List[int]
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise LoadError("at byte %d: too few items for this opcode" % at)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def named_global(self, op, at):
        # type: (int, int) -> int
        """GLOBAL with its two lines, or STACK_GLOBAL after two texts; the name must be one of ours."""
        if op == 0x63:
            first = self.data.find(b"\n", at)
            second = self.data.find(b"\n", first + 1)
            if first < 0 or second < 0:
                raise LoadError("at byte %d: a name without an end" % at)
            name = self.data[at + 1 : first], self.data[first + 1 : second]
            end = second + 1
        else:
            self.pop(2, at)
            name = self.texts.get(2, b""), self.texts.get(1, b"")
            end = at + 1
        if name not in self.allowed:
            raise LoadError("at byte %d: %r is not a type that may travel" % (at, b".".join(name)[:80]))
        of_set = name[1] in (b"set", b"frozenset", b"_frozenset")
        self.stack.append(_SET_MAKER if of_set else _CALLEE)
        self.callees += 1
        self.listed = self.listed or of_set
        return end

    def run(self):
        # type: () -> bool
        data = bytearray(self.data)
        size = len(data)
        stack, push = self.stack, self.stack.append
        limit = self.limit
        if data[:1] != b"\x80" or size < 3 or data[1] > 5:
            raise LoadError("no value starts with %r" % bytes(data[:2]))
        at = 2
        frame_end = never = size + 1
        look = 0  # where to look at what is not looked at for each opcode
        while at < size:
            if at >= look:
                if at > frame_end:  # the C unpickler would lose the rest of the frame, and read what we have not seen
                    raise LoadError("at byte %d: a frame ended inside of an opcode" % at)
                if at == frame_end:
                    frame_end = never
                if STACK_COST * len(stack) > limit:  # the shadow stack itself takes as much
                    raise LoadError(_TOO_MUCH % (size, limit))
                look = min(frame_end, at + 65536)
            op = data[at]
            if op in _ATOMS:
                push(op in _CHOSEN)
                at += 1 + _ATOMS[op]
            elif op in _COUNTED:
                width = _COUNTED[op]
                start = at + 1 + width
                length = data[at + 1] if width == 1 else _little(self.data, at + 1, width)
                end = start + length
                if end > size:
                    raise LoadError("at byte %d: %d bytes are announced, %d are left" % (at, length, size - start))
                if op in _NO_ARGUMENT_TEXT:
                    self.texts[2] = self.texts.get(1, b"")
                    self.texts[1] = self.data[start:end] if length < 64 else b""
                push(1 if op in _WIDE_INTS else 0)
                self.memory += 40 if length < 64 else 64 + (length if op in _BYTES else 4 * length)
                at = end
            elif op == 0x28:  # MARK
                self.marks.append(len(stack))
                if len(self.marks) > MAX_DEPTH:
                    raise LoadError("at byte %d: nested deeper than %d" % (at, MAX_DEPTH))
                at += 1
            elif op in _EMPTY:
                self.memory += _EMPTY[op]
                push(2)
                at += 1
            elif op == 0x29:  # EMPTY_TUPLE
                push(2)
                at += 1
            elif op == 0x47:  # BINFLOAT
                push(1)
                at += 9
            elif op == 0x95:  # FRAME: only a promise about lengths, and it must hold
                if frame_end != never:
                    raise LoadError("at byte %d: a frame in a frame" % at)
                frame_end = at + 9 + _little(self.data, at + 1, 8)
                look = min(look, frame_end)
                if frame_end > size:
                    raise LoadError("at byte %d: a frame longer than the value" % at)
                at += 9
            elif op in (0x63, 0x93):
                at = self.named_global(op, at)
            elif op == 0x2E:  # STOP
                break
            else:
                self.container(op, at)
                if self.memory + STACK_COST * self.batch > limit:
                    raise LoadError(_TOO_MUCH % (size, limit))
                at += 1
        if self.callees:
            raise LoadError("a name that is not called is no value")
        if at != size - 1 or len(stack) != 1 or self.marks or frame_end < size:
            raise LoadError("the value is truncated or has bytes after its end (%d of %d read)" % (at, size))
        if self.memory + STACK_COST * self.batch > limit:
            raise LoadError(_TOO_MUCH % (size, limit))
        return self.risky > RISKY_KEYS


def scan(data, allowed, most=None):
    # type: (bytes, FrozenSet[Tuple[bytes, bytes]], Optional[int]) -> bool
    """Raise LoadError unless *data* is a tree of plain values in pickle format (protocol 2 to 5).

    *allowed* holds the (module, name) pairs that may be called, *most* is a limit of memory in bytes.  Returns True if
    the value has so many keys of choosable hash that loading it must watch for collisions.
    """
    return _Scan(data, allowed, most).run()
