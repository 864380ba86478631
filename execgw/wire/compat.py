"""The names that Python 2 and 3 keep in different places, for both sides; importing them costs a start nothing."""

import sys

PY2 = sys.version_info[0] == 2

if PY2:
    text_type = unicode  # type: ignore[name-defined]  # noqa: F821
    int_types = (int, long)  # type: ignore[name-defined]  # noqa: F821
else:
    text_type = str
    int_types = (int,)

try:  # the collections package would cost a worker's start a millisecond
    from _collections import deque as deque  # type: ignore[import-not-found]
except ImportError:
    from collections import deque as deque
