"""The tariffs of all tenants, compiled for rating: immutable, and swapped as a whole.

A tariff comes packed (`rater.rating.packed`): its prefixes are in columns that are searched as they are
(`rater.rating.prefixes`), and what prefixes stand for is shared: rates with the same time zone and periods
have one `RatePlan`, equal interval lists one `Schedule`. So a million prefixes are some blocks of
memory, and the objects are as many as the price lists have different entries.

Big tariffs are put together, and taken apart again, in bounded steps by generators: who runs them may do
something else in between, and so let the threads that rate have the interpreter.
Source: docs/rating.md, "Finding the rate".
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

from rater.model import ANY_SUBJECT, Interval, Plan, Tariff
from rater.rating.intervals import compile_intervals
from rater.rating.packed import Definition, IndexPart, TablePart, append_column, pack_tariff
from rater.rating.prefixes import ANSWER_MASK, MAX_DIGITS, SCALES, TAILS, PrefixTable, leading_digits
from rater.rating.schedule import Schedule, load_zone
from rater.rating.values import CompiledRate, RatePlan

T = TypeVar("T")

ENTRIES_PER_STEP: Final = 500
"""Entries that are freed at a time: half a millisecond when each is the last that held a plan."""


class RateTable:
    """The rates of one subject."""

    __slots__ = (
        "_lengths",
        "_only_others",
        "_others",
        "_plans",
        "_prefixes",
        "_shift",
        "_starts",
        "_wide",
        "_words",
    )

    def __init__(
        self, prefixes: PrefixTable, lengths: bytes, plans: list[RatePlan | None], of: list[RatePlan]
    ):
        """`lengths` and `plans` by answer; `of` by the value of an odd prefix."""
        self._prefixes = prefixes
        self._lengths = lengths
        self._plans = plans
        self._others = {prefix: of[value] for prefix, value in prefixes.others.items()}
        self._only_others = len(prefixes.words) == 1
        self._words = prefixes.words
        self._starts = prefixes.starts
        self._wide = prefixes.wide
        self._shift = prefixes.shift

    def find(self, number: str) -> CompiledRate | None:
        """Nearly every request does this: `PrefixTable.find` is repeated here, to save the calls."""
        if self._others:
            for length in self._prefixes.other_lengths:
                head = number[:length]  # beyond the number's end: the number itself, once more
                plan = self._others.get(head)
                if plan is not None:
                    return CompiledRate(head, plan)
            if self._only_others:
                return None
        digits = number if number.isascii() and number.isdecimal() else leading_digits(number)
        count = len(digits)
        if count <= MAX_DIGITS:
            word = int(digits or "0") * SCALES[count] + TAILS[count]
        else:
            word = int(digits[:MAX_DIGITS]) * SCALES[MAX_DIGITS] + TAILS[MAX_DIGITS]
        place = word >> self._shift
        place = bisect_right(self._words, word, self._starts[place], self._starts[place + 1]) - 1
        answer = self._words[place] & ANSWER_MASK if self._wide is None else self._wide[place]
        plan = self._plans[answer]
        return CompiledRate(number[: self._lengths[answer]], plan) if plan is not None else None


class DestinationTable:
    """All destinations: by answer the length of a prefix, its destinations, and the next shorter one."""

    __slots__ = ("_answers", "_lists", "_prefixes")

    def __init__(
        self, prefixes: PrefixTable, answers: list[tuple[int, int, int]], lists: list[tuple[str, ...]]
    ) -> None:
        self._prefixes = prefixes
        self._answers = answers
        self._lists = lists

    def find(self, number: str) -> tuple[tuple[str, int], ...]:
        precisions: dict[str, int] = {}
        for length in self._prefixes.other_lengths:
            head = number[:length]
            value = self._prefixes.others.get(head)
            if value is not None:
                for destination_id in self._lists[value]:
                    precisions.setdefault(destination_id, len(head))
        answer = self._prefixes.find(number)
        while answer:
            length, value, answer = self._answers[answer]
            for destination_id in self._lists[value]:
                precisions.setdefault(destination_id, length)
        return tuple(precisions.items())


class CompiledTariff:
    """One tenant's tariff."""

    __slots__ = ("_destinations", "_parts", "_plans", "_rates", "max_call_us", "tenant")

    def __init__(
        self,
        tenant: str,
        max_call_us: int,
        rates: dict[str, RateTable],
        destinations: DestinationTable | None,
        plans: dict[str, Plan],
        parts: list[list[Any]],
    ) -> None:
        self.tenant = tenant
        self.max_call_us = max_call_us
        """The longest call that is rated."""
        self._rates = rates
        self._destinations = destinations
        self._plans = plans
        self._parts = parts
        """The lists that hold everything of which there may be much."""

    def find_rate(self, subject: str, number: str) -> CompiledRate | None:
        """The subject's rate for the number, else the tenant's fallback rate."""
        table = self._rates.get(subject)
        if table is not None:
            found = table.find(number)
            if found is not None:
                return found
        table = self._rates.get(ANY_SUBJECT)
        return table.find(number) if table is not None else None

    def rate_of(self, subject: str, number: str) -> CompiledRate | None:
        """That subject's own rate for the number: `find_rate` without the fallback."""
        table = self._rates.get(subject)
        return table.find(number) if table is not None else None

    def matching_destinations(self, number: str) -> tuple[tuple[str, int], ...]:
        """(destination id, length of its longest prefix of the number), the most precise first."""
        return self._destinations.find(number) if self._destinations is not None else ()

    def plan(self, plan_id: str) -> Plan | None:
        """The tariff plan of that id."""
        return self._plans.get(plan_id)

    def take_apart(self) -> Iterator[None]:
        """Free the memory in bounded steps. Nobody may look anything up from the first one on."""
        return _free([self._rates, self._plans], self._parts)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of all tariffs. A rater answers a whole batch from the same one."""

    epoch: int
    versions: Mapping[str, int]
    """Tariff version by tenant."""
    tenants: Mapping[str, CompiledTariff]


def compile_tariff(tariff: Tariff, max_call_us: int) -> CompiledTariff:
    """Compile a validated tariff. Raises ValueError for a time zone that does not exist."""
    steps = compile_in_steps(tariff.tenant, pack_tariff(tariff), max_call_us)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            compiled: CompiledTariff = end.value
            return compiled


def compile_in_steps(
    tenant: str, parts: Iterable[IndexPart], max_call_us: int
) -> Generator[None, None, CompiledTariff]:
    """Put a packed tariff together, a part a step; the value returned is the whole.

    Raises what `parts` raises, and ValueError for a time zone that does not exist or for parts that
    do not fit together; what was compiled by then is freed.
    """
    compiler = _Compiler()
    try:
        for part in parts:
            compiler.add(part)
            yield
        compiled = yield from compiler.finish(tenant, max_call_us)
    except Exception:
        yield from compiler.free()
        raise
    yield from compiler.forget()
    return compiled


def _free(tables: Iterable[dict[Any, Any]], lists: Iterable[list[Any]]) -> Iterator[None]:
    for table in tables:
        while table:
            for _ in range(min(ENTRIES_PER_STEP, len(table))):
                table.popitem()
            yield
    for each in lists:
        while each:
            # A schedule and its days hold each other: cut, they go at once and need no collector.
            for schedule in islice(reversed(each), ENTRIES_PER_STEP):
                if type(schedule) is Schedule:
                    schedule.free()
            del each[-ENTRIES_PER_STEP:]
            yield


@dataclass(slots=True)
class _Table:
    """What has come of one prefix table."""

    subject: str
    start_bits: int
    words: array[int] = field(default_factory=lambda: array("Q"))
    starts: array[int] = field(default_factory=lambda: array("I"))
    wide: array[int] = field(default_factory=lambda: array("I"))
    lengths: bytearray = field(default_factory=bytearray)
    values: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def add(self, piece: TablePart) -> None:
        append_column(self.words, piece.words)
        append_column(self.starts, piece.starts)
        append_column(self.wide, piece.wide)
        for length, value, parent in piece.answers:
            if parent and parent >= len(self.values):
                raise ValueError("an answer of a prefix table is below itself")
            self.lengths.append(length)
            self.values.append(value)
            self.parents.append(parent)
        self.others.update(piece.others)

    def prefixes(self) -> PrefixTable:
        return PrefixTable(self.start_bits, self.words, self.starts, self.wide, self.others)


class _Compiler:
    """Makes each rate plan and each distinct schedule once."""

    def __init__(self) -> None:
        self._rate_plans: list[RatePlan] = []
        self._plans: dict[str, Plan] = {}
        self._lists: list[tuple[str, ...]] = []
        self._tables: dict[int, _Table] = {}
        self._schedules: dict[tuple[Interval, ...], Schedule] = {}

    def add(self, part: IndexPart) -> None:
        self._rate_plans += map(self._rate_plan, part.definitions)
        self._lists += part.destinations
        self._plans.update((plan.id, plan) for plan in part.plans)
        for piece in part.tables:
            table = self._tables.get(piece.table)
            if table is None:
                table = self._tables[piece.table] = _Table(piece.subject, piece.start_bits)
            table.add(piece)

    def finish(self, tenant: str, max_call_us: int) -> Generator[None, None, CompiledTariff]:
        rates, destinations = {}, None
        parts: list[list[Any]] = [self._rate_plans, list(self._schedules.values()), self._lists]
        for number, table in self._tables.items():
            if number:
                plans = [
                    self._rate_plans[value] if length else None
                    for length, value in zip(table.lengths, table.values, strict=True)
                ]
                rates[table.subject] = RateTable(
                    table.prefixes(), bytes(table.lengths), plans, self._rate_plans
                )
                parts.append(plans)
            else:
                answers = list(zip(table.lengths, table.values, table.parents, strict=True))
                destinations = DestinationTable(table.prefixes(), answers, self._lists)
                parts.append(answers)
            yield
        return CompiledTariff(tenant, max_call_us, rates, destinations, self._plans, parts)

    def forget(self) -> Iterator[None]:
        """Free what only compiling needs."""
        return _free([self._schedules], [table.parents for table in self._tables.values()])

    def free(self) -> Iterator[None]:
        """Free everything."""
        schedules = list(self._schedules.values())
        return _free([self._tables, self._plans, self._schedules], [self._rate_plans, schedules, self._lists])

    def _rate_plan(self, definition: Definition) -> RatePlan:
        return RatePlan(
            load_zone(definition.timezone),
            tuple(period.activation_us for period in definition.periods),
            tuple(self._schedule(period.intervals) for period in definition.periods),
        )

    def _schedule(self, intervals: tuple[Interval, ...]) -> Schedule:
        schedule = self._schedules.get(intervals)
        if schedule is None:
            schedule = self._schedules[intervals] = Schedule(compile_intervals(intervals))
        return schedule
