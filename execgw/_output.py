"""Where what far code prints goes on this side: stdout= and stderr= of makegateway() and remote_exec()."""

from __future__ import annotations

import codecs
import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .errors import RemoteProtocolError, TimeoutError

MOST_LINES = 1000  # that wait in a Lines; then the far side's own bound counts
Target = Any  # "inherit", "null", "channel", a callable, or an object with write()


class Lines:
    """The lines of a stream as they come: iterate, or receive(timeout)."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        self._ended = False

    def put(self, line: str | None) -> None:
        """Add a line; waits while nobody takes any.  None is the end."""
        self._lines.put(line)

    def _room(self) -> None:
        """Of the asyncio face: what to await before more is put.  Here put() waits."""

    def receive(self, timeout: float | None = None) -> str:
        """The next line, without its end.  EOFError after the last one, TimeoutError after *timeout* seconds."""
        try:
            line = None if self._ended else self._lines.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no line within {timeout} s") from None
        if line is None:
            self._ended = True
            raise EOFError("no more lines")
        return line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None


class Sink:
    """One stream of one gateway or channel: bytes come in, and go to the target as it likes them."""

    def __init__(self, target: Target, stream: int, lines: type = Lines) -> None:
        self.lines = lines() if target == "channel" else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # of a line that has not ended
        self._line: Callable[[str], object] | None = None
        self._write: Callable[[str], object] | None = None
        if self.lines is not None:
            self._line = self.lines.put
        elif target == "inherit":
            self._write = lambda text: _print(sys.stdout if stream == 1 else sys.stderr, text)
        elif hasattr(target, "write"):
            binary = "b" in getattr(target, "mode", "") or isinstance(target, _binary_files())
            self._write = (lambda text: target.write(text.encode("utf-8"))) if binary else target.write
        elif callable(target):
            self._line = target
        elif target != "null":
            raise ValueError(
                f"{target!r}: output goes to 'inherit', 'null', 'channel', a function of one line, or a file"
            )

    def put(self, data: bytes | bytearray, cut: int) -> None:
        """Bytes of the stream; *cut* bytes before them were left out by the far side."""
        text = self._decoder.decode(data)
        if cut:
            text = f"\n[... {cut} bytes cut: nobody read them in time ...]\n" + text
        if self._write is not None:
            self._write(text)
        elif self._line is not None:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._line(line.removesuffix("\r"))

    def end(self) -> None:
        """No more will come."""
        rest, self._rest = self._rest + self._decoder.decode(b"", True), ""
        if rest and self._line is not None:
            self._line(rest)
        elif rest and self._write is not None:
            self._write(rest)
        if self.lines is not None:
            self.lines.put(None)


def _binary_files() -> tuple[type, ...]:
    import io

    return io.RawIOBase, io.BufferedIOBase


def _print(file: Any, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it: not the far code's concern
        file.write(text)
        file.flush()


class Outputs:
    """The output of one gateway: a channel from its worker, and where what comes goes."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._channel: Any = None
        self._streams: set[int] = set()
        self._own: dict[int, Sink] = {}  # of the gateway, by stream
        self._tasks: dict[int, dict[int, Sink]] = {}  # of channels, by number and stream
        self._ends: dict[int, Any] = {}

    async def set(self, targets: dict[int, Target]) -> dict[int, Lines]:
        """Where the gateway's output goes, by stream; returns the lines of those that are to be a channel."""
        self._own.update({stream: self._sink(target, stream) for stream, target in targets.items()})
        await self._listen(targets)
        return {stream: lines for stream in targets if (lines := self._own[stream].lines) is not None}

    async def set_task(self, number: int, targets: dict[int, Target]) -> tuple[dict[int, Lines], Any]:
        """The same for the code behind one channel, which is to start next; the event is set when all has come."""
        sinks = {stream: self._sink(target, stream) for stream, target in targets.items()}
        await self._listen(targets)
        with self._lock:
            self._tasks[number] = sinks
            done = self._ends[number] = self._gateway._session.loop.event()
        return {stream: sink.lines for stream, sink in sinks.items() if sink.lines is not None}, done

    def _sink(self, target: Target, stream: int) -> Sink:
        return Sink(target, stream, self._gateway._lines_class)

    async def _listen(self, targets: dict[int, Target]) -> None:
        new = set(targets) - self._streams
        if not new:
            return
        with self._lock:
            if self._channel is None:
                self._channel = self._gateway.newchannel()
                self._channel.setcallback(self._arrived, endmarker=None)
            # What no code of its own asked for: as before.
            for stream in new:
                self._own.setdefault(stream, Sink("inherit" if stream == 2 else "null", stream))
        words = " ".join(map(str, sorted(new)))
        await self._gateway._session.answer("capture", 30, channels=str(self._channel.id), streams=words)
        self._streams |= new

    def _arrived(self, item: Any) -> Any:
        """In a thread of the pool, or in the event loop, which awaits what this returns; one item at a time."""
        if item is None:
            for number in list(self._tasks):
                self._finish(number)
            for sink in self._own.values():
                sink.end()
            return None
        try:
            stream, number, data, cut = item
            known = isinstance(data, bytes | bytearray) and isinstance(cut, int) and stream in (0, 1, 2)
        except (TypeError, ValueError):
            known = False
        if not known:
            raise RemoteProtocolError("the worker sent something that is no output")
        if stream == 0:
            self._finish(number)
            return None
        target = self._tasks.get(number, {}).get(stream) or self._own.get(stream)
        if target is None:
            return None
        target.put(data, cut)
        return target.lines._room() if target.lines is not None else None

    def _finish(self, number: int) -> None:
        for sink in self._tasks.pop(number, {}).values():
            sink.end()
        done = self._ends.pop(number, None)
        if done is not None:
            done.set()
