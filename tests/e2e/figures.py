"""The tariff of the reference figures, and the figures: calls, session times, budget arithmetic.

Accounts that the arithmetic changes exist once for every door (`tcp`, `http`, `direct`), so that
the doors do not disturb each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

TENANT: Final = "vdf"
DOORS: Final = ("tcp", "http", "direct")

WORKDAYS, WEEKEND = [1, 2, 3, 4, 5], [6, 0]


def _interval(
    price: float, unit: int, start: str = "", end: str = "", days: list[int] | None = None
) -> dict[str, Any]:
    return {
        "Month": 0,
        "MonthDay": 0,
        "WeekDays": days or [],
        "StartTime": start,
        "EndTime": end,
        "Ponder": 0,
        "ConnectFee": 0,
        "Price": price,
        "BillingUnit": unit,
    }


def _day_and_night(day: float, night: float, unit: int) -> list[dict[str, Any]]:
    return [
        _interval(day, unit, end="18:00:00", days=WORKDAYS),
        _interval(night, unit, start="18:00:00", days=WORKDAYS),
        _interval(night, unit, days=WEEKEND),
    ]


def _rate(subject: str, prefix: str, *periods: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "TOR": 0,
        "CstmId": TENANT,
        "Subject": subject,
        "DestinationPrefix": prefix,
        "ActivationPeriods": [
            {"ActivationTime": time, "Intervals": intervals} for time, intervals in periods
        ],
    }


JANUARY = "2012-01-01T00:00:00Z"
MINUTE_RATE = (JANUARY, [_interval(1, 60)])
RATES = [
    _rate("rif", "0256", (JANUARY, _day_and_night(0.2, 0.1, 1))),
    _rate(
        "rif",
        "0257",
        (JANUARY, _day_and_night(0.2, 0.1, 1)),
        ("2012-02-08T00:00:00Z", _day_and_night(10, 1, 60)),
    ),
    _rate("rif", "0723", MINUTE_RATE),
    _rate("minutosu", "0723", MINUTE_RATE),
    _rate("broker", "0723", MINUTE_RATE),
    _rate("talker", "0723", MINUTE_RATE),
]
DESTINATIONS = [
    {"Id": "nationale", "Prefixes": ["0256", "0257", "0723", "0740"]},
    {"Id": "retea", "Prefixes": ["0723", "0724"]},
]


def _bucket(destination: str, seconds: int, priority: int, price: float = 0) -> dict[str, Any]:
    return {"Seconds": seconds, "Priority": priority, "Price": price, "DestinationId": destination}


PLAN_BUCKETS = [_bucket("nationale", 10, 10, 0.01), _bucket("retea", 100, 20)]
PLANS = [
    {
        "Id": "seara",
        "SmsCredit": 100,
        "ReceivedCallsSecondsLimit": 100,
        "RecivedCallBonus": {"Credit": 100},
        "MinuteBuckets": PLAN_BUCKETS,
        "VolumeDiscountThresholds": [{"Volume": 100, "Discount": 10}],
    },
    {
        "Id": "talk",
        "VolumeDiscountThresholds": [{"Volume": 100, "Discount": 10}, {"Volume": 500, "Discount": 20}],
    },
    {"Id": "ten", "ReceivedCallsSecondsLimit": 10, "ReceivedCallBonus": {"Credit": 100}},
]


class Row(NamedTuple):
    """One request and what must come of it, with the state of the account after it."""

    name: str
    account: dict[str, Any]
    method: str
    amount: float
    result: float | None
    """None: refused."""
    left: dict[str, Any]
    """Account fields after it, by their names in the store, in whole units; buckets by destination."""


def _seconds(amount: int, result: int | None, retea: int, nationale: int) -> Row:
    account = {"MinuteBuckets": [_bucket("nationale", 10, 10), _bucket("retea", 100, 20)]}
    left = {"retea": retea, "nationale": nationale}
    return Row(f"seconds-{amount}", account, "DebitSeconds", amount, result, left)


def _paid_seconds(amount: int, result: int | None, retea: int, credit: int) -> Row:
    account = {"Credit": 21, "MinuteBuckets": [_bucket("nationale", 10, 10), _bucket("retea", 100, 20, 1)]}
    left = {"retea": retea, "nationale": 10, "credit": credit}
    return Row(f"paid-seconds-{amount}", account, "DebitSeconds", amount, result, left)


def _money(amount: int, left: int) -> Row:
    return Row(f"money-{amount}", {"Credit": 21}, "DebitBalance", amount, left, {"credit": left})


def _sms(amount: int, result: int | None) -> Row:
    left = {"sms": 100 if result is None else result}
    return Row(f"sms-{amount}", {"SmsCredit": 100}, "DebitSMS", amount, result, left)


ARITHMETIC: Final = (
    _seconds(6, 104, retea=94, nationale=10),
    _seconds(105, 5, retea=0, nationale=5),
    _seconds(110, 0, retea=0, nationale=0),
    _seconds(115, None, retea=100, nationale=10),
    _seconds(-15, 125, retea=115, nationale=10),
    _paid_seconds(5, 105, retea=95, credit=16),
    _paid_seconds(21, 89, retea=79, credit=0),
    _paid_seconds(25, None, retea=100, credit=21),
    _paid_seconds(-15, 125, retea=115, credit=36),
    _money(6, 15),
    _money(22, -1),
    _money(-15, 36),
    _sms(12, 88),
    _sms(100, 0),
    _sms(110, None),
    _sms(-15, 115),
    Row(
        "received-12",
        {"Credit": 21, "ReceivedCallSeconds": 1, "TariffPlanId": "ten"},
        "AddRecievedCallSeconds",
        12,
        3,
        {"credit": 121, "received": 3},
    ),
)

BUDGETS = [
    {"Id": "minutosu", "Credit": 21, "TariffPlanId": "seara", "MinuteBuckets": PLAN_BUCKETS},
    {"Id": "broker", "Credit": 0, "TariffPlanId": "seara", "MinuteBuckets": PLAN_BUCKETS},
    {"Id": "talker", "VolumeDiscountSeconds": 105, "TariffPlanId": "talk"},
    *({"Id": f"{row.name}@{door}"} | row.account for row in ARITHMETIC for door in DOORS),
]

COSTS: Final = (
    ("rif", "0256", "2012-02-02T17:30:00Z", "2012-02-02T18:30:00Z", 540, "0256"),
    ("rif", "0256308200", "2012-02-02T17:30:00Z", "2012-02-02T18:30:00Z", 540, "0256"),
    ("rif", "0257308200", "2012-02-08T17:30:00Z", "2012-02-08T18:30:00Z", 330, "0257"),
    ("rif", "0257308200", "2012-02-07T23:50:00Z", "2012-02-08T00:30:00Z", 360, "0257"),
    ("rif", "0257308200", "2012-02-08T23:50:00Z", "2012-02-08T23:50:30Z", 0.5, "0257"),
    ("rif", "0723045326", "2012-02-08T22:50:00Z", "2012-02-08T23:50:21Z", 60.35, "0723"),
    ("minutosu", "0723", "2012-02-08T22:50:00Z", "2012-02-08T22:51:50Z", 0.1, "0723"),
    ("talker", "0723", "2012-02-02T17:30:00Z", "2012-02-02T18:30:00Z", 54, "0723"),
)
"""Subject, dialled, from, to, cost in cents, matched prefix."""

SESSION_TIMES: Final = (("rif", 1000, 1000), ("minutosu", 5400, 1080), ("broker", 5400, 100))
"""Subject calling 0723, seconds asked for, seconds granted."""


def write_tariff(folder: Path) -> Path:
    """The tariff as files in `folder`."""
    folder.mkdir(parents=True)
    for name, objects in (
        ("activation_periods", RATES),
        ("destinations", DESTINATIONS),
        ("tariffplans", PLANS),
        ("userbudgets", BUDGETS),
    ):
        (folder / f"{name}.json").write_text(json.dumps(objects))
    return folder
