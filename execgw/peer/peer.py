"""One side of a live session: what send, receive and close do, whichever thread calls them.

    send:     codec (caller's thread) -> credit -> header -> written at once if nothing is queued, else out queue
    receive:  inbox of the port; while it is empty the thread leads (turn.py): link.read -> mux.feed -> inboxes
    callbacks: a port's `notify` hears of every change; callbacks.py runs user code on threads of its own

A peer with a *parent* has its bytes carried by a channel of that one; the two share the reading side.

Three locks, taken in this order and never held while blocking:
    lock       the reading side: mux.feed, inboxes, turns
    send_lock  the sending side: sequence numbers, credit spent, the out queue
    writing    who writes to the link; only ever tried, so that a full pipe blocks nobody but the writer
"""

from ..wire import frames as f
from ..wire.errors import RemoteProtocolError
from ..wire.mux import FRAME_COST, HEARD, PART, PORT, TASK
from .compat import allocate_lock, clock, deque
from .faults import again, pack_error
from .turn import WATCHING, Turn

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, List, Optional, Tuple  # noqa: F401

    from ..wire.mux import Port  # noqa: F401

CHUNK = 64 * 1024  # values up to this are never cut
HIGH_WATER = 512 * 1024  # bytes in the out queue from which on senders of data wait
CORK_BYTES = 32 * 1024
# Small frames that follow one another faster than this, with no answer read between, are written together; but not
# the first of them, for what waits here is lost if the process crashes: a worker's last words before os._exit().
CORK_SECONDS = 0.0001
CORK_AFTER = 32

NO_ITEM = object()  # receive: the time is over
NO_ENDMARKER = object()  # setcallback: no last call
ENDED = object()  # receive: nothing more will come


def _has_item(port):
    # type: (Port) -> Any
    return port.items or port.ended


class Peer(object):
    """See the file's head.  *link* has read, write, wait, wake, wait_writable; *keeper* see turn.py and flush_soon."""

    def __init__(self, link, keeper, mux, codec, parent=None):
        # type: (Any, Any, Any, Any, Any) -> None
        self.link = link
        self.keeper = keeper
        self.mux = mux
        self.codec = codec
        self.send_lock = allocate_lock()
        self.writing = allocate_lock()
        self.relays = []  # type: List[Peer]  # sessions whose bytes go through a channel of this one
        if parent is None:
            self.lock = allocate_lock()
            self.turn = Turn(self, self.lock, link, keeper, self._read, self.flush)
        else:  # whoever waits for one of us reads the one real link
            self.lock = parent.lock
            self.turn = parent.turn
            parent.relays.append(self)
        self.out = deque()  # type: Deque[Any]
        self.out_size = 0
        self.flush_asked = False
        self.unanswered = False  # something was written since the last read
        self.last_write = 0.0
        self.burst = 0  # small frames that were sent one right after the other
        self.patience = 1.0  # seconds that send() waits once both queues of a channel are full and nobody receives
        self.lost = None  # type: Any  # the exception that says why this session is no more
        self.dropped = deque()  # type: Deque[Port]  # ports whose channel object was garbage collected
        self.on_task = None  # type: Any  # (port, form, data): run code
        self.on_heard = None  # type: Any  # (kind, payload)
        self.on_link_end = None  # type: Any  # (reason): EOF or broken rules; calls lose() soon

    # -- receiving

    def receive(self, port, timeout=None, wait=True):
        # type: (Port, Optional[float], bool) -> Any
        """The next (form, data) of a port, or NO_ITEM after *timeout* seconds, or ENDED.

        Without *wait* only what is here already counts; the link is not looked at.
        """
        more = 0
        with self.lock:
            if not _has_item(port) and not (wait and self.turn.until(_has_item, port, timeout)):
                item = NO_ITEM  # type: Any
            elif not port.items:
                item = ENDED
                if self.mux.keeps:
                    self.mux.seen(port)
            else:
                item = self.mux.take(port)
                if port.consumed + port.window - port.granted >= self.mux.window // 2:
                    more = self.mux.grant(port)
        if more:
            self.control(f.CREDIT, port.number, f.pack_credit(more))
        elif self.out:  # what we have read for others was perhaps a question, and this is our answer
            self.flush()
        return item

    def wait_until(self, test, port, timeout=None):
        # type: (Callable[[Port], Any], Port, Optional[float]) -> Any
        """Wait for something else about a port; *test* is called under the lock."""
        with self.lock:
            found = self.turn.until(test, port, timeout)
        if self.out:
            self.flush()
        return found

    def read_now(self):
        # type: () -> None
        """The keeper's reading: what is there is handed out, if it is still the keeper's turn."""
        with self.lock:
            if self.turn.state == WATCHING:
                self._read()
        if self.out or self.relays:
            self.flush()

    def _read(self):
        # type: () -> None
        """Hand out what the link has; under the lock."""
        if self.lost is not None:
            return
        data = self.link.read()
        if data is None:
            return
        self.unanswered = False
        if not data:
            self.on_link_end(None)
            return
        self.take_in(data)

    def take_in(self, data):
        # type: (bytes) -> None
        """Bytes of the other side; under the lock."""
        try:
            for event in self.mux.feed(data):
                what = event[0]
                if what == PORT:
                    self._changed(event[1])
                elif what == PART:  # nobody waits for a piece
                    self._grant(event[1])
                elif what == TASK:
                    self.on_task(*event[1:])
                elif what == HEARD:
                    self.on_heard(event[1], event[2])
                else:  # REFUSED
                    self._refuse(event[1], event[2])
        except RemoteProtocolError as e:
            self.on_link_end(e)

    def _changed(self, port):
        # type: (Port) -> None
        for waiter in port.waiters:
            waiter.wake()
        if port.notify is not None:
            port.notify(port)
        self._grant(port)

    def _grant(self, port):
        # type: (Port) -> None
        if not port.items:  # chunks of an unfinished value, or of one given up, are owed for though nobody takes
            more = self.mux.grant(port)
            if more:
                self._queue(f.CREDIT, port.number, f.pack_credit(more))

    def _refuse(self, port, why):
        # type: (Port, str) -> None
        port.partial = None
        self.mux.drop(port)
        port.error = RemoteProtocolError("channel %d: the other side sent %s" % (port.number, why))
        self._queue(f.CLOSE, port.number, pack_error(self.codec, why))
        self._changed(port)

    # -- sending

    def send(self, port, form, data, kind=f.DATA):
        # type: (Port, int, Any, int) -> None
        """Send one value; waits while the channel has no credit.  The caller has checked that it is open."""
        if type(data) is list or len(data) > CHUNK:
            from .large import send_large

            send_large(self, port, kind, form, data)
            return
        size = len(data)
        self.send_lock.acquire()
        while port.busy or port.send_closed or port.allowed <= port.sent or self.out_size > HIGH_WATER:
            self.send_lock.release()
            self._wait_to_send(port)
            self.send_lock.acquire()
        frame = self.mux.header(kind, 0, form, port.number, size) + data
        port.sent += size + FRAME_COST
        if self.unanswered and clock() - self.last_write < CORK_SECONDS:
            self.burst += 1
        else:
            self.burst = 0
        if self.out or self.burst > CORK_AFTER:
            self.out.append(frame)
            self.out_size += len(frame)
            self.send_lock.release()
            if self.out_size > CORK_BYTES:
                self.flush()
            elif not self.flush_asked:
                self.flush_asked = True
                self.keeper.flush_soon(self)
        else:
            self._write_now(frame)

    def has_room(self):
        # type: () -> bool
        """Whether senders of data need not wait for the link."""
        return self.out_size <= HIGH_WATER

    def _write_now(self, frame):
        # type: (bytes) -> None
        """Write one frame, or queue it behind whoever writes; gives the send_lock back."""
        if not self.writing.acquire(False):
            self.out.append(frame)
            self.out_size += len(frame)
            self.send_lock.release()
            self.flush()  # the writer may have looked at the queue just before
            return
        self.send_lock.release()
        self.unanswered = True
        self.last_write = clock()
        try:
            done = self.link.write([frame])
            if done < len(frame):
                with self.send_lock:
                    self.out.appendleft(memoryview(frame)[done:])
                    self.out_size += len(frame) - done
                self.link.want_write()
        finally:
            self.writing.release()
        if self.out and done == len(frame):
            self.flush()

    def send_task(self, port, form, data):
        # type: (Port, int, Any) -> None
        """Open a channel with code to run."""
        self.send(port, form, data, f.EXEC)

    def control(self, kind, number, payload=b""):
        # type: (int, int, bytes) -> None
        """Send a frame that needs no credit."""
        self._queue(kind, number, payload)
        self.flush()

    def _queue(self, kind, number, payload=b"", flags=0):
        # type: (int, int, bytes, int) -> None
        with self.send_lock:
            if self.lost is None:
                frame = self.mux.header(kind, flags, 0, number, len(payload)) + payload
                self.out.append(frame)
                self.out_size += len(frame)

    def flush(self, hand_over=True):
        # type: (bool) -> None
        """Write what is queued, unless another thread is doing it.  The loop writes what the link does not take now."""
        self.flush_asked = False
        for relay in self.relays:
            if relay.out:
                relay.flush()
        while self.out:
            if not self.writing.acquire(False):
                return
            try:
                if not self._write_queue(hand_over):
                    return
            finally:
                self.writing.release()

    def _push(self):
        # type: () -> None
        """Write what is queued, and wait for the link as long as that takes: for who sends much."""
        self.flush(False)
        while self.out and self.lost is None:
            self.link.wait_writable(None)
            self.flush(False)

    def _write_queue(self, hand_over):
        # type: (bool) -> bool
        """Write the whole queue; false if the link took only a part.  The caller holds `writing`."""
        self.unanswered = True
        while True:
            with self.send_lock:
                pieces = list(self.out)
                self.out.clear()
                size, self.out_size = self.out_size, 0
            if not pieces:
                self.last_write = clock()
                return True
            done = self.link.write(pieces)
            if done < size:
                left = behind(pieces, done)
                with self.send_lock:
                    self.out.extendleft(reversed(left))
                    self.out_size += size - done
                if hand_over and self.lost is None:
                    self.link.want_write()
                return False

    def _wait_to_send(self, port, mine=False):
        # type: (Port, bool) -> None
        """Wait for credit, for the end of another thread's value, or for room in the link."""
        from .blocked import wait_to_send

        if not self.has_room():
            self._push()
        wait_to_send(self, port, mine)
        if port.send_closed:
            self.check_open(port)

    def check_open(self, port):
        # type: (Port) -> None
        """Raise what a send on this port must raise, if it may not send."""
        if port.send_closed:
            if self.lost is not None:
                raise again(self.lost)
            raise OSError("cannot send on channel %d: it is closed" % port.number)

    # -- ending

    def close(self, port, error=b""):
        # type: (Port, bytes) -> None
        """Close a channel both ways; *error* is the payload that says why.  Closing twice does nothing."""
        with self.lock:
            if port.closed:
                return
            silent = self.lost is not None
            self.mux.drop(port)
            self._changed(port)
            self.turn.changed(port)
        if not silent:
            self.control(f.CLOSE, port.number, error)

    def end(self, port):
        # type: (Port) -> None
        """Say that this side sends no more on a channel; it still receives."""
        with self.lock:
            if port.send_closed:
                return
            port.send_closed = True
        self.control(f.END, port.number)

    def lose(self, reason):
        # type: (Exception) -> None
        """The session is over: end every channel with *reason* and wake whoever waits."""
        with self.lock:
            if self.lost is not None:
                return
            self.lost = reason
            with self.send_lock:
                self.out.clear()
                self.out_size = 0
            for port in list(self.mux.ports.values()):
                if not port.ended:
                    port.error = reason
                self.mux.drop(port)
                self._changed(port)
            self.turn.all_changed()

    def sweep(self):
        # type: () -> None
        """Close what garbage collection left behind: __del__ may run anywhere, so it only notes the port."""
        while self.dropped:
            port = self.dropped.popleft()
            if port.closed:
                with self.lock:
                    self.mux.drop(port)
            elif port.notify is None:
                self.close(port)
            else:
                self.end(port)


def behind(pieces, done):
    # type: (List[Any], int) -> List[Any]
    """What is left of pieces after the first *done* bytes."""
    for index, piece in enumerate(pieces):
        size = len(piece)
        if done < size:
            return ([memoryview(piece)[done:]] if done else [piece]) + pieces[index + 1 :]
        done -= size
    return []
