"""The tariff and the account as values: frozen, in exact integers, ready for msgpack.

Units are last in the names: `_us` microseconds (equally micros of a second), `_micros` millionths,
`_nanos` billionths. Field meanings: docs/rating.md.
"""

from __future__ import annotations

from typing import Final

import msgspec

ANY_SUBJECT: Final = "*any"
"""The tenant's fallback subject in the rates."""

DAY_S: Final = 86_400
MAX_BUCKETS: Final = 64
"""Minute buckets an account or a plan may have: scripts loop over them, so they are bounded."""


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """When a price applies. Times of day are seconds, half-open [start_s, end_s), end ≤ 86,400."""

    month: int
    """1-12; 0 is any."""
    month_day: int
    """1-31; 0 is any."""
    week_days: tuple[int, ...]
    """0 is Sunday, sorted; empty is any."""
    start_s: int
    end_s: int
    ponder_micros: int
    connect_fee_micros: int
    price_nanos: int
    """Cents per billing unit."""
    billing_unit_us: int
    """At least 1."""
    increment_us: int
    """0, or the span is charged in whole increments of this."""


class ActivationPeriod(msgspec.Struct, frozen=True, array_like=True):
    activation_us: int
    intervals: tuple[Interval, ...]


class Rate(msgspec.Struct, frozen=True, array_like=True):
    """What one subject pays for one destination prefix."""

    tor: int
    subject: str
    prefix: str
    timezone: str
    """IANA name; "UTC" by default."""
    periods: tuple[ActivationPeriod, ...]
    """By activation time, strictly ascending; not empty."""


class Destination(msgspec.Struct, frozen=True, array_like=True):
    id: str
    prefixes: tuple[str, ...]


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """A minute bucket: seconds to one destination set at a price per second."""

    destination: str
    seconds_us: int
    priority: int
    price_nanos: int


class Bonus(msgspec.Struct, frozen=True, array_like=True):
    credit_micros: int = 0
    sms_micros: int = 0
    traffic_micros: int = 0
    bucket: Bucket | None = None


class Threshold(msgspec.Struct, frozen=True, array_like=True):
    """From `volume_us` volume-discount seconds on, `discount_micros` millionths of a per cent off."""

    volume_us: int
    discount_micros: int


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """A tariff plan."""

    id: str
    sms_micros: int = 0
    traffic_micros: int = 0
    received_limit_us: int = 0
    """Received seconds that earn the bonus; 0 is never."""
    bonus: Bonus = Bonus()
    buckets: tuple[Bucket, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    """By volume, strictly ascending."""


class Account(msgspec.Struct, frozen=True, array_like=True):
    """A subscriber's budgets, as loaded or as read from the store."""

    subject: str
    credit_micros: int = 0
    sms_micros: int = 0
    traffic_micros: int = 0
    volume_discount_us: int = 0
    received_us: int = 0
    reset_day: int = 0
    """Day of the month for ResetUserBudget, kept for the operator; 0 is none."""
    plan: str = ""
    postpaid: bool = False
    min_credit_micros: int | None = None
    """The floor below which DebitBalance refuses; None is no floor."""
    buckets: tuple[Bucket, ...] = ()
    blocked: bool = False
    """By the operator: it gives nothing, and takes what is given back."""


class Tariff(msgspec.Struct, frozen=True, array_like=True):
    """Everything static of one tenant: one immutable version of it."""

    tenant: str
    rates: tuple[Rate, ...] = ()
    destinations: tuple[Destination, ...] = ()
    plans: tuple[Plan, ...] = ()


def spendable_micros(account: Account) -> int | None:
    """What the account can pay for now: credit above its floor, at least 0; None is no limit.

    A prepaid account without `MinCredit` can spend down to 0, a postpaid one without limit.
    Source: docs/rating.md, "What an account can spend".
    """
    if account.min_credit_micros is None:
        return None if account.postpaid else max(0, account.credit_micros)
    return max(0, account.credit_micros - account.min_credit_micros)
