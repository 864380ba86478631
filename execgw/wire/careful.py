"""A slow loader for untrusted values with many keys of choosable hash: it refuses floods of colliding ones.

Dict and set inserts are quadratic in the keys that share a hash, and hashes of numbers and tuples are not seeded; so
the C unpickler could be held up for minutes by one frame.  Only the near side needs this file: workers trust it.
"""

from __future__ import absolute_import

import pickle
from io import BytesIO

from .errors import LoadError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List, Tuple  # noqa: F401

MOST_COLLISIONS = 100


class _Careful(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """The unpickler in Python, which counts hashes before it inserts keys."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, data, find):
        # type: (bytes, Callable[[str, str], Any]) -> None
        pickle._Unpickler.__init__(self, BytesIO(data), encoding="latin-1")  # type: ignore[attr-defined]
        self.find_class = find
        self.seen = {}  # type: Dict[Tuple[int, str], int]

    def check(self, container, keys):
        # type: (int, List[Any]) -> None
        seen = self.seen
        for key in keys:
            # By the text of the hash: text is hashed with a seed, so this table cannot be flooded in turn.
            slot = container, "%x" % hash(key)
            seen[slot] = count = seen.get(slot, 0) + 1
            if count > MOST_COLLISIONS:
                raise LoadError("more than %d keys of one container share a hash" % MOST_COLLISIONS)

    def load_setitems(self):
        # type: () -> None
        self.check(id(self.metastack[-1][-1]), self.stack[::2])
        pickle._Unpickler.load_setitems(self)  # type: ignore[attr-defined]

    def load_additems(self):
        # type: () -> None
        self.check(id(self.metastack[-1][-1]), self.stack)
        pickle._Unpickler.load_additems(self)  # type: ignore[attr-defined]

    def load_setitem(self):
        # type: () -> None
        self.check(id(self.stack[-3]), [self.stack[-2]])
        pickle._Unpickler.load_setitem(self)  # type: ignore[attr-defined]

    def load_frozenset(self):
        # type: () -> None
        self.check(-1 - len(self.seen), self.stack)
        pickle._Unpickler.load_frozenset(self)  # type: ignore[attr-defined]

    def load_reduce(self):
        # type: () -> None
        """set(list) and frozenset(list), as protocol 2 writes them."""
        for argument in self.stack[-1]:
            if isinstance(argument, list):
                self.check(-1 - len(self.seen), argument)
        pickle._Unpickler.load_reduce(self)  # type: ignore[attr-defined]

    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.REDUCE[0]] = load_reduce


def careful_load(data, find):
    # type: (bytes, Callable[[str, str], Any]) -> Any
    """Load scanned bytes; raises LoadError for a flood of colliding keys."""
    return _Careful(data, find).load()
