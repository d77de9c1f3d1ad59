"""What outcomes are called in figures for people and monitors."""

from __future__ import annotations

from typing import Final

from common.errors import BY_CODE

OK: Final = "ok"
OTHER: Final = "other"
"""For unknown errors, and for methods that there are not: one name for all of them."""


def outcome_name(code: int) -> str:
    """0 is a result, everything else the error's name."""
    if not code:
        return OK
    error = BY_CODE.get(code)
    return OTHER if error is None else error.name
