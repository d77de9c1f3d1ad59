"""HTTP: the nine methods by GET and POST, `POST /jsonrpc`, `/healthz` and `/readyz`.

A thin ASGI application on uvicorn, in the balancer's own event loop; requests go to the router just as
those of the TCP gateway do. The body of a reply is the JSON result itself, an error is
`{"error":{"code","name","message","data"}}` with the status of its class.

uvicorn bounds neither the head of a request nor the time it may take: `BoundedHttp` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import math
import re
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from balancer.http_query import descriptor_of, parse_body, parse_query
from balancer.router import Router
from common.errors import (
    BY_CODE,
    InvalidParams,
    InvalidRequest,
    MessageTooLarge,
    RatelError,
    encode_error,
)
from common.jsonrpc import Session
from common.methods import BY_HTTP_NAME, Method

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024 * 1024
"""As for one message of JSON-RPC over TCP."""

MAX_HEAD_BYTES: Final = 32 * 1024
"""URL and headers. The longest meaningful URL has under 8 KB, proxies add some headers."""

READ_TIMEOUT_S: Final = 30.0
"""For a request to arrive in full."""

KEEP_ALIVE_S: Final = 75
"""For the next request on a connection: above the usual 60 s of proxies, so that they close first."""

MAX_CONNECTIONS: Final = 10_000
"""Each has one request in progress; others wait unread."""

SWEEP_S: Final = 1.0
BACKLOG: Final = 1024

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,256}")


class Response(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
        headers: Headers = [_JSON] if response.body else []
        headers += [(b"content-length", str(len(response.body)).encode()), *response.headers]
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
        if path in ("/healthz", "/readyz"):
            if verb not in ("GET", "HEAD"):
                return _not_allowed(verb, b"GET, HEAD")
            return Response(200, b'{"status":"up"}') if path == "/healthz" else self._ready()
        return _plain_error(404, "not_found", f"there is no path {path[:200]!r}")

    def _ready(self) -> Response:
        raters, tariff_epoch = self._router.readiness
        ready = raters > 0 and not self.closing
        status = "shutting down" if self.closing else "ready" if ready else "no rater with a tariff is there"
        body = msgspec.json.encode({"status": status, "raters": raters, "tariff_epoch": tariff_epoch})
        return Response(200 if ready else 503, body, () if ready else ((b"retry-after", b"1"),))

    async def _call(self, method: Method, scope: Scope, receive: Any) -> Response:
        key = _idempotency_key(scope["headers"]) if method.mutates else ""
        params = parse_query(scope["query_string"])
        if scope["method"] == "POST":
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
        calls = session.feed(body)
        session.feed_eof()
        if not calls:
            output = session.take_output()
            return Response(_status_of_refusal(output), output)
        done = asyncio.get_running_loop().create_future()

        def answer(slot: int, code: int, reply: bytes, _replayed: bool) -> None:
            (session.fail if code else session.answer)(slot, reply)
            if not session.in_flight and not done.done():
                done.set_result(None)

        for slot, method, params in calls:
            self._router.submit(method, params, "", partial(answer, slot))
        await done
        output = session.take_output()
        return Response(200 if output else 204, output)


class _Disconnected(Exception):
    """The client went away before its request was complete."""


class _Refused(Exception):
    """The request ends with a response that is none of the API's errors."""

    def __init__(self, response: Response) -> None:
        self.response = response


def _settle(future: asyncio.Future[Response], code: int, body: bytes, replayed: bool) -> None:
    if not future.done():
        future.set_result(_error_response(code, body, replayed) if code else _result(body, replayed))


_CLOSE: Final = (b"connection", b"close")
_REPLAYED: Final = ((b"idempotency-replayed", b"true"),)


def _result(body: bytes, replayed: bool) -> Response:
    return Response(200, body, _REPLAYED if replayed else ())


def _error_response(code: int, body: bytes, replayed: bool = False) -> Response:
    status = BY_CODE.get(code, RatelError).http_status
    headers: tuple[tuple[bytes, bytes], ...] = _REPLAYED if replayed else ()
    if status == 503:
        headers += ((b"retry-after", b"1"),)
    if status == 413:
        headers += (_CLOSE,)  # the rest of the body is not read
    return Response(status, b'{"error":' + body + b"}", headers)


def _plain_error(status: int, name: str, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """What HTTP alone knows: not among the errors of the API, so it has no code of theirs."""
    error = {"code": 0, "name": name, "message": message, "data": {}}
    return Response(status, msgspec.json.encode({"error": error}), headers)


def _not_allowed(verb: str, allowed: bytes) -> Response:
    message = f"{verb} is not allowed here, only {allowed.decode()}"
    return _plain_error(405, "method_not_allowed", message, (b"allow", allowed))


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
        raise _Refused(_plain_error(408, "request_timeout", message, _CLOSE)) from None


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with bounds on the number of connections, and on size and time of a head."""

    _head_bytes = 0
    head_since_s: float | None = None
    """When the head at hand, or the connection, began; None while a request is being served."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_since_s = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "overloaded", f"more than {MAX_CONNECTIONS} connections")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self.head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.head_since_s = None
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser stops, and `send_400_response` follows

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "head_too_large", f"URL and headers exceed {MAX_HEAD_BYTES} bytes")
        else:
            self._refuse(400, "bad_http", "not a valid HTTP request")

    def check(self, now_s: float) -> None:
        if self.head_since_s is None or now_s - self.head_since_s < READ_TIMEOUT_S:
            return
        self._refuse(408, "request_timeout", f"no request arrived within {READ_TIMEOUT_S:.0f} s")

    def _refuse(self, status: int, name: str, message: str) -> None:
        response = _plain_error(status, name, message)
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(response.body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + response.body)
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the command's


class HttpGateway:
    def __init__(self, router: Router, drain_s: float) -> None:
        self._app = HttpApp(router)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(drain_s),
                backlog=BACKLOG,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each bad request
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self, listener: socket.socket) -> None:
        self._task = self._loop.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0)
        self._sweep()

    def stop_accepting(self) -> None:
        """The listener closes within a moment; connections end once their request is answered."""
        self._app.closing = True
        self._server.should_exit = True

    async def drain(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._task is not None:
            await self._task

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now_s = self._loop.time()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, BoundedHttp):
                connection.check(now_s)
