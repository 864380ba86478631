"""The callback of a channel: runs in a thread of the pool, one call at a time, in order.

Never in the thread that reads the link, so a slow callback delays nobody else and may itself send, receive and call.
"""

import sys

from .remote import unpack_error
from .peer import ENDED, NO_ENDMARKER, NO_ITEM
from .tracebacks import current

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Iterator, Optional  # noqa: F401

    from ..wire.mux import Port  # noqa: F401


class Callback(object):
    """Feeds the items of one port to a callback; at most one thread is in run() at a time."""

    def __init__(self, channel, callback, endmarker, pass_error):
        # type: (Any, Callable[..., Any], Any, bool) -> None
        self.gateway = channel.gateway  # not the channel: it may be dropped while the callback lives on
        self.port = channel._port
        self.peer = channel._peer
        self.codec = channel._codec
        self.callback = callback
        self.endmarker = endmarker
        self.pass_error = pass_error
        self.scheduled = True
        self.finished = False
        self.error = None  # type: Optional[BaseException]  # what the callback itself raised

    def attach(self):
        # type: () -> None
        with self.peer.lock:
            self.port.notify = self.changed
        self.run()

    def changed(self, port):
        # type: (Port) -> None
        """Called under the peer's lock."""
        if not self.scheduled and not self.finished and (port.items or port.ended):
            self.scheduled = True
            self.gateway._callbacks.submit(self.run)

    def run(self):
        # type: () -> None
        """In a thread of the pool: deliver what is here."""
        for _ in self.calls():
            pass

    def calls(self):
        # type: () -> Iterator[Any]
        """Call the callback for each item that is here, and yield what it returned.

        Who awaits that, for the asyncio face, throws in here what comes of it.
        """
        while True:
            item = self.peer.receive(self.port, wait=False)
            if item is NO_ITEM:
                with self.peer.lock:
                    if not self.port.items and not self.port.ended:
                        self.scheduled = False
                        return
                continue
            if item is ENDED:
                why = self._why_ended()
                break
            try:
                value = self.codec.decode(item[0], item[1])
                if self.pass_error:
                    yield self.callback(value, error=None)
                else:
                    yield self.callback(value)
            except BaseException as e:
                self.error = why = e
                self.peer.close(self.port, current(self.codec, __file__.rstrip("c")))
                if isinstance(e, GeneratorExit):  # who called us has gone, and takes nothing more
                    self._finish()
                    return
                break
        try:
            yield self._end(why)
        except BaseException as e:
            self.error = self.error or e
            sys.excepthook(*sys.exc_info())
        self._finish()

    def _why_ended(self):
        # type: () -> Any
        error = self.port.error
        return unpack_error(self.codec, error) if isinstance(error, bytes) else error

    def _end(self, why):
        # type: (Any) -> Any
        if self.pass_error:
            marker = None if self.endmarker is NO_ENDMARKER else self.endmarker
            return self.callback(marker, error=why)
        if self.endmarker is not NO_ENDMARKER:
            return self.callback(self.endmarker)
        return None

    def _finish(self):
        # type: () -> None
        with self.peer.lock:
            self.finished = True
            self.peer.turn.changed(self.port)
