"""An account and the lines of its journal as JSON: what `ratel account --json`, Account and History show."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from common.money import format_micros, format_nanos
from rater.accounts.admin import Found
from rater.journal.lines import Damaged, Line
from rater.model import spendable_micros


def account_tree(tenant: str, found: Found) -> Mapping[str, Any]:
    account, floor = found.account, found.account.min_credit_micros
    spendable = spendable_micros(account)
    return {
        "CstmId": tenant,
        "Subject": account.subject,
        "Type": "postpaid" if account.postpaid else "prepaid",
        "Blocked": account.blocked,
        "Credit": _number(account.credit_micros),
        "MinCredit": None if floor is None else _number(floor),
        "Spendable": None if spendable is None else _number(spendable),
        "SmsCredit": _number(account.sms_micros),
        "Traffic": _number(account.traffic_micros),
        "VolumeDiscountSeconds": _number(account.volume_discount_us),
        "ReceivedCallSeconds": _number(account.received_us),
        "ResetDayOfTheMonth": account.reset_day,
        "TariffPlanId": account.plan or None,
        "MinuteBuckets": [
            {
                "DestinationId": each.destination,
                "Seconds": _number(each.seconds_us),
                "Priority": each.priority,
                "Price": msgspec.Raw(format_nanos(each.price_nanos).encode()),
            }
            for each in account.buckets
        ],
        "Changes": found.seq,
        "LastChange": instant(found.last_change),
    }


def line_tree(line: Line | Damaged) -> Mapping[str, Any]:
    if isinstance(line, Damaged):
        return {
            "Id": _text(line.id),
            "Damaged": {name: _text(text) for name, text in line.difference._asdict().items()},
        }
    after = line.balances
    return {
        "Id": line.id,
        "Time": instant(line.id),
        "Seq": line.seq,
        "Operation": line.op,
        "Amount": _number(line.amount),
        "Token": _text(line.token),
        "Credit": _number(after.credit),
        "SmsCredit": _number(after.sms),
        "Traffic": _number(after.traffic),
        "VolumeDiscountSeconds": _number(after.volume_discount),
        "ReceivedCallSeconds": _number(after.received),
        "Cost": None if line.cost is None else _number(line.cost),
        "Terms": None if line.terms is None else _text(line.terms),
        "MinuteBuckets": None
        if line.buckets is None
        else [
            {"DestinationId": _text(each.destination), "Seconds": _number(each.seconds_us)}
            for each in line.buckets
        ],
    }


def instant(entry_id: str) -> str:
    """The time of a journal line, in UTC."""
    if not entry_id:
        return "never"
    ms = int(entry_id.partition("-")[0])
    try:
        return (
            datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
    except (OverflowError, ValueError):
        return entry_id


def _number(micros: int) -> msgspec.Raw:
    return msgspec.Raw(format_micros(micros).encode())


def _text(stored: str) -> str:
    """Fit for JSON: what was no UTF-8 in the store is shown as the replacement character."""
    return stored.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
