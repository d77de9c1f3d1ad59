"""What an operator decides about an account: its terms, from a request to the words of the script.

SetTerms reads them out of the call descriptor, beside what every method reads. What is not named stays. As
`null` is as good as absent in every field, no floor and no tariff plan have names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from common.errors import InvalidParams
from common.methods import LAST_DAY, MAX_TEXT_CHARS, TERMS
from common.money import LIMIT
from common.storage.store import Command
from rater.json_fields import kind_of, quantity, read_fields
from rater.store.keys import utf8

_BY_LOWER: Final = {name.lower(): name for name in TERMS}
_TYPES: Final = {"prepaid": False, "postpaid": True}


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """UNSET stays as it is."""

    postpaid: bool | UnsetType = UNSET
    min_credit_micros: int | UnsetType | None = UNSET
    """None is no floor."""
    reset_day: int | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    """"" is none."""
    blocked: bool | UnsetType = UNSET


# --- of a request -----------------------------------------------------------------------------------


def parse_terms(params: bytes) -> Terms:
    """The terms in a call descriptor. Raises ParseError, or InvalidParams naming the field."""
    given = read_fields(params, _BY_LOWER)
    terms: dict[str, Any] = {}
    if "Blocked" in given:
        terms["blocked"] = _flag("Blocked", given)
    if "Type" in given:
        kind = _text("Type", given)
        if kind not in _TYPES:
            raise InvalidParams(field="Type", detail=f"expected prepaid or postpaid, not {kind!r}")
        terms["postpaid"] = _TYPES[kind]
    if "MinCredit" in given:
        terms["min_credit_micros"] = quantity("MinCredit", given["MinCredit"])
    if _says("NoMinCredit", "MinCredit", given):
        terms["min_credit_micros"] = None
    if "TariffPlanId" in given:
        terms["plan"] = _text("TariffPlanId", given)
    if _says("NoTariffPlan", "TariffPlanId", given):
        terms["plan"] = ""
    if "ResetDayOfTheMonth" in given:
        terms["reset_day"] = _day("ResetDayOfTheMonth", given)
    if not terms:
        raise InvalidParams(field="terms", detail=f"none is given: expected one of {', '.join(TERMS)}")
    return Terms(**terms)


def _flag(name: str, given: Mapping[str, Any]) -> bool:
    value = given[name]
    if type(value) is not bool:
        raise InvalidParams(field=name, detail=f"expected true or false, not {kind_of(value)}")
    return value


def _says(name: str, other: str, given: Mapping[str, Any]) -> bool:
    """Whether what `other` names is to be nothing; false is as if it were absent."""
    if name not in given or not _flag(name, given):
        return False
    if other in given:
        raise InvalidParams(field=name, detail=f"is given beside {other}: only one of them can hold")
    return True


def _text(name: str, given: Mapping[str, Any]) -> str:
    value = given[name]
    if type(value) is not str:
        raise InvalidParams(field=name, detail=f"expected a string, not {kind_of(value)}")
    if not value:
        raise InvalidParams(field=name, detail="is empty")
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidParams(field=name, detail=f"is longer than {MAX_TEXT_CHARS} characters")
    utf8(value, name)
    return value


def _day(name: str, given: Mapping[str, Any]) -> int:
    value = given[name]
    if type(value) is not int or not 0 <= value <= LAST_DAY:
        raise InvalidParams(field=name, detail=f"expected a whole number, 0 to {LAST_DAY}")
    return value


# --- for the script ---------------------------------------------------------------------------------


def words(terms: Terms) -> Command:
    """As the script is given them. Raises ValueError for figures out of range."""
    floor = terms.min_credit_micros
    if isinstance(floor, int) and abs(floor) > LIMIT:
        raise ValueError("the floor is out of range")
    if isinstance(terms.reset_day, int) and not 0 <= terms.reset_day <= LAST_DAY:
        raise ValueError(f"the reset day is not 0 to {LAST_DAY}")
    return (
        _word(terms.postpaid),
        "" if floor is UNSET else "none" if floor is None else floor,
        "" if terms.reset_day is UNSET else terms.reset_day,
        "" if terms.plan is UNSET else f"={terms.plan}",
        _word(terms.blocked),
    )


def fingerprint(terms: Terms) -> str:
    """Of two requests under one key, these texts are the same only if they ask for the same."""
    return " ".join(map(str, words(terms)))


def _word(value: bool | UnsetType) -> str:
    return "" if value is UNSET else str(int(value))
