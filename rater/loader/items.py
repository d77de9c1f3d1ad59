"""What was read from files, each with its place: in columns, since there may be millions of it.

An object's place is needed only when something is wrong with it. As a column of numbers that costs a tenth of
what an object for each would.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from rater.loader.fields import Source
from rater.model import Account, Destination, Plan, Rate

T = TypeVar("T")


class Item(NamedTuple, Generic[T]):
    tenant: str
    """"" when the object names none."""
    value: T
    source: Source
    position: int
    """In the file's list, from 0."""
    line: int

    @property
    def place(self) -> str:
        return f"{self.source.name}[{self.position}] (line {self.line})"


class Items(Generic[T]):
    """A list of items."""

    __slots__ = ("_lines", "_positions", "_sources", "tenants", "values")

    def __init__(self) -> None:
        self.tenants: list[str] = []
        self.values: list[T] = []
        self._sources: list[Source] = []
        self._positions = array("I")
        self._lines = array("I")

    def append(self, item: Item[T]) -> None:
        self.add(*item)

    def add(self, tenant: str, value: T, source: Source, position: int, line: int) -> None:
        self.tenants.append(tenant)
        self.values.append(value)
        self._sources.append(source)
        self._positions.append(position)
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Item[T]:
        return Item(
            self.tenants[index],
            self.values[index],
            self._sources[index],
            self._positions[index],
            self._lines[index],
        )

    def __iter__(self) -> Iterator[Item[T]]:
        return map(
            Item._make,
            zip(self.tenants, self.values, self._sources, self._positions, self._lines, strict=True),
        )

    def cut(self, size: int) -> None:
        """Forget what came after so many."""
        for column in (self.tenants, self.values, self._sources, self._positions, self._lines):
            del column[size:]


@dataclass
class Contents:
    """Everything that the files hold, in their order."""

    rates: Items[Rate] = field(default_factory=Items)
    destinations: Items[Destination] = field(default_factory=Items)
    plans: Items[Plan] = field(default_factory=Items)
    budgets: Items[Account] = field(default_factory=Items)
    complete: bool = True
    """False when a file or an object could not be read at all, so that references may dangle."""

    def mark(self) -> tuple[int, int, int, int, bool]:
        return len(self.rates), len(self.destinations), len(self.plans), len(self.budgets), self.complete

    def go_back(self, mark: tuple[int, int, int, int, bool]) -> None:
        """Forget what was added since."""
        rates, destinations, plans, budgets, self.complete = mark
        self.rates.cut(rates)
        self.destinations.cut(destinations)
        self.plans.cut(plans)
        self.budgets.cut(budgets)
