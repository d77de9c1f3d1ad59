"""An account and the lines of its journal, as operators read them in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from common.money import format_micros, format_nanos
from rater.accounts.admin import Found
from rater.accounts.view import instant
from rater.journal.lines import Damaged, Line
from rater.model import spendable_micros

_FLOOR_MICROS: Final = re.compile(r"(?<=\bfloor=)-?\d+")


def rows(tenant: str, found: Found) -> Iterator[tuple[str, str]]:
    account, floor = found.account, found.account.min_credit_micros
    spendable = spendable_micros(account)
    can_spend = "without limit" if spendable is None else f"{format_micros(spendable)} cents"
    yield "account", f"{account.subject} of tenant {tenant}{'  BLOCKED' if account.blocked else ''}"
    yield "type", f"{'postpaid' if account.postpaid else 'prepaid'}, {_floor(floor)}, can spend {can_spend}"
    yield "credit", f"{format_micros(account.credit_micros)} cents"
    yield "SMS", format_micros(account.sms_micros)
    yield "traffic", format_micros(account.traffic_micros)
    yield "volume discount", f"{format_micros(account.volume_discount_us)} s counted"
    yield "received calls", f"{format_micros(account.received_us)} s counted"
    yield "tariff plan", account.plan or "none"
    yield "reset day", str(account.reset_day or "none")
    for each in account.buckets:
        yield (
            "minute bucket",
            f"{format_micros(each.seconds_us)} s to {each.destination}, "
            f"{format_nanos(each.price_nanos)} a second, priority {each.priority}",
        )
    yield "changes", f"{found.seq}, the last one at {instant(found.last_change)}"


def _floor(floor: int | None) -> str:
    return "no floor" if floor is None else f"floor {format_micros(floor)}"


def line_text(line: Line | Damaged) -> str:
    if isinstance(line, Damaged):
        field, expected, found = line.difference
        return f"{instant(line.id)}  DAMAGED {field}: expected {expected}, found {found}"
    after = line.balances
    rest = "".join(
        f"  {name} {text}"
        for name, text in (
            ("cost", None if line.cost is None else format_micros(line.cost)),
            ("bonus", None if line.bonus is None else f"× {line.bonus.times}"),
            ("terms", _FLOOR_MICROS.sub(lambda floor: format_micros(int(floor[0])), line.terms or "")),
            ("request", line.token),
        )
        if text
    )
    return (
        f"{instant(line.id)}  {line.seq:>6}  {line.op:<16} {format_micros(line.amount):>10}  "
        f"credit {format_micros(after.credit)}  sms {format_micros(after.sms)}{rest}"
    )
