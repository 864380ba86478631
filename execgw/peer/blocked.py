"""What send() waits for while its channel has no credit.

The other side may be waiting in send() on the same channel, for us to receive.  So while we wait, our inbox grows, up
to GROWN_WINDOW; when it is full as well, and nobody receives, send() raises SendBlocked rather than hang.

Written once for who waits in a thread and for who awaits: waits() yields what to wait for, and how long.
"""

from ..wire import frames as f
from ..wire.errors import SendBlocked
from .compat import clock

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Iterator, Optional, Tuple  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

GROWN_WINDOW = 64 << 20


def wait_to_send(peer, port, mine):
    # type: (Any, Port, bool) -> None
    """Wait in this thread until the port has credit and, unless it is *mine*, no other value is on its way."""
    steps = waits(peer, port, mine)
    with peer.lock:
        try:
            for test, timeout in steps:
                peer.turn.until(test, port, timeout)
        finally:
            steps.close()  # type: ignore[attr-defined]


def waits(peer, port, mine):
    # type: (Any, Port, bool) -> Iterator[Tuple[Callable[[Port], Any], Optional[float]]]
    """Each (test, timeout) to wait for, one after the other, until it may send or is closed; under the lock."""

    def may_send(port):
        # type: (Port) -> Any
        return port.send_closed or (port.allowed > port.sent and (mine or not port.busy))

    def may_send_or_jammed(port):
        # type: (Port) -> Any
        return may_send(port) or jammed(peer, port)

    def may_send_or_taken(seen):
        # type: (int) -> Callable[[Port], Any]
        return lambda port: may_send(port) or port.consumed != seen

    port.blocked += 1
    taken, since = port.consumed, 0.0
    try:
        while not may_send(port):
            if not jammed(peer, port):
                since = 0.0
                yield may_send_or_jammed, None
                continue
            if not since or port.consumed != taken:
                taken, since = port.consumed, clock()
            elif clock() - since >= peer.patience:
                raise SendBlocked(
                    "channel %d: both sides wait in send() and nobody receives: %d bytes (%d values) wait here, "
                    "and the other side takes no more; receive() between the sends, or read in a callback or a "
                    "second thread" % (port.number, port.received - port.consumed, len(port.items))
                )
            yield may_send_or_taken(taken), peer.patience
    finally:
        port.blocked -= 1
        if not port.blocked:
            port.window = peer.mux.window


def jammed(peer, port):
    # type: (Any, Port) -> bool
    """Let the other side send more while we wait; true once there is no more to let."""
    if port.granted - port.received >= peer.mux.window // 2 or port.ended:
        return False
    while port.window < GROWN_WINDOW:  # once may give nothing: an earlier wait has granted that much already
        port.window = min(port.window * 2, GROWN_WINDOW)
        more = peer.mux.grant(port)
        if more:
            peer._queue(f.CREDIT, port.number, f.pack_credit(more))
            return False
    return port.granted <= port.received
