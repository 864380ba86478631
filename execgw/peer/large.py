"""Sending a value of several pieces or chunks; other channels' frames go between its chunks.

Written once for who waits in a thread and for who awaits: steps() yields where it cannot go on, and is called again
when it may be able to.
"""

from ..wire import codec as values
from ..wire import frames as f
from ..wire.mux import FRAME_COST

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Iterator, List  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

LINK, CREDIT, TURN = "link", "credit", "turn"  # to write all that is queued; credit; another's value is on its way


def send_large(peer, port, kind, form, data):
    # type: (Any, Port, int, int, Any) -> None
    """Send it, waiting in this thread."""
    waits = steps(peer, port, kind, form, data)
    try:
        for what in waits:
            if what is LINK:
                peer._push()
            else:
                peer._wait_to_send(port, what is CREDIT)
    finally:
        waits.close()  # type: ignore[attr-defined]


def steps(peer, port, kind, form, data):
    # type: (Any, Port, int, int, Any) -> Iterator[str]
    """Send it; yields what it has to wait for.  Must be closed, whatever happens."""
    pieces = data if type(data) is list else [data]
    left = sum([len(piece) for piece in pieces])
    while not _own(peer, port):
        yield TURN
    started = False
    try:
        for chunk, size in cut(pieces, peer.link.chunk):
            left -= size
            while port.send_closed or port.allowed <= port.sent or not peer.has_room():
                yield CREDIT
            with peer.send_lock:
                header = peer.mux.header(kind, f.MORE if left else 0, form, port.number, size)
                port.sent += size + FRAME_COST
                peer.out.append(header)
                # What is still queued when send() returns must not change when the caller changes his buffer.
                peer.out.extend([bytes(part) for part in chunk] if form == values.BUFFERS else chunk)
                peer.out_size += size + f.HEADER_SIZE
            started = left > 0
            yield LINK
    finally:
        if started:
            peer._queue(f.DATA, port.number, b"", f.ABORT)
        if peer.out:  # an exception got us out of waiting for the link: the loop writes what is left
            peer.flush()
        port.busy = False
        # Always under the lock: who has just tested, and is about to wait, is in no list yet.
        with peer.lock:
            peer.turn.changed(port)


def _own(peer, port):
    # type: (Any, Port) -> bool
    """Be the one whose chunks go out on this port."""
    with peer.send_lock:
        if port.busy or port.send_closed:
            return False
        port.busy = True
        return True


def cut(pieces, chunk_size):
    # type: (List[Any], int) -> Any
    """Cut pieces into (list of slices, size) of at most chunk_size bytes, without copying."""
    chunk = []  # type: List[Any]
    room = chunk_size
    for piece in pieces:
        at, size = 0, len(piece)
        whole = memoryview(piece) if size > room else piece
        while size - at > room:
            chunk.append(whole[at : at + room])
            at += room
            yield chunk, chunk_size
            chunk, room = [], chunk_size
        if at < size:
            chunk.append(whole[at:] if at else piece)
            room -= size - at
    if chunk or room == chunk_size:
        yield chunk, chunk_size - room
