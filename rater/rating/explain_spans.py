"""A call cost's spans explained, each with its interval, the rivals that lost to it, and its arithmetic.

A part of `rater.rating.explain`, with the form of numbers in it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common.money import format_micros, format_nanos
from common.times import SECOND_US, format_rfc3339
from rater.model import Account
from rater.rating.contest import Rival, rivals, why_it_won
from rater.rating.schedule import Zone
from rater.rating.snapshot import CompiledTariff
from rater.rating.spans import Call, find_discount
from rater.rating.values import CallCost, RatePlan, Span

MAX_SPANS: Final = 100
MAX_RIVALS: Final = 20
"""Spans of a call, and losing intervals of a span, that are explained one by one; the rest is counted."""

Tree = dict[str, Any]


def number(micros: int) -> msgspec.Raw:
    return msgspec.Raw(format_micros(micros).encode())


def price(nanos: int) -> msgspec.Raw:
    return msgspec.Raw(format_nanos(nanos).encode())


def explain_spans(tariff: CompiledTariff, call: Call, cost: CallCost | None, account: Account | None) -> Tree:
    if cost is None:
        return {"Timespans": [], "MoreTimespans": 0}
    found = tariff.find_rate(call.subject, call.destination)
    assert found is not None
    discount = 0 if account is None else find_discount(tariff, account)
    spans = [_span(found.plan, span, discount) for span in cost.spans[:MAX_SPANS]]
    return {"Timespans": spans, "MoreTimespans": max(0, len(cost.spans) - MAX_SPANS)}


def _span(plan: RatePlan, span: Span, discount_micros: int) -> Tree:
    explained: Tree = {
        "TimeStart": format_rfc3339(span.start_us),
        "TimeEnd": format_rfc3339(span.end_us),
        "LocalStart": _local(plan.zone, span.start_us),
        "LocalEnd": _local(plan.zone, span.end_us),
        "Seconds": number(span.end_us - span.start_us),
        "Cost": number(span.cost_micros),
        "ActivationTime": format_rfc3339(span.activation_us),
        "Interval": None,
        "Bucket": None,
        "Rivals": [],
        "MoreRivals": 0,
    }
    if span.bucket is not None:
        use = span.bucket
        explained["Bucket"] = use.destination
        explained["Why"] = "a minute bucket covers it, and buckets come before prices"
        explained["Arithmetic"] = (
            f"{format_micros(use.quantity_us)} s × {format_nanos(use.price_nanos)} a second"
            f" = {format_micros(use.cost_micros)}"
        )
        return explained
    schedule = plan.schedules[plan.activations_us.index(span.activation_us)]
    among, more = rivals(schedule, plan.zone, span.start_us, span.end_us, span.interval)
    explained["Why"] = why_it_won(span.interval, among)
    explained["Arithmetic"] = _arithmetic(span, discount_micros)
    explained["Rivals"] = [_rival(each) for each in among[:MAX_RIVALS]]
    explained["MoreRivals"] = more + max(0, len(among) - MAX_RIVALS)
    if span.interval is not None:
        explained["Interval"] = msgspec.Raw(span.interval.json.encode())
    return explained


def _rival(rival: Rival) -> Tree:
    since_us = rival.applies_from_us
    return {
        "Interval": msgspec.Raw(rival.interval.json.encode()),
        "AppliesFrom": None if since_us is None else format_rfc3339(since_us),
        "Reason": rival.reason,
        "Text": rival.text,
    }


def _arithmetic(span: Span, discount_micros: int) -> str:
    interval = span.interval
    duration_us = span.end_us - span.start_us
    seconds = format_micros(duration_us)
    if interval is None:
        return f"{seconds} s × 0 = 0"
    charged = f"{seconds} s"
    if interval.increment_us and duration_us % interval.increment_us:
        whole = format_micros(duration_us + -duration_us % interval.increment_us)
        charged = f"{whole} s ({seconds} s in whole increments of {format_micros(interval.increment_us)} s)"
    off = f" − {format_micros(discount_micros)} %" if discount_micros else ""
    return (
        f"{charged} × {format_nanos(interval.price_nanos)} ÷ {format_micros(interval.unit_us)} s{off}"
        f" = {format_micros(span.cost_micros)}"
    )


def _local(zone: Zone, instant_us: int) -> str:
    """The local time of an instant, with its offset from UTC."""
    offset_us, _ = zone.offset_at(instant_us)
    seconds = abs(offset_us) // SECOND_US
    sign = "-" if offset_us < 0 else "+"
    rest = f":{seconds % 60:02d}" if seconds % 60 else ""  # local mean time, before there were zones
    local = format_rfc3339(instant_us + offset_us).removesuffix("Z")
    return f"{local}{sign}{seconds // 3600:02d}:{seconds % 3600 // 60:02d}{rest}"
