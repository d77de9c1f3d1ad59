"""What the HTTP gateway answers: the methods by GET and POST, and what tells about the service.

Requests go to the router just as those of the TCP gateway do. The body of a reply is the JSON
result itself, an error is `{"error":{"code","name","message","data"}}` with the status of its class.

A request is answered from within `serve`, or when the router calls back: no task, no future. Only a
body of JSON-RPC calls, which may be long, has a task of its own (`jsonrpc`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from balancer.actions import OnAnswer
from balancer.http import openapi, pages, watch
from balancer.http.auth import CHALLENGE, admit_one, grant_of, may_watch, metered
from balancer.http.jsonrpc import answer_body, asks_only_for_the_document
from balancer.http.message import Request, error_body, plain_error
from balancer.http.query import descriptor_of, parse_body, parse_query
from balancer.router import Router
from common.api import openrpc
from common.errors import (
    BY_CODE,
    InternalError,
    InvalidParams,
    Overloaded,
    RatelError,
    encode_error,
    with_log_id,
)
from common.methods import BY_HTTP_NAME, Method
from common.security.keyring import Grant, Keyring
from common.wire import CLIENT_KEY

REPLAYED: Final = b"idempotency-replayed: true\r\n"

_METHODS: Final = {b"/" + name.encode(): method for name, method in BY_HTTP_NAME.items()}
_PATHS: Final = frozenset(
    {
        *_METHODS,
        *watch.PATHS,
        *pages.PATHS,
        pages.WHOAMI,
        b"/jsonrpc",
        b"/healthz",
        b"/readyz",
        b"/openapi.json",
        b"/openrpc.json",
    }
)
_FIXED: Final[dict[bytes, Callable[[], bytes]]] = {
    b"/healthz": lambda: b'{"status":"up"}',
    b"/openapi.json": openapi.document_bytes,
    b"/openrpc.json": openrpc.document_bytes,
}
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,256}")
_RETRY_AFTER_S: Final = 1
"""Where the error does not say: raters join and stores fail over within a second or a few."""

MAX_SHOWN_PATH: Final = 40
"""Of a path in a log: longer than all that there are. A query is not shown at all."""

log = logging.getLogger(__name__)


class HttpApp:
    def __init__(self, router: Router, keyring: Keyring | None = None) -> None:
        self._router = router
        self._keyring = keyring
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._watch = watch.HttpWatch(router)

    @property
    def closing(self) -> bool:
        return self._closing

    @closing.setter
    def closing(self, closing: bool) -> None:
        self._closing = self._watch.closing = closing

    def serve(self, request: Request) -> None:
        """Answer it, now or later. Does not raise."""
        try:
            path, _, query = request.target.partition(b"?")
            if path not in _PATHS or b"#" in query:
                path, query = _split(request.target)
            method = _METHODS.get(path)
            if method is None:
                self._serve_other(request, path, query)
            elif self._keyring is None:
                self._call(request, method, query)
            else:
                self._call(request, method, query, grant_of(self._keyring, request))
        except RatelError as error:
            self._router.refused[error.name] += 1
            _fail(request, error.code, encode_error(error))
        except Exception:
            _report_defect(request)

    def _serve_other(self, request: Request, path: bytes, query: bytes) -> None:
        verb = request.verb
        if path not in _PATHS:
            shown = path.decode(errors="replace")[:200]
            self._router.refused["not_found"] += 1
            _refuse(request, 404, "not_found", f"there is no path {shown!r}")
        elif path == b"/jsonrpc":
            if verb == b"POST":
                self._start(request)
            else:
                self._not_allowed(request, "POST")
        elif verb not in (b"GET", b"HEAD"):
            self._not_allowed(request, "GET, HEAD")
        elif path in _FIXED:
            request.respond(200, _FIXED[path]())
        elif path in pages.PATHS:
            pages.serve(request, path)
        elif path == b"/readyz":
            self._tell_readiness(request)
        else:
            self._tell_who_may(request, path, query)

    def _not_allowed(self, request: Request, allowed: str) -> None:
        self._router.refused["method_not_allowed"] += 1
        message = f"{request.verb.decode()} is not allowed here, only {allowed}"
        _refuse(request, 405, "method_not_allowed", message, f"allow: {allowed}\r\n".encode())

    def _tell_who_may(self, request: Request, path: bytes, query: bytes) -> None:
        """What is not for everybody, where keys are asked for."""
        keyring = self._keyring
        if path == pages.WHOAMI:
            pages.serve_identity(request, None if keyring is None else grant_of(keyring, request))
        else:
            grant = None if keyring is None else may_watch(keyring, request)
            self._watch.serve(request, path, query, grant)

    def _tell_readiness(self, request: Request) -> None:
        raters, tariff_epoch = self._router.readiness
        ready = raters > 0 and not self.closing
        status = "shutting down" if self.closing else "ready" if ready else "no rater with a tariff is there"
        body = msgspec.json.encode({"status": status, "raters": raters, "tariff_epoch": tariff_epoch})
        if ready:
            request.respond(200, body)
        else:
            request.respond(503, body, _retry_after(_RETRY_AFTER_S))

    # --- the methods ------------------------------------------------------------------------

    def _call(self, request: Request, method: Method, query: bytes, grant: Grant | None = None) -> None:
        verb = request.verb
        if verb not in (b"GET", b"POST"):
            self._not_allowed(request, "GET, POST")
            return
        refusal = self._router.turn_away(method)
        if refusal is not None:
            request.respond(Overloaded.http_status, *_refused(refusal))
            return
        bound = method if grant is None else grant.method(method)
        key = _idempotency_key(request.values(b"idempotency-key")) if method.mutates else ""
        params = parse_query(query)
        if verb == b"POST":
            kind = next(iter(request.values(b"content-type")), b"").decode("latin-1")
            for name, value in parse_body(request.body, kind).items():
                if name in params:
                    raise InvalidParams(field=name, detail="is given twice, in the query and in the body")
                params[name] = value
        if key and params.get("requestid", key) != key:
            raise InvalidParams(field="requestid", detail="differs from the header Idempotency-Key")
        descriptor = descriptor_of(method, params, time.time_ns() // 1000)
        callback: OnAnswer = partial(_answer, request)
        if grant is not None and grant.meters:
            admit_one(grant)
            callback = metered(grant.meters, callback)
        seq = self._router.submit(bound, descriptor, key, callback)
        request.id = _id_of(key or params.get("requestid", "")) or self._router.token_of(seq).encode()

    # --- JSON-RPC ----------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_body(request))
        self._tasks.add(task)  # the event loop alone would not keep it
        task.add_done_callback(self._tasks.discard)

    async def _answer_body(self, request: Request) -> None:
        try:
            grant = None
            if self._keyring is not None and not asks_only_for_the_document(request.body):
                grant = grant_of(self._keyring, request)
            answers = await answer_body(self._router, request, _key_of, grant)
        except RatelError as error:
            self._router.refused[error.name] += 1
            _fail(request, error.code, encode_error(error))
        except Exception:
            _report_defect(request)
        else:
            request.respond(answers.status, answers.output, REPLAYED if answers.replayed else b"")


def _split(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of any target: its path may be escaped, and a host or a fragment may be there."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserError:  # `CONNECT host:port`
        return target, b""
    return unquote_to_bytes(url.path or b"/"), url.query or b""


def _answer(request: Request, code: int, body: bytes, replayed: bool) -> None:
    # A cache in between must not answer the next debit of that amount with this one's result.
    more = b"%bx-request-id: %b\r\n" % (pages.NO_STORE, request.id) if request.id else pages.NO_STORE
    if replayed:
        more += REPLAYED
    if code:
        _fail(request, code, with_log_id(body, request.id.decode()) if request.id else body, more)
    else:
        request.respond(200, body, more)


def _id_of(key: str) -> bytes:
    """What a request with a client's key is called; nothing where a header could not hold it."""
    return f"{CLIENT_KEY}{key}".encode() if key and _KEY.fullmatch(key.encode()) else b""


def _fail(request: Request, code: int, error: bytes, more: bytes = b"") -> None:
    """Answer with the JSON object of an error."""
    status = BY_CODE.get(code, RatelError).http_status
    if status in (503, 429):
        more += _retry_after(_pause_s(error))
    elif status == 401:
        more += CHALLENGE
    request.respond(status, error_body(error), more)


def _report_defect(request: Request) -> None:
    log.exception("a defect: path=%r", request.target.partition(b"?")[0][:MAX_SHOWN_PATH])
    defect = InternalError(detail="a defect of the balancer; its log says more")
    _fail(request, defect.code, encode_error(defect))


def _refuse(request: Request, status: int, name: str, message: str, more: bytes = b"") -> None:
    request.respond(status, plain_error(name, message), more)


def _retry_after(pause_s: int) -> bytes:
    return b"retry-after: %d\r\n" % pause_s


class _Pause(msgspec.Struct):
    class Data(msgspec.Struct):
        retry_after_ms: int = 0

    data: Data


def _pause_s(error: bytes) -> int:
    """After which it is worth while to come again."""
    try:
        pause_ms = msgspec.json.decode(error, type=_Pause).data.retry_after_ms
    except msgspec.DecodeError:
        pause_ms = 0
    return max(-(-pause_ms // 1000), _RETRY_AFTER_S)


@lru_cache(16)
def _refused(error: bytes) -> tuple[bytes, bytes]:
    """Body and headers of a refusal: there are few different ones, and each is sent often."""
    return error_body(error), _retry_after(_pause_s(error))


def _key_of(request: Request) -> str:
    return _idempotency_key(request.values(b"idempotency-key"))


def _idempotency_key(values: list[bytes]) -> str:
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
