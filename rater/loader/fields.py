"""Typed access to the fields of one JSON object, in which every mistake is reported with its place.

A `Fields` wraps an object that came from a tariff file. Each getter returns a usable value: the
field's, or its default after having reported what is wrong, so that one pass over a file finds all
of its mistakes. Whoever reads must look at the report before using what came out.

Names match exactly, else case-insensitively. Fields that the format does not know are ignored, and
reported as a warning once for each file. Numbers arrive as `int` or `JsonNumber`, never as a float.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from common.money import LIMIT, NotExact, Number, parse_decimal, to_micros, to_nanos
from rater.loader.report import Report, describe, quote

MAX_NAME_CHARS: Final = 256
"""Of tenants, subjects, prefixes and ids: they become parts of keys and are compared on every call."""


class JsonNumber(str):
    """A JSON number with a fraction or an exponent, as it was written."""

    __slots__ = ()


class Shape:
    """The fields of one kind of object: what it is called, its names, and other accepted spellings."""

    def __init__(self, title: str, *names: str, aliases: Mapping[str, str] | None = None) -> None:
        self.title = title
        self.names = frozenset(names)
        self.by_lower = {name.lower(): name for name in names}
        self.by_lower |= {alias.lower(): name for alias, name in (aliases or {}).items()}


@dataclass
class Source:
    """One file: how messages call it, where findings go, and which unknown fields it has shown."""

    name: str
    report: Report
    unknown: set[str] = field(default_factory=set)


class Fields:
    """One JSON object and where it is."""

    __slots__ = ("_label", "_parent", "_shape", "_source", "_spelt", "_values", "line")

    def __init__(
        self,
        values: dict[str, Any],
        shape: Shape,
        source: Source,
        label: str,
        *,
        line: int,
        parent: Fields | None = None,
    ) -> None:
        """`label` is this object's part of the path: `[2]` for the third one in a file."""
        self._shape = shape
        self._source = source
        self._label = label
        self._parent = parent
        self.line = line
        self._spelt: dict[str, str] = {}
        self._values = values if values.keys() <= shape.names else self._canonical(values)

    def _canonical(self, values: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for spelt in sorted(values, key=lambda name: name not in self._shape.names):  # exact ones first
            name = spelt if spelt in self._shape.names else self._shape.by_lower.get(spelt.lower())
            if name is None:
                self._unknown(spelt)
            elif name in known:
                used = self._spelt.get(name, name)
                self._warn_once(spelt, f"ignored, as {used} is given as well")
            else:
                known[name] = values[spelt]
                if spelt != name:
                    self._spelt[name] = spelt
        return known

    def _unknown(self, spelt: str) -> None:
        if spelt in self._source.unknown:
            return
        close = difflib.get_close_matches(spelt.lower(), self._shape.by_lower, n=1, cutoff=0.75)
        hint = f"; did you mean {self._shape.by_lower[close[0]]}?" if close else ""
        self._warn_once(spelt, f"unknown field of {self._shape.title}, ignored{hint}")

    def _warn_once(self, spelt: str, text: str) -> None:
        if spelt not in self._source.unknown:
            self._source.unknown.add(spelt)
            shown = spelt if spelt.isidentifier() and len(spelt) <= MAX_NAME_CHARS else f"[{quote(spelt)}]"
            self._source.report.warning(self._located(f".{shown}"), text + " (said once for this file)")

    # --- places -----------------------------------------------------------------------------------

    def _path(self) -> str:
        return (self._parent._path() if self._parent else self._source.name) + self._label

    def _located(self, suffix: str = "") -> str:
        return f"{self._path()}{suffix} (line {self.line})"

    def place(self, name: str = "") -> str:
        """The object's or a field's place: `rates.json[2].ActivationPeriods[0].ActivationTime (line 9)`.

        The line is the one on which the object in the file's list begins.
        """
        return self._located(f".{self._spelt.get(name, name)}" if name else "")

    def error(self, name: str, text: str) -> None:
        self._source.report.error(self.place(name), text)

    def warning(self, name: str, text: str) -> None:
        self._source.report.warning(self.place(name), text)

    def _expected(self, name: str, expected: str, value: object) -> None:
        self.error(name, f"expected {expected}, found {describe(value)}")

    # --- getters ----------------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """The value as it was read; None when the field is absent or null."""
        return self._values.get(name)

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not str:
            self._expected(name, "a text in quotes", value)
            return default
        return value

    def name(self, name: str) -> str:
        """A required tenant, subject, prefix or id."""
        if self._values.get(name) is None:
            self.error(name, f"missing; {self._shape.title} needs one")
            return ""
        text = self.text(name)
        if not text:
            if self._values[name] == "":
                self.error(name, "is empty; expected at least one character")
        elif len(text) > MAX_NAME_CHARS:
            self.error(name, f"has {len(text)} characters, the most allowed is {MAX_NAME_CHARS}")
        return text

    def optional_name(self, name: str) -> str:
        """A tenant or id that may be absent or empty."""
        text = self.text(name)
        if len(text) > MAX_NAME_CHARS:
            self.error(name, f"has {len(text)} characters, the most allowed is {MAX_NAME_CHARS}")
        return text

    def integer(self, name: str, low: int, high: int, default: int = 0) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not int:
            whole = _whole(value)
            if whole is None:
                self._expected(name, f"a whole number from {low} to {high}", value)
                return default
            value = whole
        if not low <= value <= high:
            self._expected(name, f"a whole number from {low} to {high}", value)
            return default
        return value

    def micros(self, name: str, *, low: int | None = 0, high: int = LIMIT, unit: str = "") -> int:
        """A quantity in millionths, 0 when absent. `low` and `high` are in millionths; None is no bound."""
        return self._scaled(name, exact_micros, low, high, 1_000_000, unit)

    def nanos(self, name: str, *, unit: str = "") -> int:
        """A price, not negative, in billionths, 0 when absent."""
        return self._scaled(name, _nanos, 0, LIMIT, 1_000_000_000, unit)

    def _scaled(self, name: str, scale: Any, low: int | None, high: int, one: int, unit: str) -> int:
        value = self._values.get(name)
        if value is None:
            return 0
        if type(value) is not int and type(value) is not JsonNumber:
            self._expected(name, f"a number{unit}", value)
            return 0
        try:
            scaled: int = scale(value)
        except NotExact as error:
            self.error(name, f"{error}, found {describe(value)}")
            return 0
        if (low is not None and scaled < low) or scaled > high:
            self._expected(name, _bounds(low, high, one) + unit, value)
            return 0
        return scaled

    def required(self, name: str) -> bool:
        """Whether the field is there; its absence is reported."""
        if self._values.get(name) is not None:
            return True
        self.error(name, f"missing; {self._shape.title} needs one")
        return False

    def items(self, name: str) -> list[Any]:
        """A list's elements, whatever they are; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._expected(name, "a list", value)
            return []
        return value

    def objects(self, name: str, shape: Shape, most: int) -> Iterator[Fields]:
        """A list's elements, each an object of that shape; others are reported and left out.

        A list with more than `most` elements is reported, and none of them is read.
        """
        values = self.items(name)
        if len(values) > most:
            self.error(name, f"has {len(values)} entries, the most allowed is {most}")
            return
        label = f".{self._spelt.get(name, name)}"
        for index, value in enumerate(values):
            if isinstance(value, dict):
                yield self._child(value, shape, f"{label}[{index}]")
            else:
                self._source.report.error(
                    self._located(f"{label}[{index}]"), f"expected {shape.title}, found {describe(value)}"
                )

    def object(self, name: str, shape: Shape) -> Fields | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._expected(name, f"{shape.title} as an object", value)
            return None
        return self._child(value, shape, f".{self._spelt.get(name, name)}")

    def _child(self, values: dict[str, Any], shape: Shape, label: str) -> Fields:
        return Fields(values, shape, self._source, label, line=self.line, parent=self)


def _bounds(low: int | None, high: int, one: int) -> str:
    if high != LIMIT:
        return f"a number from {(low or 0) // one} to {high // one}"
    return f"a number of {(low or 0) // one} or more"


def _number(value: Number | JsonNumber) -> Number:
    return parse_decimal(value) if isinstance(value, JsonNumber) else value


def _whole(value: object) -> int | None:
    """`2.0` and `1e3` are whole numbers too."""
    if type(value) is not JsonNumber:
        return None
    try:
        micros = to_micros(parse_decimal(value))
    except NotExact:
        return None
    whole, part = divmod(micros, 1_000_000)
    return None if part else whole


@lru_cache(maxsize=4096)  # a price list has few distinct prices
def exact_micros(value: int | JsonNumber) -> int:
    """Millionths. Raises NotExact."""
    return to_micros(_number(value))


@lru_cache(maxsize=4096)
def _nanos(value: int | JsonNumber) -> int:
    return to_nanos(_number(value))
