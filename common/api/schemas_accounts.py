"""JSON Schema of an account and of its history, which `rater.accounts.view` makes."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def _record(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


_NUMBER: Final = {"type": "number"}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number", "description": "Seconds."}
_CENTS: Final = {"type": "number", "description": "Cents."}

_BALANCES: Final = {
    "Credit": _CENTS,
    "SmsCredit": _NUMBER,
    "Traffic": _NUMBER,
    "VolumeDiscountSeconds": _SECONDS,
    "ReceivedCallSeconds": _SECONDS,
}

ACCOUNT: Final = _record(
    {
        "CstmId": _TEXT,
        "Subject": _TEXT,
        "Type": {"enum": ["prepaid", "postpaid"]},
        "Blocked": {"type": "boolean"},
        "MinCredit": _or_null(_CENTS | {"description": "Debits don't go below it; null is no floor."}),
        "Spendable": _or_null(_CENTS | {"description": "Cents; null is without limit."}),
        **_BALANCES,
        "ResetDayOfTheMonth": _COUNT,
        "TariffPlanId": _or_null(_TEXT),
        "MinuteBuckets": {
            "type": "array",
            "items": _record(
                {
                    "DestinationId": _TEXT,
                    "Seconds": _SECONDS,
                    "Priority": {"type": "integer"},
                    "Price": {"type": "number", "description": "Cents a second."},
                }
            ),
        },
        "Changes": {"type": "integer", "description": "The number of the last line of its journal."},
        "LastChange": {"type": "string", "description": "Its time in UTC, or `never`."},
    }
)

_LINE: Final = _record(
    {
        "Id": {"type": "string", "description": "Of the journal's entry, `<unix ms>-<n>`."},
        "Time": _TEXT,
        "Seq": {"type": "integer", "description": "From 1, without gaps."},
        "Operation": _TEXT,
        "Amount": _NUMBER,
        "Token": {"type": "string", "description": "`c:` and the client's key, or another one."},
        **_BALANCES,
        "Cost": _or_null(_CENTS),
        "Terms": _or_null(_TEXT),
        "MinuteBuckets": _or_null(
            {"type": "array", "items": _record({"DestinationId": _TEXT, "Seconds": _SECONDS})}
        ),
    },
    description="A change, and the balances after it.",
)
_DAMAGED: Final = _record(
    {"Id": _TEXT, "Damaged": _record({"field": _TEXT, "expected": _TEXT, "found": _TEXT})},
    description="An entry that is no line of a journal.",
)

HISTORY: Final = _record(
    {
        "CstmId": _TEXT,
        "Subject": _TEXT,
        "Changes": {"type": "integer", "description": "As in Account."},
        "Lines": {"type": "array", "items": {"oneOf": [_LINE, _DAMAGED]}, "description": "Oldest first."},
    }
)
