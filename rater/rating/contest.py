"""Why an interval prices a stretch of time, and why its rivals do not.

Rating itself only asks who wins (`rater.rating.schedule`); this goes over the intervals of the period again
and gives each one's reason. It is for people who ask about one call, and bounded, because raters have other
requests to answer. Source: docs/rating.md, "Price intervals".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from common.money import format_micros, format_nanos
from common.times import DAY_US, SECOND_US
from rater.rating.intervals import CompiledInterval, time_of_day
from rater.rating.schedule import Schedule, Winner, Zone, applies_on, calendar_day

MAX_DAYS: Final = 400
"""Local days of a span that are looked at: by then every month, month day and week day has come."""

MAX_INTERVALS: Final = 50
"""Intervals of a period that are looked at for one span, by rank: a period may have a thousand."""

_WEEK_DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


class Rival(NamedTuple):
    """An interval that does not price the stretch."""

    interval: CompiledInterval
    reason: str
    """`lower_ponder`, `dearer`, `listed_later`, `increment`: it applies too; `other_month`,
    `other_month_day`, `other_week_day`, `other_time`: it does not."""
    text: str
    applies_from_us: int | None
    """Since when it applies, within the stretch; None: never."""


def rivals(
    schedule: Schedule, zone: Zone, start_us: int, end_us: int, winner: CompiledInterval | None
) -> tuple[list[Rival], int]:
    """The other intervals of the schedule, those that apply in [start, end) first, by their rank; and how
    many were not looked at.

    The stretch is one piece of a call: `winner` prices all of it, None where no interval applies.
    """
    found = []
    by_rank = sorted(schedule.intervals, key=lambda each: each.rank)
    for each in by_rank[:MAX_INTERVALS]:
        if each is winner:
            continue
        since_us = _first_applies(each, zone, start_us, end_us)
        if since_us is not None and winner is not None:
            found.append(Rival(each, *_why_it_lost(each, winner), since_us))
        else:
            found.append(Rival(each, *_why_not(each, zone, start_us), since_us))
    found.sort(key=lambda rival: (rival.applies_from_us is None, rival.interval.rank))
    return found, len(by_rank[MAX_INTERVALS:])


def why_it_won(winner: Winner, among: list[Rival]) -> str:
    """One sentence about the winner of a stretch and what it won against."""
    if winner is None:
        return "no interval applies, so this time costs nothing"
    applying = [rival for rival in among if rival.applies_from_us is not None]
    ponder = format_micros(winner.interval.ponder_micros)
    if not applying:
        return "it is the only interval that applies"
    reasons = {rival.reason for rival in applying}
    if "increment" in reasons:
        return "its whole increment is charged, and reaches into the time of others"
    if reasons == {"lower_ponder"}:
        return f"its ponder {ponder} is the highest of {len(applying) + 1} that apply"
    if "listed_later" in reasons:
        return f"of those with ponder {ponder} and the lowest price it is listed first"
    return f"of those with ponder {ponder} it is the cheapest"


def _why_it_lost(loser: CompiledInterval, winner: CompiledInterval) -> tuple[str, str]:
    if loser.rank < winner.rank:
        return "increment", "the increment before reaches into its time"
    mine, other = loser.interval.ponder_micros, winner.interval.ponder_micros
    if mine != other:
        return "lower_ponder", f"its ponder {format_micros(mine)} is below {format_micros(other)}"
    if loser.price_nanos * winner.unit_us != winner.price_nanos * loser.unit_us:
        return "dearer", f"{_price(loser)} is dearer than {_price(winner)}, at the same ponder"
    return "listed_later", "it costs the same at the same ponder, and is listed later"


def _price(interval: CompiledInterval) -> str:
    return f"{format_nanos(interval.price_nanos)} per {format_micros(interval.unit_us)} s"


def _why_not(each: CompiledInterval, zone: Zone, instant_us: int) -> tuple[str, str]:
    """What it asks for that the local time of the instant is not."""
    interval = each.interval
    month, month_day, week_day = calendar_day((instant_us + zone.offset_at(instant_us)[0]) // DAY_US)
    if interval.month not in (0, month):
        return "other_month", f"it holds in month {interval.month}, this is month {month}"
    if interval.month_day not in (0, month_day):
        return (
            "other_month_day",
            f"it holds on day {interval.month_day} of the month, this is day {month_day}",
        )
    if interval.week_days and week_day not in interval.week_days:
        days = ", ".join(_WEEK_DAYS[day] for day in interval.week_days)
        return "other_week_day", f"it holds on {days}, this is {_WEEK_DAYS[week_day]}"
    return (
        "other_time",
        f"it holds from {time_of_day(each.start_us // SECOND_US)} to {time_of_day(each.end_us // SECOND_US)}",
    )


def _first_applies(each: CompiledInterval, zone: Zone, start_us: int, end_us: int) -> int | None:
    """The first instant of [start, end) at which the interval applies."""
    days = 0
    now_us = start_us
    while now_us < end_us and days < MAX_DAYS:
        offset_us, until_us = zone.offset_at(now_us)
        local_us = now_us + offset_us
        stop_us = min(until_us, end_us) + offset_us
        while local_us < stop_us and days < MAX_DAYS:
            day = local_us // DAY_US
            days += 1
            midnight_us = day * DAY_US
            begin_us = max(local_us, midnight_us + each.start_us)
            if begin_us < min(stop_us, midnight_us + each.end_us) and applies_on(
                each.interval, calendar_day(day)
            ):
                return begin_us - offset_us
            local_us = midnight_us + DAY_US
        now_us = until_us
    return None
