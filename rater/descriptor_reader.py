"""From the JSON text of a call descriptor to checked values.

Field names match whatever their case, unknown fields are ignored, `null` is absent. Numbers are
taken from their text, so nothing passes through a float. Source: docs/rating.md, "Call descriptor".

Two readers, one meaning: requests that spell every field as documented take a typed decoder
(a quarter of a microsecond); anything else, and everything that is wrong, takes the general one
(`rater.json_fields`), which finds the names in any case and says exactly what is the matter.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common.errors import InvalidParams
from common.methods import MAX_TEXT_CHARS, MAX_TOR, Method
from common.money import LIMIT, MICRO
from common.times import DAYS, MINUTES, SECONDS, format_rfc3339, parse_rfc3339
from rater.descriptor import FIELDS, Descriptor, TypedDescriptor, decode_typed
from rater.json_fields import NumberText, kind_of, quantity, read_fields

_BY_LOWER: Final = {name.lower(): name for name in FIELDS}

_AMOUNT_TYPES: Final = frozenset((int, NumberText, type(None)))


def parse_descriptor(params: bytes, method: Method) -> Descriptor:
    """Read and check what `method` needs. Raises ParseError or InvalidParams naming the field."""
    try:
        typed = decode_typed(params)
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


def _quotes(typed: TypedDescriptor) -> int:
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


def _plain_call(params: bytes, typed: TypedDescriptor) -> Descriptor | None:
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


def _plain_order(params: bytes, typed: TypedDescriptor, method: Method) -> Descriptor | None:
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
