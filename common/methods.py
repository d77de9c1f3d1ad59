"""The table of methods: the one place that says what there is and what each needs.

Gateways look names up here, raters decide by it what to validate, clients and documents list it.
Source: docs/rating.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_TEXT_CHARS: Final = 256
"""Longest tenant, subject, destination and request id: they become parts of store keys."""

MAX_TOR: Final = 2**31 - 1


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
    takes_times: bool = False
    """The times may be given, and may be left out."""


METHODS: Final[tuple[Method, ...]] = (
    Method("GetCost", "What a call costs", False, False, True, True, "call cost"),
    Method("DebitBalance", "Take cents from the credit", True, True, False, False, "credit left, cents"),
    Method("DebitSMS", "Take SMS units from the budget", True, True, False, False, "SMS left"),
    Method(
        "DebitSeconds",
        "Take seconds from the minute buckets that match the destination",
        True,
        True,
        True,
        False,
        "seconds left in the matching buckets",
    ),
    Method(
        "GetMaxSessionTime",
        "How long the subscriber may talk, from now",
        False,
        True,
        True,
        False,
        "seconds",
    ),
    Method(
        "AddVolumeDiscountSeconds",
        "Count placed seconds towards the volume discount",
        True,
        True,
        False,
        False,
        "the counter, seconds",
    ),
    Method(
        "ResetVolumeDiscountSeconds",
        "Set the volume discount counter to zero",
        True,
        False,
        False,
        False,
        "0",
    ),
    Method(
        "AddRecievedCallSeconds",
        "Count received seconds, and apply the plan's bonus at its threshold",
        True,
        True,
        False,
        False,
        "the counter, seconds",
    ),
    Method(
        "ResetUserBudget",
        "Set SMS, traffic and minute buckets to the tariff plan's",
        True,
        False,
        False,
        False,
        "0",
    ),
    Method(
        "Explain",
        "Why a call costs what it costs, and how long the subscriber may talk",
        False,
        False,
        True,
        False,
        "explanation",
        takes_times=True,
    ),
)

ALIASES: Final[dict[str, str]] = {"Get": "GetCost", "AddReceivedCallSeconds": "AddRecievedCallSeconds"}
SERVICE: Final = "Responder"

BY_NAME: Final[dict[str, Method]] = {method.name: method for method in METHODS} | {
    alias: method for alias, name in ALIASES.items() for method in METHODS if method.name == name
}
"""Method by its plain name or an alias: `GetCost`, `Get`."""

BY_RPC_NAME: Final[dict[str, Method]] = {f"{SERVICE}.{name}": method for name, method in BY_NAME.items()}
"""Method by the name that JSON-RPC uses: `Responder.GetCost`."""

BY_HTTP_NAME: Final[dict[str, Method]] = {name.lower(): method for name, method in BY_NAME.items()}
"""Method by its HTTP path without the slash: `getcost`."""
