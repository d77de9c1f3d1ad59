"""Logging of every process: one line an event on stderr, as `key=value` pairs or as JSON.

A line reads `time=… level=… logger=… event`, the event being the logger's own text, by custom
`key=value` pairs too. Line breaks inside an event are escaped, so that nothing a client sent can
forge a line. Set up once, by the command; libraries and modules only ever ask for their logger. As JSON
(`--log-format json`) a line is an object with the same, and what the event names by `key=` as `fields`.

Under systemd each line begins with its priority, `<6>`, which the journal takes off, and as pairs it has no
time of its own.
SIGUSR1 switches between the level that was set and debug.

No line holds a subscriber's number, the parameters of a request or a secret. What an exception says may quote
any of these: a traceback shows places in the code and the kinds of the errors, and not their texts.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, TextIO

MAX_CAUSES: Final = 5
"""Of one error, in its line."""

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")


class KeyValueFormatter(logging.Formatter):
    """RFC 3339 times in UTC with milliseconds; a traceback follows its event on the same line."""

    def __init__(self, *, in_journal: bool = False) -> None:
        super().__init__()
        self._in_journal = in_journal

    def format(self, record: logging.LogRecord) -> str:
        event = record.getMessage()
        if record.exc_info:
            event = f"{event} traceback={describe_error(record.exc_info[1])!r}"
        event = event.replace("\r", "\\r").replace("\n", "\\n")
        begin = _priority(record) if self._in_journal else f"time={_moment(record)} "
        return f"{begin}level={record.levelname.lower()} logger={record.name} {event}"


class JsonFormatter(logging.Formatter):
    """One object a line. Numbers among the fields stay numbers, everything else is text."""

    def __init__(self, *, in_journal: bool = False) -> None:
        super().__init__()
        self._in_journal = in_journal

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = _fields(record)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["traceback"] = describe_error(record.exc_info[1])
        return (_priority(record) if self._in_journal else "") + json.dumps(line)


def _moment(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


def _priority(record: logging.LogRecord) -> str:
    """Source: sd-daemon(3)."""
    return next((f"<{number}>" for level, number in _PRIORITIES if record.levelno >= level), "<7>")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the event names by `key=`: the arguments of its text, which stand there in order."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    names = [match[1] for match in _PLACE.finditer(str(record.msg)) if match[0] != "%%"]
    return {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in zip(names, arguments, strict=False)
        if name
    }


_PLACE: Final = re.compile(r"%%|(?:(\w+)=)?%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]")
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def is_journal(stream: TextIO) -> bool:
    """Whether what is written there goes to the journal. Source: systemd.exec(5), JOURNAL_STREAM."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


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
    """Send everything at or above `level`, one of LEVELS, to stderr; SIGUSR1 turns debug on and off."""
    sys.excepthook = _report_uncaught
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if _chosen.format == "json" else KeyValueFormatter
    handler.setFormatter(formatter(in_journal=is_journal(sys.stderr)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, lambda _number, _frame: switch_debug(level))


def switch_debug(level: str) -> None:
    """To debug, or back to `level`."""
    root = logging.getLogger()
    root.setLevel(level.upper() if root.level == logging.DEBUG else logging.DEBUG)
    now = logging.getLevelName(root.level).lower()
    root.handle(root.makeRecord("common.logs", logging.WARNING, "", 0, "log_level=%s", (now,), None))


@dataclass
class _Chosen:
    format: str = FORMATS[0]


_chosen: Final = _Chosen()


def choose_format(name: str) -> None:
    """One of FORMATS, for a `setup` that follows."""
    _chosen.format = name


def chosen_format() -> str:
    return _chosen.format


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
