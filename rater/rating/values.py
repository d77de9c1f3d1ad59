"""The values that rating finds: the rate for a number, and the parts of what a call costs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rater.rating.intervals import CompiledInterval
from rater.rating.schedule import Schedule, Zone


@dataclass(frozen=True, slots=True, eq=False)
class RatePlan:
    """What a rate says, without whose it is: periods in a time zone."""

    zone: Zone
    activations_us: tuple[int, ...]
    """Strictly ascending, not empty."""
    schedules: tuple[Schedule, ...]
    """`schedules[i]` holds from `activations_us[i]` on."""


class CompiledRate(msgspec.Struct, frozen=True, gc=False):
    """The rate found for a number."""

    prefix: str
    """The stored prefix that matched."""
    plan: RatePlan


class BucketUse(msgspec.Struct, frozen=True, gc=False):
    """What a minute bucket contributes to a call."""

    destination: str
    """The id of the bucket's destination set."""
    quantity_us: int
    price_nanos: int
    """Per second; 0 is free."""
    cost_micros: int


class Span(msgspec.Struct, frozen=True, gc=False):
    """A part of a call, covered by one interval, by one bucket, or (both None) by nothing."""

    start_us: int
    end_us: int
    cost_micros: int
    activation_us: int
    """Of the period in effect at the start."""
    interval: CompiledInterval | None
    bucket: BucketUse | None


class CallCost(msgspec.Struct, frozen=True, gc=False):
    """The spans cover the call exactly and in order; an empty call has none."""

    tor: int
    tenant: str
    subject: str
    prefix: str
    """The stored destination prefix that matched."""
    cost_micros: int
    connect_fee_micros: int
    """Of the first span, not part of the cost."""
    spans: tuple[Span, ...]
