"""What is fuzzed: one function for each parser, from any bytes to None, raising only on a broken promise.

Hypothesis (`test_fuzz.py`) feeds them inputs made by a grammar, `python -m tests.fuzz` whatever finds
new ways through the code. The first bytes of some inputs steer: how a stream is cut, which method is
meant, which file is replaced. The JSON-RPC targets are in `jsonrpc_targets.py`, those of the tariff in
`tariff_targets.py`, that of HTTP connections in `http_targets.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl

from balancer.http.query import Params, descriptor_of, parse_body, parse_query
from common import wire
from common.errors import CallerError, InvalidParams, ParseError, encode_error
from common.methods import METHODS
from common.money import LIMIT, MICRO
from common.wire import Kind, Reply, WireError, WorkItem
from rater.descriptor import Descriptor
from rater.descriptor_reader import MAX_TEXT_CHARS, parse_descriptor
from tests.fuzz.http_targets import converse
from tests.fuzz.jsonrpc_targets import read_replies, serve_stream
from tests.fuzz.tariff_targets import load_files, read_damaged_version

NOW_US: Final = 1_328_203_800_000_000
CONTENT_TYPES: Final = ("", "application/json", "application/x-www-form-urlencoded", "text/plain; x", "a/b")

# --- HTTP -------------------------------------------------------------------------------------------

PARAMETERS: Final = {
    b"cstmid": "cstmid",
    b"subj": "subj",
    b"subject": "subj",
    b"dest": "dest",
    b"destinationprefix": "dest",
    b"amount": "amount",
    b"tor": "tor",
    b"start": "start",
    b"timestart": "start",
    b"end": "end",
    b"timeend": "end",
    b"duration": "duration",
    b"requestid": "requestid",
}
"""As docs/api.md lists them, in lower case."""


def parse_http(data: bytes) -> None:
    """The first byte chooses the method, and whether the rest is a query or a body of some type."""
    if not data:
        return
    method = METHODS[data[0] % len(METHODS)]
    kind = data[0] // len(METHODS) % (len(CONTENT_TYPES) + 1)
    raw = data[1:]
    params: Params | None = None
    with suppress(CallerError):
        params = parse_query(raw) if kind == 0 else parse_body(raw, CONTENT_TYPES[kind - 1])
    if kind == 0 and raw.isascii():
        assert params == _by_urllib(raw), (params, raw)
    if params is None:
        return
    assert set(params) <= set(PARAMETERS.values())
    try:
        text = descriptor_of(method, params, NOW_US)
    except InvalidParams as error:
        if error.data["field"] not in PARAMETERS.values():
            raise
        return
    json.loads(text, parse_constant=_refuse)
    try:
        found = parse_descriptor(text, method)
    except InvalidParams:
        return
    assert (found.tenant, found.subject, found.destination) == (
        params["cstmid"],
        params["subj"],
        params.get("dest", ""),
    )
    assert found.request_id == params.get("requestid", "")
    assert found.amount_micros == Decimal(params.get("amount", "0")) * MICRO
    if method.needs_times and not params.get("end"):
        assert found.end_us - found.start_us == Decimal(params.get("duration", "60")) * MICRO


def _by_urllib(raw: bytes) -> Params | None:
    """The parameters as the standard library sees them; None for a query that must be refused."""
    names = b"|".join(sorted(PARAMETERS, key=len, reverse=True))
    raw = re.sub(rb"@(?=(?:%b)=)" % names, b"&", raw, flags=re.IGNORECASE)
    params: Params = {}
    for pair in raw.split(b"&"):
        [(name, value)] = parse_qsl(pair.decode(), keep_blank_values=True, separator="&", errors=ESC) or [
            ("", "")
        ]
        known = PARAMETERS.get(name.lower().encode(errors=ESC))
        if known is None:
            continue
        text = pair.partition(b"=")[2]
        if re.search(rb"%(?![0-9A-Fa-f]{2})", text) or known in params or not _is_text(value):
            return None
        lost_plus = known in ("subj", "dest") and text.startswith(b"+")
        params[known] = "+" + value[1:] if lost_plus else value
    return params


ESC: Final = "surrogateescape"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


# --- the messages of the cluster --------------------------------------------------------------------

_ENCODERS: Final[dict[Kind, Callable[..., bytes]]] = {
    Kind.WORK: wire.encode_work,
    Kind.BEAT: wire.encode_beat,
    Kind.DRAINED: wire.encode_drained,
    Kind.STATE: lambda protocol, *fields: wire.encode_state(*fields),
    Kind.DONE: wire.encode_done,
    Kind.LEAVE: wire.encode_leave,
    Kind.GOODBYE: wire.encode_goodbye,
}


def decode_frame(data: bytes) -> None:
    """A frame from a peer: what is taken has the promised types, and goes on and back unchanged."""
    try:
        kind, fields = wire.decode(data)
    except WireError:
        return
    if kind is Kind.STATE and fields[0] != wire.PROTOCOL:
        return
    sent = wire.decode(_ENCODERS[kind](*fields))
    assert sent == (kind, fields)
    # What the two sides do with it.
    if kind is Kind.WORK:
        items = [WorkItem(*row) for row in fields[2]]
        for item in items:
            assert _types(item) == (int, str, bytes, str, int)
            item.key.encode()
            wire.encode_done(fields[0], [Reply(item.seq, 0, item.params, False)])
    elif kind is Kind.DONE:
        for row in fields[1]:
            assert _types(Reply(*row)) == (int, int, bytes, bool)
    else:
        assert set(_types(fields)) <= {int, str}


def _types(row: Any) -> tuple[type, ...]:
    return tuple(map(type, row))


# --- call descriptors -------------------------------------------------------------------------------


class _NumberText(str):
    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    pass


def read_descriptor(data: bytes) -> None:
    """The first byte chooses the method, the rest is the text of `params`."""
    if not data:
        return
    method, params = METHODS[data[0] % len(METHODS)], data[1:]
    found = _parse(params, method)
    if params.startswith(b"{"):
        # An unknown member more: the typed reader passes it on to the general one, which must agree.
        rest = params[1:].lstrip()
        comma = b"" if rest.startswith(b"}") else b","
        general = _parse(b'{"Unknown":0' + comma + params[1:], method)
        assert found == general or (isinstance(found, str) and isinstance(general, str)), (found, general)
    if isinstance(found, str):
        return
    for text in (found.tenant, found.subject, found.destination, found.request_id):
        text.encode()
        assert len(text) <= MAX_TEXT_CHARS
    assert found.tenant
    assert found.subject
    assert found.start_us <= found.end_us
    members = json.loads(params, object_pairs_hook=_Members, parse_int=_NumberText, parse_float=_NumberText)
    amounts = [value for name, value in members if name.lower() == "amount" and value is not None]
    tors = [value for name, value in members if name.lower() == "tor" and value is not None]
    # `Decimal` times an integer rounds to 28 digits; the digits themselves don't.
    assert [found.amount_micros] == [_exact_micros(text) for text in amounts] or (
        not amounts and not found.amount_micros
    )
    assert [found.tor] == [int(text) for text in tors] or (not tors and not found.tor)
    assert -LIMIT <= found.amount_micros <= LIMIT


def _exact_micros(text: str) -> int:
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    coefficient = int("".join(map(str, digits)))
    if not coefficient:
        return 0
    shift = exponent + 6
    whole = coefficient * 10**shift if shift >= 0 else coefficient // 10**-shift
    assert shift >= 0 or coefficient % 10**-shift == 0, "decimals were dropped"
    return -whole if sign else whole


def _parse(params: bytes, method: Any) -> Descriptor | str:
    try:
        return parse_descriptor(params, method)
    except (ParseError, InvalidParams) as error:
        encode_error(error)  # it can be sent
        return str(error)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "jsonrpc": serve_stream,
    "replies": read_replies,
    "http": parse_http,
    "connection": converse,
    "wire": decode_frame,
    "descriptor": read_descriptor,
    "loader": load_files,
    "store": read_damaged_version,
}
