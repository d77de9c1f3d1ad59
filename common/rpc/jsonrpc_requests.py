"""One JSON-RPC message: the request that it is, or what is wrong with it.

`common.rpc.jsonrpc` says what the two dialects are.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET

from common.errors import InvalidParams, InvalidRequest, ParseError, RatelError
from common.methods import BY_RPC_NAME, Method
from common.rpc.jsonrpc_shapes import Request, decode, decode_envelope, decode_lines, decode_list

_OPEN_LIST: Final = 0x5B
_OPEN_OBJECT: Final = 0x7B
_CLOSE_OBJECT: Final = 0x7D

V1: Final = 1
V2: Final = 2
SILENT: Final = 3
"""The form of an answer: 1.0, 2.0, or a notification's."""


PlainCall = tuple[bytes, int, Method, bytes]
"""A request that is right in every respect: id, form (not SILENT), method, descriptor."""

PLAIN_DEPTH: Final = 3
"""How deep a plain call is nested: the message, the list of its parameters, the descriptor."""


def is_utf8(text: bytes) -> bool:
    """The decoder passes over text that is not looked into without checking it."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def decode_quick(text: bytes) -> Request | None:
    """The request, or None for whatever is not a whole and plain one."""
    if not (text.isascii() or is_utf8(text)):
        return None
    try:
        return decode(text)
    except msgspec.DecodeError:
        return None


def decode_plain(text: bytes) -> list[PlainCall] | None:
    """The calls in whole lines of text, or None where not every single one is as most are.

    Most have a flat descriptor and no bracket in any string. Then each opening bracket is that of a
    message, of its list of parameters or of its descriptor. If there are no others in the text, no message
    is nested deeper and no list holds more than its descriptor, and that need not be looked for in each.
    """
    if not (text.isascii() or is_utf8(text)):
        return None
    try:
        requests = decode_lines(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    calls: list[PlainCall] = []
    lists = 0
    for request in requests:
        method = BY_RPC_NAME.get(request.method)
        params = bytes(request.params)
        id_text = bytes(request.id)
        if params[0] == _OPEN_LIST:
            params = params[1:-1] or params
            lists += 1
        if method is None or not id_text or params[0] != _OPEN_OBJECT or params[-1] != _CLOSE_OBJECT:
            return None
        calls.append((id_text, V1 if request.jsonrpc is UNSET else V2, method, params))
    return calls if text.count(b"{") + text.count(b"[") == 2 * len(calls) + lists else None


def decode_request(text: bytes) -> Request | RatelError:
    try:
        return decode(text)
    except msgspec.ValidationError:
        return _what_is_wrong(text)
    except msgspec.DecodeError as error:
        return ParseError(detail=explain(error))


def _what_is_wrong(text: bytes) -> RatelError:
    """Why a JSON value is not a request."""
    if not text.startswith(b"{"):
        return InvalidRequest(detail="a request is an object")
    try:
        envelope = decode_envelope(text)
    except msgspec.DecodeError as error:
        return ParseError(detail=explain(error))
    if bytes(envelope.jsonrpc) not in (b"", b'"2.0"'):
        return InvalidRequest(detail='jsonrpc must be "2.0", or be left out to speak 1.0')
    if not bytes(envelope.method):
        return InvalidRequest(detail="method is missing")
    return InvalidRequest(detail="method must be a string")


def place_of_malformed(text: bytes) -> tuple[bytes, int]:
    """The id and the form for the answer to what is not a request."""
    if not text.startswith(b"{"):
        return b"null", V2
    try:
        envelope = decode_envelope(text)
    except msgspec.DecodeError:
        return b"null", V2
    return bytes(envelope.id) or b"null", V2 if bytes(envelope.jsonrpc) else V1


def descriptor(params: bytes) -> bytes | RatelError:
    """The one object in params, as text."""
    first = params[0]
    if first == _OPEN_OBJECT:
        return params
    if first != _OPEN_LIST:
        if params == b"null":
            return b"{}"
        return InvalidParams(field="params", detail="expected an object, or a list of one object")
    if params[1] == _OPEN_OBJECT and params.find(b"}") == len(params) - 2:
        return params[1:-1]  # the first bracket that closes is the last but one: nothing beside it
    members = decode_list(params)
    if len(members) != 1:
        return InvalidParams(field="params", detail=f"expected one object, not {len(members)} values")
    member = bytes(members[0])
    return member if member.startswith(b"{") else InvalidParams(field="params", detail="expected an object")


def nothing(params: bytes) -> bytes | RatelError:
    """An empty descriptor, where the method takes no parameters, however their absence is written."""
    if params.translate(None, b" \t\r\n") in (b"null", b"[]", b"{}", b"[{}]", b"[null]"):
        return b"{}"
    return InvalidParams(field="params", detail="there are none")


def explain(error: msgspec.DecodeError) -> str:
    text = str(error)
    # Framing has made sure that the text is whole: it "ends" where the other half should be.
    if text == "Input data was truncated" or "end of hex escape" in text or "surrogate" in text:
        return "a string holds half of a surrogate pair (\\uD800 to \\uDFFF), which is no character"
    return text.removeprefix("JSON is malformed: ")
