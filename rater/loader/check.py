"""What is allowed in a tariff and still looks like a mistake: gaps, ambiguous overlaps, loose ends.

Days are looked at by what intervals can tell apart: the months that they name and all other
months, the month days that they name and all others, and the seven week days. So a finding holds for
every year, and a list that names no month costs no more than seven days.
Source of the rules: docs/rating.md, "Then the price intervals".
"""

from __future__ import annotations

import calendar
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

from common.times import format_rfc3339
from rater.loader.report import Report, quote
from rater.model import DAY_S, Account, Bucket, Interval, Plan, Rate

MAX_PLACES: Final = 5
"""Gaps or overlaps that one message lists; the rest is counted."""

MAX_OVERLAPS: Final = 100
"""After so many, a list is not looked at further: a thousand equal intervals overlap half a million times."""

WEEK: Final = (1, 2, 3, 4, 5, 6, 0)
"""Monday first, as people read."""

_DAY_NAMES: Final = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_EVERY_DAY: Final = frozenset(WEEK)
_LAST_DAY: Final = (0, *(calendar.monthrange(2012, month)[1] for month in range(1, 13)))  # a leap year
_OTHER: Final = 0
"""Stands for the months or month days that no interval names."""

Span = tuple[int, int]
"""Seconds of a day, half-open."""


class _DayKind(NamedTuple):
    month: int
    month_day: int


def check_rate(tenant: str, rate: Rate, place: str, report: Report) -> None:
    """Warn of time without a price, and of intervals between which only their order decides."""
    for period in rate.periods:
        gaps = _listed(find_gaps(period.intervals))
        overlaps = _listed(find_overlaps(period.intervals))
        if not gaps and not overlaps:
            continue
        whose = (
            f"tenant {quote(tenant)}, subject {quote(rate.subject)}, prefix {quote(rate.prefix)}, "
            f"from {format_rfc3339(period.activation_us)}"
        )
        if gaps:
            report.warning(place, f"{whose}: no interval covers {gaps}: calls cost nothing then")
        if overlaps:
            report.warning(
                place,
                f"{whose}: {overlaps}, with the same ponder and price per second: the first listed wins",
            )


def check_buckets(
    owner: str, buckets: Iterable[Bucket], known: frozenset[str], place: str, report: Report
) -> None:
    """Warn of buckets that no call can ever use."""
    for missing in sorted({bucket.destination for bucket in buckets} - known):
        report.warning(
            place, f"{owner}: there is no destination {quote(missing)}, so its bucket is never used"
        )


def buckets_of(holder: Plan | Account) -> tuple[Bucket, ...]:
    """A plan's buckets with that of its bonus, or an account's."""
    if isinstance(holder, Plan) and holder.bonus.bucket is not None:
        return (*holder.buckets, holder.bonus.bucket)
    return holder.buckets


def _listed(findings: tuple[str, ...]) -> str:
    shown = ", ".join(findings[:MAX_PLACES])
    if len(findings) <= MAX_PLACES:
        return shown
    return f"{shown} and {len(findings) - MAX_PLACES if len(findings) < MAX_OVERLAPS else 'many'} more"


# --- gaps -------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)  # thousands of rates share a handful of interval lists
def find_gaps(intervals: tuple[Interval, ...]) -> tuple[str, ...]:
    """Time that no interval covers, such as `Mon–Fri 18:00–24:00` or `in Feb: every day 00:00–24:00`."""
    by_gaps: dict[tuple[tuple[int, tuple[Span, ...]], ...], list[_DayKind]] = {}
    kinds = list(_day_kinds(intervals))
    for kind in kinds:
        there = [interval for interval in intervals if _on(interval, kind)]
        gaps = tuple((day, spans) for day in WEEK if (spans := _uncovered(there, day)))
        if gaps:
            by_gaps.setdefault(gaps, []).append(kind)
    return tuple(
        (f"{label}: " if label else "") + hours
        for gaps, where in by_gaps.items()
        for label in ["" if len(where) == len(kinds) else _name_kinds(where, kinds)]
        for hours in _name_hours(gaps)
    )


def _day_kinds(intervals: tuple[Interval, ...]) -> Iterator[_DayKind]:
    months = {interval.month for interval in intervals} - {0}
    month_days = {interval.month_day for interval in intervals} - {0}
    for month in (_OTHER, *sorted(months)):
        in_month = [month] if month else [other for other in range(1, 13) if other not in months]
        last_day = max((_LAST_DAY[each] for each in in_month), default=0)
        if last_day and any(day not in month_days for day in range(1, last_day + 1)):
            yield _DayKind(month, _OTHER)
        for month_day in sorted(month_days):
            if month_day <= last_day:
                yield _DayKind(month, month_day)


def _on(interval: Interval, kind: _DayKind) -> bool:
    return interval.month in (0, kind.month) and interval.month_day in (0, kind.month_day)


def _uncovered(intervals: Iterable[Interval], week_day: int) -> tuple[Span, ...]:
    gaps, covered_s = [], 0
    spans = sorted(
        (interval.start_s, interval.end_s)
        for interval in intervals
        if not interval.week_days or week_day in interval.week_days
    )
    for start_s, end_s in (*spans, (DAY_S, DAY_S)):
        if start_s > covered_s:
            gaps.append((covered_s, start_s))
        covered_s = max(covered_s, end_s)
    return tuple(gaps)


# --- overlaps ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def find_overlaps(intervals: tuple[Interval, ...]) -> tuple[str, ...]:
    """Pairs that apply at the same instants with equal ponder and equal price per second: the first
    MAX_OVERLAPS of them."""
    return tuple(islice(_overlaps(intervals), MAX_OVERLAPS))


def _overlaps(intervals: tuple[Interval, ...]) -> Iterator[str]:
    alike: dict[tuple[int, Fraction], deque[int]] = {}
    groups = []
    for index, interval in enumerate(intervals):
        per_second = Fraction(interval.price_nanos, interval.billing_unit_us)
        groups.append(alike.setdefault((interval.ponder_micros, per_second), deque()))
        groups[-1].append(index)
    for a, later in enumerate(groups):
        later.popleft()  # that is `a` itself
        for b in later:
            if where := _common(intervals[a], intervals[b]):
                yield f"Intervals[{a}] and Intervals[{b}] overlap {where}"


def _common(a: Interval, b: Interval) -> str:
    """When both apply; empty when they never do."""
    span = (max(a.start_s, b.start_s), min(a.end_s, b.end_s))
    days = (frozenset(a.week_days) or _EVERY_DAY) & (frozenset(b.week_days) or _EVERY_DAY)
    if span[0] >= span[1] or not days:
        return ""
    if (a.month and b.month and a.month != b.month) or (
        a.month_day and b.month_day and a.month_day != b.month_day
    ):
        return ""
    kind = _DayKind(a.month or b.month, a.month_day or b.month_day)
    if kind.month_day > (_LAST_DAY[kind.month] if kind.month else 31):
        return ""
    date = _name_date(kind)
    return f"{_name_days(days)} {_name_span(span)}" + (f" {date}" if date else "")


# --- words ------------------------------------------------------------------------------------------


def _name_hours(gaps: tuple[tuple[int, tuple[Span, ...]], ...]) -> Iterator[str]:
    days_of: dict[Span, set[int]] = {}
    for day, spans in gaps:
        for span in spans:
            days_of.setdefault(span, set()).add(day)
    for span, days in days_of.items():
        yield f"{_name_days(days)} {_name_span(span)}"


def _name_days(days: Iterable[int]) -> str:
    """`every day`, `Mon–Fri`, `Mon, Wed, Sat–Sun`."""
    chosen = set(days)
    if len(chosen) == len(WEEK):
        return "every day"
    runs: list[list[int]] = []
    for position, day in enumerate(WEEK):
        if day in chosen:
            if runs and WEEK[position - 1] == runs[-1][-1]:
                runs[-1].append(day)
            else:
                runs.append([day])
    return ", ".join(
        _DAY_NAMES[run[0]] if len(run) == 1 else f"{_DAY_NAMES[run[0]]}–{_DAY_NAMES[run[-1]]}" for run in runs
    )


def _name_span(span: Span) -> str:
    return "–".join(map(_clock, span))


def _clock(second: int) -> str:
    text = f"{second // 3600:02}:{second // 60 % 60:02}"
    return f"{text}:{second % 60:02}" if second % 60 else text


def _name_kinds(where: list[_DayKind], kinds: list[_DayKind]) -> str:
    """`on other days`, `in Feb`, `on 25 Dec`, some of them joined by `and`."""
    names = []
    for month in dict.fromkeys(kind.month for kind in kinds):
        here = [kind for kind in where if kind.month == month]
        if len(here) > 1 and len(here) == sum(kind.month == month for kind in kinds):
            names.append(f"in {calendar.month_abbr[month]}" if month else "in other months")
        else:
            names += [_name_kind(kind, kinds) for kind in here]
    return _listed(tuple(names)).replace(", ", " and ")


def _name_kind(kind: _DayKind, kinds: list[_DayKind]) -> str:
    months, days = ({each[position] for each in kinds} - {_OTHER} for position in (0, 1))
    if kind.month_day:
        return _name_date(kind) + (" of other months" if months and not kind.month else "")
    if days:
        month = (
            f" of {calendar.month_abbr[kind.month]}" if kind.month else " of other months" if months else ""
        )
        return f"on other days{month}"
    return f"in {calendar.month_abbr[kind.month]}" if kind.month else "in other months"


def _name_date(kind: _DayKind) -> str:
    month = calendar.month_abbr[kind.month] if kind.month else ""
    if kind.month_day and month:
        return f"on {kind.month_day} {month}"
    return f"on day {kind.month_day}" if kind.month_day else f"in {month}" if month else ""
