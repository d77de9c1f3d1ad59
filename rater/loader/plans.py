"""Destinations, tariff plans and budgets in the files' JSON format → values of `rater.model`.

Each reader returns the tenant that the object names, "" when it names none, and the value. Every
mistake is reported in its place. Source of the rules: docs/rating.md, "Tariff files".
"""

from __future__ import annotations

from typing import Final

from rater.loader.fields import MAX_NAME_CHARS, Fields, Shape
from rater.loader.report import describe
from rater.model import MAX_BUCKETS, Account, Bonus, Bucket, Destination, Plan, Threshold

MAX_PRIORITY: Final = 2**31 - 1
MAX_THRESHOLDS: Final = 64
"""Of one plan: every rated call looks through them."""

WHOLE_PERCENT: Final = 100_000_000
"""100 % in millionths."""

DESTINATION: Final = Shape("a destination", "Id", "CstmId", "Prefixes")
BUCKET: Final = Shape("a minute bucket", "Seconds", "Priority", "Price", "DestinationId")
BONUS: Final = Shape("a received-call bonus", "Credit", "SmsCredit", "Traffic", "MinuteBucket")
THRESHOLD: Final = Shape("a volume discount threshold", "Volume", "Discount")
PLAN: Final = Shape(
    "a tariff plan",
    "Id",
    "CstmId",
    "SmsCredit",
    "Traffic",
    "ReceivedCallsSecondsLimit",
    "ReceivedCallBonus",
    "MinuteBuckets",
    "VolumeDiscountThresholds",
    aliases={
        "ReceivedCallSecondsLimit": "ReceivedCallsSecondsLimit",
        "RecivedCallBonus": "ReceivedCallBonus",
    },
)
BUDGET: Final = Shape(
    "a user budget",
    "Id",
    "CstmId",
    "Credit",
    "SmsCredit",
    "Traffic",
    "VolumeDiscountSeconds",
    "ReceivedCallSeconds",
    "ResetDayOfTheMonth",
    "TariffPlanId",
    "Type",
    "MinCredit",
    "MinuteBuckets",
)


def read_destination(fields: Fields) -> tuple[str, Destination]:
    if fields.required("Prefixes") and fields.get("Prefixes") == []:
        fields.warning("Prefixes", "is empty: no number belongs to this destination")
    prefixes: dict[str, None] = {}  # a set that keeps the order
    for prefix in fields.items("Prefixes"):
        if type(prefix) is not str or not 0 < len(prefix) <= MAX_NAME_CHARS:
            fields.error(
                "Prefixes",
                f"expected texts of 1 to {MAX_NAME_CHARS} characters, found {describe(prefix)}",
            )
        else:
            prefixes[prefix] = None
    return fields.optional_name("CstmId"), Destination(fields.name("Id"), tuple(prefixes))


def read_plan(fields: Fields) -> tuple[str, Plan]:
    return fields.optional_name("CstmId"), Plan(
        id=fields.name("Id"),
        sms_micros=fields.micros("SmsCredit"),
        traffic_micros=fields.micros("Traffic"),
        received_limit_us=fields.micros("ReceivedCallsSecondsLimit"),
        bonus=_bonus(fields),
        buckets=read_buckets(fields),
        thresholds=_thresholds(fields),
    )


def read_budget(fields: Fields) -> tuple[str, Account]:
    kind = fields.text("Type") or "prepaid"
    if kind not in ("prepaid", "postpaid"):
        fields.error("Type", f"expected 'prepaid' or 'postpaid', found {describe(kind)}")
    floored = fields.get("MinCredit") is not None
    return fields.optional_name("CstmId"), Account(
        subject=fields.name("Id"),
        credit_micros=fields.micros("Credit", low=None),
        sms_micros=fields.micros("SmsCredit"),
        traffic_micros=fields.micros("Traffic"),
        volume_discount_us=fields.micros("VolumeDiscountSeconds"),
        received_us=fields.micros("ReceivedCallSeconds"),
        reset_day=fields.integer("ResetDayOfTheMonth", 0, 31),
        plan=fields.optional_name("TariffPlanId"),
        postpaid=kind == "postpaid",
        min_credit_micros=fields.micros("MinCredit", low=None) if floored else None,
        buckets=read_buckets(fields),
    )


def read_buckets(fields: Fields) -> tuple[Bucket, ...]:
    return tuple(_bucket(bucket) for bucket in fields.objects("MinuteBuckets", BUCKET, MAX_BUCKETS))


def _bucket(fields: Fields) -> Bucket:
    fields.required("Seconds")
    return Bucket(
        destination=fields.name("DestinationId"),
        seconds_us=fields.micros("Seconds"),
        priority=fields.integer("Priority", -MAX_PRIORITY - 1, MAX_PRIORITY),
        price_nanos=fields.nanos("Price", unit=" (cents a second)"),
    )


def _bonus(plan: Fields) -> Bonus:
    fields = plan.object("ReceivedCallBonus", BONUS)
    if fields is None:
        return Bonus()
    bucket = fields.object("MinuteBucket", BUCKET)
    return Bonus(
        credit_micros=fields.micros("Credit"),
        sms_micros=fields.micros("SmsCredit"),
        traffic_micros=fields.micros("Traffic"),
        bucket=_bucket(bucket) if bucket else None,
    )


def _thresholds(plan: Fields) -> tuple[Threshold, ...]:
    found: dict[int, Threshold] = {}
    for fields in plan.objects("VolumeDiscountThresholds", THRESHOLD, MAX_THRESHOLDS):
        there = fields.required("Volume") and fields.required("Discount")
        volume_us = fields.micros("Volume", unit=" (seconds)")
        discount_micros = fields.micros("Discount", high=WHOLE_PERCENT, unit=" (per cent)")
        if there and volume_us in found:
            fields.error(
                "Volume", f"another threshold of this plan begins at {describe(fields.get('Volume'))}"
            )
        found[volume_us] = Threshold(volume_us, discount_micros)
    return tuple(threshold for _, threshold in sorted(found.items()))
