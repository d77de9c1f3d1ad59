"""A slow, separate reading of the rating rules, and builders for tariffs to try them on.

The oracle answers for one instant at a time from what `datetime` and `zoneinfo` say about it. It
shares no code with the rating core, so that they can only agree by both being right.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from rater.model import (
    Account,
    ActivationPeriod,
    Bucket,
    Destination,
    Interval,
    Plan,
    Rate,
    Tariff,
    Threshold,
)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MAX_CALL = 31 * DAY

WORKDAYS = (1, 2, 3, 4, 5)
WEEKEND = (0, 6)
ZONES = (
    "UTC",
    "Europe/Bucharest",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Asia/Kathmandu",  # 5 h 45 min
    "Africa/Casablanca",  # two changes a month apart
    "Pacific/Apia",  # skipped a whole day, 2011-12-30
    "America/Sao_Paulo",  # changed at midnight: a day without its first hour
)


def at(text: str) -> int:
    """Microseconds of an ISO time; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def price(text: str) -> int:
    """Nanos of a decimal."""
    return int(Fraction(text) * 10**9)


def interval(
    cents: str,
    *,
    start_s: int = 0,
    end_s: int = 86_400,
    days: tuple[int, ...] = (),
    month: int = 0,
    month_day: int = 0,
    ponder: int = 0,
    fee: str = "0",
    unit_s: int = 1,
    increment_s: int = 0,
) -> Interval:
    return Interval(
        month,
        month_day,
        days,
        start_s,
        end_s,
        ponder * 10**6,
        price(fee) // 1000,
        price(cents),
        unit_s * SECOND,
        increment_s * SECOND,
    )


def rate(
    *intervals: Interval,
    subject: str = "rif",
    prefix: str = "0",
    zone: str = "UTC",
    since: str = "2000-01-01",
) -> Rate:
    return Rate(0, subject, prefix, zone, (ActivationPeriod(at(since), intervals),))


EVENING_S = 18 * 3600
CHEAP = interval("0.1", start_s=EVENING_S, days=WORKDAYS)
DEAR = interval("0.2", end_s=EVENING_S, days=WORKDAYS)
WEEKEND_CHEAP = interval("0.1", days=WEEKEND)
FLAT = interval("1", unit_s=60)
BY_MINUTE = (
    interval("10", end_s=EVENING_S, days=WORKDAYS, unit_s=60),
    interval("1", start_s=EVENING_S, days=WORKDAYS, unit_s=60),
    interval("1", days=WEEKEND, unit_s=60),
)
BUCKETS_2012 = (
    Bucket("nationale", 10 * SECOND, 10, price("0.01")),
    Bucket("retea", 100 * SECOND, 20, 0),
)
THRESHOLDS_2012 = tuple(Threshold(at * SECOND, off * 10**6) for at, off in ((100, 10), (500, 15), (1000, 20)))
TARIFF_2012 = Tariff(
    "vdf",
    (
        Rate(0, "rif", "0256", "UTC", (ActivationPeriod(at("2012-01-01"), (DEAR, CHEAP, WEEKEND_CHEAP)),)),
        Rate(
            0,
            "rif",
            "0257",
            "UTC",
            (
                ActivationPeriod(at("2012-01-01"), (CHEAP, DEAR, WEEKEND_CHEAP)),
                ActivationPeriod(at("2012-02-08"), BY_MINUTE),
            ),
        ),
        Rate(0, "rif", "0723", "UTC", (ActivationPeriod(at("2012-01-01"), (FLAT,)),)),
        Rate(0, "minutosu", "0723", "UTC", (ActivationPeriod(at("2012-01-01"), (FLAT,)),)),
    ),
    (
        Destination("nationale", ("0256", "0257", "0723", "0740")),
        Destination("retea", ("0723", "0724")),
        Destination("mobil", ("0723", "0740")),
        Destination("radu", ("0723045326",)),
    ),
    (
        Plan("seara", buckets=BUCKETS_2012, thresholds=THRESHOLDS_2012),
        Plan("two", thresholds=(Threshold(100 * SECOND, 10**7), Threshold(500 * SECOND, 2 * 10**7))),
    ),
)
MINUTOSU = Account("minutosu", 21 * 10**6, plan="seara", buckets=BUCKETS_2012)
BROKER = Account("broker", 0, plan="seara", buckets=BUCKETS_2012)


def period_at(rated: Rate, instant_us: int) -> ActivationPeriod:
    return [period for period in rated.periods if period.activation_us <= instant_us][-1]


def winner_at(rated: Rate, instant_us: int) -> Interval | None:
    """The interval that prices this instant."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)
    local = moment.astimezone(ZoneInfo(rated.timezone))
    second = local.hour * 3600 + local.minute * 60 + local.second
    best: Interval | None = None
    for each in period_at(rated, instant_us).intervals:
        if each.month and each.month != local.month:
            continue
        if each.month_day and each.month_day != local.day:
            continue
        if each.week_days and int(local.strftime("%w")) not in each.week_days:
            continue
        if not each.start_s <= second < each.end_s:
            continue
        if best is None or _order(each) > _order(best):
            best = each
    return best


def _order(each: Interval) -> tuple[int, Fraction]:
    return each.ponder_micros, -Fraction(each.price_nanos) / Fraction(each.billing_unit_us)


Stretch = tuple[int, int, int, Interval | None]
"""Start, end, activation time, interval."""


def stretches(rated: Rate, start_us: int, end_us: int, step_us: int) -> list[Stretch]:
    """Walk a call in steps (all borders must lie on them), or in whole increments where they apply."""
    found: list[Stretch] = []
    now_us = start_us
    while now_us < end_us:
        winner = winner_at(rated, now_us)
        activation_us = period_at(rated, now_us).activation_us
        step = winner.increment_us if winner is not None and winner.increment_us else step_us
        next_us = min(now_us + step, end_us)
        if found and found[-1][2:] == (activation_us, winner):
            found[-1] = (found[-1][0], next_us, activation_us, winner)
        else:
            found.append((now_us, next_us, activation_us, winner))
        now_us = next_us
    return found


def cost_of(stretch: Stretch, discount_micros: int = 0) -> int:
    """Rounded half up, from an exact fraction."""
    start_us, end_us, _, priced_by = stretch
    if priced_by is None:
        return 0
    duration_us = end_us - start_us
    while priced_by.increment_us and duration_us % priced_by.increment_us:
        duration_us += priced_by.increment_us - duration_us % priced_by.increment_us
    exact = Fraction(duration_us * priced_by.price_nanos, priced_by.billing_unit_us * 1000)
    return half_up(exact * (1 - Fraction(discount_micros, 10**8)))


def half_up(exact: Fraction) -> int:
    whole = exact.numerator // exact.denominator
    return whole + (exact - whole >= Fraction(1, 2))


def cover_by_ticks(
    account: Account, destinations: tuple[Destination, ...], number: str, ticks: int, tick_us: int
) -> Iterator[Bucket | None]:
    """Which bucket covers each tick of a call; credit is taken tick by tick."""
    precision = {
        each.id: max((len(prefix) for prefix in each.prefixes if number.startswith(prefix)), default=0)
        for each in destinations
    }
    queue = [bucket for bucket in account.buckets if precision.get(bucket.destination)]
    queue.sort(key=lambda bucket: bucket.destination)
    queue.sort(key=lambda bucket: bucket.price_nanos)
    queue.sort(key=lambda bucket: precision[bucket.destination], reverse=True)
    queue.sort(key=lambda bucket: bucket.priority, reverse=True)
    left_us = [bucket.seconds_us for bucket in queue]
    floor = account.min_credit_micros or 0
    unlimited = account.postpaid and account.min_credit_micros is None
    credit = Fraction(max(0, account.credit_micros - floor))
    for _ in range(ticks):
        for index, bucket in enumerate(queue):
            tick_cost = Fraction(tick_us * bucket.price_nanos, 10**9)
            affordable = unlimited or not tick_cost or credit >= tick_cost
            if left_us[index] >= tick_us and affordable:
                left_us[index] -= tick_us
                credit -= tick_cost
                yield bucket
                break
        else:
            yield None


@st.composite
def intervals(draw: st.DrawFn, *, grid_s: int = 900, increments: bool = False) -> Interval:
    """Any interval whose times of day lie on the grid; few distinct values, so that ties occur."""
    start = draw(st.integers(0, 86_400 // grid_s - 1))
    end = draw(st.one_of(st.just(86_400 // grid_s), st.integers(start + 1, 86_400 // grid_s)))
    start = draw(st.sampled_from((0, start)))
    return Interval(
        draw(st.sampled_from((0, 0, 0, 3, 10, 11, 12))),
        draw(st.sampled_from((0, 0, 0, 1, 25, 29, 31))),
        draw(st.sampled_from(((), (), WORKDAYS, WEEKEND, (0,), (2, 6)))),
        start * grid_s,
        end * grid_s,
        draw(st.sampled_from((0, 0, 10**6, 5 * 10**5))),
        draw(st.sampled_from((0, 0, 10**6, 333_333))),
        draw(st.sampled_from((0, price("0.2"), price("1"), price("12"), price("0.333333333"), 7))),
        draw(st.sampled_from((SECOND, 60 * SECOND, 7 * SECOND, SECOND // 2))),
        draw(st.sampled_from((0, SECOND, 30 * SECOND, 60 * SECOND, 37 * SECOND))) if increments else 0,
    )


TURNING_POINTS = tuple(
    at(text)
    for text in (
        "2012-03-25T01:00",  # Bucharest, forward
        "2012-10-28T01:00",  # Bucharest, back
        "2012-03-11T07:00",  # New York, forward
        "2012-11-04T06:00",  # New York, back
        "2012-10-06T15:30",  # Lord Howe, forward
        "2012-03-31T15:00",  # Lord Howe, back
        "2012-07-20T02:00",  # Casablanca, back for Ramadan
        "2012-08-20T02:00",  # Casablanca, forward again
        "2011-12-30T10:00",  # Apia, over the date line
        "2012-10-21T03:00",  # São Paulo, forward at midnight
        "2012-02-26T02:00",  # São Paulo, back at midnight
        "2012-02-29T00:00",
        "2012-12-31T23:00",
    )
)


@st.composite
def rates(draw: st.DrawFn, *, grid_s: int = 900, increments: bool = False, around: int | None = None) -> Rate:
    """A rate of one to three periods; the later ones begin near the turning point `around`."""
    some = st.lists(intervals(grid_s=grid_s, increments=increments), max_size=5).map(tuple)
    begins = {at("2000-01-01")}
    if around is not None:
        shifts = draw(st.lists(st.integers(-DAY // SECOND // grid_s, DAY // SECOND // grid_s), max_size=2))
        begins |= {around + shift * grid_s * SECOND for shift in shifts}
    periods = tuple(ActivationPeriod(begin, draw(some)) for begin in sorted(begins))
    return Rate(0, "rif", "0", draw(st.sampled_from(ZONES)), periods)
