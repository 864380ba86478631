"""Ends the processes of tokens that are over: revoked, expired, or taken out of the file."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .access import Caller, Denied

if TYPE_CHECKING:
    from .app import Server

EVERY = 1.0  # seconds; a request with such a token is refused at once

log = logging.getLogger("execgw.http")


async def watch_owners(server: Server) -> None:
    """Look again and again, until it is cancelled."""
    ending: set[asyncio.Task[str]] = set()
    while True:
        for owner in {process.owner for process in server.table.live}:
            why = _over(server, owner)
            for process in server.table.live if why else ():
                if process.owner == owner and not process.ending:
                    ending.add(asyncio.ensure_future(process.end(why)))
        ending = {task for task in ending if not task.done()}
        await asyncio.sleep(EVERY)


def _over(server: Server, owner: str) -> str:
    """Why a token is over, or ''; a file that cannot be read now is no reason to end anything."""
    try:
        server.access.check(Caller(owner, frozenset()))
    except Denied as e:
        if e.status == 401:
            log.info("owner over", extra={"owner": owner, "why": e.why})
            return e.why
    return ""
