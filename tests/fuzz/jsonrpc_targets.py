"""JSON-RPC streams, as the server and as the client reads them.

An input begins with its cuts: a byte says how many sizes follow, then these sizes, then the stream,
which is fed in pieces of these sizes, over and over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

from common.errors import NoRate, RatelError, encode_error
from common.methods import BY_RPC_NAME
from common.rpc.jsonrpc import Call, Limits, Session
from common.rpc.jsonrpc_replies import NotAReply, ReplyReader

SMALL: Final = Limits(max_message_bytes=600, max_depth=8, max_batch=5)
"""Small, so that short inputs reach the limits."""

MAX_GROWTH: Final = 8
"""Bytes of output for a byte of input, beside a fixed part for each answer: unprintable names of methods
are quoted twice."""

MAX_ANSWER_BYTES: Final = 400


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The pieces, and the stream as a whole."""
    if not data:
        return [], b""
    count = data[0] % 8
    sizes, stream = data[1 : 1 + count], data[1 + count :]
    if not sizes:
        return [stream], stream
    pieces, pos, size = [], 0, cycle(sizes)
    while pos < len(stream):
        end = pos + next(size) + 1
        pieces.append(stream[pos:end])
        pos = end
    return pieces, stream


def serve_stream(data: bytes) -> None:
    pieces, stream = cut(data)
    calls, output = serve(pieces)
    # Where it was cut is nothing that anyone could tell from the answers.
    assert (calls, output) == serve([stream])
    answers = [_load(line) for line in output.splitlines()]
    found = [answer for line in answers for answer in (line if isinstance(line, list) else [line])]
    assert all(found), "an empty batch was answered"
    for answer in found:
        _check_form(answer)
    # Each call is answered once or is a notification; each result is that of a call.
    results = Counter(dict(answer).get("result") for answer in found)
    del results[None]
    assert set(results) <= {str(call.slot) for call in calls if not _fails(call)}
    assert set(results.values()) <= {1}
    for call in calls:
        assert call.params.startswith(b"{")
        assert isinstance(_load(call.params), Members)
        assert call.method in BY_RPC_NAME.values()
    assert len(output) <= MAX_GROWTH * len(stream) + MAX_ANSWER_BYTES * (1 + len(found))
    expected = expect(stream)
    if expected is not None:
        assert sorted(map(repr, map(_summary, answers))) == sorted(map(repr, expected)), output


def serve(pieces: list[bytes]) -> tuple[list[Call], bytes]:
    """Feed the pieces, then answer every call with its number, or fail it, the last one first."""
    session = Session(SMALL)
    calls: list[Call] = []
    for piece in pieces:
        calls += session.feed(piece)
        while session.more:
            calls += session.feed(b"")
    session.feed_eof()
    assert session.in_flight == len(calls)
    for call in reversed(calls):
        if _fails(call):
            error = NoRate(tenant="t", subject="s", destination="d")
            session.fail(call.slot, encode_error(error))
        else:
            session.answer(call.slot, b'"%d"' % call.slot)
    assert session.in_flight == 0
    return calls, session.take_output()


def _fails(call: Call) -> bool:
    return call.slot % 3 == 2


class Members(tuple[tuple[str, Any], ...]):
    """An object with all its members, in order."""

    __slots__ = ()


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _load(text: bytes) -> Any:
    return json.loads(
        text, object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=_refuse
    )


def _check_form(answer: Any) -> None:
    names = [name for name, _ in answer]
    fields = dict(answer)
    if "jsonrpc" in fields:
        assert names in (["jsonrpc", "id", "result"], ["jsonrpc", "id", "error"])
        assert fields["jsonrpc"] == "2.0"
        if "error" in fields:
            error = dict(fields["error"])
            assert list(error) == ["code", "message", "data"]
            assert isinstance(error["message"], str)
            assert dict(error["data"])["name"]
    else:
        assert names == ["id", "result", "error"]
        assert (fields["result"] is None) != (fields["error"] is None)
        assert isinstance(fields["error"], str | None)


def _summary(answer: Any) -> Any:
    """What `expect` foretells: form, id, and whether it is a result."""
    if isinstance(answer, list):
        return [_summary(member) for member in answer]
    fields = dict(answer)
    return ("2.0" if "jsonrpc" in fields else "1.0", fields["id"])


def expect(stream: bytes) -> list[Any] | None:
    """Form and id of each answer, by the standard library's JSON and the rules of `common.rpc.jsonrpc`.

    None where the rules are not so plain: when a line is not one whole message within the limits.
    """
    expected = []
    for line in stream.split(b"\n"):
        text = line.strip(b" \t\r")
        if not text:
            continue
        message = _plain(text)
        if message is None:
            return None
        if isinstance(message, Members):
            expected += _answer_to(message)
        elif not 0 < len(message) <= SMALL.max_batch:
            expected.append(("2.0", None))
        else:
            members = [answer for member in message for answer in _answer_to(member)]
            expected += [members] if members else []
    return expected


def _plain(text: bytes) -> Any:
    if not text.startswith((b"{", b"[")) or len(text) + 1 > SMALL.max_message_bytes:
        return None
    try:
        message = _load(text)
        json.dumps(message, ensure_ascii=False).encode()  # not so with half of a surrogate pair
    except (ValueError, RecursionError):
        return None
    for value in _values(message, 1):
        if value is None:
            return None
    return message


def _values(value: Any, depth: int) -> Iterator[Any]:
    """True for each value; None for one that is too deep or has equal members."""
    if isinstance(value, Members):
        names = [name for name, _ in value]
        yield True if depth <= SMALL.max_depth and len(set(names)) == len(names) else None
        for _, member in value:
            yield from _values(member, depth + 1)
    elif isinstance(value, list):
        yield True if depth <= SMALL.max_depth else None
        for member in value:
            yield from _values(member, depth + 1)


def _answer_to(message: Any) -> list[tuple[str, Any]]:
    """None or one: form and id."""
    if not isinstance(message, Members):
        return [("2.0", None)]
    fields = dict(message)
    form = "2.0" if "jsonrpc" in fields else "1.0"
    is_request = isinstance(fields.get("method"), str) and not isinstance(fields["method"], Number)
    is_request = is_request and _is_plain_2(fields.get("jsonrpc", "2.0"))
    if is_request and form == "2.0" and "id" not in fields:
        return []
    return [(form, fields.get("id"))]


def _is_plain_2(version: Any) -> bool:
    return version == "2.0" and not isinstance(version, Number)


def read_replies(data: bytes) -> None:
    """What a client makes of a server's stream: the same however it is cut, or NotAReply."""
    pieces, stream = cut(data)
    assert _replies(pieces) == _replies([stream])


def _replies(pieces: list[bytes]) -> list[Any]:
    reader = ReplyReader()
    found: list[Any] = []
    try:
        for piece in pieces:
            for reply in reader.feed(piece):
                assert type(reply.id) is int
                outcome = reply.outcome
                if isinstance(outcome, RatelError):
                    outcome = (type(outcome), outcome.message, repr(outcome.data))
                found.append((reply.id, repr(outcome)))
    except NotAReply:
        found.append(NotAReply)
    return found
