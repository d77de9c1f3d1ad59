"""Instants as integer microseconds since 1970-01-01T00:00:00Z, read and written as RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def parse_rfc3339(text: str) -> int:
    """Microseconds since the epoch. Digits beyond the microsecond are dropped.

    Raises ValueError whose text says what was expected. Source: RFC 3339 §5.6.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"expected an RFC 3339 time such as 2012-02-02T17:30:00Z, not {text[:40]!r}")
    try:
        # Python 3.11 reads any number of decimals of a second, but "Z" in upper case only.
        delta = datetime.fromisoformat(text.upper()) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such time: {text!r} ({error})") from None
    return (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds


def format_rfc3339(instant_us: int) -> str:
    """The instant in UTC, with only as many decimals of a second as it needs."""
    moment = _EPOCH + timedelta(microseconds=instant_us)
    text = moment.replace(tzinfo=None, microsecond=0).isoformat()
    part = instant_us % SECOND_US
    if not part:
        return text + "Z"
    return f"{text}.{part:06d}".rstrip("0") + "Z"
