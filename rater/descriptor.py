"""The call descriptor: the one object in a request's `params`, from JSON text to checked values.

Field names match whatever their case, unknown fields are ignored, `null` is absent. Numbers are
taken from their text, so nothing passes through a float. Source: docs/rating.md, "Call descriptor".

Two readers, one meaning: requests that spell every field as documented take a typed decoder
(a quarter of a microsecond); anything else, and everything that is wrong, takes the general one, which
finds the names in any case and says exactly what is the matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from common.errors import InvalidParams, ParseError
from common.methods import MAX_TEXT_CHARS, MAX_TOR, Method
from common.money import LIMIT, MICRO, NotExact, parse_decimal, to_micros
from common.times import DAYS, MINUTES, SECONDS, format_rfc3339, parse_rfc3339


class Descriptor(msgspec.Struct, frozen=True, gc=False):
    """A checked call descriptor; what the method does not need may be empty or 0."""

    tor: int
    tenant: str
    subject: str
    destination: str
    start_us: int
    end_us: int
    amount_micros: int
    request_id: str
    """"" when the client gave none."""
    start_text: str = ""
    end_text: str = ""
    """The two times as `format_rfc3339` writes them, where they came so; else empty."""


class _Typed(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The documented spellings, and the `Tor` that the first clients of this API use."""

    CstmId: str
    Subject: str
    TOR: int | None = None
    Tor: int | None = None
    DestinationPrefix: str = ""
    TimeStart: str = ""
    TimeEnd: str = ""
    Amount: Any = None
    RequestId: str = ""


class _NumberText(str):
    """A JSON number with a fraction or an exponent, as it was written."""

    __slots__ = ()


FIELDS: Final = (
    "TOR",
    "CstmId",
    "Subject",
    "DestinationPrefix",
    "TimeStart",
    "TimeEnd",
    "Amount",
    "RequestId",
)
_BY_LOWER: Final = {name.lower(): name for name in FIELDS}

_AMOUNT_TYPES: Final = frozenset((int, _NumberText, type(None)))

_decode_typed = msgspec.json.Decoder(_Typed, float_hook=_NumberText).decode
_decode_any = msgspec.json.Decoder(float_hook=_NumberText).decode


def parse_descriptor(params: bytes, method: Method) -> Descriptor:
    """Read and check what `method` needs. Raises ParseError or InvalidParams naming the field."""
    try:
        typed = _decode_typed(params)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _check(method, *_read_any(params))
    plain = _plain_call(params, typed) if method.needs_times else _plain_order(params, typed, method)
    if plain is not None:
        return plain
    if params.count(b'"') != _quotes(typed) or type(typed.Amount) not in _AMOUNT_TYPES:
        return _check(method, *_read_any(params))
    return _check(
        method,
        typed.TOR or typed.Tor or 0,
        typed.CstmId,
        typed.Subject,
        typed.DestinationPrefix,
        typed.TimeStart,
        typed.TimeEnd,
        typed.Amount,
        typed.RequestId,
    )


# --- what nearly all requests are like ------------------------------------------------------------


def _quotes(typed: _Typed) -> int:
    """How many quotation marks the text had, if each field stood there once and was plain.

    The typed decoder takes the last of two equal names without a word. A field more, an escaped
    quotation mark, a text in an amount or an empty text makes the number larger, and the general
    reader looks closer. The tenant and the subject are there in any case.
    """
    quotes = 8
    if typed.DestinationPrefix:
        quotes += 4
    if typed.TimeStart:
        quotes += 4
    if typed.TimeEnd:
        quotes += 4
    if typed.RequestId:
        quotes += 4
    if typed.Amount is not None:
        quotes += 2
    if typed.TOR is not None or typed.Tor is not None:
        quotes += 2
    return quotes


def _plain_call(params: bytes, typed: _Typed) -> Descriptor | None:
    """What `_check` makes of a call in canonical times, which needs no amount; else None."""
    tor, amount = typed.TOR, typed.Amount
    quotes = 20  # as in `_quotes`: of the five texts that are not empty
    amount_micros = 0
    if tor is None:
        tor = 0
    elif -MAX_TOR <= tor <= MAX_TOR:
        quotes = 22
    else:
        return None
    if amount is not None:  # encoders that leave nothing out send a 0
        if type(amount) is not int or not -LIMIT <= amount * MICRO <= LIMIT:
            return None
        amount_micros = amount * MICRO
        quotes += 2
    start, end = typed.TimeStart, typed.TimeEnd
    try:
        start_us = DAYS[start[:10]] + MINUTES[start[10:17]] + SECONDS[start[17:]]
        end_us = DAYS[end[:10]] + MINUTES[end[10:17]] + SECONDS[end[17:]]
    except KeyError:
        return None
    tenant, subject, destination = typed.CstmId, typed.Subject, typed.DestinationPrefix
    if (
        params.count(b'"') == quotes
        and tenant
        and subject
        and destination
        and start_us <= end_us
        and len(params) <= MAX_TEXT_CHARS  # then so is every text in it
    ):
        return Descriptor(tor, tenant, subject, destination, start_us, end_us, amount_micros, "", start, end)
    return None


def _plain_order(params: bytes, typed: _Typed, method: Method) -> Descriptor | None:
    """What `_check` makes of a request with a whole amount or none, and no need of times; else None."""
    tor, amount = typed.TOR or typed.Tor or 0, typed.Amount
    amount_micros = 0
    if type(amount) is int:
        amount_micros = amount * MICRO
        if not -LIMIT <= amount_micros <= LIMIT:
            return None
    elif amount is not None or method.needs_amount:
        return None
    tenant, subject, destination = typed.CstmId, typed.Subject, typed.DestinationPrefix
    if (
        params.count(b'"') == _quotes(typed)
        and tenant
        and subject
        and (destination or not method.needs_destination)
        and not method.takes_times
        and len(params) <= MAX_TEXT_CHARS  # then so is every text in it
        and (not tor or -MAX_TOR <= tor <= MAX_TOR)
    ):
        return Descriptor(tor, tenant, subject, destination, 0, 0, amount_micros, typed.RequestId, "", "")
    return None


# --- everything else ------------------------------------------------------------------------------


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its members, equal names too."""


def read_fields(params: bytes, names: Mapping[str, str]) -> dict[str, Any]:
    """The members of the descriptor that have one of these names, which are given by their lower case; null
    is absent. Raises ParseError or InvalidParams."""
    try:
        _decode_any(params)  # stricter than the standard library's, which shows equal names
        value = json.loads(params, object_pairs_hook=_Pairs, parse_float=_NumberText)
    except (msgspec.MsgspecError, ValueError) as error:
        hint = " (half of a surrogate pair)" if "hex escape" in str(error) else ""
        raise ParseError(detail=f"params: {error}{hint}") from None
    except RecursionError:
        raise ParseError(detail="params: nested too deep") from None
    if not isinstance(value, _Pairs):
        raise InvalidParams(field="params", detail="expected an object, the call descriptor")
    found: dict[str, Any] = {}
    for name, field in value:
        known = names.get(name.lower())
        if known is None or field is None:
            continue
        if known in found:
            raise InvalidParams(field=known, detail="is given twice")
        found[known] = field
    return found


def _read_any(params: bytes) -> tuple[Any, ...]:
    found = read_fields(params, _BY_LOWER)
    tor = found.get("TOR", 0)
    if type(tor) is not int:
        raise InvalidParams(field="TOR", detail=f"expected an integer, not {kind_of(tor)}")
    texts = []
    for name in ("CstmId", "Subject", "DestinationPrefix", "TimeStart", "TimeEnd", "RequestId"):
        text = found.get(name, "")
        if type(text) is not str:
            raise InvalidParams(field=name, detail=f"expected a string, not {kind_of(text)}")
        texts.append(text)
    return (tor, *texts[:5], found.get("Amount"), texts[5])


def _check(
    method: Method,
    tor: int,
    tenant: str,
    subject: str,
    destination: str,
    start: str,
    end: str,
    amount: Any,
    request_id: str,
) -> Descriptor:
    if not -MAX_TOR <= tor <= MAX_TOR:
        raise InvalidParams(field="TOR", detail=f"out of range: the magnitude must be below {MAX_TOR + 1}")
    if not tenant:
        raise InvalidParams(field="CstmId", detail="is missing")
    if not subject:
        raise InvalidParams(field="Subject", detail="is missing")
    if not destination and method.needs_destination:
        raise InvalidParams(field="DestinationPrefix", detail="is missing")
    if len(tenant) + len(subject) + len(destination) + len(request_id) > MAX_TEXT_CHARS:
        _check_lengths(CstmId=tenant, Subject=subject, DestinationPrefix=destination, RequestId=request_id)
    start_us = end_us = amount_micros = 0
    start_text = end_text = ""
    if method.needs_times or (method.takes_times and (start or end)):
        start_us, end_us = _time("TimeStart", start), _time("TimeEnd", end)
        if end_us < start_us:
            raise InvalidParams(
                field="TimeEnd",
                detail=f"{format_rfc3339(end_us)} is before TimeStart {format_rfc3339(start_us)}",
            )
        start_text = start if start[-1] == "Z" and format_rfc3339(start_us) == start else ""
        end_text = end if end[-1] == "Z" and format_rfc3339(end_us) == end else ""
    if amount is not None:
        amount_micros = quantity("Amount", amount)
    elif method.needs_amount:
        raise InvalidParams(field="Amount", detail="is missing")
    return Descriptor(
        tor,
        tenant,
        subject,
        destination,
        start_us,
        end_us,
        amount_micros,
        request_id,
        start_text,
        end_text,
    )


def _check_lengths(**texts: str) -> None:
    for name, text in texts.items():
        if len(text) > MAX_TEXT_CHARS:
            raise InvalidParams(field=name, detail=f"is longer than {MAX_TEXT_CHARS} characters")


def _time(name: str, text: str) -> int:
    if not text:
        raise InvalidParams(field=name, detail="is missing")
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise InvalidParams(field=name, detail=str(error)) from None


def quantity(field: str, value: Any) -> int:
    """A number that was read, in millionths. Raises InvalidParams."""
    try:
        if type(value) is int:
            return to_micros(value)
        if type(value) is _NumberText:
            return to_micros(parse_decimal(value))
    except NotExact as error:
        raise InvalidParams(field=field, detail=str(error)) from None
    raise InvalidParams(field=field, detail=f"expected a number, not {kind_of(value)}")


def kind_of(value: Any) -> str:
    """What JSON calls the value."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, _NumberText)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if value is None:
        return "null"
    return "an object" if isinstance(value, _Pairs) else "a list"
