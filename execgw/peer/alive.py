"""Keep-alive: how each side finds out that the other was cut off, where no end of file tells it.

Each side says something at least every quarter of the agreed time, an ACK if there is nothing else, and takes the
other side for gone when it has heard nothing for all of it.  A worker loads this when the HELLO names a time.
"""

import time

from ..wire import frames as f
from .compat import clock, start_new_thread

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401

SHORTEST = 0.2  # seconds; less would be a busy loop
LOOKS = 8  # in the time; two of them with nothing said between make an ACK


class Watch(object):
    """What a peer has said and heard of late; look() is to be called every `pause` seconds."""

    def __init__(self, seconds):
        # type: (float) -> None
        self.pause = max(seconds, SHORTEST) / LOOKS
        self.silent = 0  # looks since something was heard
        self.said = self.heard = None  # type: Any
        self.last = clock()

    def look(self, peer):
        # type: (Any) -> bool
        """Say something if nothing was said since the last look.  Whether the other side was heard within the time."""
        mux = peer.mux
        now = clock()
        heard = mux.received_seq, mux.reader._missing  # of a large frame each piece counts
        # Nobody looked for long: this process was stopped, or C code held the interpreter lock.  The other side may
        # have spoken all the while, so it gets the whole time again.
        if heard != self.heard or now - self.last > 2 * self.pause:
            self.silent = 0
        else:
            self.silent += 1
        self.heard = heard
        self.last = now
        said, self.said = self.said, mux.seq
        if mux.seq == said and not peer.out:
            peer._queue(f.ACK, 0)
            peer.keeper.flush_soon(peer)  # not here: a link that is cut may be full, and writing to it waits
        return self.silent < LOOKS - 1  # what was heard last came up to one pause before the first of them


def watch(server):
    # type: (Any) -> None
    """End a worker that hears nothing; from a thread of its own, for its main thread may compute."""
    seconds = float(server.options["keepalive"])
    looks = Watch(seconds)

    def run():
        # type: () -> None
        while not server.keeper.stopped:
            time.sleep(looks.pause)
            if not looks.look(server.peer):
                with server.peer.lock:
                    server._on_link_end("nothing was heard of it for %g s" % seconds)

    start_new_thread(run, ())
