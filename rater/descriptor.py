"""The call descriptor: the one object in a request's `params`, from JSON text to checked values.

Field names match whatever their case, unknown fields are ignored, `null` is absent. Numbers are
taken from their text, so nothing passes through a float. Source: docs/rating.md, "Call descriptor".

Two readers, one meaning: requests that spell every field as documented take a typed decoder
(under 1 µs); anything else, and everything that is wrong, takes the general one, which finds the
names in any case and says exactly what is the matter.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import msgspec

from common.errors import InvalidParams, ParseError
from common.methods import MAX_TEXT_CHARS, MAX_TOR, Method
from common.money import NotExact, parse_decimal, to_micros
from common.times import format_rfc3339, parse_rfc3339


class Descriptor(NamedTuple):
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


class _Typed(msgspec.Struct, forbid_unknown_fields=True):
    """The documented spellings, and the `Tor` that the first clients of this API use."""

    CstmId: str
    Subject: str
    TOR: int | None = None
    Tor: int | None = None
    DestinationPrefix: str = ""
    TimeStart: str = ""
    TimeEnd: str = ""
    Amount: msgspec.Raw = msgspec.Raw(b"")
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

_decode_typed = msgspec.json.Decoder(_Typed).decode
_decode_any = msgspec.json.Decoder(float_hook=_NumberText).decode


def parse_descriptor(params: bytes, method: Method) -> Descriptor:
    """Read and check what `method` needs. Raises ParseError or InvalidParams naming the field."""
    try:
        typed = _decode_typed(params)
        if params.count(b'"') != _quotes(typed):
            raise msgspec.ValidationError
        amount: Any = None
        if text := bytes(typed.Amount):
            amount = int(text) if text.isdigit() and len(text) < 17 else _decode_any(text)
        fields = (
            typed.TOR or typed.Tor or 0,
            typed.CstmId,
            typed.Subject,
            typed.DestinationPrefix,
            typed.TimeStart,
            typed.TimeEnd,
            amount,
            typed.RequestId,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = _read_any(params)
    return _check(method, *fields)


def _quotes(typed: _Typed) -> int:
    """How many quotation marks the text had, if each field stood there once and was plain.

    The typed decoder takes the last of two equal names without a word. A field more, an escaped
    quotation mark, or an empty text makes the number larger, and the general reader looks closer.
    """
    texts = (
        bool(typed.CstmId)
        + bool(typed.Subject)
        + bool(typed.DestinationPrefix)
        + bool(typed.TimeStart)
        + bool(typed.TimeEnd)
        + bool(typed.RequestId)
    )
    tor = typed.TOR is not None or typed.Tor is not None
    return 4 * texts + 2 * (tor + bool(bytes(typed.Amount)))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its members, equal names too."""


def _read_any(params: bytes) -> tuple[Any, ...]:
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
        known = _BY_LOWER.get(name.lower())
        if known is None or field is None:
            continue
        if known in found:
            raise InvalidParams(field=known, detail="is given twice")
        found[known] = field
    tor = found.get("TOR", 0)
    if type(tor) is not int:
        raise InvalidParams(field="TOR", detail=f"expected an integer, not {_kind(tor)}")
    texts = []
    for name in ("CstmId", "Subject", "DestinationPrefix", "TimeStart", "TimeEnd", "RequestId"):
        text = found.get(name, "")
        if type(text) is not str:
            raise InvalidParams(field=name, detail=f"expected a string, not {_kind(text)}")
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
    start_us = end_us = 0
    if method.needs_times:
        start_us, end_us = _time("TimeStart", start), _time("TimeEnd", end)
        if end_us < start_us:
            raise InvalidParams(
                field="TimeEnd",
                detail=f"{format_rfc3339(end_us)} is before TimeStart {format_rfc3339(start_us)}",
            )
    amount_micros = 0
    if amount is not None:
        amount_micros = _amount(amount)
    elif method.needs_amount:
        raise InvalidParams(field="Amount", detail="is missing")
    return Descriptor(tor, tenant, subject, destination, start_us, end_us, amount_micros, request_id)


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


def _amount(value: Any) -> int:
    try:
        if type(value) is int:
            return to_micros(value)
        if type(value) is _NumberText:
            return to_micros(parse_decimal(value))
    except NotExact as error:
        raise InvalidParams(field="Amount", detail=str(error)) from None
    raise InvalidParams(field="Amount", detail=f"expected a number, not {_kind(value)}")


def _kind(value: Any) -> str:
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
