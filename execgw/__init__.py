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

from . import errors, venv
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
from .executor import Executor
from .gateway import Gateway
from .group import Group
from .hierarchy import ChannelGateway
from .multi import MultiChannel
from .rsync import RSync
from .spec import XSpec
from .values import dump, dumps, load, loads

default_group = Group()
makegateway = default_group.makegateway
makegateways = default_group.makegateways
set_execmodel = default_group.set_execmodel


def __getattr__(name: str) -> object:
    """`execgw.aio`, the asyncio face, is imported when it is first asked for: so is asyncio, which takes its time."""
    if name == "aio":
        return importlib.import_module(".aio", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
