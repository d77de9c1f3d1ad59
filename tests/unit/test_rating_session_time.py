"""GetMaxSessionTime: the figures of 2012, the rules, and rating every candidate by itself."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CallTooLong, NoRate, NotActive
from rater.model import Account, Bucket, Destination, Plan, Tariff, Threshold, spendable_micros
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import Call, rate_call
from tests.unit.rating_oracle import (
    BROKER,
    MAX_CALL,
    MINUTOSU,
    SECOND,
    TARIFF_2012,
    TURNING_POINTS,
    at,
    interval,
    price,
    rate,
    rates,
)

TARIFF = compile_tariff(TARIFF_2012, MAX_CALL)
NOW = at("2012-02-08T22:50")


def session(
    amount: int,
    account: Account | None,
    *,
    subject: str = "rif",
    number: str = "0723",
    tariff: CompiledTariff = TARIFF,
    now_us: int = NOW,
) -> int | str:
    """In seconds; what is not whole comes as text."""
    route = Call(0, "vdf", subject, number, 0, 0)
    granted_us = max_session_us(tariff, route, now_us, amount * SECOND, account)
    return granted_us // SECOND if granted_us % SECOND == 0 else f"{granted_us} us"


@pytest.mark.parametrize(
    ("subject", "account", "amount", "granted"),
    [("rif", None, 1000, 1000), ("minutosu", MINUTOSU, 5400, 1080), ("broker", BROKER, 5400, 100)],
)
def test_sessions_of_2012_are_granted_what_they_must_be(
    subject: str, account: Account | None, amount: int, granted: int
) -> None:
    assert session(amount, account, subject=subject) == granted


def test_without_a_limit_to_the_credit_the_amount_is_granted() -> None:
    postpaid = Account("rif", -(10**9), postpaid=True)
    assert session(1000, postpaid, number="nowhere") == 1000
    assert session(1000, None, number="nowhere") == 1000
    assert session(0, None) == 0
    assert session(-5, MINUTOSU) == 0


def test_a_postpaid_account_with_a_floor_is_limited_by_it() -> None:
    account = Account("rif", 0, postpaid=True, min_credit_micros=-10 * 10**6)
    assert session(1000, account) == 600  # 10 cents, at 1 a minute


def test_credit_can_be_spent_to_the_last_micro() -> None:
    assert session(600, Account("rif", 10 * 10**6)) == 600
    assert session(600, Account("rif", 10 * 10**6 - 1)) == 540


def test_with_nothing_to_spend_only_the_free_buckets_count_in_their_order() -> None:
    assert session(60, BROKER) == 60
    assert session(5400, msgspec.structs.replace(BROKER, credit_micros=-5)) == 100
    only_priced = msgspec.structs.replace(BROKER, buckets=(Bucket("retea", 100 * SECOND, 1, 1),))
    assert session(5400, only_priced) == 0
    assert session(5400, BROKER, number="0723", now_us=at("1999-01-01")) == 100


def test_no_rate_is_needed_for_what_the_buckets_cover() -> None:
    assert session(110, MINUTOSU, subject="minutosu", number="0723", now_us=at("1999-01-01")) == 110
    assert session(10, MINUTOSU, subject="minutosu", number="0740") == 10
    with pytest.raises(NoRate):
        session(11, MINUTOSU, subject="minutosu", number="0740")
    with pytest.raises(NotActive):
        session(111, MINUTOSU, subject="minutosu", number="0723", now_us=at("1999-01-01"))


def test_an_amount_beyond_the_longest_call_is_refused_where_it_would_have_to_be_rated() -> None:
    for account in (MINUTOSU, BROKER):
        with pytest.raises(CallTooLong):
            session(MAX_CALL // SECOND + 1, account)
    assert session(MAX_CALL // SECOND, None) == MAX_CALL // SECOND


def test_the_connect_fee_counts_unless_a_bucket_comes_first() -> None:
    tariff = compile_tariff(
        Tariff("vdf", (rate(interval("1", fee="5")),), (Destination("d", ("0",)),)), MAX_CALL
    )
    assert session(10, Account("rif", 10 * 10**6), tariff=tariff) == 5
    assert session(10, Account("rif", 5_999_999), tariff=tariff) == 0
    one_free_second = Account("rif", 9 * 10**6, buckets=(Bucket("d", SECOND, 0, 0),))
    assert session(10, one_free_second, tariff=tariff) == 10


def test_a_candidate_that_ends_in_an_earlier_span_is_priced_by_that_span() -> None:
    evening = rate(interval("2", end_s=43_200), interval("1", start_s=43_200))
    tariff = compile_tariff(Tariff("vdf", (evening,), (Destination("d", ("0",)),)), MAX_CALL)
    now_us = at("2012-02-02T11:58:20")  # 100 s before the price falls
    assert session(200, Account("rif", 150 * 10**6), tariff=tariff, now_us=now_us) == 60
    half_free = Account("rif", 1, buckets=(Bucket("d", 80 * SECOND, 0, 0),))
    assert session(160, half_free, tariff=tariff, now_us=now_us) == 80


def test_an_amount_that_ten_does_not_divide_is_cut_to_the_microsecond() -> None:
    tariff = compile_tariff(Tariff("vdf", (rate(interval("1")),)), MAX_CALL)
    route = Call(0, "vdf", "rif", "0", 0, 0)
    assert max_session_us(tariff, route, NOW, 1_000_003, Account("rif", 899_999)) == 800_002
    assert max_session_us(tariff, route, NOW, 9, Account("rif", 1)) == 1
    expensive = compile_tariff(Tariff("vdf", (rate(interval("9000000")),)), MAX_CALL)
    assert max_session_us(expensive, route, NOW, 9, Account("rif", 1)) == 0


SETS = (Destination("all", ("0",)), Destination("mobile", ("07", "0723")), Destination("abroad", ("00",)))
PLANS = (Plan("discounts", thresholds=(Threshold(10 * SECOND, 10**7), Threshold(20 * SECOND, 33_333_333))),)

accounts = st.builds(
    Account,
    subject=st.just("rif"),
    credit_micros=st.one_of(st.integers(0, 100), st.integers(0, 10**9), st.integers(0, 10**11)),
    volume_discount_us=st.sampled_from((0, 10 * SECOND, 20 * SECOND)),
    plan=st.sampled_from(("", "discounts")),
    min_credit_micros=st.sampled_from((None, 0, -(10**7), 5 * 10**6)),
    buckets=st.lists(
        st.builds(
            Bucket,
            destination=st.sampled_from(("all", "mobile", "abroad")),
            seconds_us=st.integers(0, 600 * SECOND),
            priority=st.integers(-1, 1),
            price_nanos=st.sampled_from((0, 3, price("0.01"), price("1"), price("2.333333333"))),
        ),
        max_size=4,
    ).map(tuple),
)


@given(st.data(), accounts, st.sampled_from(TURNING_POINTS))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_the_answer_is_that_of_rating_each_candidate_by_itself(
    data: st.DataObject, account: Account, around: int
) -> None:
    rated = data.draw(rates(grid_s=60, increments=True, around=around))
    tariff = compile_tariff(Tariff("vdf", (rated,), SETS, PLANS), MAX_CALL)
    now_us = around + data.draw(st.integers(-3600, 3600)) * SECOND
    amount_us = data.draw(
        st.one_of(st.integers(1, 100), st.integers(1, 7200 * SECOND), st.integers(1, MAX_CALL))
    )
    spendable = spendable_micros(account)
    assert spendable is not None

    def is_affordable(candidate_us: int) -> bool:
        cost = rate_call(tariff, Call(0, "vdf", "rif", "0723", now_us, now_us + candidate_us), account)
        return cost.cost_micros + cost.connect_fee_micros <= spendable

    granted_us = max_session_us(tariff, Call(0, "vdf", "rif", "0723", 0, 0), now_us, amount_us, account)
    if spendable == 0:
        free_us = sum(bucket.seconds_us for bucket in account.buckets if _is_free_here(bucket))
        assert granted_us == min(amount_us, free_us)
    else:
        candidates = [amount_us * step // 10 for step in range(10, 0, -1)]
        assert granted_us == next(filter(is_affordable, candidates), 0)


@given(st.data(), st.sampled_from(TURNING_POINTS), st.integers(1, 10), st.integers(-1, 1))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_credit_at_the_cost_of_a_candidate_decides_it(
    data: st.DataObject, around: int, step: int, difference: int
) -> None:
    rated = data.draw(rates(grid_s=60, increments=True, around=around))
    tariff = compile_tariff(Tariff("vdf", (rated,)), MAX_CALL)
    now_us = around + data.draw(st.integers(-3600, 3600)) * SECOND
    amount_us = data.draw(st.integers(3600 * SECOND, 48 * 3600 * SECOND))

    def cost_of(candidate_us: int) -> int:
        cost = rate_call(tariff, Call(0, "vdf", "rif", "0723", now_us, now_us + candidate_us), None)
        return cost.cost_micros + cost.connect_fee_micros

    candidates = [amount_us * tenth // 10 for tenth in range(10, 0, -1)]
    credit = max(1, cost_of(candidates[step - 1]) + difference)
    granted_us = max_session_us(
        tariff, Call(0, "vdf", "rif", "0723", 0, 0), now_us, amount_us, Account("rif", credit)
    )
    assert granted_us == next((each for each in candidates if cost_of(each) <= credit), 0)


def _is_free_here(bucket: Bucket) -> bool:
    return bucket.price_nanos == 0 and bucket.destination in ("all", "mobile")
