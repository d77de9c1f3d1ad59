"""JSON Schema of an explanation, the result of Explain, which `rater.rating.explain` makes."""

from __future__ import annotations

from typing import Any, Final, get_args

from common.api.types import Reason

Schema = dict[str, Any]


def _record(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def _list(items: Schema, description: str) -> Schema:
    return {"type": "array", "items": items, "description": description}


_NUMBER: Final = {"type": "number"}
_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = {"type": "string", "format": "date-time"}
_WHY: Final = {"type": "string", "description": "Why, in words."}


def explanation(interval: Schema) -> Schema:
    """The schema of the result; `interval` is that of a price interval."""
    return _record(
        {
            "Verdict": {"enum": ["ok", "no_rate", "not_active", "no_credit", "blocked"]},
            "Message": {"type": "string", "description": "The verdict, in words."},
            "CstmId": _TEXT,
            "Subject": _TEXT,
            "DestinationPrefix": {"type": "string", "description": "As dialled."},
            "TimeStart": _TIME,
            "TimeEnd": _TIME,
            "Cost": _or_null({"type": "number", "description": "Cents, as GetCost gives it."}),
            "ConnectFee": _or_null(_NUMBER),
            "Rate": _RATE,
            "Account": _or_null(_ACCOUNT),
            "Discount": _or_null(_DISCOUNT),
            "Buckets": _list(_BUCKET, "Those that match, in the order of consumption, then the others."),
            "Timespans": _list(_span(interval), "As in a call cost, the first 100."),
            "MoreTimespans": _COUNT,
            "MaxSessionTime": _SESSION,
        }
    )


_RATE: Final = _record(
    {
        "Prefix": _or_null({"type": "string", "description": "The prefix that matched."}),
        "Lookups": _list(
            _record(
                {
                    "Subject": _TEXT,
                    "Matched": _or_null(_TEXT),
                    "Used": _FLAG,
                    "Tried": _list(_TEXT, "From the whole number down to the one that matched."),
                    "ShorterMatches": _list(_TEXT, "Those that would match, were it not for the longer one."),
                    "Text": _WHY,
                }
            ),
            "The subject's own rates, then the tenant's fallback `*any`.",
        ),
        "Timezone": _or_null(_TEXT),
        "ActivationPeriods": _list(
            _record({"ActivationTime": _TIME, "InEffectAtStart": _FLAG, "Intervals": _COUNT}), "By time."
        ),
    }
)
_ACCOUNT: Final = _record(
    {
        "Type": {"enum": ["prepaid", "postpaid"]},
        "Blocked": _FLAG,
        "Credit": _NUMBER,
        "MinCredit": _or_null(_NUMBER),
        "Spendable": _or_null({"type": "number", "description": "Cents; null is without limit."}),
        "TariffPlanId": _or_null(_TEXT),
    }
)
_DISCOUNT: Final = _record(
    {
        "VolumeDiscountSeconds": _NUMBER,
        "Percent": _NUMBER,
        "Thresholds": _list(
            _record({"Volume": _NUMBER, "Discount": _NUMBER, "Reached": _FLAG}), "By volume."
        ),
        "Text": _WHY,
    }
)
_BUCKET: Final = _record(
    {
        "DestinationId": _TEXT,
        "Seconds": _NUMBER,
        "Priority": {"type": "integer"},
        "Price": {"type": "number", "description": "Cents a second."},
        "MatchedPrefix": _or_null(_TEXT),
        "Used": {"type": "number", "description": "Seconds."},
        "Cost": {"type": "number", "description": "Cents."},
        "Text": _WHY,
    }
)
_SESSION: Final = _record(
    {
        "Asked": {"type": "number", "description": "Seconds."},
        "Granted": _or_null({"type": "number", "description": "Seconds, as GetMaxSessionTime gives them."}),
        "Text": _WHY,
        "Candidates": _list(
            _record({"Percent": _COUNT, "Seconds": _NUMBER, "Cost": _NUMBER, "Affordable": _FLAG}),
            "What the credit was compared with; the first affordable one is granted. Costs are with the fee.",
        ),
    }
)


def _span(interval: Schema) -> Schema:
    return _record(
        {
            "TimeStart": _TIME,
            "TimeEnd": _TIME,
            "LocalStart": {"type": "string", "description": "In the rate's time zone, with its offset."},
            "LocalEnd": _TEXT,
            "Seconds": _NUMBER,
            "Cost": _NUMBER,
            "ActivationTime": _TIME,
            "Interval": _or_null(interval),
            "Bucket": _or_null({"type": "string", "description": "The id of the bucket's destination."}),
            "Why": _WHY,
            "Arithmetic": {"type": "string", "description": "How the cost comes about."},
            "Rivals": _list(
                _record(
                    {
                        "Interval": interval,
                        "AppliesFrom": _or_null(_TIME),
                        "Reason": {"enum": list(REASONS)},
                        "Text": _WHY,
                    }
                ),
                "Intervals that do not price the span, those that apply first; up to 20.",
            ),
            "MoreRivals": _COUNT,
        }
    )


REASONS: Final = get_args(Reason)
