"""What subscribers do: who calls whom and for how long, and the tariff and accounts for it. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

TENANT: Final = "traffic"
CREDIT: Final = 1_000_000
"""Cents that each account is opened with: nobody runs dry in a load test, but `poor` ones."""
POOR_CREDIT: Final = 20
POOR_EVERY: Final = 10
"""Every tenth subscriber is prepaid with little credit, so that calls are refused or cut, as in life."""

PREFIXES: Final = {"0256": 12, "0257": 6, "07": 9, "0044": 40}
"""Cents a minute by the destinations that are called."""

ASKED_S: Final = 600
"""A switch asks for leave to talk for ten minutes."""
MEAN_TALK_S: Final = 120
"""Mean holding time of a call; they are distributed exponentially, as telephone calls roughly are."""
SLICE_S: Final = 30
"""While a call lasts it is charged every half minute."""


class Call(NamedTuple):
    subject: str
    number: str
    start: datetime
    talk_s: int
    """As long as the caller would like to talk."""


class Charge(NamedTuple):
    """A part of a call that is priced and debited at its end."""

    begin_s: int
    end_s: int
    is_last: bool


def subject(number: int) -> str:
    return f"s{number:06d}"


def is_poor(number: int) -> bool:
    return number % POOR_EVERY == POOR_EVERY - 1


def draw_call(chance: random.Random, subscribers: int, now: datetime) -> Call:
    prefix = chance.choices(list(PREFIXES), weights=[6, 2, 8, 1])[0]
    number = prefix + "".join(chance.choices("0123456789", k=7))
    talk_s = max(1, round(chance.expovariate(1 / MEAN_TALK_S)))
    return Call(subject(chance.randrange(subscribers)), number, now, talk_s)


def charges(talk_s: int) -> Iterator[Charge]:
    """The charges of a call that lasts so long: each slice, and what is left at the end."""
    for begin_s in range(0, talk_s, SLICE_S):
        end_s = min(begin_s + SLICE_S, talk_s)
        yield Charge(begin_s, end_s, end_s == talk_s)


def rfc3339(start: datetime, offset_s: int) -> str:
    return (start + timedelta(seconds=offset_s)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def files(subscribers: int) -> dict[str, list[dict[str, Any]]]:
    """Tariff files by name: rates for everybody, and an account for each subscriber."""
    rates = [
        {
            "CstmId": TENANT,
            "Subject": "*any",
            "DestinationPrefix": prefix,
            "ActivationPeriods": [
                {
                    "ActivationTime": "2012-01-01T00:00:00Z",
                    "Intervals": [{"Price": cents, "BillingUnit": 60, "ConnectFee": 1}],
                }
            ],
        }
        for prefix, cents in PREFIXES.items()
    ]
    accounts: list[dict[str, Any]] = [
        {"CstmId": TENANT, "Id": subject(number), "Credit": POOR_CREDIT, "MinCredit": 0}
        if is_poor(number)
        else {"CstmId": TENANT, "Id": subject(number), "Credit": CREDIT}
        for number in range(subscribers)
    ]
    return {"activation_periods.json": rates, "user_budgets.json": accounts}
