"""Instants as integer microseconds since 1970-01-01T00:00:00Z, read and written as RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
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
_CACHED_DAYS: Final = 4096
"""Days kept, each way: calls cluster around now, and around activation times; eleven years fit."""


class _DayStarts(dict[str, int]):
    """Instants by the date's text, such as 2012-02-02; a KeyError for what is no date."""

    __slots__ = ()

    def __missing__(self, text: str) -> int:
        if not _DATE.fullmatch(text):
            raise KeyError(text)
        try:
            start_us = (date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL) * DAY_US
        except ValueError:
            raise KeyError(text) from None
        if len(self) >= _CACHED_DAYS:
            self.clear()
        self[text] = start_us
        return start_us


class _DayTexts(dict[int, str]):
    """Texts of dates by the day's number from 1970-01-01 on."""

    __slots__ = ()

    def __missing__(self, day: int) -> str:
        text = date.fromordinal(_EPOCH_ORDINAL + day).isoformat()
        if len(self) >= _CACHED_DAYS:
            self.clear()
        self[day] = text
        return text


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAY_TEXTS: Final = _DayTexts()
_MINUTE_TEXTS: Final = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440))
_SECOND_TEXTS: Final = tuple(f"{second:02d}Z" for second in range(60))

DAYS: Final = _DayStarts()
MINUTES: Final = {text: minute * _MINUTE_US for minute, text in enumerate(_MINUTE_TEXTS)}
SECONDS: Final = {text: second * SECOND_US for second, text in enumerate(_SECOND_TEXTS)}
"""The parts of a time as nearly everybody writes it, and as `format_rfc3339` does: 2012-02-02T17:30:00Z
is text[:10] of `DAYS`, text[10:17] of `MINUTES` and text[17:] of `SECONDS`. A KeyError for all other text,
whether it is a time or not."""


def parse_rfc3339(text: str) -> int:
    """Microseconds since the epoch. Digits beyond the microsecond are dropped.

    Raises ValueError whose text says what was expected. Source: RFC 3339 §5.6.
    """
    if len(text) == len("2012-02-02T17:30:00Z"):
        try:
            return DAYS[text[:10]] + MINUTES[text[10:17]] + SECONDS[text[17:]]
        except KeyError:
            pass
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


def format_rfc3339(instant_us: int) -> str:
    """The instant in UTC, with only as many decimals of a second as it needs."""
    minutes = instant_us // _MINUTE_US
    rest_us = instant_us - minutes * _MINUTE_US
    day = minutes // 1440
    second = rest_us // SECOND_US
    part = rest_us - second * SECOND_US
    until_minute = _DAY_TEXTS[day] + _MINUTE_TEXTS[minutes - day * 1440]
    if not part:
        return until_minute + _SECOND_TEXTS[second]
    decimals = f"{part:06d}".rstrip("0")
    return f"{until_minute}{second:02d}.{decimals}Z"
