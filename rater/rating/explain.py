"""Why a call costs what it costs, and why a subscriber may talk as long as GetMaxSessionTime says.

Nothing is decided here: what is explained are the results of the very functions that rate calls
(`rater.rating.spans`, `rater.rating.session_time`), taken apart into their steps. So an explanation is
never of another price than the one that GetCost gives. The answer is a tree of plain values, ready for
JSON, whose fields docs/api.md lists; numbers are exact decimals, as in a call cost.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

from common.errors import Blocked, NoRate, NotActive, RatelError
from common.money import format_micros, price_of
from common.times import SECOND_US, format_rfc3339
from rater.descriptor import Descriptor
from rater.model import ANY_SUBJECT, Account, Bucket, spendable_micros
from rater.rating.explain_spans import Tree, explain_spans, number, price
from rater.rating.session_time import STEPS, max_session_us
from rater.rating.snapshot import CompiledTariff
from rater.rating.spans import (
    Call,
    charge_micros,
    check_length,
    consume_buckets,
    find_discount,
    rate_call,
    sort_buckets,
)
from rater.rating.values import BucketUse, CallCost, CompiledRate, Span

DEFAULT_CALL_US: Final = 60 * SECOND_US
_encode = msgspec.json.Encoder().encode


def answer(tariff: CompiledTariff, question: Descriptor, account: Account | None, now_us: int) -> bytes:
    """The answer of Explain, as JSON.

    A call without times begins in the second of `now_us` and lasts for the amount, in seconds, or a minute;
    a session is asked for as long as the amount, or as the call lasts.
    """
    amount_us = question.amount_micros
    start_us, end_us = question.start_us, question.end_us
    if not (start_us or end_us):
        start_us = now_us // SECOND_US * SECOND_US
        end_us = start_us + (amount_us if amount_us > 0 else DEFAULT_CALL_US)
    call = Call(question.tor, question.tenant, question.subject, question.destination, start_us, end_us)
    return _encode(explain(tariff, call, account, amount_us or end_us - start_us))


def explain(tariff: CompiledTariff, call: Call, account: Account | None, asked_us: int) -> Tree:
    """The explanation of a call and of GetMaxSessionTime for `asked_us`, both from the call's start on.

    `account` is None for a subject that has none. Raises InvalidParams (end before start) and CallTooLong.
    """
    check_length(tariff, call.end_us - call.start_us)
    check_length(tariff, max(0, asked_us))
    cost: CallCost | None = None
    problem: RatelError | None = None
    try:
        cost = rate_call(tariff, call, account)
    except (NoRate, NotActive) as error:
        problem = error
    spendable = None if account is None else spendable_micros(account)
    session = _session(tariff, call, account, asked_us)
    verdict, message = _verdict(cost, problem, account, spendable)
    return {
        "Verdict": verdict,
        "Message": message,
        "CstmId": call.tenant,
        "Subject": call.subject,
        "DestinationPrefix": call.destination,
        "TimeStart": format_rfc3339(call.start_us),
        "TimeEnd": format_rfc3339(call.end_us),
        "Cost": None if cost is None else number(cost.cost_micros),
        "ConnectFee": None if cost is None else number(cost.connect_fee_micros),
        "Rate": _rate(tariff, call),
        "Account": None if account is None else _account(account, spendable),
        "Discount": None if account is None else _discount(tariff, account),
        "Buckets": [] if account is None else _buckets(tariff, call, account),
        **explain_spans(tariff, call, cost, account),
        "MaxSessionTime": session,
    }


def _verdict(
    cost: CallCost | None, problem: RatelError | None, account: Account | None, spendable: int | None
) -> tuple[str, str]:
    if account is not None and account.blocked:
        return Blocked.name, "the account is blocked: it can't be debited, and may not talk"
    if cost is None:
        assert problem is not None
        return problem.name, problem.message
    due = cost.cost_micros + cost.connect_fee_micros
    if account is None:
        return (
            "ok",
            "the call has a price; the subject has no account, so nothing limits it and no debit is possible",
        )
    if spendable is not None and due > spendable:
        return "no_credit", (
            f"the call costs {format_micros(due)} with its connect fee, "
            f"and the account can spend {format_micros(spendable)}"
        )
    return "ok", "the call has a price, and the account can pay it"


# --- the rate ---------------------------------------------------------------------------------------


def _rate(tariff: CompiledTariff, call: Call) -> Tree:
    """Which prefixes were tried for the number, and what was found."""
    lookups = []
    found: CompiledRate | None = None
    for subject in dict.fromkeys((call.subject, ANY_SUBJECT)):
        own = tariff.rate_of(subject, call.destination)
        lookups.append(_lookup(tariff, subject, call.destination, own, is_used=found is None))
        if found is None and own is not None:
            found = own
    if found is None:
        return {"Prefix": None, "Lookups": lookups, "Timezone": None, "ActivationPeriods": []}
    plan = found.plan
    in_effect = bisect_right(plan.activations_us, call.start_us) - 1
    periods = [
        {
            "ActivationTime": format_rfc3339(activation_us),
            "InEffectAtStart": index == in_effect,
            "Intervals": len(plan.schedules[index].intervals),
        }
        for index, activation_us in enumerate(plan.activations_us)
    ]
    return {
        "Prefix": found.prefix,
        "Lookups": lookups,
        "Timezone": plan.zone.name,
        "ActivationPeriods": periods,
    }


def _lookup(
    tariff: CompiledTariff, subject: str, dialled: str, found: CompiledRate | None, *, is_used: bool
) -> Tree:
    matched = "" if found is None else found.prefix
    shorter = []
    rest = matched[:-1]
    while rest and (less := tariff.rate_of(subject, rest)) is not None:
        shorter.append(less.prefix)
        rest = less.prefix[:-1]
    if found is None:
        text = f"{subject} has no prefix of {dialled}"
    elif not is_used:
        text = "not used: the subject's own rate comes first"
    else:
        text = f"{matched} is the longest prefix of {dialled} that {subject} has"
    tried = [dialled[:length] for length in range(len(dialled), max(len(matched), 1) - 1, -1)]
    return {
        "Subject": subject,
        "Matched": matched or None,
        "Used": is_used and found is not None,
        "Tried": tried,
        "ShorterMatches": shorter,
        "Text": text,
    }


# --- the account ------------------------------------------------------------------------------------


def _account(account: Account, spendable: int | None) -> Tree:
    floor = account.min_credit_micros
    return {
        "Type": "postpaid" if account.postpaid else "prepaid",
        "Blocked": account.blocked,
        "Credit": number(account.credit_micros),
        "MinCredit": None if floor is None else number(floor),
        "Spendable": None if spendable is None else number(spendable),
        "TariffPlanId": account.plan or None,
    }


def _discount(tariff: CompiledTariff, account: Account) -> Tree:
    plan = tariff.plan(account.plan)
    thresholds = () if plan is None else plan.thresholds
    discount = find_discount(tariff, account)
    if not account.plan:
        text = "the account has no tariff plan"
    elif plan is None:
        text = f"the tariff has no plan {account.plan!r}"
    elif not thresholds:
        text = f"plan {account.plan} has no volume discount"
    elif not discount and account.volume_discount_us < thresholds[0].volume_us:
        text = "the counter is below the first threshold"
    else:
        text = f"{format_micros(discount)} % of the highest threshold that the counter has reached"
    return {
        "VolumeDiscountSeconds": number(account.volume_discount_us),
        "Percent": number(discount),
        "Thresholds": [
            {
                "Volume": number(each.volume_us),
                "Discount": number(each.discount_micros),
                "Reached": each.volume_us <= account.volume_discount_us,
            }
            for each in thresholds
        ],
        "Text": text,
    }


def _buckets(tariff: CompiledTariff, call: Call, account: Account) -> list[Tree]:
    """Each bucket: first those that match, in the order of consumption, then the others."""
    precisions = dict(tariff.matching_destinations(call.destination))
    duration_us = call.end_us - call.start_us
    uses = consume_buckets(tariff, call.destination, account, duration_us)
    covered_us = sum(use.quantity_us for use in uses)
    matching = [each for each in account.buckets if each.destination in precisions and each.seconds_us > 0]
    sort_buckets(matching, precisions)
    explained: list[Tree] = []
    used_us = 0
    for bucket in matching:
        use: BucketUse | None = None
        if uses and (uses[0].destination, uses[0].price_nanos) == (bucket.destination, bucket.price_nanos):
            use = uses.pop(0)
            used_us += use.quantity_us
            if use.quantity_us == bucket.seconds_us:
                text = "used up"
            elif used_us == duration_us:
                text = "used for the rest of the call"
            else:
                text = "used as far as the credit pays for it"
        elif used_us == duration_us:
            text = "not used: the buckets before it cover the call"
        else:
            text = "not used: the credit pays for none of it"
        length = precisions[bucket.destination]
        explained.append(_bucket(bucket, call.destination[:length], use, text))
    for bucket in account.buckets:
        if bucket.destination not in precisions:
            text = f"not used: no prefix of {call.destination} is in destination {bucket.destination}"
            explained.append(_bucket(bucket, None, None, text))
        elif bucket.seconds_us <= 0:
            prefix = call.destination[: precisions[bucket.destination]]
            explained.append(_bucket(bucket, prefix, None, "not used: it is empty"))
    assert covered_us == used_us
    return explained


def _bucket(bucket: Bucket, prefix: str | None, use: BucketUse | None, text: str) -> Tree:
    return {
        "DestinationId": bucket.destination,
        "Seconds": number(bucket.seconds_us),
        "Priority": bucket.priority,
        "Price": price(bucket.price_nanos),
        "MatchedPrefix": prefix,
        "Used": number(0 if use is None else use.quantity_us),
        "Cost": number(0 if use is None else use.cost_micros),
        "Text": text,
    }


# --- how long ---------------------------------------------------------------------------------------


def _session(tariff: CompiledTariff, call: Call, account: Account | None, asked_us: int) -> Tree:
    """What GetMaxSessionTime says, and what each candidate would cost."""
    answer: Tree = {"Asked": number(asked_us), "Granted": None, "Text": "", "Candidates": []}
    try:
        granted_us = max_session_us(tariff, call, call.start_us, asked_us, account)
    except (Blocked, NoRate, NotActive) as error:
        return answer | {"Text": error.message}
    answer["Granted"] = number(granted_us)
    spendable = None if account is None else spendable_micros(account)
    if account is None:
        return answer | {"Text": "all that is asked for: the subject has no account that limits it"}
    if spendable is None:
        return answer | {"Text": "all that is asked for: the account is postpaid and has no floor"}
    free_us = sum(use.quantity_us for use in consume_buckets(tariff, call.destination, account, asked_us))
    if asked_us <= 0:
        return answer | {"Text": "nothing is asked for"}
    if free_us == asked_us:
        return answer | {"Text": "all that is asked for: minute buckets cover it"}
    if spendable == 0:
        return answer | {"Text": "no credit to spend: what free minute buckets give"}
    answer["Candidates"] = _candidates(tariff, call, account, asked_us, spendable)
    if granted_us:
        text = "the longest of 100 %, 90 % … 10 % that the account can pay for"
    else:
        text = "the account can't pay for even 10 % of it"
    return answer | {"Text": text}


def _candidates(
    tariff: CompiledTariff, call: Call, account: Account, asked_us: int, spendable: int
) -> list[Tree]:
    """A shorter candidate's spans are the whole one's, cut: see `rater.rating.session_time`."""
    whole = rate_call(tariff, call._replace(end_us=call.start_us + asked_us), account)
    discount = find_discount(tariff, account)
    candidates = []
    for step in range(STEPS, 0, -1):
        candidate_us = asked_us * step // STEPS
        end_us = call.start_us + candidate_us
        due = whole.connect_fee_micros
        for span in whole.spans:
            if span.start_us >= end_us:
                break
            due += span.cost_micros if span.end_us <= end_us else _cut(span, end_us, discount)
        candidates.append(
            {
                "Percent": 100 * step // STEPS,
                "Seconds": number(candidate_us),
                "Cost": number(due),
                "Affordable": due <= spendable,
            }
        )
    return candidates


def _cut(span: Span, end_us: int, discount_micros: int) -> int:
    """What the span costs until then."""
    if span.bucket is not None:
        return price_of(end_us - span.start_us, span.bucket.price_nanos, SECOND_US)
    return charge_micros(span.interval, end_us - span.start_us, discount_micros)
