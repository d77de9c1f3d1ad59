"""Instants as integer microseconds since 1970-01-01T00:00:00Z, read and written as RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
MIN_INSTANT_US: Final = (date.min.toordinal() - _EPOCH_ORDINAL) * DAY_US
"""The first instant of year 1 in UTC: RFC 3339 writes years with four digits."""
MAX_INSTANT_US: Final = (date.max.toordinal() + 1 - _EPOCH_ORDINAL) * DAY_US - 1
"""The last instant of year 9999 in UTC."""

RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?"
    r"(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)

_MINUTE_US: Final = 60 * SECOND_US
_CACHED_MINUTES: Final = 8192
"""Minutes whose text is kept: calls cluster around now, and around activation times."""
_SECOND_TEXTS: Final = tuple(f"{second:02d}Z" for second in range(60))


def parse_rfc3339(text: str) -> int:
    """Microseconds since the epoch. Digits beyond the microsecond are dropped.

    Raises ValueError whose text says what was expected. Source: RFC 3339 §5.6.
    """
    if not RFC3339.fullmatch(text):
        raise ValueError(f"expected an RFC 3339 time such as 2012-02-02T17:30:00Z, not {text[:40]!r}")
    try:
        # Python 3.11 reads any number of decimals of a second, but "Z" in upper case only.
        delta = datetime.fromisoformat(text.upper()) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such time: {text!r} ({error})") from None
    instant_us = (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds
    if not MIN_INSTANT_US <= instant_us <= MAX_INSTANT_US:
        raise ValueError(f"no such time: {text!r} (outside the years 1 to 9999 in UTC)")
    return instant_us


@lru_cache(_CACHED_MINUTES)
def _minute_text(minutes: int) -> str:
    day, minute = divmod(minutes, 1440)
    text = date.fromordinal(_EPOCH_ORDINAL + day).isoformat()
    return f"{text}T{minute // 60:02d}:{minute % 60:02d}:"


def format_rfc3339(instant_us: int) -> str:
    """The instant in UTC, with only as many decimals of a second as it needs."""
    minutes, rest_us = divmod(instant_us, _MINUTE_US)
    second, part = divmod(rest_us, SECOND_US)
    if not part:
        return _minute_text(minutes) + _SECOND_TEXTS[second]
    decimals = f"{part:06d}".rstrip("0")
    return f"{_minute_text(minutes)}{second:02d}.{decimals}Z"
