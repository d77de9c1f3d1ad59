"""The client's side of a JSON-RPC 2.0 connection, without the connection.

Numbers stay exact on both ways: whole numbers are `int`, all others `decimal.Decimal`, and a Decimal
in a descriptor is written with the digits that it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

import msgspec

from common.errors import ErrorBody, InvalidParams, MessageTooLarge, RatelError, error_from_body
from common.rpc.jsonrpc import DEFAULT_LIMITS
from common.rpc.jsonrpc_framer import Framer

MAX_REPLY_BYTES: Final = 16 * 1024 * 1024
"""Far more than the call cost of the longest call that is rated; it bounds what a broken server costs."""


class NotAReply(ValueError):
    """The server sent something that can't be matched to a call: the connection is of no more use."""


class Reply(NamedTuple):
    id: int
    outcome: Any | RatelError
    """The result, or the error to raise."""


class _Error(msgspec.Struct):
    code: int
    message: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)


class _Reply(msgspec.Struct):
    id: int | None = None
    result: Any = None
    error: _Error | None = None


_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(_Reply, float_hook=Decimal).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation)
"""What the decoder raises; the last for a number with an exponent that no Decimal holds."""


def encode_call(call_id: int, method: str, descriptor: Mapping[str, Any]) -> bytes:
    """The message for one call. `datetime` values with a zone are written as RFC 3339 times.

    Raises InvalidParams for what JSON can't hold, MessageTooLarge for what no server would take.
    """
    for field, value in descriptor.items():
        if isinstance(value, float | Decimal) and not math.isfinite(value):
            raise InvalidParams(field=str(field), detail=f"not a finite number: {value}")
    try:
        params = _encode(descriptor)
        message = b'{"jsonrpc":"2.0","id":%d,"method":%b,"params":%b}\n' % (call_id, _encode(method), params)
    except (TypeError, ValueError, RecursionError) as error:  # lone surrogates are a ValueError
        raise InvalidParams(field="params", detail=f"can't be written as JSON: {error}") from None
    if len(message) > DEFAULT_LIMITS.max_message_bytes:
        raise MessageTooLarge(limit_bytes=DEFAULT_LIMITS.max_message_bytes)
    return message


class ReplyReader:
    """Turns what arrives on one connection into replies."""

    def __init__(self) -> None:
        self._framer: Framer[_Reply] = Framer(
            _decode_quick, max_message_bytes=MAX_REPLY_BYTES, max_depth=DEFAULT_LIMITS.max_depth
        )

    def feed(self, data: bytes) -> Iterator[Reply]:
        """The replies that the next bytes complete, and then NotAReply if something else follows."""
        return map(_outcome, self._framer.feed(data))


def _decode_quick(text: bytes) -> _Reply | None:
    try:
        return _decode(text)
    except _UNREADABLE:
        return None


def _outcome(event: _Reply | bytes | RatelError) -> Reply:
    if isinstance(event, RatelError):
        raise NotAReply(str(event))
    if isinstance(event, bytes):
        try:
            event = _decode(event)
        except _UNREADABLE as error:
            raise NotAReply(f"not a reply: {error}") from None
    if event.id is None:
        reason = event.error.message if event.error else "a reply without an id"
        raise NotAReply(f"the server could not read a request: {reason}")
    if event.error is None:
        return Reply(event.id, event.result)
    data = dict(event.error.data)
    name = str(data.pop("name", RatelError.name))
    return Reply(event.id, error_from_body(ErrorBody(event.error.code, name, event.error.message, data)))
