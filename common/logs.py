"""Logging of every process: one line an event on stderr, as `key=value` pairs.

A line reads `time=… level=… logger=… event`, the event being the logger's own text, by custom
`key=value` pairs too. Line breaks inside an event are escaped, so that nothing a client sent can
forge a line. Set up once, by the command; libraries and modules only ever ask for their logger.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")


class KeyValueFormatter(logging.Formatter):
    """RFC 3339 times in UTC with milliseconds; a traceback follows its event on the same line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = record.getMessage()
        if record.exc_info:
            event = f"{event} traceback={self.formatException(record.exc_info)!r}"
        event = event.replace("\r", "\\r").replace("\n", "\\n")
        return (
            f"time={moment}.{int(record.msecs):03d}Z level={record.levelname.lower()} "
            f"logger={record.name} {event}"
        )


def setup(level: str) -> None:
    """Send everything at or above `level`, one of LEVELS, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Throttle:
    """Lets a repeated warning through once an interval, and counts what it held back.

    For events that a peer can cause at will: `if (held := throttle.passes(now_s)) is not None`.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_at_s: float | None = None
        self._held = 0

    def passes(self, now_s: float) -> int | None:
        """How many events were held back since the last one that passed; None to hold this one."""
        if self._next_at_s is not None and now_s < self._next_at_s:
            self._held += 1
            return None
        held, self._held = self._held, 0
        self._next_at_s = now_s + self._interval_s
        return held
