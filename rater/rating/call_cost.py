"""A call cost as it is sent: JSON with the fixed field order of docs/rating.md, "Call cost".

Written by hand rather than by a serialiser because every number is exact decimal text; what
repeats (intervals, activation times) is text already made.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from common.money import format_micros, format_nanos
from common.times import format_rfc3339
from rater.rating.values import BucketUse, CallCost

_CACHED_ACTIVATIONS: Final = 4096
"""Activation times whose text is kept: a tariff has few distinct ones."""

_encode = msgspec.json.Encoder().encode


def encode_call_cost(cost: CallCost) -> bytes:
    """The JSON object of a call cost."""
    spans: list[str] = []
    start = format_rfc3339(cost.spans[0].start_us) if cost.spans else ""
    for span in cost.spans:
        end = format_rfc3339(span.end_us)
        interval = "null" if span.interval is None else span.interval.json
        minutes = "null" if span.bucket is None else minute_info(span.bucket)
        spans.append(
            f'{{"TimeStart":"{start}","TimeEnd":"{end}","Cost":{format_micros(span.cost_micros)}'
            f'{activation_text(span.activation_us)},"Interval":{interval},"MinuteInfo":{minutes}}}'
        )
        start = end
    return (
        f'{{"TOR":{cost.tor},"CstmId":{quoted(cost.tenant)},"Subject":{quoted(cost.subject)},'
        f'"DestinationPrefix":{quoted(cost.prefix)},"Cost":{format_micros(cost.cost_micros)},'
        f'"ConnectFee":{format_micros(cost.connect_fee_micros)},"Timespans":[{",".join(spans)}]}}'
    ).encode()


@lru_cache(_CACHED_ACTIVATIONS)
def activation_text(activation_us: int) -> str:
    return f',"ActivationPeriod":{{"ActivationTime":"{format_rfc3339(activation_us)}"}}'


def minute_info(use: BucketUse) -> str:
    return (
        f'{{"DestinationId":{quoted(use.destination)},"Quantity":{format_micros(use.quantity_us)},'
        f'"Price":{format_nanos(use.price_nanos)}}}'
    )


def quoted(text: str) -> str:
    """As a JSON string."""
    return _encode(text).decode()
