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
is no Unicode text, and could be neither stored nor matched. After MAX_BAD_IN_A_ROW messages that are
no requests, with no request between them, one more error says so and the stream is given up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from common.errors import (
    ErrorBody,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    RatelError,
    encode_error,
    error_name,
)
from common.methods import AUTHENTICATE, BY_RPC_NAME_AT_FRONT, DISCOVER, Method
from common.rpc.jsonrpc_framer import Framer
from common.rpc.jsonrpc_requests import (
    PLAIN_DEPTH,
    SILENT,
    V1,
    V2,
    PlainCall,
    decode_plain,
    decode_quick,
    decode_request,
    descriptor,
    explain,
    is_utf8,
    nothing,
    place_of_malformed,
)
from common.rpc.jsonrpc_shapes import Request, decode_list


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

MAX_EVENTS: Final = 256
"""Messages and framing errors that one `Session.feed` handles: some 2 ms, whatever was sent."""

MAX_BAD_IN_A_ROW: Final = 1000
"""So many are no accident: the other side does not speak JSON-RPC, and learns nothing from more."""


class Call(NamedTuple):
    """A call to be carried out and then answered, by `Session.answer` or `Session.fail`."""

    slot: int
    """Names the place of the answer within its session."""
    method: Method
    params: bytes
    """JSON text of the call descriptor, an object. Its syntax is checked, its fields are not."""


KEPT_ERRORS: Final = 64
MAX_KEPT_ERROR_BYTES: Final = 1024
"""The texts of the last few errors: under overload the same one is the answer to most calls."""

_V1_BEGINS: Final = b'{"id":'
_V2_BEGINS: Final = b'{"jsonrpc":"2.0","id":'
_RESULT: Final = b',"result":'
_V1_ENDS: Final = b',"error":null}\n'

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

_AnyPlace = bytes | _Place
"""A call of 1.0 that stands alone, which most are, needs no more than the text of its id."""


class Session:
    """One connection, or one HTTP request's body.

    Feed it what arrives, carry out the calls it returns, give it their answers in any order, and
    write what `take_output` returns: errors that it finds itself are in there already.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, refused: Counter[str] | None = None) -> None:
        """In `refused` what is answered with an error without being handed out is counted, by its name."""
        self._limits = limits
        self._refused = Counter() if refused is None else refused
        self._framer: Framer[Request | PlainCall] = Framer(
            decode_quick,
            decode_plain if limits.max_depth >= PLAIN_DEPTH else None,
            max_message_bytes=limits.max_message_bytes,
            max_depth=limits.max_depth,
        )
        self._places: dict[int, _AnyPlace] = {}
        self._next_slot = 0
        self._found = 0
        self._bad_in_a_row = 0
        self._eof = False
        self._output: list[bytes] = []
        self.asks_front = False
        """Among the calls that `feed` returned is an Authenticate or rpc.discover, for whoever owns the
        session. Who has dealt with them sets this back."""

    @property
    def in_flight(self) -> int:
        """Calls handed out and not answered, notifications among them."""
        return len(self._places)

    @property
    def closing(self) -> bool:
        """The framing is lost for good: write the output, answer what is in flight, then close."""
        return self._framer.closing

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    @property
    def more(self) -> bool:
        """A part of what was fed is not handled yet: `feed(b"")` would go on."""
        return self._framer.more

    @property
    def unfinished(self) -> bool:
        """A message was begun, and the other side owes its end."""
        return self._framer.unfinished and not self._framer.more

    @property
    def found(self) -> int:
        """How many messages, members of batches and framing errors there were: a measure of progress."""
        return self._found

    def feed(self, data: bytes) -> list[Call]:
        """The calls that the next bytes complete. The stream may be cut anywhere.

        One call handles some MAX_EVENTS messages, or one batch that has more, or a share of a long
        message. What is beyond it is kept, and `more` is true: go on with b"" before feeding what
        comes next, or what is kept grows.
        """
        calls: list[Call] = []
        found_before = self._found
        self._handle(self._framer.feed(data, MAX_EVENTS), calls)
        # A list ends what the framer does in one go. When it was a short one, there is room for more.
        while self._framer.more and 0 < (found := self._found - found_before) < MAX_EVENTS:
            self._handle(self._framer.feed(b"", MAX_EVENTS - found), calls)
            if self._found - found_before == found:
                break  # a share of a long message was read
        if self._eof:
            self._end()
        return calls

    def _handle(self, events: list[Request | PlainCall | bytes | RatelError], calls: list[Call]) -> None:
        self._found += len(events)
        places, slot = self._places, self._next_slot
        for event in events:
            if isinstance(event, tuple):
                self._bad_in_a_row = 0
                id_text, form, method, params = event
                places[slot] = id_text if form == V1 else (id_text, form, None, 0)
                calls.append(_new_tuple(Call, (slot, method, params)))
                slot += 1
                continue
            self._next_slot = slot
            if isinstance(event, Request):
                self._admit(event, calls, None, 0)
            elif isinstance(event, bytes):
                self._read_text(event, calls)
            else:
                self._refuse_message(event)
            slot = self._next_slot
            if self._bad_in_a_row == MAX_BAD_IN_A_ROW:
                self._give_up()
                break
        self._next_slot = slot

    def feed_eof(self) -> None:
        """The end of the stream: a message begun and not finished is a parse error.

        Where there is `more`, the end comes after it: it still is to be fetched with `feed(b"")`.
        """
        self._eof = True
        self._end()

    def _end(self) -> None:
        if self._framer.more:
            return
        error = self._framer.feed_eof()
        if error is not None:
            self._refuse_message(error)

    def _give_up(self) -> None:
        self._framer.close()
        detail = f"{MAX_BAD_IN_A_ROW} messages in a row were none, nothing more is read"
        self._refuse(InvalidRequest(detail=detail), b"null", V2, None, 0)

    def answer(self, slot: int, result: bytes) -> None:
        """`result` is JSON text and goes out as it is. Raises KeyError for a slot that is not open."""
        place = self._places.pop(slot)
        if isinstance(place, bytes):
            self._output += (_V1_BEGINS, place, _RESULT, result, _V1_ENDS)
            return
        id_text, form, batch, index = place
        if form == SILENT:
            return
        if form == V1:
            parts = (_V1_BEGINS, id_text, _RESULT, result, _V1_ENDS)
        else:
            parts = (_V2_BEGINS, id_text, _RESULT, result, b"}\n")
        if batch is None:
            self._output += parts
        else:
            self._settle(batch, index, b"".join(parts)[:-1])

    def fail(self, slot: int, body: bytes) -> None:
        """`body` is what `common.errors.encode_error` makes. Raises KeyError as `answer` does."""
        place = self._places.pop(slot)
        id_text, form, batch, index = (place, V1, None, 0) if isinstance(place, bytes) else place
        self._send_error(body, id_text, form, batch, index)

    def refuse(self, slot: int, body: bytes) -> None:
        """As `fail`, for a call that is not carried out."""
        self._refused[error_name(body)] += 1
        self.fail(slot, body)

    def take_output(self) -> bytes:
        """Everything that is to be written now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _read_text(self, text: bytes, calls: list[Call]) -> None:
        """A message that the quick way did not make out."""
        if not is_utf8(text):
            self._refuse_message(ParseError(detail="invalid UTF-8"))
        elif not text.startswith(b"["):
            self._read_member(text, calls, None, 0)
        else:
            self._read_batch(text, calls)

    def _read_batch(self, text: bytes, calls: list[Call]) -> None:
        try:
            members = decode_list(text)
        except msgspec.DecodeError as error:
            self._refuse_message(ParseError(detail=explain(error)))
            return
        limit = self._limits.max_batch
        if not 0 < len(members) <= limit:
            detail = f"a batch of {len(members)} calls, the limit is {limit}" if members else "an empty batch"
            self._refuse_message(InvalidRequest(detail=detail))
            return
        self._found += len(members) - 1  # as one it is counted already
        batch = _Batch(len(members))
        for index, member in enumerate(members):
            self._read_member(bytes(member), calls, batch, index)

    def _read_member(self, text: bytes, calls: list[Call], batch: _Batch | None, index: int) -> None:
        request = decode_request(text)
        if isinstance(request, RatelError):
            id_text, form = place_of_malformed(text)
            self._bad_in_a_row += batch is None
            self._refuse(request, id_text, form, batch, index)
        else:
            self._admit(request, calls, batch, index)

    def _admit(self, request: Request, calls: list[Call], batch: _Batch | None, index: int) -> None:
        self._bad_in_a_row = 0
        id_text = bytes(request.id)
        form = V1 if request.jsonrpc is UNSET else V2 if id_text else SILENT
        method = BY_RPC_NAME_AT_FRONT.get(request.method)
        params = (nothing if method is DISCOVER else descriptor)(bytes(request.params))
        if method is None:
            self._refuse(MethodNotFound(method=request.method), id_text or b"null", form, batch, index)
            return
        if isinstance(params, RatelError):
            self._refuse(params, id_text or b"null", form, batch, index)
            return
        if method is AUTHENTICATE or method is DISCOVER:
            self.asks_front = True
        if form == SILENT and batch is not None:
            self._settle(batch, index, b"")  # the others needn't wait for it
            batch = None
        slot = self._next_slot
        self._next_slot = slot + 1
        self._places[slot] = (id_text or b"null", form, batch, index)
        calls.append(_new_tuple(Call, (slot, method, params)))

    def _refuse_message(self, error: RatelError) -> None:
        """What comes between messages, or is a message and nothing that could be answered by its id."""
        self._bad_in_a_row += 1
        self._refuse(error, b"null", V2, None, 0)

    def _refuse(self, error: RatelError, id_text: bytes, form: int, batch: _Batch | None, index: int) -> None:
        self._refused[error.name] += 1
        self._send_error(encode_error(error), id_text, form, batch, index)

    def _send_error(self, body: bytes, id_text: bytes, form: int, batch: _Batch | None, index: int) -> None:
        reply = b"" if form == SILENT else _error_reply(body, id_text, form)
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


def _error_reply(body: bytes, id_text: bytes, form: int) -> bytes:
    is_common = len(body) <= MAX_KEPT_ERROR_BYTES and b'"log_id"' not in body  # that is another one each time
    text = _kept_error_text(body, form) if is_common else _error_text(body, form)
    return (_V1_BEGINS if form == V1 else _V2_BEGINS) + id_text + text


def _error_text(body: bytes, form: int) -> bytes:
    """What follows the id."""
    error = _decode_error_body(body)
    if form == V1:
        text: bytes = _encode(f"{error.name}: {error.message}")
        return b',"result":null,"error":' + text + b"}"
    data = {"name": error.name} | error.data | {"name": error.name}
    text = _encode({"code": error.code, "message": error.message, "data": data})
    return b',"error":' + text + b"}"


_kept_error_text = lru_cache(maxsize=KEPT_ERRORS)(_error_text)
