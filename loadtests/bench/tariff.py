"""The tariff that is generated, and what calls cost by it. Pure.

Prices are so simple that the right cost is known here without asking the code under test.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

TENANT: Final = "bench"
ON_NET: Final = "09"
"""Numbers that minute buckets are good for; they have no rate, the others no bucket."""

_PEAK_BEGINS_S, _PEAK_ENDS_S = 8 * 3600, 20 * 3600
_WEEKDAYS: Final = 5


class World(NamedTuple):
    """How much there is."""

    accounts: int
    prefixes: int


def prefix(number: int) -> str:
    """Every second one is the beginning of the next, so the longest has to be found."""
    return f"0{1_000_000 + number // 2}" + ("7" if number % 2 else "")


def peak_price(number: int) -> int:
    """Thousandths of a cent a second, on working days from 8 to 20; at other times it is half of it."""
    return 2 + 2 * (number * 37 % 500)


def tariff(world: World) -> dict[str, list[dict[str, Any]]]:
    """Files by name."""
    return {
        "activation_periods.json": [_rate(number) for number in range(world.prefixes)],
        "destinations.json": [{"CstmId": TENANT, "Id": "on-net", "Prefixes": [ON_NET]}],
    }


def _rate(number: int) -> dict[str, Any]:
    peak = {"Price": peak_price(number) * 6 / 100, "BillingUnit": 60}
    off_peak = peak | {"Price": peak_price(number) * 3 / 100}
    work = {"WeekDays": [1, 2, 3, 4, 5]}
    intervals = [
        work | {"StartTime": "", "EndTime": "08:00:00"} | off_peak,
        work | {"StartTime": "08:00:00", "EndTime": "20:00:00"} | peak,
        work | {"StartTime": "20:00:00", "EndTime": ""} | off_peak,
        {"WeekDays": [6, 0]} | off_peak,
    ]
    period = {"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": intervals}
    return {
        "CstmId": TENANT,
        "Subject": "*any",
        "DestinationPrefix": prefix(number),
        "ActivationPeriods": [period],
    }


def cost(number: int, day: int, second: int, duration_s: int) -> int:
    """Thousandths of a cent, for a call to this prefix from a second of a day on; day 0 is a Monday."""
    peak_s = 0
    if day % 7 < _WEEKDAYS:
        peak_s = max(0, min(second + duration_s, _PEAK_ENDS_S) - max(second, _PEAK_BEGINS_S))
    return peak_price(number) * (duration_s + peak_s) // 2
