"""What the server has to say, on stderr: one line of JSON for each event.

No secrets get in: a token is known by its name, a process by the beginning of its PID, a request by its route.
"""

from __future__ import annotations

import json
import logging
import sys
import time

KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as a line of JSON: time, level, event, and what came as extra=."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        fields = {key: value for key, value in vars(record).items() if key not in KNOWN}
        line = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def write_json_lines(level: int = logging.INFO) -> None:
    """From now on, what the server and what is below it log goes to stderr that way."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("execgw.http", "uvicorn", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(max(level, logging.WARNING))  # their starts and ends are told by us
    logging.getLogger("execgw.http").setLevel(level)
