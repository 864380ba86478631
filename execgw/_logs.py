"""Far log records, as records of this side's logging: Gateway.forward_logging()."""

from __future__ import annotations

import logging
from typing import Any


class FarRecord(logging.LogRecord):
    """A record that was made there: the file, line, thread and process are those of the far side."""


def level_number(level: int | str) -> int:
    """10 for 10, 'DEBUG' and 'debug'.  Raises ValueError for what is no level."""
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int):
        raise ValueError(f"{level!r} is no level of logging; try 'DEBUG', 'INFO', 'WARNING' or a number")
    return number


def handle(gateway_id: str, item: Any) -> None:
    """Give one item of the far handler to the logger execgw.remote.GATEWAY.NAME of this side."""
    told, dropped = item
    base = f"execgw.remote.{gateway_id}"
    if dropped:
        logging.getLogger(base).warning("%d records of the far side were dropped: they came too fast", int(dropped))
    name = base if told["name"] == "root" else f"{base}.{told['name']}"
    logger = logging.getLogger(name)
    level = int(told["level"])
    if not logger.isEnabledFor(level):
        return
    record = FarRecord(
        name, level, str(told["filename"]), int(told["line"]), str(told["message"]), None, None, str(told["function"])
    )
    record.created = float(told["created"])
    record.msecs = (record.created - int(record.created)) * 1000
    record.threadName, record.process = str(told["thread"]), int(told["process"])
    record.exc_text = str(told["traceback"]) or None
    logger.handle(record)
