"""`POST /jsonrpc`: a body of JSON-RPC calls, and one response with all their answers.

The body is read to its end before the first of its calls is carried out: it is refused as a whole if
it holds too many messages, or a key that is not for one call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from balancer.actions import OnAnswer
from balancer.http.auth import metered
from balancer.http.message import Request
from balancer.router import Router
from common.errors import BY_CODE, DeadlineExceeded, InvalidParams, InvalidRequest, encode_error
from common.methods import DISCOVER, DISCOVER_RPC_NAME, Method
from common.rpc.jsonrpc import DEFAULT_LIMITS, Call, Session
from common.security.keyring import Grant
from common.security.meters import Meter
from common.security.visitor import refuse_here

MAX_CALLS: Final = DEFAULT_LIMITS.max_batch
"""In one body: as in one batch."""

MAX_FOUND: Final = 2 * MAX_CALLS
"""Whatever is in a body, calls or not: room for as many calls even if each is a batch of its own."""

MAX_IN_FLIGHT: Final = 128
"""Calls of one body at a time: enough to keep raters busy, and no bulk job fills the queue alone."""


MAX_OPEN_BYTES: Final = 256
"""A body that asks for the document and nothing else: the call has some 50 bytes."""


class Answers(msgspec.Struct, frozen=True):
    status: int
    output: bytes = b""
    replayed: bool = False


async def answer_body(
    router: Router, request: Request, key_of: Callable[[Request], str], grant: Grant | None = None
) -> Answers:
    """Carry out the calls of a body. `key_of` reads the request's idempotency key. Raises CallerError.

    With a `grant`, those that it is for; the others are answered with why not.
    """
    if not request.body.strip():
        raise InvalidRequest(detail="the body is empty")
    session = Session(refused=router.refused)
    calls = refuse_here(session, await _read_calls(session, request.body))
    key = _key_of_calls(calls, request, key_of)
    meters: tuple[Meter, ...] = ()
    if grant is not None:
        meters = grant.meters  # they may be others by the time of the last answers
        calls, refused = grant.sort_out(calls, time.monotonic())
        for slot, error in refused:
            session.refuse(slot, error)
    if not calls:
        output = session.take_output()
        return Answers(_status_of_refusal(output), output)
    flight = _Flight(session)
    for slot, method, params in calls:
        await flight.until_below(MAX_IN_FLIGHT)
        flight.submit(router, slot, method, params, key, meters)
    await flight.until_below(1)
    output = session.take_output()
    return Answers(200 if output else 204, output, flight.replayed and len(calls) == 1)


def asks_only_for_the_document(body: bytes) -> bool:
    """Whether a body holds rpc.discover alone, which needs no API key. A long one is not looked into."""
    if len(body) > MAX_OPEN_BYTES or DISCOVER_RPC_NAME.encode() not in body:
        return False
    session = Session()
    calls = session.feed(body)
    return (
        bool(calls)
        and not (session.more or session.unfinished or session.has_output)
        and all(call.method is DISCOVER for call in calls)
    )


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

    def submit(
        self,
        router: Router,
        slot: int,
        method: Method,
        params: bytes,
        key: str,
        meters: tuple[Meter, ...],
    ) -> None:
        callback: OnAnswer = partial(self._answer, slot)
        if meters:
            callback = metered(meters, callback)
        self._in_flight += 1
        if self._late:
            callback(DeadlineExceeded.code, _NOT_BEGUN, False)
        else:
            router.submit(method, params, key, callback)

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


def _key_of_calls(calls: list[Call], request: Request, key_of: Callable[[Request], str]) -> str:
    """The key for the one call of a body, "" for none. Raises InvalidParams."""
    if len(calls) > 1 and any(request.values(b"idempotency-key")):
        detail = f"is for one call, the body holds {len(calls)}: give each its own RequestId"
        raise InvalidParams(field="Idempotency-Key", detail=detail)
    if len(calls) != 1 or not calls[0].method.mutates:
        return ""
    key = key_of(request)
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
