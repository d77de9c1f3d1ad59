"""The OpenAPI document of the HTTP API, made from the tables that the code itself uses.

`common/methods.py` has the methods, `common/errors.py` the errors, `common/api/schemas.py` the
shapes. What stands here alone is which method can answer with which error; tests hold it to the scripts
and to what a running cluster answers.

The document names each parameter once. That names match in any case and have longer forms, that `null`
and an empty text are as good as absent, that `requestid` stands for the header Idempotency-Key, and that a
POST reads its query too, is in docs/api.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from common.api.errors import ELSEWHERE, Errors, errors_of
from common.api.schemas import (
    IDEMPOTENCY_KEY,
    SCHEMAS,
    Schema,
    body,
    error,
    http_error,
    one_of,
    parameter,
    parameter_names,
    record,
    ref,
    result,
)
from common.api.schemas_status import STATUS_SCHEMAS
from common.errors import (
    BY_CODE,
    Forbidden,
    InternalError,
    InvalidParams,
    InvalidRequest,
    KeyReused,
    MessageTooLarge,
    NoRate,
    NotActive,
    Refusal,
    Unauthorized,
    UnknownSubject,
    UnknownTenant,
)
from common.methods import ALIASES, BY_HTTP_NAME, Method

VERSION: Final = "1.0.0"
"""Of the API, not of the package."""

HTTP_ERRORS: Final[dict[tuple[int, str], str]] = {
    (400, "bad_http"): "not a valid HTTP request",
    (408, "request_timeout"): "the body did not arrive within 30 s",
    (431, "head_too_large"): "URL and headers exceed 32768 bytes",
    (503, "overloaded"): "more than 10000 connections",
}
"""What HTTP alone answers to any request of these paths: status, name, and an example of the message."""

_REPLAYED: Final[Schema] = {
    "description": "This is the outcome of an earlier request with the same key.",
    "schema": {"const": "true"},
}
_RETRY_AFTER: Final[Schema] = {
    "description": "Seconds.",
    "schema": {"type": "integer", "minimum": 1},
}


_SECURITY_SCHEMES: Final[dict[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, where the gateway asks for one.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
}


@cache
def document_bytes() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    paths: Schema = {f"/{name}": _method_path(name, method) for name, method in BY_HTTP_NAME.items()}
    errors = {cls.__name__: error(cls) for cls in BY_CODE.values() if cls not in ELSEWHERE}
    http_errors = {
        _http_component(status, name): http_error(status, name, message)
        for (status, name), message in HTTP_ERRORS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ratel",
            "version": VERSION,
            "description": "What calls cost and how long one may talk; debits that happen exactly once.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths | {"/jsonrpc": _jsonrpc_path()} | _service_paths(),
        "components": {
            "schemas": SCHEMAS | STATUS_SCHEMAS | errors | http_errors,
            "securitySchemes": _SECURITY_SCHEMES,
        },
        "security": [{}, *({name: []} for name in _SECURITY_SCHEMES)],
    }


def _method_path(path_name: str, method: Method) -> Schema:
    return {verb: _operation(path_name, method, verb) for verb in ("get", "post")}


def _operation(path_name: str, method: Method, verb: str) -> Schema:
    needed, read = parameter_names(method)
    alias = next((alias for alias in ALIASES if alias.lower() == path_name), None)
    headers = {"Idempotency-Replayed": _REPLAYED} if method.mutates else {}
    operation: Schema = {
        "operationId": f"{verb}_{path_name}",
        "summary": method.summary,
        "tags": ["changes an account" if method.mutates else "changes nothing"],
        "responses": {
            "200": _response("The result.", result(method), headers),
            **_error_responses(errors_of(method, has_body=verb == "post"), headers),
        },
    }
    if alias:
        operation["description"] = f"Another name for {method.name}."
    parameters = []
    if method.mutates:
        about = "Unique for the account: the same request with the same key happens once."
        parameters.append(_key(about, path_name))
    if verb == "get":
        parameters += [
            _parameter("query", name, parameter(method, name), name in needed) for name in needed + read
        ]
    else:
        form, members = body(method, nullable=False), body(method, nullable=True)
        content = {
            "application/x-www-form-urlencoded": {"schema": form},
            "application/json": {"schema": members},
        }
        operation["requestBody"] = {"required": True, "content": content}
    return operation | {"parameters": parameters}


def _key(about: str, path_name: str) -> Schema:
    schema = IDEMPOTENCY_KEY | {"description": about, "examples": [f"{path_name}-7f3c"]}
    return _parameter("header", "Idempotency-Key", schema)


def _parameter(place: str, name: str, schema: Schema, required: bool = False) -> Schema:
    plain = {key: value for key, value in schema.items() if key not in ("description", "examples")}
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": schema["description"],
        "schema": plain,
        "example": schema["examples"][0],
    }


def _error_responses(errors: Errors, replay: Schema) -> Schema:
    """The responses by status. `replay` is the header of a refusal that was stored."""
    options: dict[int, list[str]] = {}
    for cls in errors:
        options.setdefault(cls.http_status, []).append(cls.__name__)
    for status, name in HTTP_ERRORS:
        options.setdefault(status, []).append(_http_component(status, name))
    stored = {cls.http_status for cls in errors if issubclass(cls, Refusal) and cls not in _NOT_STORED}
    responses = {}
    for status, names in sorted(options.items()):
        headers = (
            {"Retry-After": _RETRY_AFTER} if status in (503, 429) else replay if status in stored else {}
        )
        schema = one_of([ref(name) for name in names])
        responses[str(status)] = _response(_ABOUT[status], schema, headers)
    return responses


_NOT_STORED: Final[Errors] = (UnknownTenant, UnknownSubject, KeyReused, NoRate, NotActive)
"""Refusals that decide nothing about a key."""

_ABOUT: Final = {
    400: "The request is wrong.",
    401: "An API key is needed, and there is none, or none that is valid.",
    402: "The account has not enough.",
    403: "The API key is not for this tenant or method, or the account is blocked.",
    404: "There is no such tenant, account or rate.",
    408: "The request did not arrive in full in time.",
    409: "The account or the tariff does not allow it.",
    413: "The body is larger than the limit.",
    422: "The key was used with other parameters.",
    429: "More than the API key or its tenant may ask: nothing was done, come again after the pause.",
    431: "URL and headers are larger than the limit.",
    500: "The service failed.",
    503: "Not now; the message says so where the outcome is unknown.",
    504: "Not answered in time: the outcome of a change is unknown, the same key resolves it.",
}


def _jsonrpc_path() -> Schema:
    request = {
        "oneOf": [ref("JsonRpcRequest"), {"type": "array", "items": ref("JsonRpcRequest"), "minItems": 1}]
    }
    reply = {"oneOf": [ref("JsonRpcReply"), {"type": "array", "items": ref("JsonRpcReply"), "minItems": 1}]}
    errors = (InvalidParams, InvalidRequest, MessageTooLarge, Unauthorized, InternalError)
    responses = _error_responses(errors, {})
    refused = responses["400"]["content"]["application/json"]
    refused["schema"] = {"oneOf": [ref("JsonRpcReply"), *refused["schema"]["oneOf"]]}
    about = "Of one call that changes an account; stands for its RequestId."
    return {
        "post": {
            "operationId": "post_jsonrpc",
            "summary": "JSON-RPC 1.0 and 2.0: one call or a batch",
            "tags": ["JSON-RPC"],
            "parameters": [_key(about, "jsonrpc")],
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": {
                "200": _response("The replies, also those that are errors.", reply, {}),
                "204": {"description": "Notifications only: no reply."},
                **responses,
            },
        }
    }


def _service_paths() -> Schema:
    up = record({"status": {"const": "up"}})
    counts = {"raters": {"type": "integer", "minimum": 0}, "tariff_epoch": {"type": "integer", "minimum": 0}}
    ready = record({"status": {"const": "ready"}} | counts)
    unready = record({"status": {"type": "string"}} | counts)
    openapi = record({"openapi": {"type": "string"}, "info": {"type": "object"}, "paths": {"type": "object"}})
    openrpc = record(
        {"openrpc": {"type": "string"}, "info": {"type": "object"}, "methods": {"type": "array"}}
    )
    return {
        "/healthz": _look("healthz", "Whether the balancer runs", up),
        "/readyz": _look("readyz", "Whether a rater with a tariff is there", ready, unready),
        **_watch_paths(),
        "/openapi.json": _look("openapi", "This document", openapi),
        "/openrpc.json": _look("openrpc", "That of JSON-RPC, which rpc.discover answers as well", openrpc),
    }


def _watch_paths() -> Schema:
    """What is for operators, where API keys are asked for."""
    whoami = _look("whoami", "Who the caller is, by the API key", ref("Identity"), errors=(Unauthorized,))
    keys = (Unauthorized, Forbidden)
    status = _look("status", "How this front does", ref("Status"), errors=(InvalidParams, *keys))
    about = "1: with the last five minutes, second by second."
    history = {"description": about, "enum": ["1"], "type": "string", "examples": ["1"]}
    status["get"]["parameters"] = [_parameter("query", "history", history)]
    events = _look("events", "The same as server-sent events, one a second", {}, errors=keys)
    event = {"type": "string", "contentMediaType": "application/json", "contentSchema": ref("StatusEvent")}
    stream = {"text/event-stream": {"schema": record({"event": {"const": "status"}, "data": event})}}
    metrics = _look("metrics", "Figures for Prometheus", {}, errors=keys)
    texts = {_METRICS_TYPE: {"schema": {"type": "string"}}}
    for path, content in ((events, stream), (metrics, texts)):
        path["get"]["responses"]["200"]["content"] = content
    return {"/whoami": whoami, "/status.json": status, "/events": events, "/metrics": metrics}


_METRICS_TYPE: Final = "text/plain"


def _look(
    name: str, summary: str, schema: Schema, otherwise: Schema | None = None, errors: Errors = ()
) -> Schema:
    """GET, and HEAD for its status alone."""
    responses = {"200": _response("Yes.", schema, {}), **_error_responses((InternalError, *errors), {})}
    if otherwise is not None:
        content = responses["503"]["content"]["application/json"]
        content["schema"] = {"oneOf": [otherwise, content["schema"]]}
    bare = {status: {"description": response["description"]} for status, response in responses.items()}
    common = {"summary": summary, "tags": ["service"]}
    return {
        "get": common | {"operationId": f"get_{name}", "responses": responses},
        "head": common | {"operationId": f"head_{name}", "responses": bare},
    }


def _response(description: str, schema: Schema, headers: Schema) -> Schema:
    response: Schema = {"description": description, "content": {"application/json": {"schema": schema}}}
    return response | ({"headers": headers} if headers else {})


def _http_component(status: int, name: str) -> str:
    return f"Http{status}_{name}"
