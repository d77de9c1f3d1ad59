"""docs/exactly-once.md says for every error what is certain after it."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import (
    BY_CODE,
    CallerError,
    Forbidden,
    Overloaded,
    ShuttingDown,
    TooManyRequests,
    Unauthorized,
)

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "exactly-once.md").read_text()
SAYS = dict(re.findall(r"^\| `(\w+)` \| (no, final|no|unknown) \| \S.* \|$", TEXT, re.MULTILINE))


def test_every_error_is_there_once() -> None:
    names = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted(names) == sorted(cls.name for cls in BY_CODE.values())
    assert SAYS.keys() == set(names)


def test_what_is_certain_follows_from_the_branches_of_the_tree() -> None:
    """A new error of the service is taken to leave the outcome open, until somebody says why it doesn't."""
    for cls in BY_CODE.values():
        # Who may call, and how much, may have changed since an earlier attempt: that is not settled by them.
        undone = cls in (Overloaded, ShuttingDown, Unauthorized, Forbidden, TooManyRequests)
        expected = "no" if undone else "no, final" if issubclass(cls, CallerError) else "unknown"
        assert SAYS[cls.name] == expected, cls.name
        assert ("outcome is unknown" in (cls.__doc__ or "").lower()) <= (expected == "unknown"), cls.name
