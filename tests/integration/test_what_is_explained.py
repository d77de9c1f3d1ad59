"""What Explain tells of a call is what then happens: every figure of it against the other methods, the debits
against a real store among them.
"""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import Blocked, CallerError, InsufficientCredit, InsufficientSeconds, RatelError
from common.methods import BY_NAME
from common.money import MICRO, format_micros
from common.times import format_rfc3339
from rater.accounts.mutation import Mutation, MutationResult, Refused
from rater.accounts.mutations import mutation_command, parse_account, parse_mutation_reply, read_command
from rater.accounts.opening import open_command
from rater.descriptor_reader import parse_descriptor
from rater.model import ANY_SUBJECT, Account, Bucket, Destination, Plan, Tariff, Threshold, spendable_micros
from rater.rating.explain import answer
from rater.rating.quote import get_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import consume_buckets
from rater.store import scripts
from rater.store.keys import account_keys
from tests.unit.rating_oracle import DAY, HOUR, MAX_CALL, MINUTE, SECOND, TURNING_POINTS, rates

SUBJECTS = count()
DIALLED = "0723045326"
SETS = (
    Destination("all", ("0",)),
    Destination("mobile", ("07", "0723")),
    Destination("one", (DIALLED,)),
    Destination("abroad", ("00",)),
)
PLANS = (Plan("gold", thresholds=(Threshold(0, 0), Threshold(100 * SECOND, 33_333_333))),)

instants = st.integers(-2 * DAY, 2 * DAY) | st.integers(-48, 48).map(lambda hours: hours * HOUR)
durations = (
    st.sampled_from((0, 1, SECOND, MINUTE, MAX_CALL, MAX_CALL + 1))
    | st.integers(0, 6 * HOUR)
    | st.integers(0, 400).map(lambda s: s * SECOND)
)
cents = st.integers(-50 * MICRO, 500 * MICRO) | st.sampled_from((0, 1, -1, 10**15))
accounts = st.builds(
    Account,
    subject=st.just(""),
    credit_micros=cents,
    volume_discount_us=st.sampled_from((0, 100 * SECOND - 1, 100 * SECOND)),
    plan=st.sampled_from(("", "gold", "gone")),
    postpaid=st.booleans(),
    min_credit_micros=st.none() | cents,
    blocked=st.sampled_from((False, False, False, True)),
    buckets=st.lists(
        st.builds(
            Bucket,
            destination=st.sampled_from(("all", "mobile", "one", "abroad", "unknown")),
            seconds_us=st.sampled_from((0, 1, SECOND)) | st.integers(0, HOUR),
            priority=st.integers(0, 1),
            price_nanos=st.sampled_from((0, 0, 7, 333_333_333, 10**9)),
        ),
        max_size=4,
    ).map(tuple),
)


def outcome(call: Any, *arguments: Any) -> Any:
    """What it returns, or the name of the error."""
    try:
        return call(*arguments)
    except CallerError as error:
        return error.name


def descriptor(method: str, **fields: Any) -> Any:
    text = msgspec.json.encode({"CstmId": "m", "DestinationPrefix": DIALLED} | fields)
    return parse_descriptor(text, BY_NAME[method])


def decimals(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


def micros(number: Any) -> int:
    return int(Decimal(number) * MICRO)


def debit(
    store: Any, account: Account, method: str, amount_us: int, matches: Any = ()
) -> RatelError | Account:
    """Open the account anew and debit it: what is left of it, or why it was refused."""
    subject = str(next(SUBJECTS))
    keys = account_keys("m", subject)
    mutation = Mutation(
        method=method,
        tenant="m",
        subject=subject,
        token="t",
        token_ttl_ms=60_000,
        amount_micros=amount_us,
        destination=DIALLED,
        matches=matches,
    )
    _, [reply] = scripts.execute(store, [open_command(keys, account), mutation_command(keys, mutation)])
    [[value]] = store.execute([read_command([keys.account])])
    result = parse_mutation_reply(mutation, reply)
    if isinstance(result, Refused):
        return result.error
    assert isinstance(result, MutationResult)
    left = parse_account(account.subject, value)
    assert left is not None
    return left


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(
    data=st.data(),
    around=st.sampled_from(TURNING_POINTS),
    account=accounts,
    shift_us=instants,
    duration_us=durations,
    owner=st.sampled_from(("rif", ANY_SUBJECT)),
)
def test_what_is_explained_is_what_happens(
    store: Any,
    data: st.DataObject,
    around: int,
    account: Account,
    shift_us: int,
    duration_us: int,
    owner: str,
) -> None:
    rated = data.draw(rates(grid_s=60, increments=data.draw(st.booleans()), around=around))
    rated = msgspec.structs.replace(rated, subject=owner)
    tariff = compile_tariff(Tariff("m", (rated,), SETS, PLANS), MAX_CALL)
    start_us = around + shift_us
    end_us = start_us + duration_us
    times = {"TimeStart": format_rfc3339(start_us), "TimeEnd": format_rfc3339(end_us)}
    asked_us = data.draw(durations)
    amount = msgspec.Raw(format_micros(asked_us).encode())
    question = descriptor("Explain", Subject="rif", Amount=amount, **times)
    explained = outcome(answer, tariff, question, account, start_us)
    quoted = outcome(get_cost, tariff, descriptor("GetCost", Subject="rif", **times), account)
    asked_us = asked_us or duration_us
    if isinstance(explained, str):
        session = outcome(max_session_us, tariff, question, start_us, asked_us, account)
        assert explained == "call_too_long"
        assert "call_too_long" in (quoted, session) or max(duration_us, asked_us) > MAX_CALL
        return
    told = decimals(explained)
    if isinstance(quoted, str):
        assert (told["Cost"], told["ConnectFee"], told["Timespans"]) == (None, None, [])
        assert told["Verdict"] == ("blocked" if account.blocked else quoted)
    else:
        _same_as_quoted(told, decimals(quoted))
        _same_as_debited(store, tariff, account, told, duration_us)
    granted = outcome(max_session_us, tariff, question, start_us, asked_us, account)
    shown = told["MaxSessionTime"]["Granted"]
    assert shown is None if isinstance(granted, str) else micros(shown) == granted


def _same_as_quoted(told: Any, quoted: Any) -> None:
    assert (told["Cost"], told["ConnectFee"]) == (quoted["Cost"], quoted["ConnectFee"])
    assert told["Rate"]["Prefix"] == quoted["DestinationPrefix"]
    assert len(told["Timespans"]) + told["MoreTimespans"] == len(quoted["Timespans"])
    for mine, theirs in zip(told["Timespans"], quoted["Timespans"], strict=False):
        for name in ("TimeStart", "TimeEnd", "Cost", "Interval"):
            assert mine[name] == theirs[name]
        bucket = theirs["MinuteInfo"]
        assert mine["Bucket"] == (None if bucket is None else bucket["DestinationId"])


def _same_as_debited(
    store: Any, tariff: CompiledTariff, account: Account, told: Any, duration_us: int
) -> None:
    due = micros(told["Cost"]) + micros(told["ConnectFee"])
    left = debit(store, account, "DebitBalance", due)
    if account.blocked:
        assert told["Verdict"] == "blocked"
        assert isinstance(left, Blocked) == (due > 0)
    elif account.min_credit_micros is not None:
        assert isinstance(left, Account) == (told["Verdict"] == "ok")
    else:  # without a floor it may go below zero
        assert isinstance(left, Account)
        assert (told["Verdict"] == "ok") == (account.postpaid or due <= max(0, account.credit_micros))
    if isinstance(left, Account):
        assert left.credit_micros == account.credit_micros - due

    uses = consume_buckets(tariff, DIALLED, account, duration_us)
    assert sum(micros(each["Used"]) for each in told["Buckets"]) == sum(use.quantity_us for use in uses)
    assert sum(micros(each["Cost"]) for each in told["Buckets"]) == sum(use.cost_micros for use in uses)
    matches = tariff.matching_destinations(DIALLED)
    after = debit(store, account, "DebitSeconds", duration_us, matches)
    covered = sum(use.quantity_us for use in uses) == duration_us
    short = any(each["Text"].endswith(("pays for it", "pays for none of it")) for each in told["Buckets"])
    if account.blocked and duration_us:
        assert isinstance(after, Blocked)
    elif covered and not short:
        assert isinstance(after, Account)
        assert account.credit_micros - after.credit_micros == sum(use.cost_micros for use in uses)
        used = {place: micros(each["Used"]) for place, each in enumerate(told["Buckets"])}
        assert sorted(
            (each.destination, each.priority, each.price_nanos, each.seconds_us) for each in after.buckets
        ) == sorted(
            (
                each["DestinationId"],
                each["Priority"],
                _nanos(each["Price"]),
                micros(each["Seconds"]) - used[place],
            )
            for place, each in enumerate(told["Buckets"])
        )
    elif isinstance(after, Account):  # a bucket covers what the exact price allows, a debit the rounded one
        spendable = spendable_micros(account)
        assert short
        assert spendable is not None
        cost = account.credit_micros - after.credit_micros
        assert 0 <= cost <= spendable
        assert cost - sum(use.cost_micros for use in uses) <= len(account.buckets)
    else:
        assert isinstance(after, InsufficientCredit | InsufficientSeconds)


def _nanos(number: Any) -> int:
    return int(Decimal(number) * 10**9)
