"""The short ways give what the definitions give, to the byte: GetCost in one go, and the table of weeks."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CallTooLong, InvalidParams, NoRate, NotActive, RatelError
from common.times import format_rfc3339
from rater.descriptor import Descriptor
from rater.model import Account, Bucket, Destination, Interval, Plan, Rate, Tariff, Threshold
from rater.rating.call_cost import encode_call_cost
from rater.rating.intervals import compile_intervals
from rater.rating.quote import get_cost
from rater.rating.schedule import Schedule, load_zone, sole_interval, walk, walk_days
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import Call, charge_micros, rate_call
from tests.unit.rating_oracle import (
    DAY,
    HOUR,
    MAX_CALL,
    MINUTE,
    MINUTOSU,
    SECOND,
    TARIFF_2012,
    TURNING_POINTS,
    ZONES,
    at,
    half_up,
    interval,
    intervals,
    price,
    rates,
)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
more = settings(patient, max_examples=300)

turning_points = st.sampled_from(TURNING_POINTS)
SETS = (
    Destination("all", ("0",)),
    Destination('mo"bile\\', ("07", "0723")),
    Destination("abroad", ("00",)),
)
PLANS = (Plan("discounts", thresholds=(Threshold(10 * SECOND, 10**7), Threshold(20 * SECOND, 33_333_333))),)

accounts = st.none() | st.builds(
    Account,
    subject=st.just("rif"),
    credit_micros=st.integers(-(10**7), 10**8),
    volume_discount_us=st.sampled_from((0, 10 * SECOND, 20 * SECOND)),
    plan=st.sampled_from(("", "discounts")),
    postpaid=st.booleans(),
    min_credit_micros=st.sampled_from((None, 0, -(10**7), 5 * 10**6)),
    buckets=st.lists(
        st.builds(
            Bucket,
            destination=st.sampled_from([each.id for each in SETS]),
            seconds_us=st.just(0) | st.integers(-SECOND, HOUR),
            priority=st.integers(0, 1),
            price_nanos=st.sampled_from((0, 0, 7, price("0.333333333"), price("2"))),
        ),
        max_size=3,
    ).map(tuple),
)
"""Buckets are empty, overdrawn, alone or in each other's way, and may match or not."""


def without_months(rate: Rate) -> Rate:
    return msgspec.structs.replace(
        rate,
        periods=tuple(
            msgspec.structs.replace(period, intervals=tuple(map(any_month, period.intervals)))
            for period in rate.periods
        ),
    )


def any_month(each: Interval) -> Interval:
    return msgspec.structs.replace(each, month=0, month_day=0)


@st.composite
def stretches(draw: st.DrawFn, around: int) -> tuple[int, int]:
    """Start and end, in seconds or to the microsecond, empty or up to a month long."""
    unit_us = draw(st.sampled_from((1, SECOND, 15 * MINUTE)))
    start_us = around + draw(st.integers(-2 * DAY // unit_us, 2 * DAY // unit_us)) * unit_us
    longest_us = draw(st.sampled_from((HOUR, 2 * DAY, 8 * DAY, MAX_CALL)))
    return start_us, start_us + draw(st.integers(0, longest_us // unit_us)) * unit_us


def outcome_by_definition(tariff: CompiledTariff, asked: Descriptor, account: Account | None) -> object:
    call = Call(asked.tor, asked.tenant, asked.subject, asked.destination, asked.start_us, asked.end_us)
    try:
        return encode_call_cost(rate_call(tariff, call, account))
    except RatelError as error:
        return type(error), error.message


def outcome(tariff: CompiledTariff, asked: Descriptor, account: Account | None) -> object:
    try:
        return get_cost(tariff, asked, account)
    except RatelError as error:
        return type(error), error.message


def descriptor(number: str, start_us: int, end_us: int, *, written: bool, subject: str = "rif") -> Descriptor:
    texts = (format_rfc3339(start_us), format_rfc3339(end_us)) if written else ("", "")
    return Descriptor(3, "vdf", subject, number, start_us, end_us, 0, "", *texts)


@given(st.data(), turning_points, accounts, st.booleans(), st.booleans())
@more
def test_get_cost_is_the_encoded_call_cost(
    data: st.DataObject, around: int, account: Account | None, weekly: bool, written: bool
) -> None:
    rated = data.draw(rates(grid_s=1, increments=data.draw(st.booleans()), around=around))
    if weekly:
        rated = without_months(rated)
    tariff = compile_tariff(Tariff("vdf", (rated,), SETS, PLANS), MAX_CALL)
    start_us, end_us = data.draw(stretches(around))
    number = data.draw(st.sampled_from(("0723045326", "0256", "0")))
    asked = descriptor(number, start_us, end_us, written=written)
    assert outcome(tariff, asked, account) == outcome_by_definition(tariff, asked, account)


@pytest.mark.parametrize(
    "text", ["rif", "été٣", 'r"if', "r\\if", "r\nif", "\x7f\x00", "+40 72", "\u2028", "😀"]
)
@pytest.mark.parametrize("field", ["tenant", "subject", "destination"])
def test_get_cost_writes_any_text_as_the_definition_does(field: str, text: str) -> None:
    [rate, *_] = TARIFF_2012.rates
    prefix = text if field == "destination" else rate.prefix
    anybodys = msgspec.structs.replace(rate, subject="*any", prefix=prefix)
    tariff = compile_tariff(msgspec.structs.replace(TARIFF_2012, rates=(anybodys,)), MAX_CALL)
    asked = descriptor(prefix + "1", at("2012-02-02T17:30"), at("2012-02-02T18:30"), written=True)
    if field != "destination":
        asked = msgspec.structs.replace(asked, **{field: text})
    found = get_cost(tariff, asked, None)
    assert found == outcome_by_definition(tariff, asked, None)
    assert text in (msgspec.json.decode(found)[name] for name in ("CstmId", "Subject", "DestinationPrefix"))


@pytest.mark.parametrize(
    ("number", "start", "end", "error"),
    [
        ("0999", "2012-02-02T17:30", "2012-02-02T18:30", NoRate),
        ("0256", "2011-02-02T17:30", "2011-02-02T18:30", NotActive),
        ("0256", "2012-02-02T17:30", "2012-03-05T18:30", CallTooLong),
        ("0256", "2012-02-02T17:30", "2012-02-02T17:29", InvalidParams),
    ],
)
@pytest.mark.parametrize("account", [None, MINUTOSU])
def test_get_cost_refuses_what_the_definition_refuses_with_the_same_words(
    number: str, start: str, end: str, error: type[RatelError], account: Account | None
) -> None:
    tariff = compile_tariff(TARIFF_2012, MAX_CALL)
    asked = descriptor(number, at(start), at(end), written=True)
    assert outcome(tariff, asked, account) == outcome_by_definition(tariff, asked, account)
    with pytest.raises(error):
        get_cost(tariff, asked, account)


@given(
    st.lists(intervals(grid_s=1).map(any_month), max_size=5).map(tuple),
    st.sampled_from(ZONES),
    st.data(),
    turning_points,
)
@more
def test_the_table_of_weeks_gives_the_pieces_that_going_day_by_day_gives(
    listed: tuple[Interval, ...], zone_name: str, data: st.DataObject, around: int
) -> None:
    schedule, zone = Schedule(compile_intervals(listed)), load_zone(zone_name)
    assert schedule.weeks_repeat
    start_us, end_us = data.draw(stretches(around))
    if start_us < end_us:
        pieces = walk_days(schedule, zone, 0, start_us, end_us)
        assert walk(schedule, zone, 0, start_us, end_us) == pieces
        sole = sole_interval(schedule, zone, start_us, end_us)
        assert sole is None or pieces == [(start_us, end_us, 0, sole)]


def test_a_call_over_a_clock_change_is_not_read_off_the_table() -> None:
    # 3:00 becomes 4:00, so the night ends while by the old clock there is still half an hour of it left.
    night, day = interval("1", end_s=4 * 3600), interval("2", start_s=4 * 3600)
    schedule, zone = Schedule(compile_intervals((night, day))), load_zone("Europe/Bucharest")
    start_us, change_us, end_us = (at(f"2012-03-25T{time}") for time in ("00:30", "01:00", "01:20"))
    assert sole_interval(schedule, zone, start_us, end_us) is None
    assert [
        (piece[1], piece[3].interval) for piece in walk(schedule, zone, 0, start_us, end_us) if piece[3]
    ] == [
        (change_us, night),
        (end_us, day),
    ]
    for (from_us, until_us), winner in (((start_us, change_us), night), ((change_us, end_us), day)):
        sole = sole_interval(schedule, zone, from_us, until_us)
        assert sole is not None
        assert sole.interval == winner


@given(intervals(increments=True), st.integers(0, MAX_CALL), st.sampled_from((0, 10**7, 33_333_333)))
@more
def test_a_charge_is_the_exact_price_rounded_half_up_once(
    priced_by: Interval, duration_us: int, discount_micros: int
) -> None:
    (compiled,) = compile_intervals((priced_by,))
    increment_us = priced_by.increment_us
    charged_us = duration_us + (-duration_us % increment_us if increment_us else 0)
    exact = Fraction(charged_us * priced_by.price_nanos, priced_by.billing_unit_us * 1000)
    exact *= 1 - Fraction(discount_micros, 10**8)
    assert charge_micros(compiled, duration_us, discount_micros) == half_up(exact)
