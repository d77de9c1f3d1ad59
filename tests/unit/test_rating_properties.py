"""What holds for every call: against the oracle, and against itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rater.model import ANY_SUBJECT, Account, Bucket, Destination, Plan, Rate, Tariff, Threshold
from rater.rating.schedule import load_zone
from rater.rating.snapshot import compile_tariff
from rater.rating.spans import Call, rate_call
from rater.rating.values import CallCost
from tests.unit.rating_oracle import (
    DAY,
    HOUR,
    MAX_CALL,
    MINUTE,
    SECOND,
    TURNING_POINTS,
    ZONES,
    at,
    cost_of,
    cover_by_ticks,
    half_up,
    period_at,
    price,
    rates,
    stretches,
    winner_at,
)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
fewer = settings(patient, max_examples=40)

turning_points = st.sampled_from(TURNING_POINTS)


def cost_of_call(rated: Rate, start_us: int, end_us: int) -> CallCost:
    tariff = compile_tariff(Tariff("vdf", (rated,)), MAX_CALL)
    return rate_call(tariff, Call(0, "vdf", "rif", "0256", start_us, end_us), None)


def assert_covered_exactly(cost: CallCost, start_us: int, end_us: int) -> None:
    assert [span.start_us for span in cost.spans[:1]] == [start_us] * (end_us > start_us)
    assert [span.end_us for span in cost.spans[-1:]] == [end_us] * (end_us > start_us)
    assert all(span.start_us < span.end_us for span in cost.spans)
    assert all(left.end_us == right.start_us for left, right in pairwise(cost.spans))
    assert cost.cost_micros == sum(span.cost_micros for span in cost.spans)


@given(st.data(), turning_points)
@patient
def test_the_winner_at_each_instant_is_the_one_the_oracle_names(data: st.DataObject, around: int) -> None:
    rated = data.draw(rates(grid_s=1, around=around))
    start_us = around + data.draw(st.integers(-2 * DAY, 2 * DAY))
    end_us = start_us + data.draw(st.one_of(st.integers(0, 2 * DAY), st.integers(0, MAX_CALL)))
    cost = cost_of_call(rated, start_us, end_us)
    assert_covered_exactly(cost, start_us, end_us)
    for span in cost.spans:
        inside = (
            data.draw(st.integers(span.start_us, span.end_us - 1)) if len(cost.spans) < 9 else span.start_us
        )
        for instant_us in {span.start_us, inside, span.end_us - 1}:
            winner = None if span.interval is None else span.interval.interval
            assert winner == winner_at(rated, instant_us)
            assert span.activation_us == period_at(rated, instant_us).activation_us


@given(st.data(), turning_points)
@fewer
def test_spans_are_the_longest_stretches_that_the_oracle_finds_step_by_step(
    data: st.DataObject, around: int
) -> None:
    rated = data.draw(rates(around=around))
    quarter = 15 * MINUTE
    start_us = around + data.draw(st.integers(-40, 40)) * quarter
    end_us = start_us + data.draw(st.integers(1, 400)) * quarter
    cost = cost_of_call(rated, start_us, end_us)
    found = [
        (span.start_us, span.end_us, span.activation_us, span.interval and span.interval.interval)
        for span in cost.spans
    ]
    expected = stretches(rated, start_us, end_us, quarter)
    assert found == expected
    assert [span.cost_micros for span in cost.spans] == [cost_of(stretch) for stretch in expected]


@given(st.data(), turning_points)
@fewer
def test_whole_increments_are_charged_as_the_oracle_does_one_by_one(data: st.DataObject, around: int) -> None:
    rated = data.draw(rates(grid_s=60, increments=True, around=around))
    start_us = around + data.draw(st.integers(-1800, 1800)) * SECOND
    end_us = start_us + data.draw(st.integers(1, 3000)) * SECOND
    cost = cost_of_call(rated, start_us, end_us)
    assert_covered_exactly(cost, start_us, end_us)
    expected = stretches(rated, start_us, end_us, SECOND)
    assert [
        (span.start_us, span.end_us, span.activation_us, span.interval and span.interval.interval)
        for span in cost.spans
    ] == expected
    assert [span.cost_micros for span in cost.spans] == [cost_of(stretch) for stretch in expected]


@given(st.data(), turning_points)
@patient
def test_rating_in_two_parts_gives_the_same_total_within_a_micro_per_span(
    data: st.DataObject, around: int
) -> None:
    rated = data.draw(rates(grid_s=1, around=around))
    start_us = around + data.draw(st.integers(-2 * DAY, 2 * DAY))
    middle_us = start_us + data.draw(st.integers(0, 2 * DAY))
    end_us = middle_us + data.draw(st.integers(0, 2 * DAY))
    whole = cost_of_call(rated, start_us, end_us)
    parts = cost_of_call(rated, start_us, middle_us), cost_of_call(rated, middle_us, end_us)
    difference = whole.cost_micros - sum(part.cost_micros for part in parts)
    assert abs(difference) <= sum(len(part.spans) for part in parts)


SETS = (
    Destination("all", ("0",)),
    Destination("mobile", ("07", "0723")),
    Destination("friends", ("0723045", "0256")),
    Destination("abroad", ("00",)),
)
TICK = SECOND // 4  # prices of 1, 2 or 4 and whole credit always end on a tick

accounts = st.builds(
    Account,
    subject=st.just("rif"),
    credit_micros=st.integers(-20, 60).map(lambda cents: cents * 10**6),
    volume_discount_us=st.sampled_from((0, 10 * SECOND, 20 * SECOND)),
    plan=st.sampled_from(("", "discounts")),
    postpaid=st.booleans(),
    min_credit_micros=st.sampled_from((None, 0, -(10**7), 5 * 10**6)),
    buckets=st.lists(
        st.builds(
            Bucket,
            destination=st.sampled_from(("all", "mobile", "friends", "abroad", "unknown")),
            seconds_us=st.integers(0, 40).map(lambda seconds: seconds * SECOND),
            priority=st.integers(-1, 1),
            price_nanos=st.sampled_from((0, 0, price("1"), price("2"), price("4"))),
        ),
        max_size=5,
    ).map(tuple),
)
PLANS = (Plan("discounts", thresholds=(Threshold(10 * SECOND, 10**7), Threshold(20 * SECOND, 33_333_333))),)


@given(accounts, st.data(), turning_points, st.sampled_from(("0723045326", "0723", "0256", "07", "1")))
@patient
def test_buckets_cover_a_call_as_they_would_tick_by_tick(
    account: Account, data: st.DataObject, around: int, number: str
) -> None:
    rated = msgspec.structs.replace(data.draw(rates(around=around)), prefix=number)
    tariff = compile_tariff(Tariff("vdf", (rated,), SETS, PLANS), MAX_CALL)
    ticks = data.draw(st.integers(0, 400))
    end_us = around + ticks * TICK
    cost = rate_call(tariff, Call(0, "vdf", "rif", number, around, end_us), account)
    assert_covered_exactly(cost, around, end_us)

    expected: list[tuple[Bucket, int]] = []
    for bucket in cover_by_ticks(account, SETS, number, ticks, TICK):
        if bucket is None:
            break
        if expected and expected[-1][0] is bucket:
            expected[-1] = (bucket, expected[-1][1] + TICK)
        else:
            expected.append((bucket, TICK))
    bucket_spans = [span for span in cost.spans if span.bucket is not None]
    assert list(cost.spans[: len(bucket_spans)]) == bucket_spans
    assert [
        (span.bucket.destination, span.bucket.price_nanos, span.bucket.quantity_us, span.cost_micros)
        for span in bucket_spans
        if span.bucket is not None
    ] == [
        (bucket.destination, bucket.price_nanos, used_us, used_us * bucket.price_nanos // 10**9)
        for bucket, used_us in expected
    ]
    reached = [each for each in PLANS[0].thresholds if each.volume_us <= account.volume_discount_us]
    off = reached[-1].discount_micros if reached and account.plan else 0
    rest = [span for span in cost.spans if span.bucket is None]
    assert [span.cost_micros for span in rest] == [
        cost_of(
            (span.start_us, span.end_us, 0, None if span.interval is None else span.interval.interval), off
        )
        for span in rest
    ]


@given(
    st.sets(st.tuples(st.sampled_from(("rif", ANY_SUBJECT, "x")), st.text("01", min_size=1, max_size=6))),
    st.sampled_from(("rif", "stranger")),
    st.text("01", max_size=8),
)
def test_the_rate_is_the_longest_prefix_of_the_subject_and_then_of_the_fallback(
    stored: set[tuple[str, str]], subject: str, number: str
) -> None:
    listed = tuple(
        msgspec.structs.replace(FLAT_RATE, subject=owner, prefix=prefix) for owner, prefix in sorted(stored)
    )
    found = compile_tariff(Tariff("vdf", listed), MAX_CALL).find_rate(subject, number)
    for owner in (subject, ANY_SUBJECT):
        fitting = [prefix for name, prefix in stored if name == owner and number.startswith(prefix)]
        if fitting:
            assert found is not None
            assert found.prefix == max(fitting, key=len)
            return
    assert found is None


FLAT_RATE = Rate(0, "rif", "0", "UTC", ())


@given(st.sampled_from(ZONES), st.integers(at("1890-01-01"), at("2150-01-01")))
@settings(deadline=None, max_examples=300)
def test_a_zone_gives_the_offset_of_zoneinfo_until_it_says(name: str, instant_us: int) -> None:
    offset_us, until_us = load_zone(name).offset_at(instant_us)
    assert until_us > instant_us
    for each in (instant_us, (instant_us + until_us) // 2, until_us - 1):
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each)
        assert moment.astimezone(ZoneInfo(name)).utcoffset() == timedelta(microseconds=offset_us)


def test_every_change_of_an_offset_in_a_century_is_found() -> None:
    for name in ZONES:
        zone, here = load_zone(name), ZoneInfo(name)
        instant_us, end_us = at("1960-01-01"), at("2040-01-01")
        while instant_us < end_us:
            offset_us, until_us = zone.offset_at(instant_us)
            hour_us = instant_us
            while hour_us < min(until_us, end_us):  # UTC's is until the year 9999
                moment = datetime.fromtimestamp(hour_us // SECOND, here)
                assert moment.utcoffset() == timedelta(microseconds=offset_us)
                hour_us += 6 * HOUR
            instant_us = until_us


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, msgspec.Struct):
        return [leaf for name in value.__struct_fields__ for leaf in _leaves(getattr(value, name))]
    if isinstance(value, tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for name in value.__dataclass_fields__ for leaf in _leaves(getattr(value, name))]
    return [value]


@given(accounts, st.data(), turning_points)
@patient
def test_no_float_is_anywhere_in_a_call_cost(account: Account, data: st.DataObject, around: int) -> None:
    rated = data.draw(rates(increments=True, around=around))
    tariff = compile_tariff(Tariff("vdf", (rated,), SETS, PLANS), MAX_CALL)
    end_us = around + data.draw(st.integers(0, DAY))
    cost = rate_call(tariff, Call(0, "vdf", "rif", "0723", around, end_us), account)
    assert {type(leaf) for leaf in _leaves(cost)} <= {int, str, type(None)}


@given(st.fractions())
def test_the_oracle_rounds_halves_upwards(exact: Any) -> None:
    assert -1 <= 2 * (exact - half_up(exact)) < 1
