"""The JSON object in the body of a POST, with its numbers digit by digit and its repeated members."""

from __future__ import annotations

import json
from typing import Any

from common.errors import InvalidRequest, NestedTooDeep, ParseError
from common.rpc.jsonrpc import DEFAULT_LIMITS


class Number(str):
    """The text of a number, told from a string."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, repeated ones too."""


def is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_object(raw: bytes) -> _Pairs:
    """The object; bytes that are no UTF-8 are surrogates in it, as are `\\ud800` and its like."""

    def refuse_constant(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    too_deep = NestedTooDeep(limit=DEFAULT_LIMITS.max_depth)
    try:
        value = json.loads(
            raw.decode(errors="surrogateescape"),
            object_pairs_hook=_Pairs,
            parse_int=Number,
            parse_float=Number,
            parse_constant=refuse_constant,
        )
    except ValueError as error:
        raise ParseError(detail=str(error)) from None
    except RecursionError:
        raise too_deep from None
    if raw.count(b"{") + raw.count(b"[") > DEFAULT_LIMITS.max_depth and _is_too_deep(value):
        raise too_deep
    if not isinstance(value, _Pairs):
        raise InvalidRequest(detail="the body must be a JSON object")
    return value


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEFAULT_LIMITS.max_depth):
        level = [member for holder in level for member in _members(holder)]
        if not level:
            return False
    return True


def _members(value: Any) -> list[Any]:
    """The objects and lists directly in an object or a list."""
    members = [member for _, member in value] if isinstance(value, _Pairs) else value
    return [member for member in members if isinstance(member, list)]
