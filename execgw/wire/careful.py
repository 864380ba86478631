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

_Unpickler = vars(pickle)["_Unpickler"]  # type: Any  # the one in Python; private, but there since 3.0

MOST_COLLISIONS = 100


class _Careful(_Unpickler):  # type: ignore[misc]
    """The unpickler in Python, which counts hashes before it inserts keys."""

    dispatch = dict(_Unpickler.dispatch)

    def __init__(self, data, find, encoding):
        # type: (bytes, Callable[[str, str], Any], str) -> None
        _Unpickler.__init__(self, BytesIO(data), encoding=encoding)
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
        _Unpickler.load_setitems(self)

    def load_additems(self):
        # type: () -> None
        self.check(id(self.metastack[-1][-1]), self.stack)
        _Unpickler.load_additems(self)

    def load_setitem(self):
        # type: () -> None
        self.check(id(self.stack[-3]), [self.stack[-2]])
        _Unpickler.load_setitem(self)

    def load_frozenset(self):
        # type: () -> None
        self.check(-1 - len(self.seen), self.stack)
        _Unpickler.load_frozenset(self)

    def load_reduce(self):
        # type: () -> None
        """set(list) and frozenset(list), as protocol 2 writes them; a hostile sender may put a tuple there."""
        for argument in self.stack[-1]:
            if isinstance(argument, (list, tuple)):
                self.check(-1 - len(self.seen), argument)
        _Unpickler.load_reduce(self)

    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.REDUCE[0]] = load_reduce


def careful_load(data, find, encoding):
    # type: (bytes, Callable[[str, str], Any], str) -> Any
    """Load scanned bytes; raises LoadError for a flood of colliding keys."""
    return _Careful(data, find, encoding).load()
