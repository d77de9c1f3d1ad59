"""A small valid tariff as JSON values, and reading such values as if they were files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from rater.loader.assembly import TenantLoad, assemble
from rater.loader.fields import Source
from rater.loader.files import read_text
from rater.loader.items import Contents
from rater.loader.report import Report
from rater.model import Tariff

RATES = "activation_periods.json"
DESTINATIONS = "destinations.json"
PLANS = "tariff_plans.json"
BUDGETS = "user_budgets.json"

INTERVAL = {
    "Month": 0,
    "MonthDay": 0,
    "WeekDays": [1, 2, 3, 4, 5],
    "StartTime": "",
    "EndTime": "18:00:00",
    "Ponder": 0,
    "ConnectFee": 0,
    "Price": 0.2,
    "BillingUnit": 1,
}
_FILES: dict[str, list[dict[str, Any]]] = {
    RATES: [
        {
            "TOR": 0,
            "CstmId": "vdf",
            "Subject": "rif",
            "DestinationPrefix": "0256",
            "Timezone": "Europe/Bucharest",
            "ActivationPeriods": [
                {
                    "ActivationTime": "2012-01-01T00:00:00Z",
                    "Intervals": [
                        INTERVAL,
                        {**INTERVAL, "StartTime": "18:00:00", "EndTime": "", "Price": 0.1},
                        {**INTERVAL, "WeekDays": [6, 0], "EndTime": "", "Price": 0.1},
                    ],
                },
                {"ActivationTime": "2012-02-08T00:00:00Z", "Intervals": [{"Price": 10, "BillingUnit": 60}]},
            ],
        },
    ],
    DESTINATIONS: [{"Id": "net", "Prefixes": ["0723", "0724"]}, {"Id": "national", "Prefixes": ["02", "07"]}],
    PLANS: [
        {
            "Id": "evening",
            "SmsCredit": 100,
            "ReceivedCallsSecondsLimit": 100,
            "RecivedCallBonus": {
                "Credit": 100,
                "MinuteBucket": {"Seconds": 5, "Priority": 20, "DestinationId": "net"},
            },
            "MinuteBuckets": [{"Seconds": 10, "Priority": 10, "Price": 0.01, "DestinationId": "national"}],
            "VolumeDiscountThresholds": [{"Volume": 100, "Discount": 10}, {"Volume": 500, "Discount": 12.5}],
        }
    ],
    BUDGETS: [
        {
            "Id": "rif",
            "Type": "prepaid",
            "Credit": 21.5,
            "MinCredit": -5,
            "SmsCredit": 3,
            "Traffic": 0,
            "VolumeDiscountSeconds": 0,
            "ReceivedCallSeconds": 0,
            "ResetDayOfTheMonth": 10,
            "TariffPlanId": "evening",
            "MinuteBuckets": [{"Seconds": 10, "Priority": 10, "Price": 0.01, "DestinationId": "national"}],
        }
    ],
}


def sample_files() -> dict[str, Any]:
    """File name → its list, to be changed at will."""
    return copy.deepcopy(_FILES)


class FakeActive:
    """Active tariffs, or with None a store that can't be reached."""

    def __init__(self, tariffs: dict[str, Tariff] | None = None, *, reachable: bool = True) -> None:
        self._tariffs = (tariffs or {}) if reachable else None

    def tenants(self) -> list[str] | None:
        return None if self._tariffs is None else list(self._tariffs)

    def tariff(self, tenant: str) -> Tariff | None:
        return None if self._tariffs is None else self._tariffs.get(tenant, Tariff(tenant))


def read(
    files: Mapping[str, Any], tenant: str = "", active: FakeActive | None = None
) -> tuple[list[TenantLoad], Report]:
    """Read files, given as JSON values, one object a line, or as their bytes, and check them."""
    report, contents = Report(), Contents()
    for name, value in files.items():
        read_text(to_bytes(value), Source(name, report), contents, lambda done_bytes: None)
    return assemble(contents, tenant, active or FakeActive(), report), report


def to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return ("[\n" + ",\n".join(map(json.dumps, value)) + "\n]").encode()
    return json.dumps(value).encode()


def errors_of(files: dict[str, Any], tenant: str = "", active: FakeActive | None = None) -> list[str]:
    return read(files, tenant, active)[1].errors


def one_error(files: dict[str, Any], tenant: str = "", active: FakeActive | None = None) -> str:
    [error] = errors_of(files, tenant, active)
    return error
