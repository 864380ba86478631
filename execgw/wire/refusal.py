"""Why a value cannot travel: the path to the bad item and the reason, for the message of a DumpError."""

from .codec import CONTAINERS, HAS_OVERRIDE, PLAIN
from .compat import text_type
from .errors import DumpError

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Optional, Tuple  # noqa: F401


def encode_after(error, encoder, value):
    # type: (Exception, Any, Any) -> Any
    """Encode a value after the encoder failed with *error*; DumpError if it cannot travel.

    In fast mode CPython's pickler counts the frozensets that it has written as levels of nesting.  From 50 on it takes
    what it has seen for a cycle (ValueError), or misses what it has not (KeyError).  So the next try is without them.
    """
    odd = isinstance(error, (KeyError, ValueError))
    reason = refusal(encoder.codec, value, 10000 if odd else 300)
    if reason is None and odd:
        encoder.__init__(encoder.codec)
        return encoder.encode(_thawed(value))
    raise DumpError(reason or "value: %s: %s" % (type(error).__name__, str(error)[:200]))


def _thawed(value):
    # type: (Any) -> Any
    from .trees import Frozen

    kind = type(value)
    if kind is dict:
        return dict([(_thawed(key), _thawed(value[key])) for key in value])
    if kind not in CONTAINERS:
        return value
    items = [_thawed(item) for item in value]
    return Frozen(items) if kind is frozenset else kind(items)


def refusal(codec, value, deepest=300):
    # type: (Any, Any, int) -> Optional[str]
    """Find the first item that cannot travel: its path and the reason, or None if all can."""
    todo = [(value, "value", ())]  # type: List[Tuple[Any, str, Tuple[int, ...]]]
    while todo:
        item, path, above = todo.pop()
        kind = type(item)
        if kind in PLAIN:
            continue
        if kind not in CONTAINERS:
            reason = _why_not(codec, item)
            if reason is None:
                continue
            return "%s: %s" % (path, reason)
        if id(item) in above:
            return "%s: a %s that contains itself" % (path, kind.__name__)
        if len(above) > deepest:
            return "%s...: nested deeper than %d" % (path[:60], deepest)
        inside = above + (id(item),)
        subs = []  # type: List[Tuple[Any, str, Tuple[int, ...]]]
        if kind is dict:
            for key in item:
                subs.append((key, "%s key %.80r" % (path, key), inside))
                subs.append((item[key], "%s[%.80r]" % (path, key), inside))
        elif kind in (list, tuple):
            subs.extend([(sub, "%s[%d]" % (path, i), inside) for i, sub in enumerate(item)])
        else:
            subs.extend([(sub, "%s item %.80r" % (path, sub), inside) for sub in item])
        todo.extend(reversed(subs))  # the first of them is looked at next
    return None


def _why_not(codec, item):
    # type: (Any, Any) -> Optional[str]
    """Why this object, which is no plain value, cannot travel; None if it can."""
    kind = type(item)
    if codec.channel_type and isinstance(item, codec.channel_type):
        try:
            codec.number_of(item)
        except DumpError as e:
            return str(e)
        return None
    if HAS_OVERRIDE:
        from .buffers import take_apart

        if take_apart(item) is not None:
            return None
    for plain in (bool, int, float, complex, bytes, bytearray, text_type, list, tuple, dict, set, frozenset):
        if isinstance(item, plain):
            name = plain.__name__
            return "cannot send %r, a subclass of %s; send %s(it)" % (kind, name, name)
    return "cannot send %r" % (kind,)
