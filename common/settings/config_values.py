"""A setting's value as it stands in a file: what is wrong with it, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import click

_MAX_SHOWN_CHARS: Final = 60


def reason_of(error: click.UsageError) -> str:
    return error.message.rstrip(".")


def wrong_value(option: click.Option, value: Any, command: click.Command) -> str | None:
    """Why this can't be the option's value, in a sentence without the value's name."""
    if value == "":
        return None
    if reason := _wrong_type(option, value):
        return reason
    ctx = click.Context(command, info_name=command.name)
    try:
        option.process_value(ctx, value)
    except click.UsageError as error:
        return reason_of(error)
    return None


def _wrong_type(option: click.Option, value: Any) -> str | None:
    one, many = _kind(option)
    if option.multiple:
        if not isinstance(value, list):
            return f"expected a list of {many} in brackets, not {_name(value)}"
        for each in value:
            if not _is_one(one, each):
                return f"expected a list of {many}, with {_name(each)} in it"
        return None
    return None if _is_one(one, value) else f"expected {one}, not {_name(value)}"


def _kind(option: click.Option) -> tuple[str, str]:
    if option.is_flag or isinstance(option.type, click.types.BoolParamType):
        return "true or false", "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", "whole numbers"
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", "numbers"
    return "text in quotes", "texts in quotes"


def _is_one(kind: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "true or false": isinstance(value, bool),
        "a whole number": is_number and isinstance(value, int),
        "a number": is_number and math.isfinite(value),
        "text in quotes": isinstance(value, str),
    }[kind]


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = ((str, "text"), (int, "a whole number"), (float, "a number"), (list, "a list"), (dict, "a table"))
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")


def hint(wrong: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - only where something is wrong

    close = difflib.get_close_matches(wrong, sorted(set(known)), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


# --- values as they are written ---------------------------------------------------------------------------


def show_value(value: Any) -> str:
    """In TOML, without passwords, shortened for a message."""
    text = to_toml(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"


def to_toml(value: Any) -> str:
    """A setting in TOML, without passwords."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):  # an address is a tuple, too
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return "{…}"
    from common.storage.store_login import mask_url  # noqa: PLC0415 - only where something is shown

    text = mask_url(str(value)).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text) + '"'
