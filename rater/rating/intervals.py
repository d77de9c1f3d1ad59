"""One price interval, made ready for rating: its price, its rank among its peers, its JSON.

All intervals of an activation period are compiled together, because a rank is a place in the order
in which they win: higher ponder, then cheaper per second, then listed first. Ranks of one period
are all different, so at every instant exactly one interval wins, or none applies.
Source: docs/rating.md, "Price intervals".
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from common.money import NANOS_PER_MICRO, format_micros, format_nanos
from common.times import SECOND_US
from rater.model import DAY_S, Interval


@dataclass(frozen=True, slots=True, eq=False)
class CompiledInterval:
    """Compared by identity: two intervals of one period are never the same one."""

    rank: int
    """0 wins over everything else in the period."""
    start_us: int
    end_us: int
    """Local times of day, half-open; the end is at most 24 h."""
    connect_fee_micros: int
    connect_fee: str
    """As JSON."""
    price_nanos: int
    unit_us: int
    increment_us: int
    twice_micros: int
    per_us: int
    twice_per_us: int
    """The price as a fraction in its lowest terms, micro-cents per µs: numbers so small that a charge,
    (duration × `twice_micros` + `per_us`) ÷ `twice_per_us`, takes no long division. It is the same as
    `common.money.price_of` gives: rounded once, half up."""
    json: str
    """As it stands in a call cost."""
    json_tail: str
    """The end of its span there."""
    interval: Interval


def compile_intervals(intervals: tuple[Interval, ...]) -> tuple[CompiledInterval, ...]:
    """In the order of the list. Prices are compared exactly, whatever their billing units."""
    order = sorted(
        range(len(intervals)),
        key=lambda index: (
            -intervals[index].ponder_micros,
            Fraction(intervals[index].price_nanos, intervals[index].billing_unit_us),
            index,
        ),
    )
    rank_of = {index: rank for rank, index in enumerate(order)}
    return tuple(_compile(interval, rank_of[index]) for index, interval in enumerate(intervals))


def _compile(interval: Interval, rank: int) -> CompiledInterval:
    per_us = NANOS_PER_MICRO * interval.billing_unit_us
    common = gcd(interval.price_nanos, per_us)
    json = _json(interval)
    return CompiledInterval(
        rank,
        interval.start_s * SECOND_US,
        interval.end_s * SECOND_US,
        interval.connect_fee_micros,
        format_micros(interval.connect_fee_micros),
        interval.price_nanos,
        interval.billing_unit_us,
        interval.increment_us,
        2 * interval.price_nanos // common,
        per_us // common,
        2 * per_us // common,
        json,
        f',"Interval":{json},"MinuteInfo":null}}',
        interval,
    )


def _json(interval: Interval) -> str:
    days = ",".join(map(str, interval.week_days))
    start = "" if interval.start_s == 0 else time_of_day(interval.start_s)
    end = "" if interval.end_s == DAY_S else time_of_day(interval.end_s)
    increment = f',"RateIncrement":{format_micros(interval.increment_us)}' if interval.increment_us else ""
    return (
        f'{{"Month":{interval.month},"MonthDay":{interval.month_day},"WeekDays":[{days}],'
        f'"StartTime":"{start}","EndTime":"{end}","Ponder":{format_micros(interval.ponder_micros)},'
        f'"ConnectFee":{format_micros(interval.connect_fee_micros)},'
        f'"Price":{format_nanos(interval.price_nanos)},'
        f'"BillingUnit":{format_micros(interval.billing_unit_us)}{increment}}}'
    )


def time_of_day(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"
