"""The server's side of a JSON-RPC connection, without the connection: bytes in, calls out.

Each message says itself which dialect it speaks, and is answered in it:

- **1.0**, as Go's `net/rpc/jsonrpc` speaks it: `{"id":1,"method":"Responder.GetCost","params":[{…}]}`
  → `{"id":1,"result":…,"error":null}`. An error is a string, `"<name>: <message>"`. A 1.0 message is
  always answered: where `id` is null or missing the answer's id is null. (The 1.0 specification
  makes a null id a notification; clients that leave it out by mistake would wait for ever.)
- **2.0**, told by `"jsonrpc":"2.0"`: error objects `{"code","message","data":{"name",…}}`, batches
  (a list, answered by one list), notifications (no `id` at all: answered by nothing, unless the
  message is not a request).

In both, `params` is the call descriptor or a list of just that; null or nothing is an empty one.
An `id` is any JSON value and comes back byte for byte. Members of other names are ignored. What
can't be told to be a request of either dialect is answered in the form of 2.0, which alone defines
an answer for it, with id null. In a batch, members without `jsonrpc` get answers in the form of 1.0.

Each answer ends with a newline. JSON with half of a surrogate pair (`"\\ud800"`) is not accepted: it
is no Unicode text, and could be neither stored nor matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from common.errors import (
    ErrorBody,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    RatelError,
    encode_error,
)
from common.jsonrpc_framer import Framer
from common.methods import BY_RPC_NAME, Method


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may be. How many calls may be in flight is the gateways' to bound."""

    max_message_bytes: int = 1024 * 1024
    """A call descriptor has some 200 bytes; this leaves room for a batch of `max_batch` long ones."""
    max_depth: int = 64
    """A batch of calls is 4 deep. Far below where a recursive decoder would run out of stack."""
    max_batch: int = 1000
    """Calls in one 2.0 batch: its answers are held back until the last of them is there."""


DEFAULT_LIMITS: Final = Limits()


class Call(NamedTuple):
    """A call to be carried out and then answered, by `Session.answer` or `Session.fail`."""

    slot: int
    """Names the place of the answer within its session."""
    method: Method
    params: bytes
    """JSON text of the call descriptor, an object. Its syntax is checked, its fields are not."""


_OPEN_LIST: Final = 0x5B
_OPEN_OBJECT: Final = 0x7B

_V1: Final = 1
_V2: Final = 2
_SILENT: Final = 3
"""The form of an answer: 1.0, 2.0, or a notification's."""


class _Request(msgspec.Struct, gc=False):
    method: str
    id: Raw = Raw(b"")
    params: Raw = Raw(b"null")
    jsonrpc: Literal["2.0"] | UnsetType = UNSET


class _Envelope(msgspec.Struct, gc=False):
    """Any object, to find out what is wrong with it."""

    id: Raw = Raw(b"")
    method: Raw = Raw(b"")
    jsonrpc: Raw = Raw(b"")


_decode = msgspec.json.Decoder(_Request).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_error_body = msgspec.json.Decoder(ErrorBody).decode
_encode = msgspec.json.Encoder().encode
_new_tuple = tuple.__new__
"""Makes a `Call` in half the time."""


class _Batch:
    """A list of requests on its way to becoming a list of answers, in the same order."""

    __slots__ = ("replies", "waiting")

    def __init__(self, size: int) -> None:
        self.replies = [b""] * size
        self.waiting = size


_Place = tuple[bytes, int, _Batch | None, int]
"""Where an answer goes: id, form, and, if it belongs to a batch, which one and where in it."""


class Session:
    """One connection, or one HTTP request's body.

    Feed it what arrives, carry out the calls it returns, give it their answers in any order, and
    write what `take_output` returns: errors that it finds itself are in there already.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._framer: Framer[_Request] = Framer(
            _decode_quick, max_message_bytes=limits.max_message_bytes, max_depth=limits.max_depth
        )
        self._places: dict[int, _Place] = {}
        self._next_slot = 0
        self._output: list[bytes] = []

    @property
    def in_flight(self) -> int:
        """Calls handed out and not answered, notifications among them."""
        return len(self._places)

    @property
    def closing(self) -> bool:
        """The framing is lost for good: write the output, answer what is in flight, then close."""
        return self._framer.closing

    def feed(self, data: bytes) -> list[Call]:
        """The calls that the next bytes complete. The stream may be cut anywhere."""
        calls: list[Call] = []
        for event in self._framer.feed(data):
            if isinstance(event, _Request):
                self._admit(event, calls, None, 0)
            elif isinstance(event, bytes):
                self._read_text(event, calls)
            else:
                self._refuse(event, b"null", _V2, None, 0)
        return calls

    def feed_eof(self) -> None:
        """The end of the stream: a message begun and not finished is a parse error."""
        error = self._framer.feed_eof()
        if error is not None:
            self._refuse(error, b"null", _V2, None, 0)

    def answer(self, slot: int, result: bytes) -> None:
        """`result` is JSON text and goes out as it is. Raises KeyError for a slot that is not open."""
        id_text, form, batch, index = self._places.pop(slot)
        if form == _SILENT:
            return
        if form == _V1:
            parts = (b'{"id":', id_text, b',"result":', result, b',"error":null}')
        else:
            parts = (b'{"jsonrpc":"2.0","id":', id_text, b',"result":', result, b"}")
        if batch is None:
            self._output += parts
            self._output.append(b"\n")
        else:
            self._settle(batch, index, b"".join(parts))

    def fail(self, slot: int, body: bytes) -> None:
        """`body` is what `common.errors.encode_error` makes. Raises KeyError as `answer` does."""
        id_text, form, batch, index = self._places.pop(slot)
        self._send_error(body, id_text, form, batch, index)

    def take_output(self) -> bytes:
        """Everything that is to be written now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _read_text(self, text: bytes, calls: list[Call]) -> None:
        """A message that the quick way did not make out."""
        if not _is_utf8(text):
            self._refuse(ParseError(detail="invalid UTF-8"), b"null", _V2, None, 0)
        elif not text.startswith(b"["):
            self._read_member(text, calls, None, 0)
        else:
            self._read_batch(text, calls)

    def _read_batch(self, text: bytes, calls: list[Call]) -> None:
        try:
            members = _decode_list(text)
        except msgspec.DecodeError as error:
            self._refuse(ParseError(detail=_explain(error)), b"null", _V2, None, 0)
            return
        limit = self._limits.max_batch
        if not 0 < len(members) <= limit:
            detail = f"a batch of {len(members)} calls, the limit is {limit}" if members else "an empty batch"
            self._refuse(InvalidRequest(detail=detail), b"null", _V2, None, 0)
            return
        batch = _Batch(len(members))
        for index, member in enumerate(members):
            self._read_member(bytes(member), calls, batch, index)

    def _read_member(self, text: bytes, calls: list[Call], batch: _Batch | None, index: int) -> None:
        request = _decode_request(text)
        if isinstance(request, RatelError):
            id_text, form = _place_of_malformed(text)
            self._refuse(request, id_text, form, batch, index)
        else:
            self._admit(request, calls, batch, index)

    def _admit(self, request: _Request, calls: list[Call], batch: _Batch | None, index: int) -> None:
        id_text = bytes(request.id)
        form = _V1 if request.jsonrpc is UNSET else _V2 if id_text else _SILENT
        method = BY_RPC_NAME.get(request.method)
        params = _descriptor(bytes(request.params))
        if method is None:
            self._refuse(MethodNotFound(method=request.method), id_text or b"null", form, batch, index)
            return
        if isinstance(params, RatelError):
            self._refuse(params, id_text or b"null", form, batch, index)
            return
        if form == _SILENT and batch is not None:
            self._settle(batch, index, b"")  # the others needn't wait for it
            batch = None
        slot = self._next_slot
        self._next_slot = slot + 1
        self._places[slot] = (id_text or b"null", form, batch, index)
        calls.append(_new_tuple(Call, (slot, method, params)))

    def _refuse(self, error: RatelError, id_text: bytes, form: int, batch: _Batch | None, index: int) -> None:
        self._send_error(encode_error(error), id_text, form, batch, index)

    def _send_error(self, body: bytes, id_text: bytes, form: int, batch: _Batch | None, index: int) -> None:
        reply = b"" if form == _SILENT else _error_reply(body, id_text, form)
        if batch is not None:
            self._settle(batch, index, reply)
        elif reply:
            self._output += (reply, b"\n")

    def _settle(self, batch: _Batch, index: int, reply: bytes) -> None:
        batch.replies[index] = reply
        batch.waiting -= 1
        if batch.waiting:
            return
        replies = [reply for reply in batch.replies if reply]
        if replies:
            self._output += (b"[", b",".join(replies), b"]\n")


def _is_utf8(text: bytes) -> bool:
    """The decoder passes over text that is not looked into without checking it."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_quick(text: bytes) -> _Request | None:
    """The request, or None for whatever is not a whole and plain one."""
    if not (text.isascii() or _is_utf8(text)):
        return None
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return None


def _decode_request(text: bytes) -> _Request | RatelError:
    try:
        return _decode(text)
    except msgspec.ValidationError:
        return _what_is_wrong(text)
    except msgspec.DecodeError as error:
        return ParseError(detail=_explain(error))


def _what_is_wrong(text: bytes) -> RatelError:
    """Why a JSON value is not a request."""
    if not text.startswith(b"{"):
        return InvalidRequest(detail="a request is an object")
    try:
        envelope = _decode_envelope(text)
    except msgspec.DecodeError as error:
        return ParseError(detail=_explain(error))
    if bytes(envelope.jsonrpc) not in (b"", b'"2.0"'):
        return InvalidRequest(detail='jsonrpc must be "2.0", or be left out to speak 1.0')
    if not bytes(envelope.method):
        return InvalidRequest(detail="method is missing")
    return InvalidRequest(detail="method must be a string")


def _place_of_malformed(text: bytes) -> tuple[bytes, int]:
    """The id and the form for the answer to what is not a request."""
    if not text.startswith(b"{"):
        return b"null", _V2
    try:
        envelope = _decode_envelope(text)
    except msgspec.DecodeError:
        return b"null", _V2
    return bytes(envelope.id) or b"null", _V2 if bytes(envelope.jsonrpc) else _V1


def _descriptor(params: bytes) -> bytes | RatelError:
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
    members = _decode_list(params)
    if len(members) != 1:
        return InvalidParams(field="params", detail=f"expected one object, not {len(members)} values")
    member = bytes(members[0])
    return member if member.startswith(b"{") else InvalidParams(field="params", detail="expected an object")


def _error_reply(body: bytes, id_text: bytes, form: int) -> bytes:
    error = _decode_error_body(body)
    if form == _V1:
        text: bytes = _encode(f"{error.name}: {error.message}")
        return b'{"id":' + id_text + b',"result":null,"error":' + text + b"}"
    data = {"name": error.name} | error.data | {"name": error.name}
    text = _encode({"code": error.code, "message": error.message, "data": data})
    return b'{"jsonrpc":"2.0","id":' + id_text + b',"error":' + text + b"}"


def _explain(error: msgspec.DecodeError) -> str:
    text = str(error)
    if text == "Input data was truncated":  # framing has made sure that it was not
        return "half of a surrogate pair"
    return text.removeprefix("JSON is malformed: ")
