"""What others wrote, made harmless for a terminal: near side only.

A terminal obeys control characters: they move the cursor over other output, set titles, answer as if typed.  Colours
(ESC [ ... m) and the ends of lines stay; everything else of the kind is shown as \\x1b and the like.
"""

import re

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401

COLOUR = r"\x1b\[[0-9;]{0,32}m"
_TEXT = re.compile(COLOUR + r"|([\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069])")
# In bytes the upper control characters are C2 80 to C2 9F; bytes of that range alone are parts of other characters.
_BYTES = re.compile(COLOUR.encode("ascii") + b"|([\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f])")
_UNFINISHED = re.compile(b"(?:\x1b(?:\\[[0-9;]{0,32})?|\xc2)\\Z")


def printable(text):
    # type: (str) -> str
    """Text with its control characters shown, not obeyed."""
    return _TEXT.sub(lambda found: found.group(0) if found.group(1) is None else ascii(found.group(1))[1:-1], text)


class PrintableBytes(object):
    """The same for a stream of bytes, in which a colour may be cut in two; carriage returns stay, for progress bars."""

    def __init__(self):
        # type: () -> None
        self.rest = b""

    def feed(self, data):
        # type: (bytes) -> bytes
        data = self.rest + data
        cut = _UNFINISHED.search(data)
        self.rest = data[cut.start() :] if cut else b""
        return _shown(data[: cut.start()] if cut else data)

    def end(self):
        # type: () -> bytes
        """What was held back."""
        rest, self.rest = self.rest, b""
        return _shown(rest)


def _shown(data):
    # type: (bytes) -> bytes
    def shown(found):
        # type: (Any) -> bytes
        if found.group(1) is None:
            return found.group(0)  # type: ignore[no-any-return]
        return "".join(["\\x%02x" % byte for byte in bytearray(found.group(1)[-1:])]).encode("ascii")

    return _BYTES.sub(shown, data)
