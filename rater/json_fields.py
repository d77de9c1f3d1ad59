"""JSON objects that clients write, with their numbers as they were written and their names in any case.

The slow and exact reader: it sees equal names, which typed decoders do not, and numbers keep their text, so
that nothing passes through a float.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from common.errors import InvalidParams, ParseError
from common.money import NotExact, parse_decimal, to_micros


class NumberText(str):
    """A JSON number with a fraction or an exponent, as it was written."""

    __slots__ = ()


_decode_any = msgspec.json.Decoder(float_hook=NumberText).decode


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its members, equal names too."""


def read_fields(params: bytes, names: Mapping[str, str]) -> dict[str, Any]:
    """The members of the descriptor that have one of these names, which are given by their lower case; null
    is absent. Raises ParseError or InvalidParams."""
    try:
        _decode_any(params)  # stricter than the standard library's, which shows equal names
        value = json.loads(params, object_pairs_hook=_Pairs, parse_float=NumberText)
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


def quantity(field: str, value: Any) -> int:
    """A number that was read, in millionths. Raises InvalidParams."""
    try:
        if type(value) is int:
            return to_micros(value)
        if type(value) is NumberText:
            return to_micros(parse_decimal(value))
    except NotExact as error:
        raise InvalidParams(field=field, detail=str(error)) from None
    raise InvalidParams(field=field, detail=f"expected a number, not {kind_of(value)}")


def kind_of(value: Any) -> str:
    """What JSON calls the value."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, NumberText)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if value is None:
        return "null"
    return "an object" if isinstance(value, _Pairs) else "a list"
