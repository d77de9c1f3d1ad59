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
from rater.rating.snapshot import CompiledTariff
from rater.rating.spans import (
    charge_micros,
    check_length,
    consume_buckets,
    find_active_rate,
    find_discount,
    price_pieces,
)

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
        rate = find_active_rate(tariff, call, start_us)  # which says what is the matter
    plan = rate.plan
    spans: list[str] = []
    cost_micros = discount_micros = fee_micros = 0
    start = call.start_text or format_rfc3339(start_us)
    if account is not None:
        discount_micros = find_discount(tariff, account)
        for use in consume_buckets(tariff, call.destination, account, end_us - start_us):
            activation_us = plan.activations_us[bisect_right(plan.activations_us, start_us) - 1]
            start_us += use.quantity_us
            end = format_rfc3339(start_us)
            spans.append(
                f'{{"TimeStart":"{start}","TimeEnd":"{end}","Cost":{format_micros(use.cost_micros)}'
                f'{activation_text(activation_us)},"Interval":null,"MinuteInfo":{minute_info(use)}}}'
            )
            cost_micros += use.cost_micros
            start = end
    if start_us < end_us:
        pieces = price_pieces(plan, start_us, end_us)
        if not spans and (first := pieces[0][3]) is not None:
            fee_micros = first.connect_fee_micros
        for piece_us, until_us, activation_us, interval in pieces:
            charge = charge_micros(interval, until_us - piece_us, discount_micros)
            cost_micros += charge
            end = call.end_text if until_us == end_us and call.end_text else format_rfc3339(until_us)
            spans.append(
                f'{{"TimeStart":"{start}","TimeEnd":"{end}","Cost":{format_micros(charge)}'
                f"{activation_text(activation_us)}{_NO_INTERVAL if interval is None else interval.json_tail}"
            )
            start = end
    return (
        f'{{"TOR":{call.tor},"CstmId":{quoted(call.tenant)},"Subject":{quoted(call.subject)},'
        f'"DestinationPrefix":{quoted(rate.prefix)},"Cost":{format_micros(cost_micros)},'
        f'"ConnectFee":{format_micros(fee_micros)},"Timespans":[{",".join(spans)}]}}'
    ).encode()
