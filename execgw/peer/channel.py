"""The channel that people hold, on both sides: send, receive, iterate, callbacks, files, closing."""

from ..wire.errors import ChannelClosed, DumpError, LoadError, RemoteError, TimeoutError
from .faults import again, as_text, pack_error
from .peer import NO_ENDMARKER, NO_ITEM

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Iterator, Optional  # noqa: F401

    from ..wire.mux import Port  # noqa: F401


class Channel(object):
    """An ordered, typed, flow-controlled two-way stream of values between two processes.

    Iterating over a channel gives its items until the other side ends.  `with channel:` closes it at the end.
    """

    RemoteError = RemoteError
    TimeoutError = TimeoutError
    _executing = False  # the code that owns this channel is running: it ends the channel by ending

    def __init__(self, gateway, port):
        # type: (Any, Port) -> None
        self.gateway = gateway
        self._port = port
        self._peer = gateway._peer
        self._codec = gateway._peer.codec
        self._callback = None  # type: Any
        port.claimed = True

    @property
    def id(self):
        # type: () -> int
        """The number of this channel in its gateway's session."""
        return self._port.number

    # -- sending

    def send(self, item):
        # type: (Any) -> None
        """Send one value to the other side.

        Waits while the other side's queue for this channel is full.  Raises DumpError, naming the path to the bad item,
        if the value cannot travel; OSError if the channel is closed; ConnectionLost (an OSError) if the gateway is.
        """
        form, data = self._codec.encode(item)
        port = self._port
        if port.send_closed:
            self._raise_closed()
        try:
            self._peer.send(port, form, data)
        except OSError:
            if port.send_closed:
                self._raise_closed()
            raise

    def _raise_closed(self):
        # type: () -> None
        why = self._port.error
        if isinstance(why, bytes):  # not taken away: receive() is to raise it
            from .remote import unpack_error

            message = unpack_error(self._codec, why).message
            raise OSError("cannot send to %r: the other side ended it: %s" % (self, message))
        if self._peer.lost is not None:
            raise again(self._peer.lost)
        raise OSError("cannot send to %r" % (self,))

    # -- receiving

    def receive(self, timeout=None):
        # type: (Optional[float]) -> Any
        """Wait for the next item that the other side sent, and return it.

        Items come in the order they were sent.  *timeout* is in seconds; 0 only looks.
        Raises ChannelClosed (an EOFError) once the other side has ended and all is read, RemoteError with its
        traceback if its code raised, ConnectionLost if it died, TimeoutError, and LoadError, which closes the channel,
        for a value that cannot be read.
        """
        if self._callback is not None:
            raise OSError("cannot receive: %r has a callback" % (self,))
        item = self._peer.receive(self._port, timeout)
        if item.__class__ is tuple:
            try:
                return self._codec.decode(item[0], item[1])
            except LoadError as e:
                self._fail(e)
                raise
        if item is NO_ITEM:
            raise TimeoutError("%r: no item within %s seconds" % (self, timeout))
        raise self._end_error() or ChannelClosed("%r: nothing more will come" % (self,))

    def _end_error(self):
        # type: () -> Any
        """Why the channel ended, told once; None for an ordinary end.  A lost connection is told every time."""
        port = self._port
        error = port.error
        if isinstance(error, bytes):
            from .remote import unpack_error

            port.error = None
            return unpack_error(self._codec, error)
        return again(error) if error is not None else None

    _getremoteerror = _end_error  # the name under which pytest-xdist knows it

    def __iter__(self):
        # type: () -> Iterator[Any]
        return self

    def __next__(self):
        # type: () -> Any
        """The next item, as receive() gives it; the end of the channel is the end of the iteration."""
        try:
            return self.receive()
        except ChannelClosed:
            raise StopIteration

    next = __next__

    # -- callbacks

    def setcallback(self, callback, endmarker=NO_ENDMARKER, pass_error=False):
        # type: (Callable[..., Any], Any, bool) -> None
        """Call *callback(item)* for each item from now on, instead of receive().

        Calls come one at a time, in order, in a thread that is not yours; they may take their time and use gateways
        and channels.  Items that have arrived already are delivered before this returns.  If *endmarker* is given,
        callback(endmarker) is the last call.  With *pass_error* the calls are callback(item, error=None) and, once at
        the end, callback(endmarker, error=why), where why is None, a RemoteError, ConnectionLost or what it raised.
        A callback that raises closes this channel, on both sides, with that error; only the call at the end follows.
        """
        if self._callback is not None:
            raise OSError("%r has a callback already" % (self,))
        from .callbacks import Callback

        self._callback = hook = Callback(self, callback, endmarker, pass_error)
        hook.attach()

    # -- ending

    def close(self, error=None):
        # type: (Optional[str]) -> None
        """Close both directions.  *error*, a text, is raised as RemoteError on the other side."""
        if self._executing:
            raise OSError("cannot close channel %d inside the code that owns it: let the code end" % self.id)
        if error is not None and not isinstance(error, (str, type(as_text("")))):
            raise TypeError("error must be text or None, not %r; try close(str(error))" % (type(error),))
        self._peer.close(self._port, b"" if error is None else pack_error(self._codec, error))

    def waitclose(self, timeout=None):
        # type: (Optional[float]) -> None
        """Wait until the other side has ended, and all callbacks have run.

        Items that nobody received stay for receive().  Raises RemoteError or ConnectionLost if that is why it ended,
        and TimeoutError.
        """
        hook = self._callback
        if hook is None:
            ended = self._peer.wait_until(lambda port: port.ended, self._port, timeout)
        else:
            ended = self._peer.wait_until(lambda port: hook.finished, self._port, timeout)
        if not ended:
            raise TimeoutError("%r: not closed within %s seconds" % (self, timeout))
        if hook is not None and hook.error is not None:
            raise hook.error
        error = self._end_error()
        if error is not None:
            raise error

    def isclosed(self):
        # type: () -> bool
        """Whether the channel is closed, by either side.  Items may still wait to be received."""
        return self._port.closed

    def _fail(self, exc):
        # type: (BaseException) -> None
        """Close with an error that both sides see."""
        from .tracebacks import describe

        self._peer.close(self._port, pack_error(self._codec, describe(exc, self._codec)))

    # -- the rest

    def makefile(self, mode="w", proxyclose=False):
        # type: (str, bool) -> Any
        """A file-like object over this channel: 'w' sends what is written, 'r' reads text or bytes that come.

        With *proxyclose* closing the file closes the channel.
        """
        from .files import ReadFile, WriteFile

        if mode == "w":
            return WriteFile(self, proxyclose)
        if mode == "r":
            return ReadFile(self, proxyclose)
        raise ValueError("mode must be 'w' or 'r', not %r" % (mode,))

    def reconfigure(self, py2str_as_py3str=True, py3str_as_py2str=False):
        # type: (bool, bool) -> None
        """Set what 8-bit strings of Python 2 become here, and text of Python 3 on a Python 2."""
        self._codec = self._codec.coercing(py2str_as_py3str, py3str_as_py2str)

    def __enter__(self):
        # type: () -> Channel
        return self

    def __exit__(self, *exc_info):
        # type: (Any) -> None
        if not self._executing:
            self.close()

    def __del__(self):
        # type: () -> None
        # Runs anywhere, even while this thread holds the session's locks: only note it; the keeper closes the port.
        try:
            port, peer = self._port, self._peer
            if (not port.closed or port.items or peer.mux.keeps) and peer.lost is None:
                peer.dropped.append(port)
                peer.keeper.flush_soon(peer)
        except AttributeError:  # __init__ did not finish, or the interpreter is shutting down
            pass

    def __reduce_ex__(self, protocol):
        # type: (Any) -> Any
        # For the pickler of interpreters before 3.8; Codec.why_not then refuses channels of other sessions.
        from ..wire.codec import _channel

        return _channel, (self.id,)

    def __repr__(self):
        # type: () -> str
        return "<Channel id=%d %s>" % (self.id, "closed" if self.isclosed() else "open")


def number_of(peer):
    # type: (Any) -> Callable[[Any], int]
    """For a codec: the number of a channel, which must be of this session."""

    def number(channel):
        # type: (Any) -> int
        if channel._peer is not peer:
            raise DumpError("cannot send %r: it belongs to another gateway, %r" % (channel, channel.gateway))
        return channel.id  # type: ignore[no-any-return]

    return number
