"""Ends the processes of tokens that are over: revoked, expired, or taken out of the file."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .access import Caller, Denied

if TYPE_CHECKING:
    from .app import Server
    from .processes import Process

EVERY = 1.0  # seconds; a request with such a token is refused at once

log = logging.getLogger("execgw.http")


async def watch_owners(server: Server) -> None:
    """Look again and again, until it is cancelled."""
    ending: set[asyncio.Task[str]] = set()  # the event loop itself holds them only weakly
    while True:
        try:
            for process, why in _of_nobody(server):
                task = asyncio.ensure_future(process.end(why))
                ending.add(task)
                task.add_done_callback(ending.discard)
        except Exception:  # a bug in one look must not be the last look
            log.exception("while looking at owners")
        await asyncio.sleep(EVERY)


def _of_nobody(server: Server) -> list[tuple[Process, str]]:
    """The processes whose owner's token is over, and why it is."""
    owners = {process.owner for process in server.table.live if not process.ending}
    over = {owner: why for owner in owners if (why := _over(server, owner))}
    return [(one, over[one.owner]) for one in server.table.live if one.owner in over and not one.ending]


def _over(server: Server, owner: str) -> str:
    """Why a token is over, or ''; a file that cannot be read now is no reason to end anything."""
    try:
        server.access.check(Caller(owner, frozenset()))
    except Denied as e:
        if e.status == 401:
            log.info("owner over", extra={"owner": owner, "why": e.why})
            return e.why
    return ""
