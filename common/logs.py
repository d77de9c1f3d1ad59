"""Logging of every process: one line an event on stderr, as `key=value` pairs.

A line reads `time=… level=… logger=… event`, the event being the logger's own text, by custom
`key=value` pairs too. Line breaks inside an event are escaped, so that nothing a client sent can
forge a line. Set up once, by the command; libraries and modules only ever ask for their logger.

No line holds a subscriber's number, the parameters of a request or a secret. What an exception says may quote
any of these: a traceback shows places in the code and the kinds of the errors, and not their texts.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Final

MAX_CAUSES: Final = 5
"""Of one error, in its line."""

LEVELS: Final = ("debug", "info", "warning", "error")


class KeyValueFormatter(logging.Formatter):
    """RFC 3339 times in UTC with milliseconds; a traceback follows its event on the same line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = record.getMessage()
        if record.exc_info:
            event = f"{event} traceback={describe_error(record.exc_info[1])!r}"
        event = event.replace("\r", "\\r").replace("\n", "\\n")
        return (
            f"time={moment}.{int(record.msecs):03d}Z level={record.levelname.lower()} "
            f"logger={record.name} {event}"
        )


def describe_error(error: BaseException | None) -> str:
    """Where it was raised, and by what: all but the texts of the errors."""
    parts: list[str] = []
    while error is not None and len(parts) < MAX_CAUSES:
        parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nbecause of\n".join(parts)


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("ratel").critical("uncaught, the process ends", exc_info=(kind, error, trace))


def setup(level: str) -> None:
    """Send everything at or above `level`, one of LEVELS, to stderr."""
    sys.excepthook = _report_uncaught
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
