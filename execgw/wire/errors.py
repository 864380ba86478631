"""The errors that both sides of a gateway know.

ExecgwError
  GatewayClosed(OSError, EOFError)  the gateway was, and is no more
    ClosedHere                      this side ended it
    ConnectionLost                  the world did: .exit_code .signal .stderr
  ChannelClosed(EOFError)           nothing more will come on this channel
  RemoteError                       code ran there and raised: .type .message .args_there .traceback .formatted ...
  TimeoutError(TimeoutError)        the time is over; also the builtin one, and so an OSError
  SendBlocked(OSError)              both sides wait in send() on one channel, and nobody receives
  DataFormatError(ValueError)       a value or its bytes are not what can travel
    DumpError                       this value cannot be sent
    LoadError                       these bytes are no value
  ProtocolError                     the rules of the wire were broken
    LocalProtocolError              by this side: a bug of execgw
    RemoteProtocolError             by the other side

The near side adds the errors of a start in execgw/errors.py.
"""

import sys

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

if sys.version_info[0] == 2:
    _BuiltinTimeout = IOError
else:
    _BuiltinTimeout = TimeoutError


class ExecgwError(Exception):
    """The root of every error that execgw raises on purpose."""


class GatewayClosed(ExecgwError, OSError, EOFError):
    """The gateway was, and is no more.  An OSError for who sends and an EOFError for who receives."""


class ClosedHere(GatewayClosed):
    """This side ended the gateway."""


class ConnectionLost(GatewayClosed):
    """The gateway ended without being asked.

    exit_code  of the far process, where it is known: int or None
    signal     the name of the signal that ended it ('SIGKILL'), or None
    stderr     the last lines that it wrote there, text
    """

    exit_code = None  # type: Optional[int]
    signal = None  # type: Optional[str]
    stderr = ""


class ChannelClosed(ExecgwError, EOFError):
    """Nothing more will come on this channel."""


class RemoteError(ExecgwError):
    """Code on the other side raised; str() is its traceback there.

    type        the exception's qualified name: 'ValueError', 'json.decoder.JSONDecodeError'
    message     its str()
    args_there  its args, where they could travel, else None
    notes       its __notes__ (PEP 678), a list of text
    cause       the RemoteError of its __cause__ or unsuppressed __context__, or None
    filename, lineno  where it was raised
    formatted   the whole traceback there as text; also `traceback`
    """

    kinds = {}  # type: Dict[str, Any]  # subclasses for exceptions of certain types, by qualified name

    def __init__(self, formatted, details=None):
        # type: (str, Optional[Dict[str, Any]]) -> None
        details = details or {}
        Exception.__init__(self, formatted)
        self.formatted = self.traceback = formatted
        self.type = details.get("type")  # type: Optional[str]
        self.message = details.get("message", formatted)  # type: str
        self.args_there = details.get("args")  # type: Optional[Tuple[Any, ...]]
        self.notes = list(details.get("notes") or ())  # type: List[str]
        self.filename = details.get("filename")  # type: Optional[str]
        self.lineno = details.get("lineno")  # type: Optional[int]
        cause = details.get("cause")
        self.cause = None if cause is None else RemoteError(cause.get("formatted", ""), cause)  # type: Any

    def __str__(self):
        # type: () -> str
        return self.formatted

    def __repr__(self):
        # type: () -> str
        return "%s: %s" % (self.__class__.__name__, self.formatted)

    def warn(self):
        # type: () -> None
        """Say on stderr that nobody looked at this error."""
        sys.stderr.write("[%s] Warning: unhandled %r\n" % (__name__.partition(".")[0], self))


class TimeoutError(ExecgwError, _BuiltinTimeout):  # noqa: A001  # the builtin one too
    """The time is over."""


class SendBlocked(ExecgwError, OSError):
    """Both sides wait in send() on one channel, nobody receives, and the queues have reached their limit."""


class DataFormatError(ExecgwError, ValueError):
    """A value, or the bytes of one, that cannot travel."""


class DumpError(DataFormatError):
    """This value cannot be sent; the message names the path to the bad item."""


class LoadError(DataFormatError):
    """These bytes are not a value: damaged, hostile, or of another version."""


class ProtocolError(ExecgwError):
    """The rules of the wire were broken."""


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that the protocol does not allow."""
