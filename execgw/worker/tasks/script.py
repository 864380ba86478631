"""execgw exec: runs a script as `python script.py args` would, and sends what it prints over the channel.

channel ->  (mark, 1 or 2, at, bytes)   printed to stdout or stderr, from byte *at* of that stream on; *mark* is a text
                                        that the near side has made up
            (mark, 0, 0, exit code)     the script has ended
            anything else               what the script itself sends with channel.send()
"""

import io
import linecache
import os
import sys
import threading
import traceback
import types

PY2 = sys.version_info < (3,)
LONGEST_LINE = 8192  # bytes after which the start of a line is sent on Python 2


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


class _Raw(io.RawIOBase):
    """Sends each piece of bytes that is written."""

    def __init__(self, channel, mark, number):
        io.RawIOBase.__init__(self)
        self._channel = channel
        self._mark = mark
        self._number = number
        self._at = 0
        self._pid = os.getpid()

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        try:
            if data and os.getpid() == self._pid:  # the link is not for forked children
                # A bytearray is no text on any Python.  If an interrupt comes in here, the same bytes are written once
                # more, and the near side drops by their place what it has already.
                self._channel.send((self._mark, self._number, self._at, bytearray(data)))
                self._at += len(data)
        except EnvironmentError:  # the near side has gone, or the script has ended and left a thread
            pass
        return len(data)


class _Text2(object):
    """A file for the print of Python 2, which writes 8-bit strings and text."""

    encoding = "utf-8"
    errors = "backslashreplace"
    closed = False

    def __init__(self, raw):
        self._raw = raw
        self._lock = threading.Lock()
        self._waiting = ""

    def write(self, text):
        data = text.encode("utf-8") if not isinstance(text, bytes) else text
        with self._lock:
            self._waiting += data
            if "\n" in data or len(self._waiting) > LONGEST_LINE:
                self._send()

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        with self._lock:
            self._send()

    def _send(self):
        waiting, self._waiting = self._waiting, ""
        self._raw.write(waiting)

    def isatty(self):
        return False

    def close(self):
        pass


def _text_file(raw):
    if PY2:
        return _Text2(raw)
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True)


def _exit_code():
    """What Python makes of the exception that is being handled: it shows it, and ends with this code."""
    kind, exc, tb = sys.exc_info()
    if isinstance(exc, KeyboardInterrupt):
        return 130
    if not isinstance(exc, SystemExit):
        while tb is not None and tb.tb_frame.f_code.co_filename == _execute.__code__.co_filename:
            tb = tb.tb_next
        if sys.excepthook is sys.__excepthook__:  # in one piece, which no other gateway's lines can break
            sys.stderr.write("".join(traceback.format_exception(kind, exc, tb)))
        else:
            sys.excepthook(kind, exc, tb)
        return 1
    if exc.code is None or isinstance(exc.code, int):
        return int(exc.code or 0) & 255
    sys.stderr.write("%s\n" % (exc.code,))
    return 1


def _join_threads(before):
    """Python waits for threads that are no daemons."""
    for thread in threading.enumerate():
        if thread not in before and not thread.daemon:
            thread.join()


def main(channel, mark, source, filename, args):
    """Run the script, and say how it ended."""
    files = sys.stdout, sys.stderr, sys.argv
    worker_main = sys.modules["__main__"]
    module = types.ModuleType("__main__")
    module.__dict__["channel"] = channel
    linecache.cache[filename] = len(source), None, source.decode("utf-8", "replace").splitlines(True), filename
    before = threading.enumerate()
    out, err = [_text_file(_Raw(channel, mark, number)) for number in (1, 2)]
    code = 0
    try:
        sys.stdout, sys.stderr = out, err
        sys.argv = [str(word) if not PY2 else word.encode("utf-8") for word in [filename] + list(args)]
        sys.modules["__main__"] = module
        try:
            _execute(compile(source, filename, "exec", 0, True), module.__dict__)
            _join_threads(before)
        except BaseException:
            code = _exit_code()
        for stream in (sys.stdout, sys.stderr, out, err):
            try:
                stream.flush()
            except Exception:  # the script's own file, or one that it has closed
                pass
    finally:
        sys.stdout, sys.stderr, sys.argv = files
        sys.modules["__main__"] = worker_main
    channel.send((mark, 0, 0, code))
