"""The sync face: channels.  What they do is written once for both sides, in peer/channel.py."""

from __future__ import annotations

from .peer.channel import Channel

__all__ = ["Channel"]
