"""The asyncio face: the same names and signatures as the sync face, but for `await`, `async with` and `async for`.

>>> import asyncio
>>> from execgw import aio
>>> async def main():
...     async with aio.Group() as group:
...         gateway = await group.makegateway("popen")
...         channel = await gateway.remote_exec("channel.send(channel.receive() + 1)")
...         await channel.send(1)
...         return await channel.receive()
>>> asyncio.run(main())
2

Everything runs in the caller's own event loop.  What may wait is awaited; what never waits (newchannel, close, exit,
setcallback) is a plain call.
"""

from __future__ import annotations

from .channel import Channel
from .gateway import Gateway
from .group import Group
from .multi import MultiChannel

__all__ = ["Channel", "Gateway", "Group", "MultiChannel"]
