"""What is suspicious in a tariff is found, and described so that one can see where."""

from __future__ import annotations

import calendar
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rater.loader.check import find_gaps, find_overlaps
from rater.model import DAY_S, Interval
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, PLANS, RATES, FakeActive, read, sample_files

HOUR_S = 3600


def interval(
    month: int = 0,
    day: int = 0,
    week_days: tuple[int, ...] = (),
    start: int = 0,
    end: int = 24,
    *,
    ponder: int = 0,
    price: int = 1,
    unit: int = 1,
) -> Interval:
    """Times in hours, price in cents per `unit` seconds."""
    return Interval(
        month,
        day,
        tuple(sorted(week_days)),
        start * HOUR_S,
        end * HOUR_S,
        ponder * 1_000_000,
        0,
        price * 1_000_000_000,
        unit * 1_000_000,
        0,
    )


WORKDAYS = (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("intervals", "gaps"),
    [
        ([interval()], []),
        ([], ["every day 00:00–24:00"]),
        ([interval(end=18), interval(start=18)], []),
        ([interval(end=18), interval(start=19, end=23)], ["every day 18:00–19:00", "every day 23:00–24:00"]),
        ([interval(week_days=WORKDAYS, end=18), interval(week_days=(0, 6))], ["Mon–Fri 18:00–24:00"]),
        ([interval(week_days=(1, 3, 4))], ["Tue, Fri–Sun 00:00–24:00"]),
        ([interval(month=2)], ["in other months: every day 00:00–24:00"]),
        ([interval(day=31)], ["on other days: every day 00:00–24:00"]),
        ([interval(month=12, day=25)], ["in other months and on other days of Dec: every day 00:00–24:00"]),
        ([interval(end=18), interval(month=2, start=18)], ["in other months: every day 18:00–24:00"]),
        ([interval(month=month) for month in range(1, 13)], []),
        ([interval(day=day) for day in range(1, 31)], ["on other days: every day 00:00–24:00"]),
        ([interval(day=day) for day in range(1, 32)], []),
        ([interval(), interval(month=12, day=25, ponder=10)], []),
        (
            [*(interval(month=month) for month in range(1, 12)), interval(month=12, end=23)],
            ["in Dec: every day 23:00–24:00"],
        ),
    ],
)
def test_gaps(intervals: list[Interval], gaps: list[str]) -> None:
    assert list(find_gaps(tuple(intervals))) == gaps


def test_a_gap_of_seconds_is_shown_to_the_second() -> None:
    early = Interval(0, 0, (), 0, 64_799, 0, 0, 1, 1_000_000, 0)
    assert find_gaps((early, interval(start=18))) == ("every day 17:59:59–18:00",)


@pytest.mark.parametrize(
    ("intervals", "overlaps"),
    [
        ([interval(end=18), interval(start=18)], []),
        (
            [interval(end=18), interval(start=17)],
            ["Intervals[0] and Intervals[1] overlap every day 17:00–18:00"],
        ),
        ([interval(end=18), interval(start=17, price=2)], []),
        ([interval(end=18), interval(start=17, ponder=1)], []),
        (
            [interval(price=1), interval(price=9, ponder=1), interval(price=60, unit=60, week_days=(0, 6))],
            ["Intervals[0] and Intervals[2] overlap Sat–Sun 00:00–24:00"],
        ),
        ([interval(week_days=WORKDAYS), interval(week_days=(0, 6))], []),
        ([interval(month=1), interval(month=2)], []),
        (
            [interval(month=1), interval(day=2)],
            ["Intervals[0] and Intervals[1] overlap every day 00:00–24:00 on 2 Jan"],
        ),
        ([interval(month=2), interval(day=30)], []),
        ([interval(day=1), interval(day=2)], []),
        (
            [interval(), interval(month=3)],
            ["Intervals[0] and Intervals[1] overlap every day 00:00–24:00 in Mar"],
        ),
    ],
)
def test_overlaps(intervals: list[Interval], overlaps: list[str]) -> None:
    assert list(find_overlaps(tuple(intervals))) == overlaps


INTERVALS = st.builds(
    lambda month, day, days, hours: interval(month, day, tuple(days), min(hours), max(hours) + 1),
    st.sampled_from([0, 0, 2, 12]),
    st.sampled_from([0, 0, 1, 29, 31]),
    st.sets(st.integers(0, 6), max_size=7),
    st.tuples(st.integers(0, 23), st.integers(0, 23)),
)


@settings(deadline=None)  # a year is looked at hour by hour
@given(st.lists(INTERVALS, max_size=6))
def test_there_are_gaps_exactly_where_no_interval_applies_on_some_date(intervals: list[Interval]) -> None:
    first = date(2000, 1, 1)  # 28 years have every combination of date and week day

    def applies(each: Interval, day: date, week_day: int) -> bool:
        return (
            each.month in (0, day.month)
            and each.month_day in (0, day.day)
            and (not each.week_days or week_day in each.week_days)
        )

    uncovered = False
    for offset in range(366):  # of a leap year; each date with each week day instead of 28 years
        day = first + timedelta(offset)
        for week_day in range(7):
            hours = set()
            for each in intervals:
                if applies(each, day, week_day):
                    hours.update(range(each.start_s // HOUR_S, each.end_s // HOUR_S))
            uncovered = uncovered or len(hours) < DAY_S // HOUR_S
        if uncovered:
            break
    assert bool(find_gaps(tuple(intervals))) == uncovered


def test_a_gap_is_reported_with_everything_that_tells_where_it_is() -> None:
    files = sample_files()
    del files[RATES][0]["ActivationPeriods"][0]["Intervals"][1]
    _, report = read(files)
    assert report.errors == []
    assert report.warnings == [
        "activation_periods.json[0] (line 2): tenant 'vdf', subject 'rif', prefix '0256', "
        "from 2012-01-01T00:00:00Z: no interval covers Mon–Fri 18:00–24:00: calls cost nothing then"
    ]


def test_an_overlap_is_reported_with_what_decides() -> None:
    files = sample_files()
    files[RATES][0]["ActivationPeriods"][1]["Intervals"].append({"Price": 5, "BillingUnit": 30})
    _, report = read(files)
    [warning] = report.warnings
    assert warning.endswith(
        "from 2012-02-08T00:00:00Z: Intervals[0] and Intervals[1] overlap every day 00:00–24:00, "
        "with the same ponder and price per second: the first listed wins"
    )


def test_many_gaps_are_counted() -> None:
    files = sample_files()
    files[RATES][0]["ActivationPeriods"][1]["Intervals"] = [
        {"Price": 1, "StartTime": f"{hour:02}:00:00", "EndTime": f"{hour:02}:30:00"} for hour in range(24)
    ]
    _, report = read(files)
    [warning] = report.warnings
    assert "every day 04:30–05:00 and 19 more: calls cost nothing then" in warning


@pytest.mark.parametrize("month", range(1, 13))
def test_a_date_that_no_year_has_is_a_warning(month: int) -> None:
    last = calendar.monthrange(2012, month)[1]
    for day in range(28, 32):
        files = sample_files()
        files[RATES][0]["ActivationPeriods"][1]["Intervals"].append(
            {"Month": month, "MonthDay": day, "Ponder": 1, "Price": 1}
        )
        _, report = read(files)
        assert report.errors == []
        expected = f"{calendar.month_name[month]} has no day {day}: this never applies"
        assert [expected in warning for warning in report.warnings] == [True] * (day > last)


def test_buckets_of_destinations_that_are_nowhere_are_warnings() -> None:
    files = sample_files()
    del files[DESTINATIONS][0]  # net, of the plan's bonus
    files[BUDGETS][0]["MinuteBuckets"][0]["DestinationId"] = "moon"
    _, report = read(files)
    assert report.errors == []
    assert report.warnings == [
        "tariff_plans.json[0] (line 2): tariff plan 'evening': there is no destination 'net', "
        "so its bucket is never used",
        "user_budgets.json[0] (line 2): budget 'rif': there is no destination 'moon', "
        "so its bucket is never used",
    ]


def test_active_plans_that_lose_their_destinations_are_warnings() -> None:
    [load], _ = read(sample_files())
    assert load.tariff is not None
    new = {DESTINATIONS: sample_files()[DESTINATIONS][:1]}
    _, report = read(new, active=FakeActive({"vdf": load.tariff}))
    assert report.warnings == [
        "the active tariff of tenant 'vdf': tariff plan 'evening': there is no destination 'national', "
        "so its bucket is never used"
    ]


def test_what_nobody_uses_and_a_destination_without_prefixes() -> None:
    files = sample_files()
    files[PLANS].append({"Id": "unused", "VolumeDiscountThresholds": []})
    files[DESTINATIONS].append({"Id": "unused", "Prefixes": []})
    _, report = read(files)
    assert report.errors == []
    assert report.warnings == [
        "destinations.json[2].Prefixes (line 4): is empty: no number belongs to this destination"
    ]
