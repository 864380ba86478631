"""The environments that are kept on the host of a gateway: listing and removing them."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import LoadError
from ..gateway import Gateway
from .environment import ask, printable


class Kept(NamedTuple):
    """One environment; times are seconds since the epoch there, the size is in bytes on the disk."""

    key: str
    name: str
    version: str
    tool: str
    directory: str
    requirements: list[str]
    installed: list[str]
    made: float
    used: float
    size: int
    busy: bool


def list_environments(gateway: Gateway) -> list[Kept]:
    """All that are there, the one that was used longest ago first."""
    return [_kept(gateway, facts) for facts in ask(gateway, "list")]


def _kept(gateway: Gateway, facts: Any) -> Kept:
    try:
        texts = [printable(str(facts[name])) for name in Kept._fields[:5]]
        return Kept(
            texts[0],
            texts[1],
            texts[2],
            texts[3],
            texts[4],
            [printable(str(text)) for text in facts["requirements"]],
            [printable(str(text)) for text in facts["installed"]],
            made=float(facts["made"]),
            used=float(facts["used"]),
            size=int(facts["size"]),
            busy=bool(facts["busy"]),
        )
    except (TypeError, KeyError, ValueError):
        raise LoadError(f"gateway {gateway.id!r}: the facts about its environments make no sense") from None


def prune_environments(
    gateway: Gateway, seconds: float | None = None, most_bytes: int | None = None
) -> tuple[list[tuple[str, int]], int]:
    """Remove what was not used for *seconds*, then the least recently used until *most_bytes* are left at most.

    What is in use stays.  Returns ([(key, bytes)], how many interrupted builds were cleaned up).
    """
    gone, left = ask(gateway, "prune", seconds=seconds, most_bytes=most_bytes)
    return [(printable(str(key)), int(size)) for key, size in gone], int(left)


def remove_environments(gateway: Gateway, names: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Remove those of these names or keys: (removed, in use, not there)."""
    removed, busy, missing = ask(gateway, "rm", names=list(names))
    return tuple([printable(str(name)) for name in part] for part in (removed, busy, missing))  # type: ignore[return-value]  # three
