"""What each mutation computes, the journal line that it writes, and what it refuses.

The figures are those of docs/rating.md: buckets `nationale` 10 s priority 10 and `retea` 100 s
priority 20, dialled 0723.
"""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import (
    BelowFloor,
    InsufficientCredit,
    InsufficientSeconds,
    InsufficientSms,
    NoBucket,
    NoTariffPlan,
    OutOfRange,
    TooManyBuckets,
    UnknownSubject,
)
from common.money import LIMIT
from rater.accounts.mutation import PlanChanged
from rater.accounts.mutations import parse_journal_buckets
from rater.accounts.opening import Opening
from rater.model import MAX_BUCKETS, Account, Bonus, Bucket, Plan
from rater.store.keys import account_keys

MICRO = 1_000_000
DIALLED: dict[str, Any] = {"destination": "0723", "matches": (("nationale", 2), ("retea", 4))}


def account(credit: int = 21, retea_price: int = 0, **fields: Any) -> Account:
    values: dict[str, Any] = {
        "credit_micros": credit * MICRO,
        "buckets": (
            Bucket("nationale", 10 * MICRO, 10, 0),
            Bucket("retea", 100 * MICRO, 20, retea_price * 1_000_000_000),
        ),
    }
    return Account("rif", **(values | fields))


def seconds(accounts: Any) -> dict[str, float]:
    return {bucket.destination: bucket.seconds_us / MICRO for bucket in accounts.read().buckets}


def credit(accounts: Any) -> float:
    return float(accounts.read().credit_micros / MICRO)


# --- seconds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "retea", "nationale"), [(6, 94, 10), (100, 0, 10), (105, 0, 5), (110, 0, 0), (-15, 115, 10)]
)
def test_seconds_come_from_free_buckets_by_priority(
    accounts: Any, amount: int, retea: int, nationale: int
) -> None:
    accounts.open(account())
    assert accounts.run("DebitSeconds", amount, **DIALLED) == retea + nationale
    assert seconds(accounts) == {"retea": retea, "nationale": nationale}
    assert credit(accounts) == 21


def test_more_seconds_than_there_are_is_refused(accounts: Any) -> None:
    accounts.open(account())
    error = accounts.refuse("DebitSeconds", 115, **DIALLED)
    assert isinstance(error, InsufficientSeconds)
    assert error.data == {"amount": "115", "seconds": "110"}


@pytest.mark.parametrize(("amount", "retea", "left"), [(5, 95, 16), (21, 79, 0), (-15, 115, 36)])
def test_priced_seconds_cost_credit(accounts: Any, amount: int, retea: int, left: int) -> None:
    accounts.open(account(retea_price=1))
    accounts.run("DebitSeconds", amount, **DIALLED)
    assert seconds(accounts)["retea"] == retea
    assert credit(accounts) == left
    assert accounts.journal()[-1]["cost"] == str((21 - left) * MICRO).encode()


def test_priced_seconds_beyond_the_credit_are_refused_and_not_taken_from_the_next_bucket(
    accounts: Any,
) -> None:
    accounts.open(account(retea_price=1))
    error = accounts.refuse("DebitSeconds", 25, **DIALLED)
    assert isinstance(error, InsufficientCredit)
    assert error.data == {"cost": "25", "credit": "21"}


@pytest.mark.parametrize(
    ("fields", "fits", "too_much"),
    [
        ({"min_credit_micros": 11 * MICRO}, 10, 11),
        ({"min_credit_micros": -4 * MICRO}, 25, 26),
        ({"min_credit_micros": 11 * MICRO, "postpaid": True}, 10, 11),
        ({"postpaid": True}, 100, None),
    ],
)
def test_what_can_be_spent_depends_on_floor_and_type(
    accounts: Any, fields: dict[str, Any], fits: int, too_much: int | None
) -> None:
    accounts.open(account(retea_price=1, **fields))
    if too_much is not None:
        assert isinstance(accounts.refuse("DebitSeconds", too_much, **DIALLED), InsufficientCredit)
    accounts.run("DebitSeconds", fits, **DIALLED)
    assert credit(accounts) == 21 - fits


def test_free_seconds_need_no_credit(accounts: Any) -> None:
    accounts.open(account(credit=-5))
    assert accounts.run("DebitSeconds", 10, **DIALLED) == 100


def test_a_bucket_s_cost_is_rounded_once_half_up(accounts: Any) -> None:
    half = Bucket("retea", 100 * MICRO, 20, 500_000_000)
    accounts.open(Account("rif", credit_micros=10, buckets=(half,)))
    accounts.run("DebitSeconds", 0.000003, **DIALLED)
    assert accounts.read().credit_micros == 8
    accounts.run("DebitSeconds", -0.000003, **DIALLED)
    assert accounts.read().credit_micros == 10


def test_the_order_of_buckets_is_priority_precision_price_destination_place(accounts: Any) -> None:
    cents = 1_000_000_000
    order = (
        Bucket("z", MICRO, 2, 5 * cents),
        Bucket("long", MICRO, 1, 9 * cents),
        Bucket("b", MICRO, 1, 1 * cents),
        Bucket("é", MICRO, 1, 1 * cents),
        Bucket("é", 2 * MICRO, 1, 1 * cents),
        Bucket("a", MICRO, 1, 2 * cents),
        Bucket("z", MICRO, -1, 0),
    )
    matches = (("é", 2), ("z", 1), ("b", 2), ("a", 2), ("long", 9))
    shuffled = (order[6], order[2], order[0], order[3], order[5], order[4], order[1])
    accounts.open(Account("rif", credit_micros=1000 * MICRO, buckets=shuffled))
    emptied = []
    for _ in range(8):
        before = accounts.read().buckets
        accounts.run("DebitSeconds", 1, destination="0", matches=matches)
        changed = [old for old, new in zip(before, accounts.read().buckets, strict=True) if old != new]
        emptied += changed
    assert emptied == [*order[:5], Bucket("é", MICRO, 1, 1 * cents), *order[5:]]


def test_buckets_that_do_not_match_are_not_touched(accounts: Any) -> None:
    accounts.open(account())
    only = {"destination": "0256", "matches": (("nationale", 2),)}
    assert accounts.run("DebitSeconds", 4, **only) == 6
    assert isinstance(accounts.refuse("DebitSeconds", 7, **only), InsufficientSeconds)
    assert seconds(accounts) == {"retea": 100, "nationale": 6}


def test_without_a_matching_bucket_there_is_nothing_to_take_from_or_to_give_to(accounts: Any) -> None:
    accounts.open(account())
    assert isinstance(accounts.refuse("DebitSeconds", 1, destination="99"), InsufficientSeconds)
    error = accounts.refuse("DebitSeconds", -1, destination="99")
    assert isinstance(error, NoBucket)
    assert error.data == {"subject": "rif", "destination": "99"}
    assert accounts.run("DebitSeconds", 0, destination="99") == 0


def test_destination_ids_may_hold_anything(accounts: Any) -> None:
    names = ("a b", "1 2 3", "x\ny", "{:}%", "", "😀'\"", "nul\0nul", "5:a b,")
    accounts.open(Account("rif", buckets=tuple(Bucket(name, MICRO, 1, 0) for name in names)))
    for name in names:
        assert accounts.run("DebitSeconds", 1, destination=name, matches=((name, 1),)) == 0
        assert {bucket.destination: bucket.seconds_us for bucket in accounts.read().buckets}[name] == 0
    assert parse_journal_buckets(accounts.journal()[-1]["buckets"]) == accounts.read().buckets


# --- credit, SMS, counters ------------------------------------------------------------------------


def test_debits_take_credit_and_without_a_floor_also_below_zero(accounts: Any) -> None:
    for amount, left in ((6, 15), (22, -1), (-15, 36)):
        accounts.open(account(), replace=True)
        assert accounts.run("DebitBalance", amount) == left
        assert credit(accounts) == left


def test_the_floor_holds_for_debits_and_not_for_what_is_given_back(accounts: Any) -> None:
    accounts.open(account(min_credit_micros=20 * MICRO))
    error = accounts.refuse("DebitBalance", 1.000001)
    assert isinstance(error, BelowFloor)
    assert error.data == {"amount": "1.000001", "credit": "21", "min_credit": "20"}
    assert accounts.run("DebitBalance", 1) == 20
    accounts.open(account(credit=0, min_credit_micros=20 * MICRO), replace=True)
    assert accounts.run("DebitBalance", -5) == 5
    assert accounts.run("DebitBalance", 0) == 5


def test_sms_are_taken_and_given_back_and_never_overdrawn(accounts: Any) -> None:
    for amount, left in ((12, 88), (100, 0), (-15, 115)):
        accounts.open(account(sms_micros=100 * MICRO), replace=True)
        assert accounts.run("DebitSMS", amount) == left
    accounts.open(account(sms_micros=100 * MICRO), replace=True)
    error = accounts.refuse("DebitSMS", 110)
    assert isinstance(error, InsufficientSms)
    assert error.data == {"amount": "110", "sms": "100"}


def test_sms_are_given_back_to_an_overdrawn_budget_too(accounts: Any) -> None:
    accounts.open(account(sms_micros=-5 * MICRO))
    assert accounts.run("DebitSMS", -1) == -4
    assert accounts.run("DebitSMS", 0) == -4


def test_the_volume_discount_counter_counts_and_is_reset(accounts: Any) -> None:
    accounts.open(account(volume_discount_us=100 * MICRO))
    assert accounts.run("AddVolumeDiscountSeconds", 5.5) == 105.5
    assert accounts.run("AddVolumeDiscountSeconds", -0.5) == 105
    assert accounts.run("ResetVolumeDiscountSeconds") == 0
    assert accounts.read().volume_discount_us == 0


# --- received calls -------------------------------------------------------------------------------

PLAN = Plan("seara", received_limit_us=10 * MICRO, bonus=Bonus(100 * MICRO))


def received(accounts: Any, amount: float, plan: Plan) -> float:
    return float(accounts.run("AddRecievedCallSeconds", amount, plan_id=plan.id, plan=plan))


def test_the_bonus_is_given_at_the_threshold(accounts: Any) -> None:
    accounts.open(account(received_us=1 * MICRO, plan="seara"))
    assert received(accounts, 12, PLAN) == 3
    assert credit(accounts) == 121
    assert received(accounts, 6.999999, PLAN) == 9.999999
    assert credit(accounts) == 121
    assert received(accounts, 0.000001, PLAN) == 0
    assert credit(accounts) == 221
    assert received(accounts, -4, PLAN) == -4


def test_the_bonus_is_given_as_often_as_the_threshold_was_crossed(accounts: Any) -> None:
    bonus = Bonus(1 * MICRO, 2 * MICRO, 3 * MICRO, Bucket("retea", 4 * MICRO, 20, 0))
    plan = Plan("seara", received_limit_us=10 * MICRO, bonus=bonus)
    accounts.open(account(received_us=1 * MICRO, plan="seara"))
    assert received(accounts, 54, plan) == 5
    now = accounts.read()
    assert (now.credit_micros, now.sms_micros, now.traffic_micros) == (26 * MICRO, 10 * MICRO, 15 * MICRO)
    assert seconds(accounts) == {"nationale": 10, "retea": 120}
    line = accounts.journal()[-1]
    assert line["bonus"] == b"5 50000000 5000000 10000000 15000000"
    assert parse_journal_buckets(line["buckets"]) == now.buckets


def test_a_bonus_bucket_with_other_terms_is_a_new_one(accounts: Any) -> None:
    for terms in (("retea", 20, 7), ("retea", 21, 0), ("retea2", 20, 0)):
        destination, priority, price = terms
        bonus = Bonus(bucket=Bucket(destination, 4 * MICRO, priority, price))
        accounts.open(account(plan="seara"), replace=True)
        received(accounts, 20, Plan("seara", received_limit_us=10 * MICRO, bonus=bonus))
        assert accounts.read().buckets[2:] == (Bucket(destination, 8 * MICRO, priority, price),)


def test_a_bonus_bucket_beyond_the_bound_is_refused(accounts: Any) -> None:
    full = tuple(Bucket(f"d{n}", MICRO, 1, 0) for n in range(MAX_BUCKETS))
    accounts.open(Account("rif", plan="seara", buckets=full))

    def plan(destination: str) -> Plan:
        bucket = Bucket(destination, MICRO, 1, 0)
        return Plan("seara", received_limit_us=10 * MICRO, bonus=Bonus(bucket=bucket))

    error = accounts.refuse("AddRecievedCallSeconds", 10, plan_id="seara", plan=plan("new"))
    assert isinstance(error, TooManyBuckets)
    received(accounts, 10, plan("d63"))
    assert accounts.read().buckets[63].seconds_us == 2 * MICRO


def test_without_a_threshold_or_a_plan_seconds_are_only_counted(accounts: Any) -> None:
    accounts.open(account(plan="seara"))
    assert received(accounts, 1000, Plan("seara", bonus=Bonus(5))) == 1000
    assert accounts.run("AddRecievedCallSeconds", 1000, plan_id="seara", plan=None) == 2000
    accounts.open(account(), replace=True)
    assert accounts.run("AddRecievedCallSeconds", 5) == 5
    assert credit(accounts) == 21


@pytest.mark.parametrize("method", ["AddRecievedCallSeconds", "ResetUserBudget"])
@pytest.mark.parametrize("live", ["", "dimineata", "o\nr a"])
def test_another_live_plan_is_answered_and_nothing_is_decided(accounts: Any, method: str, live: str) -> None:
    accounts.open(account(plan=live))
    before = accounts.state()
    mutation = accounts.mutation(method, plan_id="seara", plan=PLAN)
    assert accounts.send(mutation) == PlanChanged(live)
    assert accounts.state() == before
    assert accounts.store.execute([("EXISTS", account_keys("vdf", "rif").token_prefix + b"test.1")]) == [0]


# --- reset ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_reset_takes_everything_but_the_credit_from_the_plan(accounts: Any, count: int) -> None:
    buckets = tuple(Bucket(f"new {n}", n * MICRO, n, n) for n in range(count))
    plan = Plan("seara", sms_micros=7 * MICRO, traffic_micros=8 * MICRO, buckets=buckets)
    before = account(plan="seara", sms_micros=1, volume_discount_us=2, received_us=3, reset_day=9)
    accounts.open(before)
    assert accounts.run("ResetUserBudget", plan_id="seara", plan=plan) == 0
    assert accounts.read() == Account(
        "rif", 21 * MICRO, 7 * MICRO, 8 * MICRO, 2, 3, 9, "seara", buckets=buckets
    )
    assert parse_journal_buckets(accounts.journal()[-1]["buckets"]) == buckets


def test_a_reset_without_a_plan_is_refused(accounts: Any) -> None:
    accounts.open(account())
    assert isinstance(accounts.refuse("ResetUserBudget"), NoTariffPlan)
    accounts.open(account(plan="gone with\na {"), replace=True)
    error = accounts.refuse("ResetUserBudget", plan_id="gone with\na {")
    assert isinstance(error, NoTariffPlan)
    assert error.data == {"subject": "rif", "plan": "gone with\na {"}


# --- opening --------------------------------------------------------------------------------------


def test_opening_never_touches_a_live_account_unless_told_to(accounts: Any) -> None:
    first = account(plan="seara", reset_day=10, min_credit_micros=-3, postpaid=True)
    assert accounts.open(first) is Opening.CREATED
    assert accounts.read() == first
    accounts.run("DebitBalance", 1)
    before = accounts.state()
    assert accounts.open(account(credit=500)) is Opening.KEPT
    assert accounts.state() == before
    second = Account("rif", credit_micros=5)
    assert accounts.open(second, replace=True) is Opening.REPLACED
    assert accounts.read() == second
    lines = accounts.journal()
    assert [line["op"] for line in lines] == [b"Open", b"DebitBalance", b"Load"]
    assert [line["seq"] for line in lines] == [b"1", b"2", b"3"]
    assert lines[-1]["buckets"] == b""


def test_figures_out_of_range_do_not_open_an_account(accounts: Any) -> None:
    keys = account_keys("vdf", "rif")
    for bad in (
        Account("rif", credit_micros=LIMIT + 1),
        Account("rif", min_credit_micros=-LIMIT - 1),
        Account("rif", buckets=(Bucket("a", -1, 0, 0),)),
        Account("rif", buckets=(Bucket("a", 1, 0, 0),) * (MAX_BUCKETS + 1)),
    ):
        with pytest.raises(ValueError, match=r"rif|'a'"):
            accounts.open(bad)
    assert accounts.store.execute([("EXISTS", keys.account, keys.journal)]) == [0]


def test_a_full_account_can_be_opened_and_debited(accounts: Any) -> None:
    full = Account("rif", buckets=tuple(Bucket("d" * 100, LIMIT // 64, n, 0) for n in range(MAX_BUCKETS)))
    accounts.open(full)
    assert accounts.read() == full
    left = 64 * (LIMIT // 64) - (LIMIT - MICRO)
    everything = accounts.mutation(
        "DebitSeconds", amount_micros=LIMIT - MICRO, destination="1", matches=(("d" * 100, 1),)
    )
    assert accounts.send(everything).value_micros == left


# --- unknown accounts, ranges ---------------------------------------------------------------------

ALL_METHODS = (
    "DebitBalance",
    "DebitSMS",
    "DebitSeconds",
    "AddVolumeDiscountSeconds",
    "ResetVolumeDiscountSeconds",
    "AddRecievedCallSeconds",
    "ResetUserBudget",
)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_an_unknown_subject_is_refused_and_not_remembered(accounts: Any, method: str) -> None:
    error = accounts.refuse(method, subject="nobody")
    assert isinstance(error, UnknownSubject)
    assert error.data == {"tenant": "vdf", "subject": "nobody"}
    assert accounts.store.execute([("DBSIZE",)]) == [0]
    assert accounts.read("nobody") is None


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("DebitBalance", "credit_micros"),
        ("DebitSMS", "sms_micros"),
        ("AddVolumeDiscountSeconds", "volume_discount_us"),
        ("AddRecievedCallSeconds", "received_us"),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_balances_reach_the_limits_exactly_and_do_not_cross_them(
    accounts: Any, method: str, field: str, sign: int
) -> None:
    taking = method.startswith("Debit")
    accounts.open(Account("rif", **{field: sign * (LIMIT - 1)}))
    step = -sign if taking else sign
    if method == "DebitSMS" and step > 0:  # an overdrawn budget: nothing can be taken at all
        assert isinstance(accounts.refuse(method, amount_micros=step), InsufficientSms)
        return
    accounts.run(method, amount_micros=step)
    assert getattr(accounts.read(), field) == sign * LIMIT
    for amount in (1, 2, LIMIT):
        assert isinstance(accounts.refuse(method, amount_micros=step * amount), OutOfRange)


def test_seconds_and_their_price_stay_in_range(accounts: Any) -> None:
    match: dict[str, Any] = {"destination": "1", "matches": (("d", 1),)}
    accounts.open(Account("rif", buckets=(Bucket("d", LIMIT, 0, 0),)))
    assert isinstance(accounts.refuse("DebitSeconds", amount_micros=-1, **match), OutOfRange)
    dear = Account("rif", LIMIT, postpaid=True, buckets=(Bucket("d", LIMIT - 5, 0, LIMIT),))
    accounts.open(dear, replace=True)
    assert isinstance(accounts.refuse("DebitSeconds", amount_micros=-1, **match), OutOfRange)
    assert isinstance(accounts.refuse("DebitSeconds", amount_micros=LIMIT - 5, **match), OutOfRange)
    two = Account("rif", buckets=(Bucket("d", LIMIT, 1, 0), Bucket("d", LIMIT, 0, 0)))
    accounts.open(two, replace=True)
    assert isinstance(accounts.refuse("DebitSeconds", amount_micros=1, **match), OutOfRange)
    everything = accounts.send(accounts.mutation("DebitSeconds", amount_micros=LIMIT, **match))
    assert everything.value_micros == LIMIT


def test_the_seconds_left_are_exact_where_their_sum_before_was_not(accounts: Any) -> None:
    match: dict[str, Any] = {"destination": "1", "matches": (("d", 1),)}
    accounts.open(Account("rif", buckets=(Bucket("d", 2, 0, 0), Bucket("d", LIMIT, 0, 0))))
    assert isinstance(accounts.refuse("DebitSeconds", amount_micros=1, **match), OutOfRange)
    assert accounts.send(accounts.mutation("DebitSeconds", amount_micros=2, **match)).value_micros == LIMIT


@pytest.mark.parametrize(
    "bonus",
    [
        Bonus(credit_micros=LIMIT),
        Bonus(credit_micros=-LIMIT),
        Bonus(sms_micros=LIMIT),
        Bonus(traffic_micros=LIMIT),
        Bonus(bucket=Bucket("retea", LIMIT, 20, 0)),
    ],
)
def test_a_bonus_out_of_range_is_refused(accounts: Any, bonus: Bonus) -> None:
    plan = Plan("seara", received_limit_us=10 * MICRO, bonus=bonus)
    accounts.open(account(plan="seara", credit=-5))
    error = accounts.refuse("AddRecievedCallSeconds", 20, plan_id="seara", plan=plan)
    assert isinstance(error, OutOfRange)
