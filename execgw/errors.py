"""Every exception of execgw.

ExecgwError
  SpecError(ValueError)             the text is no spec
  StartError                        no gateway came to be: .exit_code .stderr
    HostNotFound                    there is no such host
    HostNotReached                  there is one, but it did not let us in
      AuthenticationFailed          it does not know us: no key, password or token that it takes
      HostKeyRefused                it is not known to be the host that it says it is
    PythonNotFound                  no such interpreter there
    HandshakeError                  something answered, but it is no worker of ours
    EnvironmentFailed               its virtual environment cannot be built, or the project not installed: .output
  GatewayClosed(OSError, EOFError)  it was, and is no more
    ClosedHere                      you ended it
    ConnectionLost                  the world did: .exit_code .signal .stderr
  ChannelClosed(EOFError)           nothing more will come
  RemoteError                       code ran there and raised: .type .message .traceback .formatted
    RemoteTimeout                   it ran longer than remote_exec(timeout=) allowed; also a TimeoutError
  TimeoutError                      also the builtin TimeoutError, and so an OSError
  SendBlocked(OSError)              both sides wait in send() on one channel, and nobody receives
  DataFormatError(ValueError)       DumpError, LoadError
  ProtocolError                     LocalProtocolError (a bug of ours), RemoteProtocolError (theirs)

Those that both sides of a gateway know live in wire/errors.py.
"""

from __future__ import annotations

import re

from .wire.errors import (
    ChannelClosed,
    ClosedHere,
    ConnectionLost,
    DataFormatError,
    DumpError,
    ExecgwError,
    GatewayClosed,
    LoadError,
    LocalProtocolError,
    ProtocolError,
    RemoteError,
    RemoteProtocolError,
    SendBlocked,
    TimeoutError,
)

_USER_OF_URL = re.compile(r"(?<=://)[^/@\s'\"]+@|(?<=['\"/])[^/@\s'\"=]*:[^/@\s'\"=]*@")
_SECRET_VARIABLE = re.compile(r"(\benv:\w*(?:PASSW|SECRET|TOKEN|_KEY)\w*=)(?:(?!//)[^'\"])+", re.IGNORECASE)


def masked(text: str) -> str:
    """A text that shows a spec, without what is secret in it: users of URLs, and variables with such names."""
    return _SECRET_VARIABLE.sub(r"\1***", _USER_OF_URL.sub("***@", text))


class SpecError(ExecgwError, ValueError):
    """The text is no gateway spec; the message says which part, and what it may be."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class StartError(ExecgwError):
    """No gateway came to be.

    exit_code  of the process that was started, negative for a signal, or None
    stderr     what it wrote there, text
    """

    def __init__(self, message: str, exit_code: int | None = None, stderr: str = "") -> None:
        super().__init__(masked(message))
        self.exit_code = exit_code
        self.stderr = stderr


class HostNotFound(StartError):
    """There is no host of that name."""


class HostNotReached(StartError):
    """The host did not let us in."""


class AuthenticationFailed(HostNotReached):
    """The host does not take the keys, password or token that were offered."""


class HostKeyRefused(HostNotReached):
    """The host is not known to be the one that it says it is: its key or certificate is new, or another."""


class PythonNotFound(StartError):
    """There is no such interpreter there."""


class HandshakeError(StartError):
    """Something answered, but it is no worker of ours: a banner, a terminal, another version."""


class EnvironmentFailed(StartError):
    """A virtual environment cannot be built, or a project cannot be installed in one.

    output  the last lines of what failed, pip or uv as a rule, text
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(masked(message))
        self.output = output


class RemoteTimeout(RemoteError, TimeoutError):
    """Code on the other side ran longer than it was allowed to, and was ended; the traceback says where it was."""


RemoteError.kinds["execgw.RemoteTimeout"] = RemoteTimeout

__all__ = [
    "AuthenticationFailed",
    "ChannelClosed",
    "ClosedHere",
    "ConnectionLost",
    "DataFormatError",
    "DumpError",
    "EnvironmentFailed",
    "ExecgwError",
    "GatewayClosed",
    "HandshakeError",
    "HostKeyRefused",
    "HostNotFound",
    "HostNotReached",
    "LoadError",
    "LocalProtocolError",
    "ProtocolError",
    "PythonNotFound",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteTimeout",
    "SendBlocked",
    "SpecError",
    "StartError",
    "TimeoutError",
]
