"""Rates in the files' JSON format → `rater.model.Rate`, with every mistake reported in its place.

Source of the rules: docs/rating.md, "Tariff files".
"""

from __future__ import annotations

import calendar
import difflib
import re
import zoneinfo
from functools import cache, lru_cache
from typing import Final

from common.times import format_rfc3339, parse_rfc3339
from rater.loader.fields import Fields, Shape
from rater.loader.report import describe, quote
from rater.model import DAY_S, ActivationPeriod, Interval, Rate

MAX_INTERVALS: Final = 1000
"""Of one activation period. A call looks at them at each border; real price lists have a dozen."""

MAX_PERIODS: Final = 1000
"""Of one rate: a change of price every week for nineteen years."""

MAX_TOR: Final = 2**31 - 1
"""A type of record is passed through; what fits 32 bits survives every client."""

MAX_TIMEZONE_CHARS: Final = 64
"""The longest IANA name has 32."""

SECOND_US: Final = 1_000_000
_TIME_OF_DAY: Final = re.compile(r"(\d\d):(\d\d):(\d\d)", re.ASCII)
_LEAP_YEAR: Final = 2012  # 29 February is a date

RATE: Final = Shape(
    "a rate",
    "TOR",
    "CstmId",
    "Subject",
    "DestinationPrefix",
    "Timezone",
    "RateIncrement",
    "ActivationPeriods",
)
PERIOD: Final = Shape("an activation period", "ActivationTime", "Intervals")
INTERVAL: Final = Shape(
    "an interval",
    "Month",
    "MonthDay",
    "WeekDays",
    "StartTime",
    "EndTime",
    "Ponder",
    "ConnectFee",
    "Price",
    "BillingUnit",
    "RateIncrement",
)


def read_rate(fields: Fields) -> tuple[str, Rate]:
    """The tenant and the rate."""
    increment_us = _increment(fields)
    return fields.name("CstmId"), Rate(
        tor=fields.integer("TOR", -MAX_TOR - 1, MAX_TOR),
        subject=fields.name("Subject"),
        prefix=fields.name("DestinationPrefix"),
        timezone=_timezone(fields),
        periods=_periods(fields, increment_us),
    )


def read_periods(fields: Fields) -> tuple[ActivationPeriod, ...]:
    """The activation periods of a rate of which only they, and the increment, are known."""
    return _periods(fields, _increment(fields))


def _increment(fields: Fields) -> int:
    return fields.micros("RateIncrement", unit=" (seconds)")


def _timezone(fields: Fields) -> str:
    name = fields.text("Timezone") or "UTC"
    if not known_timezone(name):
        hint = _timezone_hint(name) if len(name) <= MAX_TIMEZONE_CHARS else ""
        fields.error("Timezone", f"expected an IANA name such as Europe/Bucharest, found {quote(name)}{hint}")
    return name


@lru_cache(maxsize=1024)  # a price list misspells all of its zones alike
def _timezone_hint(name: str) -> str:
    close = difflib.get_close_matches(name, _all_timezones(), n=1)
    return f"; did you mean {close[0]}?" if close else ""


@cache
def _all_timezones() -> frozenset[str]:
    """Looking through the folders takes milliseconds."""
    return frozenset(zoneinfo.available_timezones())


@lru_cache(maxsize=1024)
def known_timezone(name: str) -> bool:
    if len(name) > MAX_TIMEZONE_CHARS:
        return False
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # not there, not a name, a folder
        return False
    return True


def _periods(fields: Fields, increment_us: int) -> tuple[ActivationPeriod, ...]:
    if not fields.required("ActivationPeriods"):
        return ()
    if fields.get("ActivationPeriods") == []:
        fields.error("ActivationPeriods", "is empty; a rate needs at least one activation period")
    found: dict[int, ActivationPeriod] = {}
    for period in fields.objects("ActivationPeriods", PERIOD, MAX_PERIODS):
        activation_us = _activation_time(period)
        intervals = _intervals(period, increment_us)
        if activation_us is None:
            continue
        if activation_us in found:
            period.error(
                "ActivationTime",
                f"{format_rfc3339(activation_us)} is the time of another period of this rate as well",
            )
        found[activation_us] = ActivationPeriod(activation_us, intervals)
    return tuple(period for _, period in sorted(found.items()))


def _activation_time(period: Fields) -> int | None:
    if not period.required("ActivationTime"):
        return None
    text = period.get("ActivationTime")
    if type(text) is not str:
        period.error("ActivationTime", f"expected an RFC 3339 time in quotes, found {describe(text)}")
        return None
    try:
        return _instant(text)
    except ValueError as error:
        period.error("ActivationTime", str(error))
        return None


@lru_cache(maxsize=1024)
def _instant(text: str) -> int:
    return parse_rfc3339(text)


def _intervals(period: Fields, rate_increment_us: int) -> tuple[Interval, ...]:
    if not period.required("Intervals"):
        return ()
    return tuple(
        _interval(interval, rate_increment_us)
        for interval in period.objects("Intervals", INTERVAL, MAX_INTERVALS)
    )


def _interval(fields: Fields, rate_increment_us: int) -> Interval:
    fields.required("Price")  # one that was forgotten must not make calls free
    month = fields.integer("Month", 0, 12)
    month_day = fields.integer("MonthDay", 0, 31)
    if month and month_day > calendar.monthrange(_LEAP_YEAR, month)[1]:
        fields.warning("MonthDay", f"{calendar.month_name[month]} has no day {month_day}: this never applies")
    start_s, end_s = _times_of_day(fields)
    own_increment = fields.get("RateIncrement") is not None
    return _shared(
        Interval(
            month=month,
            month_day=month_day,
            week_days=_week_days(fields),
            start_s=start_s,
            end_s=end_s,
            ponder_micros=fields.micros("Ponder", low=None),
            connect_fee_micros=fields.micros("ConnectFee", unit=" (cents)"),
            price_nanos=fields.nanos("Price", unit=" (cents)"),
            billing_unit_us=fields.micros("BillingUnit", unit=" (seconds)") or SECOND_US,
            increment_us=(
                fields.micros("RateIncrement", unit=" (seconds)") if own_increment else rate_increment_us
            ),
        )
    )


@lru_cache(maxsize=65536)
def _shared(interval: Interval) -> Interval:
    """One object for equal intervals: a hundred thousand rates repeat a few of them."""
    return interval


def _times_of_day(fields: Fields) -> tuple[int, int]:
    start_s = _time_of_day(fields, "StartTime", empty_s=0)
    end_s = _time_of_day(fields, "EndTime", empty_s=DAY_S)
    if start_s is None or end_s is None:
        return 0, DAY_S
    if end_s == DAY_S - 1:
        end_s = DAY_S  # people write the end of the day as 23:59:59
    if end_s <= start_s:
        start, end = _clock(start_s), _clock(end_s)
        fields.error(
            "EndTime",
            f"{end} is not after StartTime {start}; an interval can not wrap over midnight: "
            f"write two, {start} to 24:00:00 and 00:00:00 to {end}"
            if 0 < end_s < start_s < DAY_S
            else f"{end} is not after StartTime {start}; the end of the day is 24:00:00 or empty",
        )
    return start_s, end_s


def _time_of_day(fields: Fields, name: str, empty_s: int) -> int | None:
    value = fields.get(name)
    if value is None or value == "":
        return empty_s
    second = _seconds_of_day(value) if type(value) is str else None
    if second is None:
        fields.error(name, f"expected a time of day as HH:MM:SS, found {describe(value)}")
    return second


@lru_cache(maxsize=4096)
def _seconds_of_day(text: str) -> int | None:
    match = _TIME_OF_DAY.fullmatch(text)
    if not match:
        return None
    hour, minute, second = map(int, match.groups())
    total = hour * 3600 + minute * 60 + second
    return total if minute < 60 and second < 60 and total <= DAY_S else None


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


def _week_days(fields: Fields) -> tuple[int, ...]:
    days = set()
    for day in fields.items("WeekDays"):
        if type(day) is int and 0 <= day <= 6:
            days.add(day)
        else:
            fields.error(
                "WeekDays", f"expected whole numbers from 0 (Sunday) to 6 (Saturday), found {describe(day)}"
            )
    return tuple(sorted(days))
