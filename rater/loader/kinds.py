"""What kind of thing a tariff file's object is: told by its fields, and if need be by the file's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from rater.loader.fields import Shape
from rater.loader.plans import BUDGET, DESTINATION, PLAN
from rater.loader.rates import RATE


class Kind(Enum):
    RATE = "rates"
    DESTINATION = "destinations"
    PLAN = "tariff plans"
    BUDGET = "user budgets"


SHAPES: Final[Mapping[Kind, Shape]] = {
    Kind.RATE: RATE,
    Kind.DESTINATION: DESTINATION,
    Kind.PLAN: PLAN,
    Kind.BUDGET: BUDGET,
}

_DISTINCTIVE: Final[Mapping[str, Kind]] = {
    "activationperiods": Kind.RATE,
    "subject": Kind.RATE,
    "destinationprefix": Kind.RATE,
    "prefixes": Kind.DESTINATION,
    "receivedcallssecondslimit": Kind.PLAN,
    "receivedcallsecondslimit": Kind.PLAN,
    "receivedcallbonus": Kind.PLAN,
    "recivedcallbonus": Kind.PLAN,
    "volumediscountthresholds": Kind.PLAN,
    "credit": Kind.BUDGET,
    "mincredit": Kind.BUDGET,
    "volumediscountseconds": Kind.BUDGET,
    "receivedcallseconds": Kind.BUDGET,
    "resetdayofthemonth": Kind.BUDGET,
    "tariffplanid": Kind.BUDGET,
}
"""Fields that only one kind has, in lower case."""

_WORDS: Final[Mapping[str, Kind]] = {
    "activation": Kind.RATE,
    "rate": Kind.RATE,
    "destination": Kind.DESTINATION,
    "plan": Kind.PLAN,
    "budget": Kind.BUDGET,
    "account": Kind.BUDGET,
}
"""Parts of a file's name that say what is in it."""


def kinds_in_name(file_name: str) -> frozenset[Kind]:
    """The kinds that a file's name speaks of, often none or one."""
    lower = file_name.lower()
    return frozenset(kind for word, kind in _WORDS.items() if word in lower)


def kind_of(values: Mapping[str, Any], named: frozenset[Kind]) -> Kind | str:
    """The object's kind, or why it can't be told. `named` is what the file's name speaks of."""
    if "ActivationPeriods" in values:
        return Kind.RATE  # nearly every object is one
    told = {kind for name in values if (kind := _DISTINCTIVE.get(name.lower())) is not None}
    if len(told) == 1:
        return told.pop()
    chosen = (told or set(Kind)) & named
    if len(chosen) == 1:
        return chosen.pop()
    if told:
        return f"has fields of several kinds of objects ({_list(told)}); expected those of one kind"
    return (
        f"can not tell whether this is one of {_list(Kind)}; expected ActivationPeriods, Prefixes, or the "
        "fields of a tariff plan or a user budget, or a file name that says what it holds"
    )


def _list(kinds: Iterable[Kind]) -> str:
    return ", ".join(sorted(kind.value for kind in kinds))
