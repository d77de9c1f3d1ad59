"""The tariffs of all tenants, compiled for rating: immutable, and swapped as a whole.

A prefix table maps stored prefixes to what they stand for. The longest match is found by looking up
the number's head in each length that occurs, longest first: a few dictionary steps. What prefixes
stand for is shared: rates with the same time zone and periods have one `RatePlan`, equal interval
lists one `Schedule`, so a million prefixes cost a dictionary entry each and no more.
Source: docs/rating.md, "Finding the rate".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from rater.model import ANY_SUBJECT, ActivationPeriod, Destination, Interval, Plan, Rate, Tariff
from rater.rating.intervals import compile_intervals
from rater.rating.schedule import Schedule, Zone, load_zone

T = TypeVar("T")


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

    __slots__ = ("_destinations", "_plans", "_rates", "max_call_us", "tenant")

    def __init__(
        self,
        tenant: str,
        max_call_us: int,
        rates: dict[str, PrefixTable[RatePlan]],
        destinations: PrefixTable[tuple[str, ...]],
        plans: dict[str, Plan],
    ) -> None:
        self.tenant = tenant
        self.max_call_us = max_call_us
        """The longest call that is rated."""
        self._rates = rates
        self._destinations = destinations
        self._plans = plans

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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of all tariffs. A rater answers a whole batch from the same one."""

    epoch: int
    versions: Mapping[str, int]
    """Tariff version by tenant."""
    tenants: Mapping[str, CompiledTariff]


def compile_tariff(tariff: Tariff, max_call_us: int) -> CompiledTariff:
    """Compile a validated tariff. Raises ValueError for a time zone that does not exist."""
    compiler = _Compiler()
    by_subject: dict[str, dict[str, RatePlan]] = {}
    for rate in tariff.rates:
        by_subject.setdefault(rate.subject, {})[rate.prefix] = compiler.rate_plan(rate)
    return CompiledTariff(
        tariff.tenant,
        max_call_us,
        {subject: PrefixTable(entries) for subject, entries in by_subject.items()},
        PrefixTable(_destinations_by_prefix(tariff.destinations)),
        {plan.id: plan for plan in tariff.plans},
    )


def _destinations_by_prefix(destinations: Iterable[Destination]) -> dict[str, tuple[str, ...]]:
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for destination in destinations:
        for prefix in destination.prefixes:
            ids[prefix].append(destination.id)
    return {prefix: tuple(found) for prefix, found in ids.items()}


class _Compiler:
    """Makes each distinct rate plan and schedule once."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, tuple[ActivationPeriod, ...]], RatePlan] = {}
        self._schedules: dict[tuple[Interval, ...], Schedule] = {}

    def rate_plan(self, rate: Rate) -> RatePlan:
        key = (rate.timezone, rate.periods)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = RatePlan(
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
