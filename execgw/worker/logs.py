"""Records of the logging module, sent to the near side: filtered by level here, where they are made."""

import logging
import threading

from ..peer.compat import deque
from ..peer.faults import as_text

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict  # noqa: F401

END_SECONDS = 1.0
MOST_WAITING = 1000  # records; the oldest are dropped, and their number is told


def forward(server, asked):
    # type: (Any, Dict[str, str]) -> Dict[str, str]
    """Send records of *level* and above to the channel that is named; asked again it only changes the level."""
    level = int(asked["level"])
    handler = server.gateway.log
    if handler is None:
        handler = server.gateway.log = ForwardingHandler(server.gateway._channel_for(int(asked["channels"])))
        logging.getLogger().addHandler(handler)
        server.gateway.at_end.append(handler.end)
    handler.setLevel(level)
    logging.getLogger().setLevel(level)
    return {}


class ForwardingHandler(logging.Handler):
    """Queues records; a thread of its own sends them, so that code that logs never waits for the near side."""

    def __init__(self, channel):
        # type: (Any) -> None
        logging.Handler.__init__(self)
        self.channel = channel
        self.waiting = deque()  # type: Any
        self.dropped = 0
        self.some = threading.Event()
        self.sent = threading.Event()
        self.sent.set()
        thread = threading.Thread(target=self._send, name="execgw-logs")
        thread.daemon = True
        thread.start()

    def emit(self, record):
        # type: (logging.LogRecord) -> None
        try:
            told = self._as_dict(record)
            self.sent.clear()
            self.waiting.append(told)
            if len(self.waiting) > MOST_WAITING:
                self.waiting.popleft()
                self.dropped += 1
            self.some.set()
        except Exception:
            self.handleError(record)

    def end(self, number):
        # type: (int) -> None
        """A task has ended: what it has logged goes before the end of its channel."""
        self.sent.wait(END_SECONDS)

    def _as_dict(self, record):
        # type: (logging.LogRecord) -> Dict[str, Any]
        told = {
            "name": as_text(record.name),
            "level": record.levelno,
            "message": as_text(record.getMessage()),
            "filename": as_text(record.pathname),
            "line": record.lineno,
            "function": as_text(record.funcName),
            "created": record.created,
            "thread": as_text(record.threadName),
            "process": record.process,
            "traceback": "",
        }
        if record.exc_info:
            told["traceback"] = as_text((self.formatter or logging.Formatter()).formatException(record.exc_info))
        return told

    def _send(self):
        # type: () -> None
        try:
            while True:
                self.some.wait(1)
                self.some.clear()
                while self.waiting:
                    dropped, self.dropped = self.dropped, 0
                    self.channel.send((self.waiting.popleft(), dropped))
                self.sent.set()
        except (EnvironmentError, IndexError):  # the near side has gone
            logging.getLogger().removeHandler(self)
            self.sent.set()
