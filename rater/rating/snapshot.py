"""The tariffs of all tenants, compiled for rating: immutable, and swapped as a whole.

A prefix table maps stored prefixes to what they stand for. The longest match is found by looking up
the number's head in each length that occurs, longest first: a few dictionary steps. What prefixes
stand for is shared: rates with the same time zone and periods have one `RatePlan`, equal interval
lists one `Schedule`, so a million prefixes cost a dictionary entry each and no more.

Big tariffs are compiled, and taken apart again, in bounded steps by generators: who runs them may do
something else in between, and so let the threads that rate have the interpreter.
Source: docs/rating.md, "Finding the rate".
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from rater.model import ANY_SUBJECT, ActivationPeriod, Interval, Plan, Rate, Tariff
from rater.rating.intervals import compile_intervals
from rater.rating.schedule import Schedule, Zone, load_zone

T = TypeVar("T")

ENTRIES_PER_STEP: Final = 2000
"""Entries that are freed at a time: a millisecond or two when each is the last that held a plan."""


@dataclass(frozen=True, slots=True, eq=False)
class RatePlan:
    """What a rate says, without whose it is: periods in a time zone."""

    zone: Zone
    activations_us: tuple[int, ...]
    """Strictly ascending, not empty."""
    schedules: tuple[Schedule, ...]
    """`schedules[i]` holds from `activations_us[i]` on."""


class CompiledRate(msgspec.Struct, frozen=True, gc=False):
    """The rate found for a number."""

    prefix: str
    """The stored prefix that matched."""
    plan: RatePlan


class PrefixTable(Generic[T]):
    """Values by prefix. A lookup takes a number's heads of these lengths, the longest first."""

    __slots__ = ("entries", "lengths")

    def __init__(self, entries: dict[str, T]) -> None:
        self.entries = entries
        self.lengths = tuple(sorted({len(prefix) for prefix in entries} - {0}, reverse=True))


class CompiledTariff:
    """One tenant's tariff."""

    __slots__ = ("_destinations", "_plans", "_rates", "_schedules", "max_call_us", "tenant")

    def __init__(
        self,
        tenant: str,
        max_call_us: int,
        rates: dict[str, PrefixTable[RatePlan]],
        destinations: PrefixTable[tuple[str, ...]],
        plans: dict[str, Plan],
        schedules: list[Schedule],
    ) -> None:
        self.tenant = tenant
        self.max_call_us = max_call_us
        """The longest call that is rated."""
        self._rates = rates
        self._destinations = destinations
        self._plans = plans
        self._schedules = schedules

    def find_rate(self, subject: str, number: str) -> CompiledRate | None:
        """The subject's rate for the number, else the tenant's fallback rate."""
        for name in (subject, ANY_SUBJECT):
            table = self._rates.get(name)
            if table is None:
                continue
            entries = table.entries
            for length in table.lengths:
                head = number[:length]  # beyond the number's end: the number itself, once more
                plan = entries.get(head)
                if plan is not None:
                    return CompiledRate(head, plan)
        return None

    def matching_destinations(self, number: str) -> tuple[tuple[str, int], ...]:
        """(destination id, length of its longest prefix of the number), the most precise first."""
        precisions: dict[str, int] = {}
        entries = self._destinations.entries
        for length in self._destinations.lengths:
            head = number[:length]
            for destination_id in entries.get(head, ()):
                precisions.setdefault(destination_id, len(head))
        return tuple(precisions.items())

    def plan(self, plan_id: str) -> Plan | None:
        """The tariff plan of that id."""
        return self._plans.get(plan_id)

    def take_apart(self) -> Iterator[None]:
        """Free the memory in bounded steps. Nobody may look anything up from the first one on."""
        rates = [table.entries for table in self._rates.values()]
        return _free([*rates, self._destinations.entries, self._plans], self._schedules)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of all tariffs. A rater answers a whole batch from the same one."""

    epoch: int
    versions: Mapping[str, int]
    """Tariff version by tenant."""
    tenants: Mapping[str, CompiledTariff]


def compile_tariff(tariff: Tariff, max_call_us: int) -> CompiledTariff:
    """Compile a validated tariff. Raises ValueError for a time zone that does not exist."""
    steps = compile_in_steps(tariff.tenant, [tariff], max_call_us)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            compiled: CompiledTariff = end.value
            return compiled


def compile_in_steps(
    tenant: str, parts: Iterable[Tariff], max_call_us: int
) -> Generator[None, None, CompiledTariff]:
    """Compile a tariff that comes in parts, a part a step; the value returned is the whole.

    A destination may be spread over parts. Raises what `parts` raises, and ValueError for a time
    zone that does not exist; what was compiled by then is freed.
    """
    compiler = _Compiler()
    try:
        for part in parts:
            compiler.add(part)
            yield
    except Exception:
        yield from compiler.free()
        raise
    compiled = compiler.finish(tenant, max_call_us)
    yield from compiler.forget()
    return compiled


def _free(tables: Iterable[dict[Any, Any]], schedules: list[Schedule]) -> Iterator[None]:
    for table in tables:
        while table:
            for _ in range(min(ENTRIES_PER_STEP, len(table))):
                table.popitem()
            yield
    while schedules:
        for _ in range(min(ENTRIES_PER_STEP, len(schedules))):
            # A schedule and its days hold each other: cut, they go at once and need no collector.
            del schedules.pop().days
        yield


class _Compiler:
    """Makes each distinct rate plan and schedule once."""

    def __init__(self) -> None:
        self._rates: dict[str, dict[str, RatePlan]] = {}
        self._destinations: dict[str, tuple[str, ...]] = {}
        self._plans: dict[str, Plan] = {}
        self._rate_plans: dict[tuple[str, tuple[ActivationPeriod, ...]], RatePlan] = {}
        self._schedules: dict[tuple[Interval, ...], Schedule] = {}

    def add(self, part: Tariff) -> None:
        for rate in part.rates:
            self._rates.setdefault(rate.subject, {})[rate.prefix] = self._rate_plan(rate)
        ids = self._destinations
        for destination in part.destinations:
            alone = (destination.id,)
            for prefix in destination.prefixes:
                ids[prefix] = ids[prefix] + alone if prefix in ids else alone
        self._plans.update((plan.id, plan) for plan in part.plans)

    def finish(self, tenant: str, max_call_us: int) -> CompiledTariff:
        return CompiledTariff(
            tenant,
            max_call_us,
            {subject: PrefixTable(entries) for subject, entries in self._rates.items()},
            PrefixTable(self._destinations),
            self._plans,
            list(self._schedules.values()),
        )

    def forget(self) -> Iterator[None]:
        """Free what only compiling needs."""
        return _free([self._rate_plans, self._schedules], [])

    def free(self) -> Iterator[None]:
        """Free everything."""
        schedules = list(self._schedules.values())
        rest: list[dict[Any, Any]] = [self._destinations, self._plans, self._rate_plans, self._schedules]
        return _free([*self._rates.values(), *rest], schedules)

    def _rate_plan(self, rate: Rate) -> RatePlan:
        key = (rate.timezone, rate.periods)
        plan = self._rate_plans.get(key)
        if plan is None:
            plan = self._rate_plans[key] = RatePlan(
                load_zone(rate.timezone),
                tuple(period.activation_us for period in rate.periods),
                tuple(self._schedule(period.intervals) for period in rate.periods),
            )
        return plan

    def _schedule(self, intervals: tuple[Interval, ...]) -> Schedule:
        schedule = self._schedules.get(intervals)
        if schedule is None:
            schedule = self._schedules[intervals] = Schedule(compile_intervals(intervals))
        return schedule
