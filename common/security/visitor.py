"""Who calls on one JSON-RPC connection, and which of its calls may be carried out.

A client says who it is by a call of its own, once and before any others:

    {"id":1,"method":"Responder.Authenticate","params":[{"ApiKey":"ratel_…"}]}

so every client can that can call a method at all, Go's net/rpc among them. From then on the connection is
bound to that key, until it names another one. Calls that follow in the same breath go by the new key, so
nobody has to wait for the answer. The key does not travel with every call: then it would have to be read out
of parameters that are none of the front's business, and would go on to the raters with them.

`rpc.discover` is answered here, too, to everybody.

Where no keys are asked for, Authenticate is answered and changes nothing, so that clients can be given
their keys before the front is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from common.api.openrpc import document_bytes
from common.errors import (
    InvalidParams,
    InvalidRequest,
    RatelError,
    TooManyRequests,
    Unauthorized,
    encode_error,
)
from common.methods import AUTHENTICATE, DISCOVER, SERVICE
from common.rpc.jsonrpc import Call, Session
from common.security.keyring import MISSING, Grant, Keyring
from common.security.meters import Meter

LOGIN_S: Final = 30.0
"""For a client to say who it is, where that is asked for; then its connection is of no use to anyone. The
default of a setting."""

NEEDED: Final = encode_error(
    Unauthorized(detail=f"{MISSING.message}: call {SERVICE}.{AUTHENTICATE.name} first")
)
NOT_HERE: Final = encode_error(
    InvalidRequest(detail="over HTTP the API key goes into a header, Authorization: Bearer …")
)
ONE_IS_ENOUGH: Final = encode_error(
    TooManyRequests(detail="the document is answered once for what arrives together; nothing was done")
)
"""It is some hundred times as long as the question, and strangers may ask."""


class _Params(msgspec.Struct):
    ApiKey: str


_decode = msgspec.json.Decoder(_Params).decode


class Visitor:
    """Of one session. `keyring` is None where everybody may do everything."""

    __slots__ = ("_grant", "_keyring", "_login_s", "_session", "_stranger_since_s", "counted")

    def __init__(self, session: Session, keyring: Keyring | None, login_s: float = LOGIN_S) -> None:
        self._login_s = login_s
        self._session = session
        self._keyring = keyring
        self._grant: Grant | None = None
        self._stranger_since_s: float | None = None
        self.counted: dict[int, tuple[Meter, ...]] = {}
        """Who has to be told of the answer to a call in flight: while this is empty, nobody has."""

    def admit(self, calls: list[Call]) -> list[Call]:
        """Those that may be carried out; the others are answered."""
        if self._session.asks_front:
            self._session.asks_front = False
            return self._admit_in_turn(calls)
        return self._admit(calls) if self._keyring is not None else calls

    def answered(self, slot: int) -> None:
        """The answer to a call that was admitted is there."""
        for meter in self.counted.pop(slot, ()):
            meter.give_back()

    def is_stranger(self, now_s: float) -> bool:
        """Whether it has had time to say who it is, and did not, or its key has not been good for so long."""
        if self._keyring is None or self._valid_grant() is not None or self._session.in_flight:
            self._stranger_since_s = None
            return False
        if self._stranger_since_s is None:
            self._stranger_since_s = now_s
        return now_s - self._stranger_since_s >= self._login_s

    def _valid_grant(self) -> Grant | None:
        if self._grant is not None:
            try:
                self._grant.check(time.time())
            except Unauthorized:
                return None
        return self._grant

    def _admit_in_turn(self, calls: list[Call]) -> list[Call]:
        """Each by the key that was named before it."""
        admitted: list[Call] = []
        waiting: list[Call] = []
        for call in discover(self._session, calls):
            if call.method is not AUTHENTICATE:
                waiting.append(call)
                continue
            admitted += self._admit(waiting)
            waiting = []
            self._authenticate(call)
        return admitted + self._admit(waiting)

    def _admit(self, calls: list[Call]) -> list[Call]:
        if self._keyring is None or not calls:
            return calls
        grant = self._grant
        if grant is None:
            self._refuse(calls, NEEDED)
            return []
        try:
            grant.check(time.time())
        except Unauthorized as error:
            self._refuse(calls, encode_error(error))
            return []
        admitted, refused = grant.sort_out(calls, time.monotonic())
        for slot, body in refused:
            self._session.refuse(slot, body)
        if grant.meters:
            self.counted |= {call.slot: grant.meters for call in admitted}
        return admitted

    def _refuse(self, calls: Sequence[Call], body: bytes) -> None:
        for call in calls:
            self._session.refuse(call.slot, body)

    def _authenticate(self, call: Call) -> None:
        try:
            key = _decode(call.params).ApiKey
        except (msgspec.MsgspecError, UnicodeDecodeError):
            error: RatelError = InvalidParams(field="ApiKey", detail="expected a string, the API key")
            self._session.refuse(call.slot, encode_error(error))
            return
        grant = None
        if self._keyring is not None:
            self._grant = None  # who names a wrong key is nobody any more
            try:
                grant = self._grant = self._keyring.verify(key, time.time())
            except Unauthorized as error:
                self._session.refuse(call.slot, encode_error(error))
                return
        self._session.answer(call.slot, describe(grant))


def describe(grant: Grant | None) -> bytes:
    """What Authenticate answers; without a grant, where no keys are asked for: all is allowed."""
    if grant is None:
        return b'{"Id":"","Tenants":["*"],"Methods":["*"]}'
    record = grant.record
    return msgspec.json.encode({"Id": record.id, "Tenants": record.tenants, "Methods": record.methods})


def discover(session: Session, calls: list[Call]) -> list[Call]:
    """The calls but for those of rpc.discover, of which the first is answered with the document."""
    asked = [call for call in calls if call.method is DISCOVER]
    for call in asked[:1]:
        session.answer(call.slot, document_bytes())
    for call in asked[1:]:
        session.refuse(call.slot, ONE_IS_ENOUGH)
    return [call for call in calls if call.method is not DISCOVER] if asked else calls


def refuse_here(session: Session, calls: list[Call]) -> list[Call]:
    """The calls but for Authenticate, which is for a connection of its own, and rpc.discover."""
    if not session.asks_front:
        return calls
    calls = discover(session, calls)
    for call in calls:
        if call.method is AUTHENTICATE:
            session.refuse(call.slot, NOT_HERE)
    return [call for call in calls if call.method is not AUTHENTICATE]
