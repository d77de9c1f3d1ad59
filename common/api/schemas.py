"""JSON Schemas of what the HTTP API takes and gives: parameters, results, errors.

Bounds are those of the code that enforces them; `balancer/http/openapi.py` puts the schemas in their places.
"""

from __future__ import annotations

import json
from math import nextafter
from string import Formatter
from typing import Any, Final

from common.api.schemas_accounts import ACCOUNT, HISTORY
from common.api.schemas_explain import explanation
from common.errors import JsonScalar, RatelError, encode_error
from common.methods import (
    BY_RPC_NAME,
    LAST_DAY,
    MAX_HISTORY_LINES,
    MAX_TEXT_CHARS,
    MAX_TOR,
    TERMS,
    Method,
)
from common.money import LIMIT, MICRO
from common.times import RFC3339

Schema = dict[str, Any]

MAX_QUANTITY: Final = nextafter(LIMIT / MICRO, 0)
"""JSON Schema's bounds are read as floats: the largest one whose text is within the true bound."""


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(options: list[Schema]) -> Schema:
    return options[0] if len(options) == 1 else {"oneOf": options}


def record(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "required": names, "properties": properties, **more}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "maxLength": MAX_TEXT_CHARS, "description": description, **more}


_TIME: Final = {"type": "string", "format": "date-time", "pattern": f"^{RFC3339.pattern}$"}
_QUANTITY: Final = {"type": "number", "minimum": -MAX_QUANTITY, "maximum": MAX_QUANTITY}
_EXACT: Final = {**_QUANTITY, "multipleOf": 1 / MICRO}

PARAMETERS: Final[dict[str, Schema]] = {
    "cstmid": _text("The tenant.", minLength=1, examples=["vdf"]),
    "subj": _text("The subscriber or account.", minLength=1, examples=["rif"]),
    "dest": _text("The dialled number, or the beginning of it.", minLength=1, examples=["0257"]),
    "amount": {
        **_EXACT,
        "description": "Cents, SMS units or seconds, as the method says; a negative one gives back.",
        "examples": [100],
    },
    "tor": {
        "type": "integer",
        "minimum": -MAX_TOR,
        "maximum": MAX_TOR,
        "description": "Type of record: a whole number, written without a fraction.",
        "examples": [0],
    },
    "start": {
        **_TIME,
        "description": "When the call starts; without it, now.",
        "examples": ["2012-02-02T17:30:00Z"],
    },
    "end": {
        **_TIME,
        "description": "When it ends, not before `start`, which is needed then.",
        "examples": ["2012-02-02T18:30:00Z"],
    },
    "duration": {
        **_EXACT,
        "minimum": 0,
        "description": "Seconds from the start, in place of `end`; without either a minute is priced.",
        "examples": [60],
    },
    "blocked": {
        "type": "boolean",
        "description": "Whether debits and talk time are refused from now on; what gives back goes on.",
        "examples": [True],
    },
    "type": {
        "type": "string",
        "pattern": "^(prepaid|postpaid)$",
        "description": "`prepaid` or `postpaid`.",
        "examples": ["postpaid"],
    },
    "mincredit": {
        **_EXACT,
        "description": "The floor, cents: debits don't go below it.",
        "examples": [-5000],
    },
    "nomincredit": {
        "type": "boolean",
        "description": "True: there is to be no floor, and `mincredit` is not given.",
        "examples": [False],
    },
    "tariffplanid": _text(
        "The tariff plan, whether there is one of that id or not.", minLength=1, examples=["gold"]
    ),
    "notariffplan": {
        "type": "boolean",
        "description": "True: there is to be no tariff plan, and `tariffplanid` is not given.",
        "examples": [False],
    },
    "resetdayofthemonth": {
        "type": "integer",
        "minimum": 0,
        "maximum": LAST_DAY,
        "description": "Day of the month, for the operator; 0 is none.",
        "examples": [1],
    },
}
"""By its name in HTTP."""

IDEMPOTENCY_KEY: Final[Schema] = {
    "type": "string",
    "pattern": "^[!-~]([ -~]*[!-~])?$",  # printable ASCII, without white space around it
    "maxLength": MAX_TEXT_CHARS,
    "not": {"const": '""'},  # quotation marks around a key are no part of it
}


def body(method: Method, nullable: bool) -> Schema:
    """A method's parameters as a form, or as a JSON object, in which `null` is as good as absent."""
    needed, read = parameter_names(method)
    optional = {name: parameter(method, name) for name in read}
    if nullable:
        optional = {name: schema | {"type": [schema["type"], "null"]} for name, schema in optional.items()}
    return record({name: parameter(method, name) for name in needed} | optional, needed)


def parameter(method: Method, name: str) -> Schema:
    """What a method takes under a name."""
    if name == "amount" and method.name == "History":
        return {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_HISTORY_LINES,
            "description": "How many of the last changes; 0 is as if it were absent.",
            "examples": [10],
        }
    return PARAMETERS[name]


def parameter_names(method: Method) -> tuple[list[str], list[str]]:
    """What a method needs over HTTP, and what else it reads."""
    needed = ["cstmid", "subj"]
    needed += ["dest"] if method.takes_destination else []
    needed += ["amount"] if method.needs_amount else []
    times = ["start", "end", "duration"] if method.needs_times or method.takes_times else []
    terms = [name.lower() for name in TERMS] if method.takes_terms else []
    return needed, ["tor", *(["amount"] if method.takes_amount else []), *times, *terms]


# --- results ----------------------------------------------------------------------------------------

_INTERVAL: Final = record(
    {
        "Month": {"type": "integer", "minimum": 0, "maximum": 12},
        "MonthDay": {"type": "integer", "minimum": 0, "maximum": 31},
        "WeekDays": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 6}},
        "StartTime": {"type": "string", "description": "Empty: the first midnight."},
        "EndTime": {"type": "string", "description": "Empty: the next midnight."},
        "Ponder": {"type": "number"},
        "ConnectFee": {"type": "number", "description": "Cents."},
        "Price": {"type": "number", "description": "Cents for each billing unit."},
        "BillingUnit": {"type": "number", "description": "Seconds."},
        "RateIncrement": {"type": "number", "description": "Seconds; only where there is one."},
    },
    required=[
        "Month",
        "MonthDay",
        "WeekDays",
        "StartTime",
        "EndTime",
        "Ponder",
        "ConnectFee",
        "Price",
        "BillingUnit",
    ],
    description="The price interval that applied.",
)
_MINUTE_INFO: Final = record(
    {
        "DestinationId": {"type": "string"},
        "Quantity": {"type": "number", "description": "Seconds."},
        "Price": {"type": "number", "description": "Cents a second."},
    },
    description="The minute bucket that covered the span.",
)
_TIMESPAN: Final = record(
    {
        "TimeStart": _TIME,
        "TimeEnd": _TIME,
        "Cost": {"type": "number", "description": "Cents."},
        "ActivationPeriod": record({"ActivationTime": _TIME}),
        "Interval": {"oneOf": [_INTERVAL, {"type": "null"}]},
        "MinuteInfo": {"oneOf": [_MINUTE_INFO, {"type": "null"}]},
    }
)
_CALL_COST: Final = record(
    {
        "TOR": PARAMETERS["tor"],
        "CstmId": {"type": "string"},
        "Subject": {"type": "string"},
        "DestinationPrefix": {"type": "string", "description": "The prefix that matched."},
        "Cost": {"type": "number", "description": "Cents, the sum of the spans."},
        "ConnectFee": {"type": "number", "description": "Cents, beside the cost."},
        "Timespans": {"type": "array", "items": ref("Timespan")},
    },
)


def result(method: Method) -> Schema:
    if method.name == "GetCost":
        return ref("CallCost")
    if method.name in ("Explain", "Account", "History"):
        return ref({"Explain": "Explanation"}.get(method.name, method.name))
    if method.takes_terms:
        return {"type": "integer", "minimum": 0, "maximum": 1, "description": method.result}
    if not method.needs_amount:
        return {"const": 0, "description": "0"}
    return {**_QUANTITY, "description": method.result, "examples": [100]}


# --- JSON-RPC ---------------------------------------------------------------------------------------

REQUEST_ID: Final = _text("Makes a mutation idempotent.", examples=["7f3c-1"])
_DESCRIPTOR: Final = record(
    {
        "TOR": PARAMETERS["tor"],
        "CstmId": PARAMETERS["cstmid"],
        "Subject": PARAMETERS["subj"],
        "DestinationPrefix": PARAMETERS["dest"],
        "TimeStart": PARAMETERS["start"],
        "TimeEnd": PARAMETERS["end"],
        "Amount": PARAMETERS["amount"],
        "RequestId": REQUEST_ID,
        **{name: PARAMETERS[name.lower()] for name in TERMS},
    },
    required=["CstmId", "Subject"],
    description="What else is needed depends on the method.",
)
_RPC_REQUEST: Final = record(
    {
        "jsonrpc": {"const": "2.0", "description": "Left out by 1.0."},
        "id": {"description": "Any JSON value. A message of 2.0 without it gets no reply."},
        "method": {"enum": list(BY_RPC_NAME)},
        "params": {
            "oneOf": [
                ref("CallDescriptor"),
                {"type": "array", "items": ref("CallDescriptor"), "minItems": 1, "maxItems": 1},
            ]
        },
    },
    required=["method", "params"],
)
_RPC_RESULT: Final = {
    "oneOf": [{"type": "number"}, *map(ref, ("CallCost", "Explanation", "Account", "History"))]
}
_RPC_ERROR: Final = record(
    {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "data": record({"name": {"type": "string"}}),
    }
)
_V2: Final[Schema] = {"jsonrpc": {"const": "2.0"}, "id": {}}
_RPC_REPLY: Final = {
    "oneOf": [
        record(_V2 | {"result": _RPC_RESULT}),
        record(_V2 | {"error": _RPC_ERROR}),
        record({"id": {}, "result": _RPC_RESULT, "error": {"type": "null"}}),
        record({"id": {}, "result": {"type": "null"}, "error": {"type": "string"}}),
    ]
}

# --- errors -----------------------------------------------------------------------------------------

ERROR_FIELDS: Final[dict[str, JsonScalar]] = {
    "active_from": "2012-01-01T00:00:00Z",
    "amount": "100",
    "balance": "credit",
    "confirmed": 0,
    "copies": 1,
    "cost": "540",
    "credit": "20",
    "destination": "0257",
    "detail": "what exactly is the matter",
    "field": "amount",
    "limit": 64,
    "limit_bytes": 1_048_576,
    "limit_seconds": "2678400",
    "method": "unknown to this rater",
    "min_credit": "0",
    "plan": "",
    "prefix": "0257",
    "raters": 2,
    "request_id": "7f3c-1",
    "seconds": "60",
    "size_bytes": 16_000_000,
    "sms": "5",
    "subject": "rif",
    "tenant": "vdf",
    "time_start": "2011-12-31T23:00:00Z",
    "timeout_ms": 1000,
    "what": "tenant 'vdf'",
}
"""An example of each field of an error's data. Its type is the field's type."""

_TYPE_NAMES: Final = {str: "string", int: "integer"}


def data_of(cls: type[RatelError]) -> dict[str, JsonScalar]:
    """An example of an error's data."""
    names = [name for _, name, _, _ in Formatter().parse(cls.template) if name]
    return {name: ERROR_FIELDS[name] for name in names}


def error(cls: type[RatelError]) -> Schema:
    data = data_of(cls)
    types = {name: {"type": _TYPE_NAMES[type(value)]} for name, value in data.items()}
    return _error(cls.code, cls.name, record(types), json.loads(encode_error(cls(**data))))


def http_error(status: int, name: str, message: str) -> Schema:
    """An error that is none of the API's, so that its code is 0."""
    example = {"code": 0, "name": name, "message": message, "data": {}}
    return _error(0, name, {"type": "object", "maxProperties": 0}, example)


def _error(code: int, name: str, data: Schema, example: Schema) -> Schema:
    members = {"code": {"const": code}, "name": {"const": name}, "message": {"type": "string"}, "data": data}
    return record({"error": record(members)}, examples=[{"error": example}])


SCHEMAS: Final[dict[str, Schema]] = {
    "CallCost": _CALL_COST,
    "Timespan": _TIMESPAN,
    "Explanation": explanation(_INTERVAL),
    "Account": ACCOUNT,
    "History": HISTORY,
    "CallDescriptor": _DESCRIPTOR,
    "JsonRpcRequest": _RPC_REQUEST,
    "JsonRpcReply": _RPC_REPLY,
}
