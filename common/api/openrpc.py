"""The OpenRPC document of the JSON-RPC API, as `rpc.discover` answers it, from the tables that the code uses.

`common/methods.py` has the methods, `common/api/errors.py` and `common/errors.py` their errors,
`common/api/schemas.py` the shapes. It shows calls of version 2.0 with their parameters by name; that a
list which holds just the descriptor is as good, and that names match in any case, is in docs/api.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from common.api.errors import ELSEWHERE, OF_BODIES, Errors, errors_of
from common.api.schemas import (
    REQUEST_ID,
    SCHEMAS,
    Schema,
    data_of,
    parameter,
    parameter_names,
    record,
    result,
)
from common.errors import BY_CODE, InvalidParams, MessageTooLarge, RatelError, TooManyRequests, Unauthorized
from common.methods import (
    ALIASES,
    AUTHENTICATE,
    BY_RPC_NAME,
    DISCOVER,
    DISCOVER_RPC_NAME,
    SERVICE,
    TERMS,
    Method,
)

VERSION: Final = "1.3.2"
"""Of OpenRPC."""
API_VERSION: Final = "1.0.0"
"""Of the API, not of the package."""

_FIELDS: Final[dict[str, tuple[str, Schema]]] = {
    "cstmid": ("CstmId", {}),
    "subj": ("Subject", {}),
    "dest": ("DestinationPrefix", {}),
    "amount": ("Amount", {}),
    "tor": ("TOR", {}),
    "start": ("TimeStart", {"description": "When the call starts."}),
    "end": (
        "TimeEnd",
        {"description": "When it ends, not before it starts; both are given, or neither."},
    ),
    **{name.lower(): (name, {}) for name in TERMS},
}
"""The descriptor's fields, by the names of their schemas, and what differs there from HTTP."""

_ALIAS_OF: Final = {f"{SERVICE}.{alias}": f"{SERVICE}.{name}" for alias, name in ALIASES.items()}


@cache
def document_bytes() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    answered = [cls for cls in BY_CODE.values() if cls not in ELSEWHERE]
    shapes = {name: schema for name, schema in SCHEMAS.items() if not name.startswith("JsonRpc")}
    return {
        "openrpc": VERSION,
        "info": {
            "title": "Ratel",
            "version": API_VERSION,
            "description": "What calls cost and how long one may talk; debits that happen exactly once. "
            "Over TCP, and over HTTP by POST /jsonrpc.",
            "license": {"name": "Apache-2.0"},
        },
        "methods": [
            *(_method(name, method) for name, method in BY_RPC_NAME.items()),
            _authenticate(),
            _discover(),
        ],
        "components": {"schemas": shapes, "errors": {cls.__name__: _error(cls) for cls in answered}},
    }


def fields_of(method: Method) -> dict[str, tuple[Schema, bool]]:
    """The fields of the descriptor that a method reads, with whether it needs them; those first."""
    needed = {"cstmid", "subj"}
    needed |= {"dest"} if method.needs_destination else set()
    needed |= {"amount"} if method.needs_amount else set()
    needed |= {"start", "end"} if method.needs_times else set()
    over_http, more = parameter_names(method)
    fields: dict[str, tuple[Schema, bool]] = {}
    read = [name for name in (*over_http, *more) if name in _FIELDS]
    for name in sorted(read, key=lambda each: each not in needed):
        field, changes = _FIELDS[name]
        fields[field] = (parameter(method, name) | changes, name in needed)
    if method.mutates:
        fields["RequestId"] = (REQUEST_ID, False)
    return fields


def _method(name: str, method: Method) -> Schema:
    fields = fields_of(method)
    about = {"description": f"Another name for {_ALIAS_OF[name]}."} if name in _ALIAS_OF else {}
    example = {field: schema["examples"][0] for field, (schema, needed) in fields.items() if needed}
    if method.takes_terms:
        example["Blocked"] = False
    if method.mutates:
        example["RequestId"] = f"{name}-7f3c"
    return {
        "name": name,
        "summary": method.summary,
        **about,
        "tags": [{"name": "changes an account" if method.mutates else "changes nothing"}],
        "paramStructure": "by-name",
        "params": [_parameter(field, schema, needed) for field, (schema, needed) in fields.items()],
        "result": {"name": method.result, "schema": result(method)},
        "errors": _refs(errors_of(method, has_body=True)),
        "examples": [_example(example)],
    }


def _authenticate() -> Schema:
    key = {"type": "string", "description": "The API key.", "examples": ["ratel_0123456789_…"]}
    texts = {"type": "array", "items": {"type": "string"}}
    return {
        "name": f"{SERVICE}.{AUTHENTICATE.name}",
        "summary": AUTHENTICATE.summary,
        "description": "Over TCP alone; over HTTP the key is in a header.",
        "tags": [{"name": "connection"}],
        "paramStructure": "by-name",
        "params": [_parameter("ApiKey", key, True)],
        "result": {
            "name": AUTHENTICATE.result,
            "schema": record({"Id": {"type": "string"}, "Tenants": texts, "Methods": texts}),
        },
        "errors": _refs((InvalidParams, MessageTooLarge, Unauthorized, *OF_BODIES)),
    }


def _discover() -> Schema:
    return {
        "name": DISCOVER_RPC_NAME,
        "summary": DISCOVER.summary,
        "description": "Needs no API key. Once in a batch or a burst.",
        "tags": [{"name": "connection"}],
        "params": [],
        "result": {
            "name": DISCOVER.result,
            "schema": record(
                {"openrpc": {"type": "string"}, "info": {"type": "object"}, "methods": {"type": "array"}}
            ),
        },
        "errors": _refs((InvalidParams, MessageTooLarge, TooManyRequests, *OF_BODIES)),
        "examples": [_example({})],
    }


def _parameter(name: str, schema: Schema, needed: bool) -> Schema:
    plain = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "summary": schema["description"], "required": needed, "schema": plain}


def _example(params: dict[str, Any]) -> Schema:
    return {"name": "a call", "params": [{"name": name, "value": value} for name, value in params.items()]}


def _refs(errors: Errors) -> list[Schema]:
    return [{"$ref": f"#/components/errors/{cls.__name__}"} for cls in errors]


def _error(cls: type[RatelError]) -> Schema:
    """With an example of its message and of its data."""
    data = data_of(cls)
    return {"code": cls.code, "message": cls(**data).message, "data": {"name": cls.name} | data}
