"""What code prints, sent to the near side: descriptors 1 and 2 become pipes, so C code and subprocesses are heard, too.

    print -> pipe -> reader thread -> queue -> sender thread -> channel: (stream, task's channel number, bytes, cut)

The queue is bounded.  While it is full the code that prints waits, but not for long: after PATIENCE seconds what is in
the middle is cut, its size is told, and the code runs on.  So it never hangs for want of a reader, and an interrupt
never waits for one.  Where descriptors cannot be redirected (Jython) sys.stdout and sys.stderr are.
"""

import os
import sys
import threading
import time

from ..peer.compat import PY2, clock, deque
from .link import set_inheritable

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Dict, List  # noqa: F401

READ_SIZE = 64 * 1024
LIMIT = 256 * 1024  # bytes that wait to be sent
TAIL = 64 * 1024  # bytes kept of the end of what is cut
PATIENCE = 1.0  # seconds that code waits for a slow reader
END_SECONDS = 2.0  # for what a task has printed to be sent before its channel ends
TOKEN = b"\0execgw: all of it until here\0"  # goes through a pipe behind what a task has printed


def capture(server, asked):
    # type: (Any, Dict[str, str]) -> Dict[str, str]
    """Redirect the streams that are named to the channel that is named; once for a worker."""
    if not server.owns_process:
        return {"problem": "a worker in memory has no output of its own"}
    if server.gateway.output is None:
        channel = server.gateway._channel_for(int(asked["channels"]))
        server.gateway.output = Output(server.gateway, channel)
        server.gateway.at_end.append(server.gateway.output.end)
        os._exit = _exit_after(server.gateway.output, os._exit, os.getpid())  # type: ignore[assignment]
    for number in asked["streams"].split():
        server.gateway.output.redirect(int(number))
    return {}


def _exit_after(output, exit_now, pid):
    # type: (Output, Callable[[int], Any], int) -> Callable[[int], Any]
    """os._exit, but that what is on its way through the pipes is sent first: else the last words would be lost."""

    def _exit(code):
        # type: (int) -> None
        try:
            if os.getpid() == pid:  # in a forked child there are no threads that send
                output.send_all()
        finally:
            exit_now(code)

    return _exit


class Output(object):
    """The streams of one worker."""

    def __init__(self, gateway, channel):
        # type: (Any, Any) -> None
        self.running = gateway.running
        self.peer = gateway._peer
        self.channel = channel
        self.changed = threading.Condition()
        self.queue = deque()  # type: Any  # (stream, number of the task or 0, bytes, bytes cut before)
        self.size = 0
        self.sending = False  # something was taken from the queue, and the link may not have it yet
        self.cutting = {}  # type: Dict[int, List[Any]]  # stream -> [number, tail, bytes cut]
        self.tokens = {}  # type: Dict[int, int]  # stream -> tokens that have come through
        self.streams = {}  # type: Dict[int, Any]
        self._start(self._send)

    def _start(self, function, *args):
        # type: (Any, *Any) -> None
        thread = threading.Thread(target=function, args=args, name="execgw-output")
        thread.daemon = True
        thread.start()

    # -- from the code

    def redirect(self, stream):
        # type: (int) -> None
        """Hear what is written to descriptor 1 or 2 from now on."""
        if stream in self.streams:
            return
        name = "stdout" if stream == 1 else "stderr"
        self.tokens[stream] = 0
        if not hasattr(os, "dup2"):
            self.streams[stream] = PrintFile(self, stream)
            setattr(sys, name, self.streams[stream])
            return
        # By lines: it is no terminal, and would be kept back by blocks.
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(line_buffering=True)  # before the next step: PyPy seeks here
        else:
            getattr(sys, name).flush()
            setattr(sys, name, os.fdopen(stream, "w", 1))
        readable, writable = os.pipe()
        set_inheritable(readable, False)
        os.dup2(writable, stream)
        os.close(writable)
        set_inheritable(stream, True)
        self.streams[stream] = getattr(sys, name)
        self._start(self._read, stream, readable)

    def _read(self, stream, readable):
        # type: (int, int) -> None
        held = b""
        while True:
            data = os.read(readable, READ_SIZE)
            if not data:
                return
            data = held + data
            while TOKEN in data:
                before, _, data = data.partition(TOKEN)
                self.put(stream, before)
                with self.changed:
                    self.tokens[stream] += 1
                    self.changed.notify_all()
            keep = _overlap(data)
            data, held = data[: len(data) - keep], data[len(data) - keep :]
            self.put(stream, data)

    def put(self, stream, data):
        # type: (int, bytes) -> None
        """Queue what was printed, by the only task that runs or by any."""
        if not data:
            return
        numbers = list(self.running)
        number = numbers[0] if len(numbers) == 1 else 0
        with self.changed:
            end = clock() + PATIENCE
            while self.size > LIMIT and stream not in self.cutting and clock() < end:
                self.changed.wait(end - clock())
            if self.size <= LIMIT and stream not in self.cutting:
                self.queue.append((stream, number, data, 0))
                self.size += len(data)
            else:
                cut = self.cutting.setdefault(stream, [number, b"", 0])
                tail = cut[1] + data
                cut[0], cut[1], cut[2] = number, tail[-TAIL:], cut[2] + max(len(tail) - TAIL, 0)
            self.changed.notify_all()

    def end(self, number):
        # type: (int) -> None
        """A task has ended: what it has printed goes before the end of its channel."""
        deadline = clock() + END_SECONDS
        for file in list(self.streams.values()):
            try:
                file.flush()
            except (EnvironmentError, ValueError):  # the code has closed it
                pass
        self._empty_pipes(deadline)
        with self.changed:
            last = (0, number, b"", 0)
            self.queue.append(last)
            self.changed.notify_all()
            while last in self.queue and clock() < deadline:
                self.changed.wait(max(deadline - clock(), 0))

    def send_all(self):
        # type: () -> None
        """Send what has been written to the descriptors, if the near side takes it; for when the process ends."""
        deadline = clock() + END_SECONDS
        if self.peer.lost is None:
            self._empty_pipes(deadline)
        with self.changed:
            while (self.queue or self.cutting or self.sending) and self.peer.lost is None and clock() < deadline:
                self.changed.wait(max(deadline - clock(), 0))
        # Not written here: a near side that is stopped would hold us up for ever.
        self.peer.keeper.flush_soon(self.peer)
        while (self.peer.out or self.peer.writing.locked()) and self.peer.lost is None and clock() < deadline:
            time.sleep(0.001)

    def _empty_pipes(self, deadline):
        # type: (float) -> None
        """Wait until what is in the pipes now has been queued."""
        wanted = {}
        for stream in list(self.streams):
            try:
                if hasattr(os, "dup2"):
                    wanted[stream] = self.tokens[stream] + 1
                    os.write(stream, TOKEN)
            except EnvironmentError:  # the code has closed it
                wanted.pop(stream, None)
        with self.changed:
            while any([self.tokens[stream] < wanted[stream] for stream in wanted]) and clock() < deadline:
                self.changed.wait(max(deadline - clock(), 0))

    # -- to the near side

    def _send(self):
        # type: () -> None
        try:
            while True:
                self.channel.send(self._next())
        except EnvironmentError:  # the near side has gone, or does not want any more
            with self.changed:
                self.size = -(1 << 62)  # takes all
                self.sending = False

    def _next(self):
        # type: () -> Any
        with self.changed:
            self.sending = False
            self.changed.notify_all()
            while not self.queue:
                for stream in list(self.cutting):
                    number, tail, cut = self.cutting.pop(stream)
                    self.sending = True
                    return stream, number, bytearray(tail), cut
                self.changed.wait(1)
            self.sending = True
            stream, number, data, cut = self.queue.popleft()
            self.size -= len(data)
            while self.queue and self.queue[0][:2] == (stream, number) and len(data) < READ_SIZE:
                more = self.queue.popleft()[2]
                self.size -= len(more)
                data += more
            self.changed.notify_all()
            # An 8-bit string of Python 2 would arrive as text.
            return stream, number, bytearray(data) if PY2 else data, cut


def _overlap(data):
    # type: (bytes) -> int
    """How many bytes at the end of *data* may be the start of a token."""
    for size in range(min(len(TOKEN) - 1, len(data)), 0, -1):
        if data.endswith(TOKEN[:size]):
            return size
    return 0


class PrintFile(object):
    """sys.stdout where descriptors cannot be redirected."""

    encoding = "utf-8"

    def __init__(self, output, stream):
        # type: (Output, int) -> None
        self.output = output
        self.stream = stream

    def write(self, text):
        # type: (Any) -> None
        self.output.put(self.stream, text if isinstance(text, bytes) and PY2 else text.encode("utf-8", "replace"))

    def writelines(self, lines):
        # type: (Any) -> None
        for line in lines:
            self.write(line)

    def flush(self):
        # type: () -> None
        """Nothing is kept back."""

    def isatty(self):
        # type: () -> bool
        return False
