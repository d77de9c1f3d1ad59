"""What a call costs: from a compiled tariff, a call and the caller's account to a call cost.

The call is consumed from its start. First by the account's minute buckets, each as far as it
reaches (`consume_buckets`); what remains by price intervals (`price_pieces`). Every span is priced
exactly and rounded once; the cost is the sum of the spans. Nothing is changed and no clock is
read: the same arguments always give the same call cost. Source: docs/rating.md, "Rating a call".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from common.errors import CallTooLong, InvalidParams, NoRate, NotActive
from common.money import NANO, format_micros, price_of
from common.times import SECOND_US, format_rfc3339
from rater.model import Account, Bucket, spendable_micros
from rater.rating.schedule import Piece, Winner, walk
from rater.rating.snapshot import CompiledTariff
from rater.rating.values import BucketUse, CallCost, CompiledRate, RatePlan, Span


class Call(NamedTuple):
    """The call to be rated: [start, end)."""

    tor: int
    tenant: str
    subject: str
    destination: str
    start_us: int
    end_us: int


class Route(Protocol):
    """Who calls where; a `Call` is one."""

    @property
    def tenant(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def destination(self) -> str: ...


def rate_call(tariff: CompiledTariff, call: Call, account: Account | None) -> CallCost:
    """The cost of a call; `account` is None for a subject that has none.

    Raises InvalidParams (end before start), CallTooLong, NoRate and NotActive.
    """
    tor, tenant, subject, destination, start_us, end_us = call
    check_length(tariff, end_us - start_us)
    rate = find_active_rate(tariff, call, start_us)
    spans: list[Span] = []
    rest_us = start_us
    cost_micros = discount_micros = 0
    if account is not None:
        discount_micros = find_discount(tariff, account)
        for use in consume_buckets(tariff, destination, account, end_us - start_us):
            until_us = rest_us + use.quantity_us
            activations_us = rate.plan.activations_us
            activation_us = activations_us[bisect_right(activations_us, rest_us) - 1]
            spans.append(Span(rest_us, until_us, use.cost_micros, activation_us, None, use))
            cost_micros += use.cost_micros
            rest_us = until_us
    if rest_us < end_us:
        for piece_us, until_us, activation_us, interval in price_pieces(rate.plan, rest_us, end_us):
            charge = charge_micros(interval, until_us - piece_us, discount_micros)
            spans.append(Span(piece_us, until_us, charge, activation_us, interval, None))
            cost_micros += charge
    first = spans[0].interval if spans else None
    connect_fee_micros = 0 if first is None else first.connect_fee_micros
    return CallCost(tor, tenant, subject, rate.prefix, cost_micros, connect_fee_micros, tuple(spans))


def check_length(tariff: CompiledTariff, duration_us: int) -> None:
    """Raises InvalidParams for a negative duration, CallTooLong beyond the tariff's maximum."""
    if duration_us < 0:
        raise InvalidParams(field="TimeEnd", detail="is before TimeStart")
    if duration_us > tariff.max_call_us:
        raise CallTooLong(seconds=format_micros(duration_us), limit_seconds=format_micros(tariff.max_call_us))


def find_active_rate(tariff: CompiledTariff, route: Route, start_us: int) -> CompiledRate:
    """The rate that is in effect for the route at that time. Raises NoRate and NotActive."""
    found = tariff.find_rate(route.subject, route.destination)
    if found is None:
        raise NoRate(tenant=route.tenant, subject=route.subject, destination=route.destination)
    active_from_us = found.plan.activations_us[0]
    if start_us < active_from_us:
        raise NotActive(
            prefix=found.prefix,
            active_from=format_rfc3339(active_from_us),
            time_start=format_rfc3339(start_us),
        )
    return found


def find_discount(tariff: CompiledTariff, account: Account) -> int:
    """Millionths of a per cent: of the highest threshold that the account's counter has reached."""
    plan = tariff.plan(account.plan)
    discount_micros = 0
    if plan is not None:
        for threshold in plan.thresholds:
            if threshold.volume_us <= account.volume_discount_us:
                discount_micros = threshold.discount_micros
    return discount_micros


def consume_buckets(
    tariff: CompiledTariff, destination: str, account: Account, duration_us: int
) -> list[BucketUse]:
    """What the account's buckets cover of a call from its start on, in the order of consumption.

    A priced bucket covers only what the account can pay for, after what the buckets before it cost.
    Source: docs/rating.md, "Minute buckets".
    """
    if not account.buckets:
        return []
    matches = tariff.matching_destinations(destination)
    if not matches:
        return []
    precisions = dict(matches)
    matching = [
        bucket for bucket in account.buckets if bucket.seconds_us > 0 and bucket.destination in precisions
    ]
    if not matching:
        return []
    if len(matching) > 1:
        sort_buckets(matching, precisions)
    left_micros = spendable_micros(account)
    uses: list[BucketUse] = []
    for bucket in matching:
        quantity_us = bucket.seconds_us
        quantity_us = min(quantity_us, duration_us)
        price_nanos = bucket.price_nanos
        cost_micros = 0
        if price_nanos:
            if left_micros is not None:
                # Rounded down, so that the cost, rounded half up, is never more than what is left.
                affordable_us = left_micros * NANO // price_nanos
                quantity_us = min(quantity_us, affordable_us)
            cost_micros = price_of(quantity_us, price_nanos, SECOND_US)
        if quantity_us <= 0:
            continue
        if left_micros is not None:
            left_micros -= cost_micros
        duration_us -= quantity_us
        uses.append(BucketUse(bucket.destination, quantity_us, price_nanos, cost_micros))
    return uses


def sort_buckets(matching: list[Bucket], precisions: Mapping[str, int]) -> None:
    """Into the order of consumption; `precisions` has the length of each destination's matching prefix."""
    matching.sort(
        key=lambda bucket: (
            -bucket.priority,
            -precisions[bucket.destination],
            bucket.price_nanos,
            bucket.destination,
        ),
    )


def charge_micros(interval: Winner, duration_us: int, discount_micros: int) -> int:
    """What an interval asks for a duration, in whole increments where it has them."""
    if interval is None:
        return 0
    if interval.increment_us:
        duration_us += -duration_us % interval.increment_us
    if not discount_micros:
        return (duration_us * interval.twice_micros + interval.per_us) // interval.twice_per_us
    return price_of(duration_us, interval.price_nanos, interval.unit_us, discount_micros)


def price_pieces(plan: RatePlan, start_us: int, end_us: int) -> list[Piece]:
    """Split [start, end), not empty and within the plan's periods, by what prices it.

    Pieces follow each other without a gap. Where an interval charges whole increments, what they
    reach beyond its time is taken from the pieces that follow: they begin later, or vanish. So each
    piece but the last lasts as long as it is charged for. Source: docs/rating.md, "Increments".
    """
    activations_us = plan.activations_us
    activation_us = activations_us[-1]
    if activation_us <= start_us:  # nearly all calls: no period begins in them
        schedule = plan.schedules[-1]
        found = walk(schedule, plan.zone, activation_us, start_us, end_us)
        if len(found) == 1 or not schedule.has_increments:
            return found
    index = bisect_right(activations_us, start_us) - 1
    pieces: list[Piece] = []
    taken_us = start_us  # all before this is priced
    while taken_us < end_us:
        schedule = plan.schedules[index]
        activation_us = activations_us[index]
        index += 1
        until_us = end_us
        if index < len(activations_us) and activations_us[index] < end_us:
            until_us = activations_us[index]
        if taken_us < until_us:
            found = walk(schedule, plan.zone, activation_us, taken_us, until_us)
            if schedule.has_increments:
                taken_us = _take_increments(found, end_us, pieces)
            else:
                pieces += found
                taken_us = until_us
    return pieces


def _take_increments(found: list[Piece], end_us: int, pieces: list[Piece]) -> int:
    """Append one period's pieces, whole increments taken; returns until when all is priced."""
    taken_us = found[0][0]
    for start_us, until_us, activation_us, interval in found:
        if until_us <= taken_us:
            continue
        from_us = max(start_us, taken_us)
        if pieces and pieces[-1][2:] == (activation_us, interval):
            from_us = pieces.pop()[0]  # the increment bridged all that was between the two
        taken_us = until_us
        if interval is not None and interval.increment_us:
            taken_us += (from_us - until_us) % interval.increment_us
        taken_us = min(taken_us, end_us)
        pieces.append((from_us, taken_us, activation_us, interval))
    return taken_us
