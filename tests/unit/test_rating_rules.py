"""The rating rules one by one, and the figures that must come out for the tariff of 2012."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CallTooLong, InvalidParams, NoRate, NotActive
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
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import Call, rate_call
from rater.rating.values import CallCost
from tests.unit.rating_oracle import (
    HOUR,
    MAX_CALL,
    MINUTOSU,
    SECOND,
    TARIFF_2012,
    WORKDAYS,
    at,
    interval,
    price,
    rate,
)

TARIFF = compile_tariff(TARIFF_2012, MAX_CALL)


def compiled(
    *rates: Rate, destinations: tuple[Destination, ...] = (), plans: tuple[Plan, ...] = ()
) -> CompiledTariff:
    return compile_tariff(Tariff("vdf", rates, destinations, plans), MAX_CALL)


def rated(
    tariff: CompiledTariff,
    start: str,
    end: str,
    *,
    subject: str = "rif",
    number: str = "0256",
    account: Account | None = None,
) -> CallCost:
    return rate_call(tariff, Call(0, "vdf", subject, number, at(start), at(end)), account)


def prices_and_seconds(cost: CallCost) -> list[tuple[int | None, int]]:
    """(nanos of the interval, seconds) of each span."""
    return [
        (
            None if span.interval is None else span.interval.price_nanos,
            (span.end_us - span.start_us) // SECOND,
        )
        for span in cost.spans
    ]


@pytest.mark.parametrize(
    ("subject", "number", "start", "end", "account", "cost_micros", "prefix"),
    [
        ("rif", "0256", "2012-02-02T17:30", "2012-02-02T18:30", None, 540_000_000, "0256"),
        ("rif", "0256308200", "2012-02-02T17:30", "2012-02-02T18:30", None, 540_000_000, "0256"),
        ("rif", "0257308200", "2012-02-08T17:30", "2012-02-08T18:30", None, 330_000_000, "0257"),
        ("rif", "0257308200", "2012-02-07T23:50", "2012-02-08T00:30", None, 360_000_000, "0257"),
        ("rif", "0257308200", "2012-02-08T23:50", "2012-02-08T23:50:30", None, 500_000, "0257"),
        ("rif", "0723045326", "2012-02-08T22:50", "2012-02-08T23:50:21", None, 60_350_000, "0723"),
        ("minutosu", "0723", "2012-02-08T22:50", "2012-02-08T22:51:50", MINUTOSU, 100_000, "0723"),
        (
            "rif",
            "0723",
            "2012-02-02T17:30",
            "2012-02-02T18:30",
            Account("rif", volume_discount_us=105 * SECOND, plan="two"),
            54_000_000,
            "0723",
        ),
    ],
)
def test_calls_of_2012_cost_what_they_must(
    subject: str, number: str, start: str, end: str, account: Account | None, cost_micros: int, prefix: str
) -> None:
    cost = rated(TARIFF, start, end, subject=subject, number=number, account=account)
    assert (cost.cost_micros, cost.prefix) == (cost_micros, prefix)
    assert cost.connect_fee_micros == 0


# --- finding the rate ---------------------------------------------------------------------------


def test_the_longest_prefix_wins_down_to_one_character() -> None:
    tariff = compiled(*(rate(interval("1"), prefix=prefix) for prefix in ("0", "02", "0256", "025630")))
    for number, prefix in (("0", "0"), ("01", "0"), ("025", "02"), ("02563", "0256"), ("0256309", "025630")):
        found = tariff.find_rate("rif", number)
        assert found is not None
        assert found.prefix == prefix
    assert tariff.find_rate("rif", "1") is None
    assert tariff.find_rate("rif", "") is None


def test_the_fallback_subject_is_asked_after_the_subject() -> None:
    tariff = compiled(
        rate(interval("1"), prefix="02"),
        rate(interval("2"), subject="*any", prefix="0256"),
        rate(interval("3"), subject="*any", prefix="07"),
    )
    own, fallback = tariff.find_rate("rif", "0256"), tariff.find_rate("rif", "0723")
    assert own is not None
    assert own.prefix == "02"  # a shorter prefix of its own comes before a longer one of the fallback
    assert fallback is not None
    assert fallback.prefix == "07"
    assert tariff.find_rate("someone", "0256") is not None


def test_equal_rates_share_one_plan_and_equal_interval_lists_one_schedule() -> None:
    tariff = compiled(
        rate(interval("1"), prefix="01"),
        rate(interval("1"), prefix="02"),
        rate(interval("1"), prefix="03", since="2011-01-01"),
        rate(interval("1"), prefix="04", zone="Asia/Kathmandu"),
    )
    plans = [found.plan for prefix in ("01", "02", "03", "04") if (found := tariff.find_rate("rif", prefix))]
    assert plans[0] is plans[1]
    assert plans[1] is not plans[2]
    assert plans[1] is not plans[3]
    assert len({id(plan.schedules[0]) for plan in plans}) == 1


def test_matching_destinations_come_with_their_longest_matching_prefix() -> None:
    tariff = compiled(
        destinations=(
            Destination("national", ("0", "07", "0256")),
            Destination("mobile", ("0723", "07")),
            Destination("abroad", ("00",)),
            Destination("friend", ("0723045326",)),
        )
    )
    assert dict(tariff.matching_destinations("0723045326")) == {"national": 2, "mobile": 4, "friend": 10}
    assert dict(tariff.matching_destinations("0256")) == {"national": 4}
    assert dict(tariff.matching_destinations("07")) == {"national": 2, "mobile": 2}
    assert tariff.matching_destinations("1") == ()


def test_an_unknown_time_zone_is_refused_by_name() -> None:
    for name in ("Mars/Olympus", "", "../../etc/passwd", "Europe"):
        with pytest.raises(ValueError, match="expected an IANA time zone"):
            compiled(rate(interval("1"), zone=name))


# --- refusals -----------------------------------------------------------------------------------


def test_a_number_without_a_rate_is_refused() -> None:
    with pytest.raises(NoRate, match="'rif' and destination '0999'"):
        rated(TARIFF, "2012-02-02", "2012-02-02T01:00", number="0999")


def test_a_call_before_the_first_activation_is_refused() -> None:
    with pytest.raises(NotActive, match="2012-01-01T00:00:00Z, after the start 2011-12-31T23:59:59Z"):
        rated(TARIFF, "2011-12-31T23:59:59", "2012-01-01T01:00")
    assert rated(TARIFF, "2012-01-01", "2012-01-01T01:00").cost_micros == 360_000_000


def test_a_call_longer_than_the_maximum_is_refused() -> None:
    assert rated(TARIFF, "2012-02-01", "2012-03-03").cost_micros > 0
    with pytest.raises(
        CallTooLong, match=r"a call of 2678401 s is too long, the longest that is rated is 2678400 s"
    ):
        rated(TARIFF, "2012-02-01", "2012-03-03T00:00:01")


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(InvalidParams, match="TimeEnd: is before TimeStart"):
        rated(TARIFF, "2012-02-02T01:00", "2012-02-02")


def test_a_call_of_no_length_has_no_spans_and_costs_nothing() -> None:
    tariff = compiled(rate(interval("1", fee="5")))
    cost = rated(tariff, "2012-02-02", "2012-02-02")
    assert (cost.spans, cost.cost_micros, cost.connect_fee_micros) == ((), 0, 0)


# --- intervals ----------------------------------------------------------------------------------


def test_the_higher_ponder_wins_over_the_cheaper_price() -> None:
    holiday = interval("9", month=12, month_day=25, ponder=10)
    tariff = compiled(rate(interval("1"), holiday))
    cost = rated(tariff, "2012-12-24T23:00", "2012-12-26T01:00")
    assert prices_and_seconds(cost) == [
        (price("1"), 3600),
        (price("9"), 86_400),
        (price("1"), 3600),
    ]


def test_on_equal_ponder_the_cheaper_per_second_wins_whatever_its_billing_unit() -> None:
    per_minute, per_second = interval("59", unit_s=60), interval("1")
    for listed in ((per_minute, per_second), (per_second, per_minute)):
        cost = rated(compiled(rate(*listed)), "2012-02-02", "2012-02-02T00:01")
        assert cost.cost_micros == 59_000_000


def test_prices_that_no_float_can_tell_apart_are_compared_exactly() -> None:
    dearer = interval("3.000000001", unit_s=3)
    listed = (dearer, interval("1"), interval("9007199.254740993", unit_s=9007199))
    cost = rated(compiled(rate(*listed)), "2012-02-02", "2012-02-02T00:00:01")
    assert cost.spans[0].interval is not None
    assert cost.spans[0].interval.interval == listed[1]


def test_on_equal_ponder_and_price_the_first_listed_wins() -> None:
    first, second = interval("60", unit_s=60, fee="3"), interval("1", fee="4")
    assert rated(compiled(rate(first, second)), "2012-02-02", "2012-02-03").connect_fee_micros == 3_000_000
    assert rated(compiled(rate(second, first)), "2012-02-02", "2012-02-03").connect_fee_micros == 4_000_000


def test_time_that_no_interval_covers_costs_nothing_and_says_so() -> None:
    tariff = compiled(rate(interval("1", start_s=8 * 3600, end_s=20 * 3600, days=WORKDAYS, fee="7")))
    cost = rated(tariff, "2012-02-03T19:00", "2012-02-06T09:00")  # Friday to Monday
    assert prices_and_seconds(cost) == [(price("1"), 3600), (None, 60 * 3600), (price("1"), 3600)]
    assert cost.cost_micros == 7200 * 10**6
    assert cost.connect_fee_micros == 7 * 10**6
    assert rated(tariff, "2012-02-04", "2012-02-07").connect_fee_micros == 0


def test_a_period_without_intervals_is_all_gap() -> None:
    cost = rated(compiled(rate()), "2012-02-03", "2012-02-29")
    assert prices_and_seconds(cost) == [(None, 26 * 86_400)]


def test_an_interval_goes_on_over_midnight_in_one_span() -> None:
    cost = rated(
        compiled(rate(interval("1"), interval("5", month=7, ponder=1))), "2012-02-02T12:00", "2012-02-05"
    )
    assert len(cost.spans) == 1


def test_spans_are_split_at_an_activation_time_though_the_interval_stays() -> None:
    same = (interval("1"),)
    periods = tuple(ActivationPeriod(at(since), same) for since in ("2012-01-01", "2012-02-08", "2012-03-01"))
    cost = rated(compiled(Rate(0, "rif", "0", "UTC", periods)), "2012-02-07T23:00", "2012-02-08T01:00")
    assert [span.activation_us for span in cost.spans] == [at("2012-01-01"), at("2012-02-08")]
    assert [span.end_us - span.start_us for span in cost.spans] == [HOUR, HOUR]


def test_each_span_is_rounded_once_half_up_and_the_cost_is_their_sum() -> None:
    half = interval("0.000001", start_s=0, end_s=43_200, unit_s=2)  # half a micro-cent a second
    tariff = compiled(rate(half, interval("0.000001", start_s=43_200, unit_s=2)))
    cost = rated(tariff, "2012-02-02T11:59:59", "2012-02-02T12:00:01")
    assert [span.cost_micros for span in cost.spans] == [1, 1]
    assert cost.cost_micros == 2


def test_time_of_day_is_that_of_the_zone_and_the_hour_that_is_skipped_never_occurs() -> None:
    night = interval("1", start_s=3 * 3600, end_s=4 * 3600)  # 03:00 to 04:00
    tariff = compiled(rate(night, interval("5", ponder=-1), zone="Europe/Bucharest"))
    skipped = rated(tariff, "2012-03-25T02:00+02:00", "2012-03-25T05:00+03:00")
    assert prices_and_seconds(skipped) == [(price("5"), 2 * 3600)]
    repeated = rated(tariff, "2012-10-28T02:00+03:00", "2012-10-28T05:00+02:00")
    assert prices_and_seconds(repeated) == [(price("5"), 3600), (price("1"), 2 * 3600), (price("5"), 3600)]


def test_an_interval_that_begins_within_the_repeated_hour_wins_twice() -> None:
    half_past = interval("1", start_s=3 * 3600 + 1800, end_s=4 * 3600)
    tariff = compiled(rate(half_past, interval("5", ponder=-1), zone="Europe/Bucharest"))
    cost = rated(tariff, "2012-10-28T03:00+03:00", "2012-10-28T04:00+02:00")
    assert prices_and_seconds(cost) == [
        (price("5"), 1800),
        (price("1"), 1800),
        (price("5"), 1800),
        (price("1"), 1800),
    ]


def test_the_discount_is_that_of_the_highest_threshold_reached() -> None:
    for seconds, cost_micros in ((99, 60), (100, 54), (499, 54), (500, 48), (10**6, 48)):
        account = Account("rif", volume_discount_us=seconds * SECOND, plan="two")
        cost = rated(TARIFF, "2012-02-02T17:30", "2012-02-02T18:30", number="0723", account=account)
        assert cost.cost_micros == cost_micros * 10**6
    stranger = Account("rif", volume_discount_us=10**12, plan="no such plan")
    assert (
        rated(TARIFF, "2012-02-02", "2012-02-02T01:00", number="0723", account=stranger).cost_micros
        == 60 * 10**6
    )


# --- increments ---------------------------------------------------------------------------------


def test_an_increment_is_charged_whole_and_taken_from_the_next_span() -> None:
    day, night = interval("2", end_s=64_800, increment_s=60), interval("1", start_s=64_800)
    cost = rated(compiled(rate(day, night)), "2012-02-02T17:59:30", "2012-02-02T18:02")
    assert prices_and_seconds(cost) == [(price("2"), 60), (price("1"), 90)]
    assert cost.cost_micros == (120 + 90) * 10**6


def test_the_last_span_ends_with_the_call_but_is_charged_the_whole_increment() -> None:
    cost = rated(compiled(rate(interval("1", increment_s=60))), "2012-02-02", "2012-02-02T00:01:01")
    assert prices_and_seconds(cost) == [(price("1"), 61)]
    assert cost.cost_micros == 120 * 10**6


def test_an_increment_may_swallow_the_next_span_a_gap_and_an_activation() -> None:
    periods = (
        ActivationPeriod(at("2012-01-01"), (interval("1", start_s=86_000, end_s=86_390, increment_s=60),)),
        ActivationPeriod(at("2012-02-03"), (interval("7", end_s=20), interval("9", start_s=20))),
    )
    tariff = compiled(Rate(0, "rif", "0", "UTC", periods))
    cost = rated(tariff, "2012-02-02T23:59:25", "2012-02-03T00:01")
    assert prices_and_seconds(cost) == [(price("1"), 60), (price("9"), 35)]
    assert [span.activation_us for span in cost.spans] == [at("2012-01-01"), at("2012-02-03")]
    swallowed = rated(tariff, "2012-02-02T23:59:25", "2012-02-03T00:00:10")
    assert prices_and_seconds(swallowed) == [(price("1"), 45)]
    assert swallowed.cost_micros == 60 * 10**6


def test_an_increment_that_bridges_a_short_interval_leaves_one_span() -> None:
    happy_seconds = interval("0", start_s=43_200, end_s=43_210, ponder=1)
    tariff = compiled(rate(interval("1", increment_s=60), happy_seconds))
    cost = rated(tariff, "2012-02-02T11:59:30", "2012-02-02T12:01")
    assert prices_and_seconds(cost) == [(price("1"), 90)]
    assert cost.cost_micros == 120 * 10**6


# --- buckets ------------------------------------------------------------------------------------

SETS = (Destination("wide", ("07",)), Destination("narrow", ("0723",)), Destination("other", ("0723",)))


def bucket_order(*buckets: Bucket, **account: Any) -> list[tuple[str, int, int]]:
    tariff = compiled(rate(interval("1", fee="3")), destinations=SETS)
    caller = Account("rif", buckets=buckets, **{"credit_micros": 10**9, **account})
    cost = rated(tariff, "2012-02-02", "2012-02-02T01:00", number="0723", account=caller)
    assert cost.connect_fee_micros == (3 * 10**6 if cost.spans[0].bucket is None else 0)
    return [
        (span.bucket.destination, span.bucket.quantity_us // SECOND, span.cost_micros)
        for span in cost.spans
        if span.bucket is not None
    ]


def test_buckets_are_consumed_by_priority_then_precision_then_price_then_id() -> None:
    ten = 10 * SECOND
    order = bucket_order(
        Bucket("other", ten, 1, 0),
        Bucket("narrow", ten + 1 * SECOND, 1, price("0.5")),
        Bucket("narrow", ten + 2 * SECOND, 1, 0),
        Bucket("wide", ten + 3 * SECOND, 1, 0),
        Bucket("wide", ten + 4 * SECOND, 2, price("3")),
        Bucket("unknown", ten, 9, 0),
    )
    assert order == [
        ("wide", 14, 42 * 10**6),
        ("narrow", 12, 0),
        ("other", 10, 0),
        ("narrow", 11, 5_500_000),
        ("wide", 13, 0),
    ]


def test_a_priced_bucket_covers_only_what_the_credit_can_pay_for() -> None:
    priced, free = Bucket("narrow", 100 * SECOND, 5, price("2")), Bucket("narrow", 50 * SECOND, 1, 0)
    assert bucket_order(priced, free, credit_micros=30 * 10**6) == [
        ("narrow", 15, 30 * 10**6),
        ("narrow", 50, 0),
    ]
    assert bucket_order(priced, free, credit_micros=0) == [("narrow", 50, 0)]
    assert bucket_order(priced, free, credit_micros=-5) == [("narrow", 50, 0)]
    assert bucket_order(priced, credit_micros=0) == []
    above_floor = bucket_order(priced, credit_micros=0, min_credit_micros=-40 * 10**6)
    assert above_floor == [("narrow", 20, 40 * 10**6)]
    unlimited = bucket_order(priced, credit_micros=-5, postpaid=True)
    assert unlimited == [("narrow", 100, 200 * 10**6)]


def test_the_cost_of_a_bucket_cut_by_the_credit_is_never_above_the_credit() -> None:
    for credit in range(1, 40):
        used = bucket_order(Bucket("narrow", 1000 * SECOND, 1, price("0.000000007")), credit_micros=credit)
        assert used == [] or used[0][2] <= credit


def test_bucket_spans_say_which_period_they_began_in_and_get_no_discount() -> None:
    tariff = TARIFF_2012.rates[1]
    plans = (Plan("half", thresholds=(Threshold(0, 50 * 10**6),)),)
    destinations = (Destination("d", ("0257",)),)
    caller = Account(
        "rif",
        10**9,
        plan="half",
        buckets=(Bucket("d", 600 * SECOND, 2, price("0.01")), Bucket("d", 60 * SECOND, 1, price("0.02"))),
    )
    cost = rated(
        compiled(tariff, destinations=destinations, plans=plans),
        "2012-02-07T23:55",
        "2012-02-08T00:12",
        number="0257",
        account=caller,
    )
    assert [(span.activation_us, span.cost_micros) for span in cost.spans] == [
        (at("2012-01-01"), 6 * 10**6),
        (at("2012-02-08"), 1_200_000),
        (at("2012-02-08"), 30 * 10**6),  # 6 minutes at 10, less one half
    ]


def test_a_call_within_a_bucket_has_one_span_and_needs_its_rate_none_the_less() -> None:
    cost = rated(
        TARIFF, "2012-02-02", "2012-02-02T00:01", subject="minutosu", number="0723", account=MINUTOSU
    )
    assert [span.interval for span in cost.spans] == [None]
    with pytest.raises(NoRate):
        rated(TARIFF, "2012-02-02", "2012-02-02T00:01", subject="minutosu", number="0724", account=MINUTOSU)
    with pytest.raises(NotActive):
        rated(TARIFF, "2011-02-02", "2011-02-02T00:01", subject="minutosu", number="0723", account=MINUTOSU)


# --- long calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "Europe/Bucharest", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "listed",
    [
        (interval("1"),),
        (interval("1"), interval("2", start_s=3600, end_s=7200)),
        (interval("1"), interval("2", month=12, ponder=1)),
        (interval("1", days=(0, 1, 2, 3, 4, 5, 6)),),
        (),
    ],
)
def test_a_flat_call_of_31_days_is_one_span_and_looks_at_three_days_at_most(
    zone: str, listed: tuple[Interval, ...]
) -> None:
    tariff = compiled(rate(*listed, zone=zone))
    cost = rated(tariff, "2012-03-12T12:00", "2012-04-12T12:00")
    assert len(cost.spans) == 1
    found = tariff.find_rate("rif", "0256")
    assert found is not None
    assert len(found.plan.schedules[0].days) <= 3  # the first, one after a clock change, one after 32 days


def test_the_days_that_a_schedule_remembers_are_bounded() -> None:
    tariff = compiled(rate(interval("1", end_s=3600), interval("2", start_s=3600)))
    found = tariff.find_rate("rif", "0")
    assert found is not None
    days = found.plan.schedules[0].days
    for day in range(20_000):
        days[day]
    assert len(days) <= 1024


def test_calls_at_the_ends_of_the_calendar_are_rated() -> None:
    for zone in ("Pacific/Kiritimati", "America/Adak", "UTC"):
        tariff = compiled(rate(interval("1", days=WORKDAYS), zone=zone, since="0001-01-01"))
        first = rated(tariff, "0001-01-01T00:00:00", "0001-01-20T00:00:00")
        last = rated(tariff, "9999-12-10T00:00:00", "9999-12-31T23:59:59")
        assert first.spans[0].start_us == at("0001-01-01")
        assert last.spans[-1].end_us == at("9999-12-31T23:59:59")
        assert len(first.spans) >= 5
        assert len(last.spans) >= 5


def test_a_call_to_the_microsecond_keeps_it() -> None:
    cost = rated(compiled(rate(interval("1"))), "2012-02-02T00:00:00.000001", "2012-02-02T00:00:00.500002")
    assert cost.cost_micros == 500_001
    assert (cost.spans[0].start_us, cost.spans[0].end_us) == (
        at("2012-02-02") + 1,
        at("2012-02-02") + 500_002,
    )
