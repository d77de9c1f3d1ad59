"""JSON Schemas of what a front tells of itself: /status.json, the events, /whoami.

They say what `balancer/status.py` and `balancer/http/pages.py` write; a test compares them with the answers
of a running cluster, and lets neither have what the other has not.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number", "minimum": 0}
_US: Final = {"type": "integer", "minimum": 0, "description": "Microseconds."}
_TEXTS: Final = {"type": "array", "items": _TEXT}


def _record(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    names = [name for name in properties if name not in optional]
    closed = {"type": "object", "required": names, "properties": properties, "additionalProperties": False}
    return closed | more


def _by_name(schema: Schema, description: str) -> Schema:
    return {"type": "object", "additionalProperties": schema, "description": description}


_FIGURES: Final = _record(
    {
        "answers_per_s": _NUMBER,
        "errors_per_s": _NUMBER | {"description": "Those of the service: status 500 and above."},
        "p50_us": _US,
        "p90_us": _US,
        "p99_us": _US,
        "total": _COUNT | {"description": "Answers since the start."},
        "replays": _COUNT,
        "outcomes": _by_name(_COUNT, "By `ok` or the name of the error, since the start."),
    },
    description="Rates and percentiles of the last seconds (`window_s`).",
)

_NODE: Final = _record(
    {
        "address": _TEXT,
        "ok": {"type": "boolean"},
        "used_memory": _COUNT | {"description": "Bytes."},
        "max_memory": _COUNT | {"description": "Bytes; 0 is no limit, or not known."},
        "replicas": _COUNT | {"description": "That are connected to it."},
    }
)

_STORE: Final = _record(
    {
        "ok": {"type": "boolean"},
        "url": _TEXT,
        "used_memory": _COUNT | {"description": "Bytes."},
        "max_memory": _COUNT | {"description": "Bytes; 0 is no limit."},
        "round_trip_us": _US,
        "nodes": {
            "type": "array",
            "items": _NODE,
            "description": "The primaries of a cluster; of any other store there are none.",
        },
    }
)

_RATER: Final = _record(
    {
        "name": _TEXT,
        "state": {"enum": ["working", "leaving", "silent", "no store", "no tariff"]},
        "credit": {"type": "integer", "description": "Requests that it takes at a time."},
        "in_flight": {"type": "integer"},
        "busy": _NUMBER | {"description": "The share of the last second in which it worked."},
        "speed_per_s": _COUNT | {"description": "Requests in a second of work; 0 is not known."},
        "tariff_epoch": {"type": "integer"},
        "seen_ms_ago": _COUNT,
        "version": _TEXT | {"description": "Empty: it does not say."},
        "store": {"oneOf": [_STORE, {"type": "null"}]},
    },
    description="Of a gateway: a balancer.",
)

_ROW: Final = {
    "type": "array",
    "items": _COUNT,
    "minItems": 4,
    "maxItems": 4,
    "description": "Answers, errors, half within, 99 % within (microseconds).",
}
_SECOND: Final = _record({"methods": _by_name(_ROW, "By method."), "all": _ROW})

_STATUS: Final[Schema] = {
    "name": _TEXT,
    "version": _TEXT,
    "uptime_s": _NUMBER,
    "now": {"type": "string", "format": "date-time"},
    "draining": {"type": "boolean", "description": "It was told to end."},
    "window_s": _COUNT,
    "methods": _by_name(_FIGURES, "By method."),
    "all": _FIGURES,
    "queue": _record(
        {
            "unanswered": _COUNT,
            "waiting": _COUNT,
            "bytes": _COUNT,
            "room": _COUNT,
            "overloaded": {"type": "boolean"},
            "turned_away": _COUNT,
        }
    ),
    "raters": {"type": "array", "items": _RATER},
    "tariffs": _by_name(_COUNT, "The newest version by tenant."),
}

_WITH_HISTORY: Final = _record(
    _STATUS
    | {
        "history": {
            "type": "array",
            "items": _SECOND,
            "description": "With history=1 alone. The last is now.",
        }
    },
    optional=("history",),
    description="How this front does now.",
)
_EVENT: Final = _record(
    _STATUS | {"second": {"oneOf": [_SECOND, {"type": "null"}]}},
    description="The data of each event, which is named `status`.",
)
_IDENTITY: Final = _record(
    {
        "Keys": {"type": "boolean", "description": "Whether API keys are asked for here."},
        "Id": _TEXT | {"description": "Of the key; empty where none is asked for."},
        "Tenants": _TEXTS | {"description": "`*` is all."},
        "Methods": _TEXTS,
    },
    description="What the caller's API key is good for.",
)

STATUS_SCHEMAS: Final[dict[str, Schema]] = {
    "Status": _WITH_HISTORY,
    "StatusEvent": _EVENT,
    "Identity": _IDENTITY,
}
"""Of HTTP alone."""
