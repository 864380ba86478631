"""execgw exec: runs a script as `python script.py args` would, and sends what it prints over the channel.

channel ->  (mark, 1 or 2, at, bytes)   printed to stdout or stderr, from byte *at* of that stream on; *mark* is a text
                                        that the near side has made up
            (mark, 0, 0, exit code)     the script has ended
            anything else               what the script itself sends with channel.send()

print is sent at once, by the thread that prints: it is not lost if the script then ends the process.  What C code and
other processes write to the descriptors goes through a pipe, and whoever prints next sends first what is in there.  A
reader that is slow is waited for, as at any pipe.
"""

import io
import linecache
import os
import select
import sys
import threading
import traceback
import types

PY2 = sys.version_info < (3,)
READ_SIZE = 64 * 1024
LONGEST_LINE = 8192  # bytes after which the start of a line is sent on Python 2


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def _keep_from_children(fd):
    if PY2:  # elsewhere they are from the start
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


class _Stream(object):
    """One stream of the script, on its way to the near side."""

    def __init__(self, channel, mark, number):
        self._channel = channel
        self._mark = mark
        self._number = number
        self._at = 0
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._held = b""  # taken from the pipe, and not sent yet
        self._readable = self._saved = None

    def redirect(self):
        """Hear what is written to the descriptor, too, until restore()."""
        import fcntl

        readable, writable = os.pipe()
        self._saved = os.dup(self._number)
        for fd in (readable, self._saved):
            _keep_from_children(fd)
        fcntl.fcntl(readable, fcntl.F_SETFL, os.O_NONBLOCK)
        os.dup2(writable, self._number)
        os.close(writable)
        self._readable = readable
        reader = threading.Thread(target=self._read, name="execgw-output")
        reader.daemon = True
        reader.start()

    @property
    def redirected(self):
        return self._saved is not None

    def write(self, data):
        if os.getpid() != self._pid:  # the link is not for forked children; the pipe is
            while data and self.redirected:
                data = data[os.write(self._number, data) :]
            return
        with self._lock:
            self.drain()
            self._send(data)

    def drain(self):
        """Send what is in the pipe now."""
        with self._lock:
            while self._take():
                pass
            held = self._held
            if held:
                self._send(held)
                self._held = b""

    def restore(self):
        """Hear no more; what was written until now is sent.  Processes that are left may write on, to nobody."""
        if self.redirected:
            os.dup2(self._saved, self._number)
            self.drain()
            os.close(self._saved)
            self._saved = None

    def _take(self):
        """Whether more may follow at once."""
        if self._readable is None:
            return False
        try:
            data = os.read(self._readable, READ_SIZE)
        except EnvironmentError:  # nothing is there
            return False
        self._held += data
        return bool(data) and len(self._held) < READ_SIZE

    def _send(self, data):
        if not data:
            return
        try:
            # A bytearray is no text on any Python.  If an interrupt comes in here, the same bytes are written once
            # more, and the near side drops by their place what it has already.
            self._channel.send((self._mark, self._number, self._at, bytearray(data)))
            self._at += len(data)
        except EnvironmentError:  # the near side has gone, or the script has ended and left a thread
            pass

    def _read(self):
        """In a thread: send what is written, until everybody has closed the pipe."""
        while True:
            select.select([self._readable], [], [])
            with self._lock:
                try:
                    data = os.read(self._readable, READ_SIZE)
                except EnvironmentError:  # whoever printed has taken it
                    continue
                if not data:
                    readable, self._readable = self._readable, None
                    os.close(readable)
                    return
                if self.redirected:
                    self._held += data
                    self.drain()


class _Raw(io.RawIOBase):
    """The file of a stream."""

    def __init__(self, stream, number):
        io.RawIOBase.__init__(self)
        self._stream = stream
        self._number = number

    def writable(self):
        return True

    def fileno(self):
        """For the processes that the script starts."""
        if not self._stream.redirected:
            raise io.UnsupportedOperation("fileno")
        return self._number

    def write(self, data):
        data = bytes(data)
        self._stream.write(data)
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

    def fileno(self):
        return self._raw.fileno()

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


def _may_redirect(channel):
    """Not in a worker that shares its process, nor where there are no descriptors (Jython) or no threads (Pyodide)."""
    return channel.gateway.owns_process and hasattr(os, "dup2") and sys.platform != "emscripten"


def _exit_after(streams, exit_now, pid):
    """os._exit, but that what other processes have written before is sent first."""

    def _exit(code):
        if os.getpid() == pid:
            for stream in streams:
                stream.drain()
        exit_now(code)

    return _exit


def main(channel, mark, source, filename, args):
    """Run the script, and say how it ended."""
    files = sys.stdout, sys.stderr, sys.argv, os._exit
    worker_main = sys.modules["__main__"]
    module = types.ModuleType("__main__")
    module.__dict__["channel"] = channel
    linecache.cache[filename] = len(source), None, source.decode("utf-8", "replace").splitlines(True), filename
    streams = [_Stream(channel, mark, number) for number in (1, 2)]
    out, err = [_text_file(_Raw(stream, number)) for number, stream in enumerate(streams, 1)]
    code = 0
    try:
        if _may_redirect(channel):
            for stream in streams:
                stream.redirect()
            os._exit = _exit_after(streams, os._exit, os.getpid())
        before = threading.enumerate()
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
        sys.stdout, sys.stderr, sys.argv, os._exit = files
        sys.modules["__main__"] = worker_main
        for stream in streams:
            stream.restore()
    channel.send((mark, 0, 0, code))
