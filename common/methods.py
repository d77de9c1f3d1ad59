"""The table of methods: the one place that says what there is and what each needs.

Gateways look names up here, raters decide by it what to validate, clients and documents list it.
Source: docs/rating.md.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

MAX_TEXT_CHARS: Final = 256
"""Longest tenant, subject, destination and request id: they become parts of store keys."""

MAX_HISTORY_LINES: Final = 200
"""Of an account's journal, in one answer: what a page shows, and a small part of a rater's turn."""

MAX_TOR: Final = 2**31 - 1

LAST_DAY: Final = 31
"""Of a month, for an account's reset day."""


class Group(Enum):
    """What a method is for: an API key is bound to some of these, or to single methods."""

    READ = "read"
    """Asks, and changes nothing."""
    DEBIT = "debit"
    """Charges and counts what a subscriber uses: what a switch needs."""
    OPERATOR = "operator"
    """Sets an account back, whatever it held, or looks at all of it."""


class Method(NamedTuple):
    """One method of the API."""

    name: str
    summary: str
    mutates: bool
    """Changes an account: runs under an idempotency token."""
    needs_amount: bool
    needs_destination: bool
    """Over JSON-RPC. Over HTTP every method needs `dest`."""
    needs_times: bool
    result: str
    """What comes back, with its unit."""
    group: Group = Group.OPERATOR
    """Where none is named, the one that fewest keys have."""
    takes_times: bool = False
    """The times may be given, and may be left out."""
    takes_destination: bool = True
    """False: none is needed over HTTP either."""
    takes_amount: bool = False
    """It may be given, and may be left out."""
    takes_terms: bool = False
    """It reads the terms of an account (`TERMS`), at least one."""


METHODS: Final[tuple[Method, ...]] = (
    Method("GetCost", "What a call costs", False, False, True, True, "call cost", Group.READ),
    Method(
        "DebitBalance",
        "Take cents from the credit",
        True,
        True,
        False,
        False,
        "credit left, cents",
        Group.DEBIT,
    ),
    Method("DebitSMS", "Take SMS units from the budget", True, True, False, False, "SMS left", Group.DEBIT),
    Method(
        "DebitSeconds",
        "Take seconds from the minute buckets that match the destination",
        True,
        True,
        True,
        False,
        "seconds left in the matching buckets",
        Group.DEBIT,
    ),
    Method(
        "GetMaxSessionTime",
        "How long the subscriber may talk, from now",
        False,
        True,
        True,
        False,
        "seconds",
        Group.READ,
    ),
    Method(
        "AddVolumeDiscountSeconds",
        "Count placed seconds towards the volume discount",
        True,
        True,
        False,
        False,
        "the counter, seconds",
        Group.DEBIT,
    ),
    Method(
        "ResetVolumeDiscountSeconds",
        "Set the volume discount counter to zero",
        True,
        False,
        False,
        False,
        "0",
        Group.OPERATOR,
    ),
    Method(
        "AddRecievedCallSeconds",
        "Count received seconds, and apply the plan's bonus at its threshold",
        True,
        True,
        False,
        False,
        "the counter, seconds",
        Group.DEBIT,
    ),
    Method(
        "ResetUserBudget",
        "Set SMS, traffic and minute buckets to the tariff plan's",
        True,
        False,
        False,
        False,
        "0",
        Group.OPERATOR,
    ),
    Method(
        "Explain",
        "Why a call costs what it costs, and how long the subscriber may talk",
        False,
        False,
        True,
        False,
        "explanation",
        Group.READ,
        takes_times=True,
        takes_amount=True,
    ),
    Method(
        "Account",
        "What an account holds: budgets, minute buckets, terms",
        False,
        False,
        False,
        False,
        "account",
        Group.OPERATOR,
        takes_destination=False,
    ),
    Method(
        "History",
        "The last changes of an account, from its journal",
        False,
        False,
        False,
        False,
        "journal lines",
        Group.OPERATOR,
        takes_destination=False,
        takes_amount=True,
    ),
    Method(
        "SetTerms",
        "Block or unblock an account, set its type, floor, tariff plan or reset day",
        True,
        False,
        False,
        False,
        "1 when something has changed, else 0",
        Group.OPERATOR,
        takes_destination=False,
        takes_terms=True,
    ),
)

TERMS: Final[dict[str, type]] = {
    "Blocked": bool,
    "Type": str,
    "MinCredit": float,
    "NoMinCredit": bool,
    "TariffPlanId": str,
    "NoTariffPlan": bool,
    "ResetDayOfTheMonth": int,
}
"""What SetTerms reads, under the names that Account gives them, by what they are: a `float` is a number of at
most 6 decimals. Two are set to nothing by a name of their own, as null is as good as absent everywhere."""

ALIASES: Final[dict[str, str]] = {"Get": "GetCost", "AddReceivedCallSeconds": "AddRecievedCallSeconds"}
SERVICE: Final = "Responder"

BY_NAME: Final[dict[str, Method]] = {method.name: method for method in METHODS} | {
    alias: method for alias, name in ALIASES.items() for method in METHODS if method.name == name
}
"""Method by its plain name or an alias: `GetCost`, `Get`."""

BY_RPC_NAME: Final[dict[str, Method]] = {f"{SERVICE}.{name}": method for name, method in BY_NAME.items()}
"""Method by the name that JSON-RPC uses: `Responder.GetCost`."""

AUTHENTICATE: Final = Method(
    "Authenticate",
    "Say by an API key who calls on this connection",
    False,
    False,
    False,
    False,
    "the key's id, tenants and methods",
)
"""Of JSON-RPC over TCP alone, and answered by the front: no rater knows it."""

DISCOVER: Final = Method(
    "discover",
    "The OpenRPC document of this API",
    False,
    False,
    False,
    False,
    "OpenRPC document",
    Group.READ,
)
"""The same; OpenRPC gives it its name."""
DISCOVER_RPC_NAME: Final = "rpc.discover"

BY_RPC_NAME_AT_FRONT: Final[dict[str, Method]] = BY_RPC_NAME | {
    f"{SERVICE}.{AUTHENTICATE.name}": AUTHENTICATE,
    DISCOVER_RPC_NAME: DISCOVER,
}
"""What a connection may call: the methods of the API, and those that the front answers itself."""

BY_HTTP_NAME: Final[dict[str, Method]] = {name.lower(): method for name, method in BY_NAME.items()}
"""Method by its HTTP path without the slash: `getcost`."""
