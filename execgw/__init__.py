"""execgw: run code in other Python processes, wherever they are, and talk to them over channels.

>>> import execgw
>>> gateway = execgw.makegateway("popen")
>>> channel = gateway.remote_exec("channel.send(channel.receive() + 1)")
>>> channel.send(1)
>>> channel.receive()
2
>>> gateway.exit()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import errors
from ._tree import Tree, tree
from ._version import __version__
from .channel import Channel
from .errors import (
    AuthenticationFailed,
    ChannelClosed,
    ClosedHere,
    ConnectionLost,
    DataFormatError,
    DumpError,
    EnvironmentFailed,
    ExecgwError,
    GatewayClosed,
    HandshakeError,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    LoadError,
    ProtocolError,
    PythonNotFound,
    RemoteError,
    RemoteTimeout,
    SendBlocked,
    SpecError,
    StartError,
    TimeoutError,
)
from .gateway import Gateway
from .group import Group
from .hierarchy import ChannelGateway
from .multi import MultiChannel
from .spec import XSpec
from .values import dump, dumps, load, loads

default_group = Group()
makegateway = default_group.makegateway
makegateways = default_group.makegateways
set_execmodel = default_group.set_execmodel


if TYPE_CHECKING:
    from . import aio as aio
    from . import venv
    from .executor import Executor
    from .rsync import RSync

# Imported when they are first asked for: most scripts do without, and together they took half of `import execgw`.
_LATE = {"Executor": "executor", "RSync": "rsync", "aio": "", "venv": ""}


def attach(ticket: str, group: Group | None = None) -> Gateway:
    """The gateway that another process has detached; see Group.attach.  Without *group* it belongs to default_group."""
    return (default_group if group is None else group).attach(ticket)


def __getattr__(name: str) -> object:
    """What is imported when it is first asked for (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LATE[name] or name}", __name__)
    found = globals()[name] = getattr(module, name) if _LATE[name] else module
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


__all__ = [
    "AuthenticationFailed",
    "Channel",
    "ChannelClosed",
    "ChannelGateway",
    "ClosedHere",
    "ConnectionLost",
    "DataFormatError",
    "DumpError",
    "EnvironmentFailed",
    "ExecgwError",
    "Executor",
    "Gateway",
    "GatewayClosed",
    "Group",
    "HandshakeError",
    "HostKeyRefused",
    "HostNotFound",
    "HostNotReached",
    "LoadError",
    "MultiChannel",
    "ProtocolError",
    "PythonNotFound",
    "RSync",
    "RemoteError",
    "RemoteTimeout",
    "SendBlocked",
    "SpecError",
    "StartError",
    "TimeoutError",
    "Tree",
    "XSpec",
    "__version__",
    "attach",
    "default_group",
    "dump",
    "dumps",
    "errors",
    "load",
    "loads",
    "makegateway",
    "makegateways",
    "set_execmodel",
    "tree",
    "venv",
]
