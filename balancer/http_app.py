"""The ASGI application: the nine methods by GET and POST, `POST /jsonrpc`, and what tells about the service.

Requests go to the router just as those of the TCP gateway do. The body of a reply is the JSON
result itself, an error is `{"error":{"code","name","message","data"}}` with the status of its class.

The body of `POST /jsonrpc` is read to its end before the first of its calls is carried out: it is
refused as a whole if it holds too many messages, or a key that is not for one call.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial
from typing import Any, Final

import msgspec

from balancer.http_query import descriptor_of, parse_body, parse_query
from balancer.openapi import document_bytes
from balancer.router import Router
from common.errors import (
    BY_CODE,
    DeadlineExceeded,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MessageTooLarge,
    RatelError,
    encode_error,
)
from common.jsonrpc import DEFAULT_LIMITS, Call, Session
from common.methods import BY_HTTP_NAME, Method

MAX_BODY_BYTES: Final = 1024 * 1024
"""As for one message of JSON-RPC over TCP."""

MAX_CALLS: Final = DEFAULT_LIMITS.max_batch
"""In one body of `POST /jsonrpc`: as in one batch."""

MAX_FOUND: Final = 2 * MAX_CALLS
"""Whatever is in a body, calls or not: room for as many calls even if each is a batch of its own."""

MAX_IN_FLIGHT: Final = 128
"""Calls of one body at a time: enough to keep raters busy, and no bulk job fills the queue alone."""

READ_TIMEOUT_S: Final = 30.0
"""For a request to arrive in full."""

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_ANNOUNCE_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,256}")


class Response(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def all_headers(self) -> Headers:
        kind = [_JSON] if self.body else []
        return [*kind, (b"content-length", b"%d" % len(self.body)), *self.headers]


class HttpApp:
    """The ASGI application."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.closing = False

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            response = await self._respond(scope, receive)
        except RatelError as error:
            response = _error_response(error.code, encode_error(error))
        except _Refused as refused:
            response = refused.response
        except _Disconnected:
            return
        except Exception:
            log.exception("a defect: path=%r", scope["path"][:200])
            defect = InternalError(detail="a defect of the balancer; its log says more")
            response = _error_response(defect.code, encode_error(defect))
        headers = response.all_headers()
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, scope: Scope, receive: Any) -> Response:
        path = scope["path"]
        verb = scope["method"]
        method = BY_HTTP_NAME.get(path[1:])
        if method is not None:
            if verb not in ("GET", "POST"):
                return _not_allowed(verb, b"GET, POST")
            return await self._call(method, scope, receive)
        if path == "/jsonrpc":
            if verb != "POST":
                return _not_allowed(verb, b"POST")
            return await self._jsonrpc(scope, receive)
        if path in ("/healthz", "/readyz", "/openapi.json"):
            if verb not in ("GET", "HEAD"):
                return _not_allowed(verb, b"GET, HEAD")
            if path == "/openapi.json":
                return Response(200, document_bytes())
            return Response(200, b'{"status":"up"}') if path == "/healthz" else self._ready()
        return plain_error(404, "not_found", f"there is no path {path[:200]!r}")

    def _ready(self) -> Response:
        raters, tariff_epoch = self._router.readiness
        ready = raters > 0 and not self.closing
        status = "shutting down" if self.closing else "ready" if ready else "no rater with a tariff is there"
        body = msgspec.json.encode({"status": status, "raters": raters, "tariff_epoch": tariff_epoch})
        return Response(200 if ready else 503, body, () if ready else ((b"retry-after", b"1"),))

    async def _call(self, method: Method, scope: Scope, receive: Any) -> Response:
        key = _idempotency_key(scope["headers"]) if method.mutates else ""
        params = parse_query(scope["query_string"])
        if scope["method"] == "GET":
            if any(name in _ANNOUNCE_BODY for name, _ in scope["headers"]):
                await _read_body(scope["headers"], receive)  # it means nothing, but the request must be whole
        else:
            body = await _read_body(scope["headers"], receive)
            for name, value in parse_body(body, _header(scope["headers"], b"content-type")).items():
                if name in params:
                    raise InvalidParams(field=name, detail="is given twice, in the query and in the body")
                params[name] = value
        if key and params.get("requestid", key) != key:
            raise InvalidParams(field="requestid", detail="differs from the header Idempotency-Key")
        descriptor = descriptor_of(method, params, time.time_ns() // 1000)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._router.submit(method, descriptor, key, partial(_settle, future))
        return await future

    async def _jsonrpc(self, scope: Scope, receive: Any) -> Response:
        body = await _read_body(scope["headers"], receive)
        if not body.strip():
            raise InvalidRequest(detail="the body is empty")
        session = Session()
        calls = await _read_calls(session, body)
        key = _key_of_body(calls, scope["headers"])
        if not calls:
            output = session.take_output()
            return Response(_status_of_refusal(output), output)
        flight = _Flight(session)
        for slot, method, params in calls:
            await flight.until_below(MAX_IN_FLIGHT)
            flight.submit(self._router, slot, method, params, key)
        await flight.until_below(1)
        output = session.take_output()
        replayed = _REPLAYED if flight.replayed and len(calls) == 1 else ()
        return Response(200 if output else 204, output, replayed)


async def _read_calls(session: Session, body: bytes) -> list[Call]:
    """All calls of a body; the other requests get their turns in between. Raises InvalidRequest."""
    calls = session.feed(body)
    while session.more and len(calls) <= MAX_CALLS and session.found <= MAX_FOUND:
        await asyncio.sleep(0)
        calls += session.feed(b"")
    if len(calls) > MAX_CALLS or session.found > MAX_FOUND or session.closing:
        detail = f"too much in one body, the limit is {MAX_CALLS} calls; nothing was carried out"
        raise InvalidRequest(detail=detail)
    session.feed_eof()
    return calls


class _Flight:
    """The calls of one body on their way to their answers."""

    def __init__(self, session: Session) -> None:
        self.replayed = False
        self._session = session
        self._in_flight = 0
        self._late = False
        """A call was not answered in time: what has waited since before it was submitted is as late."""
        self._answered = asyncio.Event()

    def submit(self, router: Router, slot: int, method: Method, params: bytes, key: str) -> None:
        if self._late:
            self._session.fail(slot, _NOT_BEGUN)
            return
        self._in_flight += 1
        router.submit(method, params, key, partial(self._answer, slot))

    async def until_below(self, limit: int) -> None:
        while self._in_flight >= limit:
            self._answered.clear()
            await self._answered.wait()

    def _answer(self, slot: int, code: int, reply: bytes, replayed: bool) -> None:
        (self._session.fail if code else self._session.answer)(slot, reply)
        self._late = self._late or code == DeadlineExceeded.code
        self.replayed = replayed
        self._in_flight -= 1
        self._answered.set()


_NOT_BEGUN: Final = encode_error(
    DeadlineExceeded(detail="calls before it in the same body took all of it; nothing was done")
)


class _Disconnected(Exception):
    """The client went away before its request was complete."""


class _Refused(Exception):
    """The request ends with a response that is none of the API's errors."""

    def __init__(self, response: Response) -> None:
        self.response = response


def _settle(future: asyncio.Future[Response], code: int, body: bytes, replayed: bool) -> None:
    if not future.done():
        future.set_result(_error_response(code, body, replayed) if code else _result(body, replayed))


CLOSE: Final = (b"connection", b"close")
_REPLAYED: Final = ((b"idempotency-replayed", b"true"),)


def _result(body: bytes, replayed: bool) -> Response:
    return Response(200, body, _REPLAYED if replayed else ())


def _error_response(code: int, body: bytes, replayed: bool = False) -> Response:
    status = BY_CODE.get(code, RatelError).http_status
    headers: tuple[tuple[bytes, bytes], ...] = _REPLAYED if replayed else ()
    if status == 503:
        headers += ((b"retry-after", b"1"),)
    if status == 413:
        headers += (CLOSE,)  # the rest of the body is not read
    return Response(status, b'{"error":' + body + b"}", headers)


def plain_error(status: int, name: str, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """What HTTP alone knows: not among the errors of the API, so it has no code of theirs."""
    error = {"code": 0, "name": name, "message": message, "data": {}}
    return Response(status, msgspec.json.encode({"error": error}), headers)


def _not_allowed(verb: str, allowed: bytes) -> Response:
    message = f"{verb} is not allowed here, only {allowed.decode()}"
    return plain_error(405, "method_not_allowed", message, (b"allow", allowed))


class _Refusal(msgspec.Struct):
    class Error(msgspec.Struct):
        code: int

    error: Error


def _status_of_refusal(output: bytes) -> int:
    """The status when JSON-RPC found nothing to carry out: 200 but for a body that is no request."""
    if not output:
        return 204
    try:
        code = msgspec.json.decode(output, type=_Refusal).error.code
    except msgspec.DecodeError:  # the form of 1.0, a batch
        return 200
    malformed = code in (-32700, -32600, -32001, -32002)
    return BY_CODE[code].http_status if malformed else 200


def _header(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def _idempotency_key(headers: Headers) -> str:
    values = [value for name, value in headers if name == b"idempotency-key"]
    if not values:
        return ""
    key = values[0].strip()
    if len(key) >= 2 and key[:1] == key[-1:] == b'"':
        key = key[1:-1]
    if len(values) > 1:
        raise InvalidParams(field="Idempotency-Key", detail="is given twice")
    if not _KEY.fullmatch(key):
        raise InvalidParams(field="Idempotency-Key", detail="expected 1 to 256 printable ASCII characters")
    return key.decode()


def _key_of_body(calls: list[Call], headers: Headers) -> str:
    """The key for the one call of a JSON-RPC body, "" for none. Raises InvalidParams."""
    if len(calls) > 1 and _header(headers, b"idempotency-key"):
        detail = f"is for one call, the body holds {len(calls)}: give each its own RequestId"
        raise InvalidParams(field="Idempotency-Key", detail=detail)
    if len(calls) != 1 or not calls[0].method.mutates:
        return ""
    key = _idempotency_key(headers)
    if key and _request_ids(calls[0].params) - {key}:
        raise InvalidParams(field="RequestId", detail="differs from the header Idempotency-Key")
    return key


def _request_ids(params: bytes) -> set[str]:
    """What a descriptor names as its RequestId, in any case. What is wrong with it the rater says."""
    try:
        fields = msgspec.json.decode(params)
    except msgspec.DecodeError:
        return set()
    return {value for name, value in fields.items() if name.lower() == "requestid" and type(value) is str} - {
        ""
    }


async def _read_body(headers: Headers, receive: Any) -> bytes:
    announced = _header(headers, b"content-length")
    if announced.isdecimal() and int(announced[:20]) > MAX_BODY_BYTES:
        raise MessageTooLarge(limit_bytes=MAX_BODY_BYTES)
    body = bytearray()
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Disconnected
                body += message["body"]
                if len(body) > MAX_BODY_BYTES:
                    raise MessageTooLarge(limit_bytes=MAX_BODY_BYTES)
                if not message["more_body"]:
                    return bytes(body)
    except TimeoutError:
        message = f"the body did not arrive within {READ_TIMEOUT_S:.0f} s"
        raise _Refused(plain_error(408, "request_timeout", message, CLOSE)) from None
