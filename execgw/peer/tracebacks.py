"""What travels of an exception: its type, text, arguments, notes, causes and its traceback as text."""

import linecache
import sys
import traceback

from ..wire.errors import DumpError
from .faults import as_text, pack_error

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict  # noqa: F401

LONGEST = 200 * 1024  # characters of a traceback that travel; a frame takes a mebibyte
DEEPEST = 8  # causes of causes


def describe(exc, codec, tb=None, skip="", depth=0):
    # type: (BaseException, Any, Any, str, int) -> Dict[str, Any]
    """What travels of an exception, without the outermost frames in files that start with *skip*."""
    kind = type(exc)
    tb = tb if tb is not None else getattr(exc, "__traceback__", None)
    while skip and tb is not None and tb.tb_next is not None and tb.tb_frame.f_code.co_filename.startswith(skip):
        tb = tb.tb_next
    _cut_signal_handler(tb)
    try:
        if hasattr(exc, "with_traceback"):
            lines = traceback.format_exception(kind, exc.with_traceback(tb), tb)
        else:
            lines = traceback.format_exception(kind, exc, tb)
        formatted = as_text("".join(lines))
    except Exception as e:  # the exception's own __str__ may raise
        formatted = as_text("%s (its traceback cannot be shown: %s)" % (kind.__name__, type(e).__name__))
    last = tb
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = getattr(kind, "__module__", None)
    if module == "_execgw.wire.errors":  # as the near side calls it
        module = "execgw"
    name = getattr(kind, "__qualname__", kind.__name__)
    args = exc.args if type(exc.args) is tuple else None
    try:
        data = codec.encode(args)[1]
        if (sum([len(piece) for piece in data]) if type(data) is list else len(data)) > LONGEST:
            args = None
    except DumpError:
        args = None
    inner = getattr(exc, "__cause__", None)
    if inner is None and not getattr(exc, "__suppress_context__", True):
        inner = getattr(exc, "__context__", None)
    return {
        "type": name if module in (None, "builtins", "exceptions") else "%s.%s" % (module, name),
        "message": as_text(exc)[:LONGEST],
        "args": args,
        "notes": [as_text(note) for note in getattr(exc, "__notes__", None) or ()],
        "filename": last.tb_frame.f_code.co_filename if last is not None else None,
        "lineno": last.tb_lineno if last is not None else None,
        "formatted": formatted if len(formatted) <= LONGEST else formatted[:LONGEST] + " ...",
        "cause": describe(inner, codec, None, skip, depth + 1) if inner is not None and depth < DEEPEST else None,
    }


def _cut_signal_handler(tb):
    # type: (Any) -> None
    """An interrupt is raised by a handler (worker/serve.py) on top of where the code was."""
    while tb is not None and tb.tb_next is not None:
        if tb.tb_next.tb_frame.f_code.co_name == "_on_sigint":
            try:
                tb.tb_next = None
            except (AttributeError, TypeError):  # before 3.7 it cannot be changed
                pass
            return
        tb = tb.tb_next


def remember(sources):
    # type: (Dict[str, str]) -> None
    """So that tracebacks show the lines that ran; files of that name here may be others, or none."""
    for filename, source in list(sources.items()):
        linecache.cache[filename] = len(source), None, source.splitlines(True), filename


def current(codec, skip="", sources=None):
    # type: (Any, str, Any) -> bytes
    """The payload for the exception that is being handled; *sources* is {file name: text} of code that was sent."""
    kind, exc, tb = sys.exc_info()
    remember(sources or {})
    try:
        return pack_error(codec, describe(exc, codec, tb, skip))  # type: ignore[arg-type]
    finally:
        del tb
