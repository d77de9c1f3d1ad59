"""From an HTTP request's parameters to the call descriptor that raters read.

Parameters come from the query string, and by POST also from a form or a JSON object. Their names
match in any case and may be the short ones of HTTP or those of the call descriptor; unknown ones
are ignored. What is passed on is checked as far as HTTP goes (present, not repeated, decodable, a
number where a number is due); what the values mean is checked by the rater.

Two readings beyond the usual rules of forms:

* An `@` directly before a known name and `=` separates parameters as `&` does, because the API's
  documents write `dest=0257@amount=100`. An `@` that belongs to a value is written `%40`.
* `+` stands for a space, so a client that does not write it `%2B` would lose it where it is meant:
  in the offset of `start=2012-02-02T17:30:00+02:00`, which is put right in `start` and `end`, and
  before a number, `dest=+40256`: an unescaped `+` at the very beginning of `subj` and `dest` is
  itself. A space there is written `%20`.

Source: docs/rating.md, "HTTP".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import UNSET

from balancer.http.json import Number, is_text, read_object
from common.errors import InvalidParams, InvalidRequest, ParseError
from common.methods import TERMS, Method
from common.money import MAX_NUMBER_CHARS, NotExact, parse_decimal, to_micros
from common.times import SECOND_US, format_rfc3339, parse_rfc3339

DEFAULT_DURATION_US: Final = 60 * SECOND_US
"""What GetCost without times prices."""

_FIELDS: Final = {
    "cstmid": "cstmid",
    "subj": "subj",
    "subject": "subj",
    "dest": "dest",
    "destinationprefix": "dest",
    "amount": "amount",
    "tor": "tor",
    "start": "start",
    "timestart": "start",
    "end": "end",
    "timeend": "end",
    "duration": "duration",
    "requestid": "requestid",
    **{name.lower(): name.lower() for name in TERMS},
}
"""Name in lower case → parameter."""

_TERMS: Final = {name.lower(): (name, kind) for name, kind in TERMS.items()}
"""Parameter → field of the descriptor, and what it is."""
_TRUTH: Final = {"true": msgspec.Raw(b"true"), "false": msgspec.Raw(b"false")}

_NUMBERS: Final = ("amount", "tor", "duration")
_ALL_NUMBERS: Final = frozenset(
    (*_NUMBERS, *(name for name, (_, kind) in _TERMS.items() if kind in (int, float)))
)
_TIMES: Final = frozenset({"start", "end", "duration"})
_DIALLED: Final = frozenset({"subj", "dest"})
"""What may begin with the `+` of an international number."""
_AT_SEPARATOR: Final = re.compile(rf"@(?=(?:{'|'.join(_FIELDS)})=)".encode(), re.IGNORECASE)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOST_PLUS: Final = re.compile(r"(\d\d:\d\d:\d\d(?:\.\d+)?) (\d\d:\d\d)")

_NO_TOR: Final = msgspec.Raw(b"0")

_encode = msgspec.json.Encoder().encode


Params = dict[str, str]
"""Parameter → its decoded text."""


def parse_query(raw: bytes) -> Params:
    """The parameters of a raw query string or form body. Raises InvalidParams.

    The way through it is a short one for what most queries are: ASCII in which nothing is encoded.
    """
    if not raw.isascii():
        return _parse_encoded(raw)
    text = raw.decode("ascii")
    if "%" in text or "+" in text:
        return _parse_encoded(raw)
    if "@" in text:
        text = _AT_SEPARATOR.sub(b"&", raw).decode("ascii")
    params: Params = {}
    for pair in text.split("&"):
        raw_name, _, value = pair.partition("=")
        name = _FIELDS.get(raw_name)
        if name is None:
            name = _FIELDS.get(raw_name.lower())
            if name is None:
                continue
        if name in params:
            raise _given_twice(name)
        params[name] = value
    return params


def _parse_encoded(raw: bytes) -> Params:
    """The same of any query."""
    params: Params = {}
    for pair in _AT_SEPARATOR.sub(b"&", raw).split(b"&"):
        raw_name, _, raw_value = pair.partition(b"=")
        name = _FIELDS.get(raw_name.lower().decode("latin-1"))
        if name is None and b"%" in raw_name:
            name = _FIELDS.get(_unquote(raw_name, None).lower())
        if name is not None:
            value = _unquote(raw_value, name)
            if name in _DIALLED and raw_value.startswith(b"+"):
                value = "+" + value[1:]
            _put(params, name, value)
    return params


def _unquote(raw: bytes, name: str | None) -> str:
    """Percent-decoded text. Of a name that can't be decoded nothing is known, so it is ignored."""
    text = raw.replace(b"+", b" ")
    if b"%" in text:
        if name is not None and _BAD_ESCAPE.search(text):
            raise InvalidParams(field=name, detail="has a % that two hexadecimal digits don't follow")
        text = unquote_to_bytes(text)
    try:
        return text.decode()
    except UnicodeDecodeError:
        if name is None:
            return ""
        raise InvalidParams(field=name, detail="is not UTF-8") from None


def _put(params: Params, name: str, value: str) -> None:
    if name in params:
        raise _given_twice(name)
    params[name] = value


def _given_twice(name: str) -> InvalidParams:
    return InvalidParams(field=name, detail="is given twice")


def parse_body(raw: bytes, content_type: str) -> Params:
    """The parameters of a POST body. Raises InvalidParams, ParseError or InvalidRequest.

    An object is JSON whatever its type says, as that is how `curl -d` sends it.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not raw.strip():
        return {}
    if raw.lstrip().startswith(b"{") or kind == "application/json":
        return _parse_json(raw)
    if kind in ("", "application/x-www-form-urlencoded"):
        return parse_query(raw.strip())
    raise InvalidRequest(detail=f"a body of type {kind[:80]!r}; expected a form or a JSON object")


def _parse_json(raw: bytes) -> Params:
    params: Params = {}
    for key, value in read_object(raw):
        name = _FIELDS.get(key.lower())
        if name is None or value is None:
            continue
        if name in _TERMS and _TERMS[name][1] is bool:
            if not isinstance(value, bool):
                raise InvalidParams(field=name, detail="must be true or false")
            value = "true" if value else "false"  # noqa: PLW2901 - as it stands in a query
        elif isinstance(value, Number) != (name in _ALL_NUMBERS) or not isinstance(value, str):
            kind = "number" if name in _ALL_NUMBERS else "string"
            raise InvalidParams(field=name, detail=f"must be a {kind}")
        if not is_text(value):
            raise InvalidParams(field=name, detail="is no text: invalid UTF-8, or half of a surrogate pair")
        _put(params, name, value)
    if not is_text(raw.decode(errors="surrogateescape")):
        raise ParseError(detail="invalid UTF-8")
    return params


class _Descriptor(msgspec.Struct, rename="pascal"):
    """Call descriptor; numbers are the texts that they came as."""

    tor: msgspec.Raw = msgspec.field(name="TOR")
    cstm_id: str
    subject: str
    destination_prefix: str | msgspec.UnsetType
    amount: msgspec.Raw | msgspec.UnsetType
    time_start: str | msgspec.UnsetType
    time_end: str | msgspec.UnsetType
    request_id: str | msgspec.UnsetType


def descriptor_of(method: Method, params: Params, now_us: int) -> bytes:
    """JSON text of the call descriptor for `method`. Raises InvalidParams naming the parameter.

    `now_us` is the wall clock, the start of a GetCost that names none.
    """
    get = params.get
    tenant, subject, destination = get("cstmid"), get("subj"), get("dest")
    if not tenant or not subject or not (destination or not method.takes_destination):
        name = "cstmid" if not tenant else "dest" if subject else "subj"
        raise InvalidParams(field=name, detail="is empty" if name in params else "is missing")
    if method.needs_amount and "amount" not in params:
        raise InvalidParams(field="amount", detail="is missing")
    start: str | msgspec.UnsetType
    end: str | msgspec.UnsetType
    numbers: Params = {}
    for name in _NUMBERS:
        if name in params:
            numbers[name] = _number(name, params[name])
    if method.needs_times or (method.takes_times and params.keys() & _TIMES):
        start, end = _times(params, numbers.get("duration"), now_us)
    else:
        start, end = UNSET, UNSET
    tor, amount = numbers.get("tor"), numbers.get("amount")
    body = _encode(
        _Descriptor(
            _NO_TOR if tor is None else msgspec.Raw(tor.encode()),
            tenant,
            subject,
            destination or UNSET,
            UNSET if amount is None else msgspec.Raw(amount.encode()),
            start,
            end,
            get("requestid") or UNSET,
        )
    )
    return _with_terms(body, params) if method.takes_terms else body


def _with_terms(descriptor: bytes, params: Params) -> bytes:
    """The descriptor, an object that is not empty, and the terms of an account."""
    terms: dict[str, str | msgspec.Raw] = {}
    for name, text in params.items():
        field, kind = _TERMS.get(name, ("", str))
        if kind is bool:
            if text not in _TRUTH:
                raise InvalidParams(field=name, detail=f"expected true or false, not {text!r}")
            terms[field] = _TRUTH[text]
        elif field:
            terms[field] = text if kind is str else msgspec.Raw(_number(name, text).encode())
    return b"%b,%b" % (descriptor[:-1], _encode(terms)[1:]) if terms else descriptor


def _number(name: str, text: str) -> str:
    """The text itself, checked to be a JSON number of a sensible size."""
    if len(text) > MAX_NUMBER_CHARS:
        raise InvalidParams(field=name, detail=f"a number of more than {MAX_NUMBER_CHARS} characters")
    if text.isdecimal() and text.isascii() and text[0] != "0":
        return text  # the short way for what most numbers are
    if not _NUMBER.fullmatch(text):
        raise InvalidParams(field=name, detail=f"expected a number, not {text!r}")
    if abs(float(text)) == float("inf"):
        raise InvalidParams(field=name, detail=f"{text} is out of range")
    return text


def _times(params: Params, duration: str | None, now_us: int) -> tuple[str, str]:
    start, end = params.get("start", ""), params.get("end", "")
    if " " in start or " " in end:
        start, end = _LOST_PLUS.sub(r"\1+\2", start), _LOST_PLUS.sub(r"\1+\2", end)
    if end and not start:
        raise InvalidParams(field="end", detail="is given without start")
    if end and duration is not None:
        raise InvalidParams(field="duration", detail="is given beside end: only one of them can hold")
    if end:
        return start, end
    try:
        start_us = parse_rfc3339(start) if start else now_us
    except ValueError as error:
        raise InvalidParams(field="start", detail=str(error)) from None
    try:
        duration_us = DEFAULT_DURATION_US if duration is None else to_micros(parse_decimal(duration))
    except NotExact as error:
        raise InvalidParams(field="duration", detail=str(error)) from None
    if duration_us < 0:
        raise InvalidParams(field="duration", detail="is negative")
    try:
        return start or format_rfc3339(start_us), format_rfc3339(start_us + duration_us)
    except (OverflowError, ValueError):
        raise InvalidParams(field="duration", detail="ends beyond the year 9999") from None
