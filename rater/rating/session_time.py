"""How long a subscriber may talk: the answer of GetMaxSessionTime.

The longest of 100 %, 90 %, … 10 % of what was asked that the account can pay for. A call from now
on is split once, for the whole amount; a shorter candidate's spans are that call's spans, cut. So a
candidate costs what the spans before its end cost, plus the last one up to its end, and the result
is the same as if each candidate had been rated by itself.
Source: docs/rating.md, "GetMaxSessionTime".
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from common.errors import Blocked
from rater.model import Account, spendable_micros
from rater.rating.snapshot import CompiledTariff
from rater.rating.spans import (
    Route,
    charge_micros,
    check_length,
    consume_buckets,
    find_active_rate,
    find_discount,
    price_pieces,
)
from rater.rating.values import BucketUse

STEPS: Final = 10


def max_session_us(
    tariff: CompiledTariff, route: Route, now_us: int, amount_us: int, account: Account | None
) -> int:
    """The granted duration, at most `amount_us`; `account` is None for a subject that has none.

    With nothing to spend it is what the free buckets give. A rate is needed only for time that the
    buckets do not cover. Raises Blocked, CallTooLong, NoRate and NotActive.
    """
    if amount_us <= 0:
        return 0
    if account is not None and account.blocked:
        raise Blocked(subject=account.subject)
    spendable = None if account is None else spendable_micros(account)
    if account is None or spendable is None:
        return amount_us
    if amount_us > tariff.max_call_us:
        check_length(tariff, amount_us)
    uses: list[BucketUse] | None = None
    covered_us = 0
    if account.buckets:
        uses = consume_buckets(tariff, route.destination, account, amount_us)
        covered_us = sum([use.quantity_us for use in uses])
    if spendable == 0 or covered_us == amount_us:
        return covered_us
    if uses:
        spendable -= sum([use.cost_micros for use in uses])

    plan = find_active_rate(tariff, route, now_us).plan
    discount_micros = find_discount(tariff, account)
    pieces = price_pieces(plan, now_us + covered_us, now_us + amount_us)
    # The connect fee is due when an interval, not a bucket, prices the first span.
    first = None if uses else pieces[0][3]
    cost_micros = 0 if first is None else first.connect_fee_micros
    costs_before: list[int] = []
    for start_us, until_us, _, interval in pieces:
        costs_before.append(cost_micros)
        cost_micros += charge_micros(interval, until_us - start_us, discount_micros)
    if cost_micros <= spendable:
        return amount_us
    starts_us = [start_us for start_us, _, _, _ in pieces]
    for step in range(STEPS - 1, 0, -1):
        candidate_us = amount_us * step // STEPS
        if candidate_us <= covered_us:
            return candidate_us
        end_us = now_us + candidate_us
        index = bisect_left(starts_us, end_us) - 1
        start_us, until_us, _, interval = pieces[index]
        charge = charge_micros(interval, min(until_us, end_us) - start_us, discount_micros)
        if costs_before[index] + charge <= spendable:
            return candidate_us
    return 0
