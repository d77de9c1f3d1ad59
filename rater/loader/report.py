"""What the tariff loader found: errors, which stop a load, and warnings, which do not.

Everything found is counted; only the first of each are kept and shown, so that a file with a
million mistakes costs neither memory nor a scrolled-away terminal.
"""

from __future__ import annotations

from typing import Final

MAX_SHOWN: Final = 100
"""More than anyone reads before fixing the first ones and trying again."""

MAX_FOUND_CHARS: Final = 60
"""How much of a wrong value is quoted back."""


class Report:
    """Collects findings as lines of the form `place: what is wrong`."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.error_count = 0
        self.warning_count = 0

    def error(self, place: str, text: str) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_SHOWN:
            self.errors.append(f"{place}: {text}")

    def warning(self, place: str, text: str) -> None:
        self.warning_count += 1
        if len(self.warnings) < MAX_SHOWN:
            self.warnings.append(f"{place}: {text}")

    def mark(self) -> tuple[int, int, int, int]:
        return len(self.errors), len(self.warnings), self.error_count, self.warning_count

    def go_back(self, mark: tuple[int, int, int, int]) -> None:
        """Forget what was found since."""
        errors, warnings, self.error_count, self.warning_count = mark
        del self.errors[errors:], self.warnings[warnings:]


def quote(text: str) -> str:
    """Text from a file, fit for a terminal: quoted, escaped and shortened."""
    return repr(text if len(text) <= MAX_FOUND_CHARS else text[: MAX_FOUND_CHARS - 1] + "…")


def describe(value: object) -> str:
    """A JSON value as a message names it: `the text 'abc'`, `a list`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if type(value) is str:
        return f"the text {quote(value)}"
    digits = value if isinstance(value, str) else str(value)
    return f"the number {digits if len(digits) <= MAX_FOUND_CHARS else digits[: MAX_FOUND_CHARS - 1] + '…'}"
