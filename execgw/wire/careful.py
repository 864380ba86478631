"""What the near side does to read values that it does not trust, beyond the scan.

A slow loader for those with many keys of choosable hash: it refuses floods of colliding ones.

Dict and set inserts are quadratic in the keys that share a hash, and hashes of numbers and tuples are not seeded; so
the C unpickler could be held up for minutes by one frame.  Only the near side needs this file: workers trust it.
"""

import pickle
from io import BytesIO
from time import thread_time

from .codec import ALLOWED
from .errors import LoadError
from .printable import printable
from .scan import scan

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List, Set, Tuple  # noqa: F401

_Unpickler = vars(pickle)["_Unpickler"]  # type: Any  # the one in Python; private, but there since 3.0

MOST_MEMORY = 1 << 30  # bytes for one value that a worker sent, however large it is on the wire
MOST_COLLISIONS = 100
# Different hashes may still be chosen to try the same slots, one after the other: that is seen in the time it takes.
FEW = 64  # items between two looks at the clock; even
MOST_SECONDS = 0.1
SECONDS_AN_ITEM = 3e-6

LONGEST = 256 * 1024  # characters of one text of an error
DEEPEST = 32  # causes of causes
MOST_NOTES = 100
NO_TEXT = "(an error without a text)"


class _Careful(_Unpickler):  # type: ignore[misc]
    """The unpickler in Python, which counts hashes before it inserts keys."""

    dispatch = dict(_Unpickler.dispatch)

    def __init__(self, data, find, encoding):
        # type: (bytes, Callable[[str, str], Any], str) -> None
        _Unpickler.__init__(self, BytesIO(data), encoding=encoding)
        self.find_class = find
        self.seen = {}  # type: Dict[Tuple[int, str], int]
        self.inserted = 0  # items so far, and the time of this thread that they took
        self.seconds = 0.0

    def check(self, container, keys):
        # type: (int, List[Any]) -> None
        seen = self.seen
        for key in keys:
            # By the text of the hash: text is hashed with a seed, so this table cannot be flooded in turn.
            slot = container, "%x" % hash(key)
            seen[slot] = count = seen.get(slot, 0) + 1
            if count > MOST_COLLISIONS:
                raise LoadError("more than %d keys of one container share a hash" % MOST_COLLISIONS)

    def insert(self, put, items):
        # type: (Callable[[List[Any]], object], List[Any]) -> None
        """Call put() with a few of *items* at a time, and refuse keys whose insertion takes too long."""
        for at in range(0, len(items), FEW):
            start = thread_time()
            some = items[at : at + FEW]
            put(some)
            self.seconds += thread_time() - start
            self.inserted += len(some)
            if self.seconds > MOST_SECONDS + SECONDS_AN_ITEM * self.inserted:
                raise LoadError(
                    "%d items took %.2f s: their keys were chosen to collide" % (self.inserted, self.seconds)
                )

    def load_setitems(self):
        # type: () -> None
        items = self.pop_mark()
        self.check(id(self.stack[-1]), items[::2])
        table = self.stack[-1]
        self.insert(lambda some: table.update(zip(some[::2], some[1::2])), items)

    def load_additems(self):
        # type: () -> None
        items = self.pop_mark()
        self.check(id(self.stack[-1]), items)
        self.insert(self.stack[-1].update, items)

    def load_setitem(self):
        # type: () -> None
        self.check(id(self.stack[-3]), [self.stack[-2]])
        value, key = self.stack.pop(), self.stack.pop()
        self.insert(self.stack[-1].update, [(key, value)])

    def load_frozenset(self):
        # type: () -> None
        items = self.pop_mark()
        self.check(-1 - len(self.seen), items)
        self.stack.append(frozenset(self.tried(items)))

    def tried(self, items):
        # type: (List[Any]) -> Set[Any]
        found = set()  # type: Set[Any]
        self.insert(found.update, items)
        return found

    def load_reduce(self):
        # type: () -> None
        """set(list) and frozenset(list), as protocol 2 writes them; a hostile sender may put a tuple there."""
        if len(self.stack[-1]) == 1 and isinstance(self.stack[-1][0], (list, tuple)):
            items = list(self.stack[-1][0])
            self.check(-1 - len(self.seen), items)
            self.tried(items)
        _Unpickler.load_reduce(self)

    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.REDUCE[0]] = load_reduce


def careful_load(codec, data, buffers):
    # type: (Any, bytes, Any) -> Any
    """Check untrusted bytes; LoadError if they are no plain tree.

    Returns None for those that may go to the C unpickler.  Those with many keys of choosable hash are loaded here, and
    returned as (value,); LoadError for a flood of colliding keys.
    """
    # The codec of a session knows channels; what loads() reads was chosen by who runs this process.
    if not scan(data, ALLOWED, MOST_MEMORY if codec.channel_type else None):
        return None
    return (_Careful(data, lambda module, name: codec.find(module, name, buffers), codec.encoding2()).load(),)


def careful_fault(fault, depth=0):
    # type: (Any, int) -> Any
    """What a worker told of an error, details or a text, of the types that they must be, and harmless to print."""
    if not isinstance(fault, dict):
        return printable(fault[:LONGEST]) if isinstance(fault, str) else NO_TEXT
    details = {}  # type: Dict[str, Any]
    for name in ("formatted", "message", "type", "filename"):
        value = fault.get(name)
        if isinstance(value, str):
            details[name] = printable(value[:LONGEST])
    details.setdefault("formatted", details.get("message", NO_TEXT))
    lineno, args, notes, cause = [fault.get(name) for name in ("lineno", "args", "notes", "cause")]
    if type(lineno) is int and 0 <= lineno < 1 << 31:
        details["lineno"] = lineno
    if type(args) is tuple:
        details["args"] = args
    if type(notes) is list:
        details["notes"] = [printable(note[:LONGEST]) for note in notes[:MOST_NOTES] if isinstance(note, str)]
    if isinstance(cause, dict) and depth < DEEPEST:
        details["cause"] = careful_fault(cause, depth + 1)
    return details
