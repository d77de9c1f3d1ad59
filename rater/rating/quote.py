"""GetCost in one go: from a descriptor to the JSON text of what the call costs.

`spans.rate_call` and `call_cost.encode_call_cost` say what a call cost is and how it is written; this
gives the same bytes from the same parts (buckets, pieces, charges), but writes each span down as it is
found instead of building values that are only taken apart again. A test compares the two.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from common.money import format_micros
from common.times import format_rfc3339
from rater.descriptor import Descriptor
from rater.model import Account
from rater.rating.call_cost import activation_text, minute_info, quoted
from rater.rating.intervals import CompiledInterval
from rater.rating.schedule import sole_interval
from rater.rating.snapshot import CompiledTariff
from rater.rating.spans import (
    charge_micros,
    check_length,
    consume_buckets,
    find_active_rate,
    find_discount,
    price_pieces,
)
from rater.rating.values import BucketUse, RatePlan

_NO_INTERVAL: Final = ',"Interval":null,"MinuteInfo":null}'


def get_cost(tariff: CompiledTariff, call: Descriptor, account: Account | None) -> bytes:
    """The JSON of the call's cost; `account` is None for a subject that has none.

    Raises InvalidParams (end before start), CallTooLong, NoRate and NotActive.
    """
    start_us, end_us = call.start_us, call.end_us
    if not 0 <= end_us - start_us <= tariff.max_call_us:
        check_length(tariff, end_us - start_us)
    rate = tariff.find_rate(call.subject, call.destination)
    if rate is None or start_us < rate.plan.activations_us[0]:
        rate = find_active_rate(tariff, call, start_us)  # it says what is the matter
    uses: list[BucketUse] = []
    discount_micros = 0
    if account is not None:
        discount_micros = find_discount(tariff, account)
        if account.buckets:
            uses = consume_buckets(tariff, call.destination, account, end_us - start_us)
    plan = rate.plan
    activation_us = plan.activations_us[-1]
    interval: CompiledInterval | None = None
    if not uses and activation_us <= start_us < end_us:
        interval = sole_interval(plan.schedules[-1], plan.zone, start_us, end_us)
    if interval is None:
        cost, fee, spans = _several_spans(plan, call, uses, discount_micros)
    else:
        if discount_micros or interval.increment_us:
            charge = charge_micros(interval, end_us - start_us, discount_micros)
        else:  # the same
            charge = ((end_us - start_us) * interval.twice_micros + interval.per_us) // interval.twice_per_us
        cost = format_micros(charge)
        fee = interval.connect_fee
        spans = (
            f'{{"TimeStart":"{call.start_text or format_rfc3339(start_us)}",'
            f'"TimeEnd":"{call.end_text or format_rfc3339(end_us)}","Cost":{cost}'
            f"{activation_text(activation_us)}{interval.json_tail}"
        )
    tenant, subject, prefix = call.tenant, call.subject, rate.prefix
    if not (tenant.isalnum() and subject.isalnum() and prefix.isalnum()):  # else nothing is to be escaped
        tenant, subject, prefix = quoted(tenant)[1:-1], quoted(subject)[1:-1], quoted(prefix)[1:-1]
    return (
        f'{{"TOR":{call.tor},"CstmId":"{tenant}","Subject":"{subject}",'
        f'"DestinationPrefix":"{prefix}","Cost":{cost},"ConnectFee":{fee},'
        f'"Timespans":[{spans}]}}'
    ).encode()


def _several_spans(
    plan: RatePlan, call: Descriptor, uses: list[BucketUse], discount_micros: int
) -> tuple[str, str, str]:
    """Cost, connect fee and spans of any call: of several spans, or none, or one that is hard to find."""
    start_us, end_us = call.start_us, call.end_us
    start = call.start_text or format_rfc3339(start_us)
    cost_micros = 0
    fee = "0"
    spans: list[str] = []
    for use in uses:
        activation_us = plan.activations_us[bisect_right(plan.activations_us, start_us) - 1]
        start_us += use.quantity_us
        cost_micros += use.cost_micros
        end = format_rfc3339(start_us)
        spans.append(
            f'{{"TimeStart":"{start}","TimeEnd":"{end}","Cost":{format_micros(use.cost_micros)}'
            f'{activation_text(activation_us)},"Interval":null,"MinuteInfo":{minute_info(use)}}}'
        )
        start = end
    pieces = price_pieces(plan, start_us, end_us) if start_us < end_us else []
    for piece_us, until_us, activation_us, interval in pieces:
        charge = charge_micros(interval, until_us - piece_us, discount_micros)
        cost_micros += charge
        if interval is not None and not spans:
            fee = interval.connect_fee
        end = call.end_text if until_us == end_us and call.end_text else format_rfc3339(until_us)
        spans.append(
            f'{{"TimeStart":"{start}","TimeEnd":"{end}","Cost":{format_micros(charge)}'
            f"{activation_text(activation_us)}{_NO_INTERVAL if interval is None else interval.json_tail}"
        )
        start = end
    return format_micros(cost_micros), fee, ",".join(spans)
