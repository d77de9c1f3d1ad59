"""What the clients of a chaos run ask for: the accounts, their openings, and a seeded stream of requests.

Everything here is a pure function of its arguments. Amounts are integers of millionths ("micros").
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, NamedTuple

TENANT: Final = "shop"
MICROS: Final = 1_000_000
DIALLED: Final = "0712345"
SECOND_PRICE: Final = 20_000
"""Micro-cents for a second of every bucket, and the plan's."""

THRESHOLD: Final = 100 * MICROS
"""Received seconds for one bonus."""
BONUS_CREDIT: Final = 3 * MICROS
BONUS_SMS: Final = 2 * MICROS

RICH: Final = 5_000_000
"""Of everything in an account that shall not run dry: cents, SMS, seconds."""
POOR: Final = 30
"""Of everything in an account that shall refuse again and again."""

HOT: Final = ("hot-0", "hot-1")
SPREAD: Final = tuple(f"spread-{number}" for number in range(30))
FLOOR: Final = tuple(f"floor-{number}" for number in range(4))
HELD: Final = tuple(f"held-{number}" for number in range(3))
"""These are blocked and unblocked meanwhile, and get other terms (`tests.chaos.operating`)."""

TARIFF: Final = {
    "activation_periods.json": """[{"CstmId": "shop", "Subject": "*any", "DestinationPrefix": "0",
"ActivationPeriods": [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1}]}]}]""",
    "destinations.json": '[{"CstmId": "shop", "Id": "mobile", "Prefixes": ["07"]}]',
    "tariff_plans.json": f"""[{{"CstmId": "shop", "Id": "basic", "SmsCredit": {RICH}, "Traffic": 7,
"ReceivedCallsSecondsLimit": {THRESHOLD // MICROS},
"ReceivedCallBonus": {{"Credit": {BONUS_CREDIT // MICROS}, "SmsCredit": {BONUS_SMS // MICROS}}},
"MinuteBuckets": [{{"DestinationId": "mobile", "Seconds": {RICH}, "Priority": 10, "Price": 0.02}}]}}]""",
}


def budgets() -> str:
    """The accounts' file."""
    rows = []
    for subjects, amount in ((HOT + SPREAD + HELD, RICH), (FLOOR, POOR)):
        for subject in subjects:
            rows.append(
                f'{{"CstmId": "shop", "Id": "{subject}", "Credit": {amount}, "MinCredit": 0,'
                f' "SmsCredit": {amount}, "TariffPlanId": "basic", "MinuteBuckets":'
                f' [{{"DestinationId": "mobile", "Seconds": {amount}, "Priority": 10, "Price": 0.02}}]}}'
            )
    return "[" + ",\n".join(rows) + "]"


METHODS: Final = frozenset(
    (
        "DebitBalance",
        "DebitSMS",
        "DebitSeconds",
        "AddVolumeDiscountSeconds",
        "AddRecievedCallSeconds",
        "ResetVolumeDiscountSeconds",
        "ResetUserBudget",
    )
)
"""What is asked for, and so what journals may hold behind the opening."""

DEBITS: Final = frozenset(("DebitBalance", "DebitSMS", "DebitSeconds"))
"""What a blocked account refuses, where it takes something."""
TERMS: Final = "SetTerms"
"""What the operator's decisions are called in journals."""


class Account(NamedTuple):
    """Balances and counters, micros."""

    credit: int
    sms: int
    volume: int
    received: int
    seconds: int


def opening(subject: str) -> Account:
    amount = (POOR if subject in FLOOR else RICH) * MICROS
    return Account(amount, amount, 0, 0, amount)


def applied(account: Account, method: str, amount: int) -> tuple[Account, int]:
    """The account after a mutation that was done, and the result that the client is told."""
    credit, sms, volume, received, seconds = account
    if method == "DebitBalance":
        return account._replace(credit=credit - amount), credit - amount
    if method == "DebitSMS":
        return account._replace(sms=sms - amount), sms - amount
    if method == "DebitSeconds":
        cost = amount // MICROS * SECOND_PRICE
        return account._replace(credit=credit - cost, seconds=seconds - amount), seconds - amount
    if method == "AddVolumeDiscountSeconds":
        return account._replace(volume=volume + amount), volume + amount
    if method == "ResetVolumeDiscountSeconds":
        return account._replace(volume=0), 0
    if method == "ResetUserBudget":
        return account._replace(sms=RICH * MICROS, seconds=RICH * MICROS), 0
    assert method == "AddRecievedCallSeconds", method
    times, rest = divmod(received + amount, THRESHOLD)
    return account._replace(
        credit=credit + times * BONUS_CREDIT, sms=sms + times * BONUS_SMS, received=rest
    ), rest


class Ask(NamedTuple):
    """One thing that a client wants done."""

    id: str
    """Its idempotency key too, if it has one."""
    method: str
    subject: str
    amount: int
    keyed: bool
    """Without a key it is sent once; what became of it only the journal can tell. Its amount is unique."""
    twin: bool = False
    """Sent at once through both balancers."""
    dropped: bool = False
    """The connection is reset right after sending."""
    replayed: bool = False
    """Sent once more after its answer."""
    reused: bool = False
    """Its key is sent again with another amount after its answer, which must be refused."""


def stream(seed: int, client: int) -> Iterator[Ask]:
    """The requests of one client process, without end."""
    random = Random(f"{seed}/{client}")
    number = 0
    while True:
        number += 1
        draw = random.random()
        if draw < 0.03:
            amount = 1 + client + 16 * number  # millionths of a cent, which no other request takes
            yield Ask(f"{client}-{number}", "DebitBalance", random.choice(HOT + SPREAD), amount, False)
            continue
        method, subject, amount = _wish(random)
        yield Ask(
            f"{client}-{number}",
            method,
            subject,
            amount,
            keyed=True,
            twin=random.random() < 0.03,
            dropped=random.random() < 0.001,
            replayed=random.random() < 0.02,
            reused=amount != 0 and random.random() < 0.01,
        )


def _wish(random: Random) -> tuple[str, str, int]:
    draw = random.random()
    if draw < 0.12:
        subject = random.choice(FLOOR)
        amount = random.choice((-9, -4, 3, 4, 5, 7, 11)) * MICROS
        return random.choice(("DebitBalance", "DebitBalance", "DebitSMS", "DebitSeconds")), subject, amount
    whose = random.random()
    subject = random.choice(HOT if whose < 0.4 else HELD if whose < 0.55 else SPREAD)
    # Amounts differ, so that a mix-up of two requests shows.
    amount = random.randint(1, 11) * MICROS
    if draw < 0.62:
        return "DebitBalance", subject, -amount if random.random() < 0.1 else amount // 2
    if draw < 0.74:
        return "DebitSMS", subject, amount
    if draw < 0.86:
        return "DebitSeconds", subject, -amount if random.random() < 0.1 else amount
    if draw < 0.94:
        return "AddVolumeDiscountSeconds", subject, amount
    if draw < 0.99:
        return "AddRecievedCallSeconds", subject, amount
    return random.choice(("ResetVolumeDiscountSeconds", "ResetUserBudget")), random.choice(SPREAD), 0
