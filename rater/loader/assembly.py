"""What the files hold + what is active → the tariffs to publish and the accounts to open.

Tenants: an object without `CstmId` belongs to the tenant given to the loader, else to the only tenant
in the rates of this load, else, when it has no rates, to the only tenant that is active.

Partial loads: of each tenant in the load, every kind of object (rates, destinations, plans) that
the load holds replaces all of that kind, and the kinds that it does not hold stay as they are in
the active version. A tenant of which the load holds budgets only gets no new version.

References are looked up in the tariff as it will be: a budget's plan must be in it, a bucket's
destination should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rater.loader.check import buckets_of, check_buckets, check_rate
from rater.loader.items import Contents, Item, Items
from rater.loader.report import Report, quote
from rater.model import Account, Destination, Plan, Rate, Tariff

T = TypeVar("T")


class ActiveTariffs(Protocol):
    """The active versions, as far as they are needed."""

    def tenants(self) -> list[str] | None:
        """None when they can't be looked up, which only a dry run puts up with."""

    def tariff(self, tenant: str) -> Tariff | None:
        """An empty one for a tenant that has none; None when it can't be looked up."""


class NothingActive:
    """For a check without a store: the files are all there is. Implements `ActiveTariffs`."""

    def tenants(self) -> list[str]:
        return []

    def tariff(self, tenant: str) -> Tariff:
        return Tariff(tenant)


@dataclass
class TenantLoad:
    """What a load means for one tenant."""

    tenant: str
    rates: Items[Rate] = field(default_factory=Items)
    destinations: Items[Destination] = field(default_factory=Items)
    plans: Items[Plan] = field(default_factory=Items)
    budgets: Items[Account] = field(default_factory=Items)
    tariff: Tariff | None = None
    """The new version; None when there is none to publish."""

    @property
    def publishes(self) -> bool:
        return bool(self.rates or self.destinations or self.plans)

    @property
    def accounts(self) -> list[Account]:
        return self.budgets.values


def assemble(contents: Contents, tenant: str, active: ActiveTariffs, report: Report) -> list[TenantLoad]:
    """One entry for each tenant of the load, by name; what is wrong or suspicious is in the report.

    `tenant` is the one given to the loader, "" for none.
    """
    loads = _by_tenant(contents, tenant, active, report)
    for load in loads:
        _check_unique(load, report)
        if load.tenant and contents.complete:
            _complete(load, active, report)
    _check_rates(contents.rates, report)
    return loads


def _check_rates(rates: Items[Rate], report: Report) -> None:
    clean: set[int] = set()
    """Identities of periods in which nothing was found: a million rates share a few thousand."""
    for place, rate in enumerate(rates.values):
        if id(rate.periods) in clean:
            continue
        before = report.warning_count
        item = rates[place]
        check_rate(item.tenant, rate, item.place, report)
        if report.warning_count == before:
            clean.add(id(rate.periods))


# --- tenants ----------------------------------------------------------------------------------------


def _by_tenant(contents: Contents, tenant: str, active: ActiveTariffs, report: Report) -> list[TenantLoad]:
    loads: dict[str, TenantLoad] = {}

    def load_of(name: str) -> TenantLoad:
        return loads.setdefault(name, TenantLoad(name))

    for name, rates in _divided(contents.rates):
        load_of(name).rates = rates
    others = (contents.destinations, contents.plans, contents.budgets)
    homeless = sum(items.tenants.count("") for items in others)
    default = tenant
    if homeless and not default:
        # What could not be read may have said it.
        first = next(items[items.tenants.index("")].place for items in others if "" in items.tenants)
        said = report if contents.complete else Report()
        default = _default_tenant(list(loads), first, homeless, active, said)
    for name, destinations in _divided(contents.destinations, default):
        load_of(name).destinations = destinations
    for name, plans in _divided(contents.plans, default):
        load_of(name).plans = plans
    for name, budgets in _divided(contents.budgets, default):
        load_of(name).budgets = budgets
    return [load for _, load in sorted(loads.items())]


def _divided(items: Items[T], default: str = "") -> Iterator[tuple[str, Items[T]]]:
    """By tenant, those that name none to the default one."""
    names = {name or default for name in set(items.tenants)}
    if len(names) == 1:
        yield names.pop(), items
        return
    parts: dict[str, Items[T]] = {}
    for item in items:
        parts.setdefault(item.tenant or default, Items()).append(item)
    yield from parts.items()


def _default_tenant(
    in_rates: list[str], first: str, homeless: int, active: ActiveTariffs, report: Report
) -> str:
    """The tenant of objects that name none, "" when it is not clear, which is reported.

    `first` is the place of the first of them, `homeless` how many there are.
    """
    tenants: list[str] | None = in_rates
    where = "the rates of this load are"
    if not in_rates:
        tenants = active.tenants()
        where = "there are no rates in this load, and the active tariffs are"
    if tenants is not None and len(tenants) == 1:
        return tenants[0]
    more = f" (so do {homeless - 1} other objects)" if homeless > 1 else ""
    if tenants is None:
        why = "there are no rates in this load, and the store could not be asked for its tenants"
    elif not tenants:
        why = f"{where} of no tenant"
    else:
        names = ", ".join(map(quote, sorted(tenants)[:5])) + (", …" if len(tenants) > 5 else "")
        why = f"{where} of {len(tenants)} tenants: {names}"
    report.error(first, f"names no CstmId{more}, and {why}; say whose they are with --tenant")
    return ""


# --- duplicates and references ------------------------------------------------------------------------


def _check_unique(load: TenantLoad, report: Report) -> None:
    whose = f"of tenant {quote(load.tenant)}"
    _unique(
        load.rates,
        lambda rate: (rate.subject, rate.prefix),
        lambda rate: f"rate {whose} for subject {quote(rate.subject)} and prefix {quote(rate.prefix)}",
        report,
    )
    _unique(
        load.destinations,
        lambda each: (each.id,),
        lambda each: f"destination {whose} {quote(each.id)}",
        report,
    )
    _unique(load.plans, lambda each: (each.id,), lambda each: f"tariff plan {whose} {quote(each.id)}", report)
    _unique(
        load.budgets,
        lambda each: (each.subject,),
        lambda each: f"user budget {whose} {quote(each.subject)}",
        report,
    )


def _unique(
    items: Items[T], key: Callable[[T], tuple[str, ...]], name: Callable[[T], str], report: Report
) -> None:
    if _all_different(items, key):
        return
    seen: dict[tuple[str, ...], Item[T]] = {}
    for item in items:
        names = key(item.value)
        if not all(names):
            continue  # reported already
        first = seen.setdefault(names, item)
        if first is not item:
            report.error(item.place, f"duplicate {name(item.value)}; the first one is {first.place}")


def _all_different(items: Items[T], key: Callable[[T], tuple[str, ...]]) -> bool:
    """What is nearly always so, and is seen in a set for each of the few subjects that rates have."""
    sets: dict[tuple[str, ...], set[str]] = {}
    for value in items.values:
        *owner, last = key(value)
        sets.setdefault(tuple(owner), set()).add(last)
    return sum(map(len, sets.values())) == len(items)


def _complete(load: TenantLoad, active: ActiveTariffs, report: Report) -> None:
    """Carry over what the load leaves out, and check what refers to what."""
    plans, destinations = load.plans.values, load.destinations.values
    old = Tariff(load.tenant)
    unknown = False
    if _needs_active(load):
        found = active.tariff(load.tenant)
        unknown = found is None
        old = found or old
    if load.publishes:
        load.tariff = Tariff(
            load.tenant,
            tuple(load.rates.values) or old.rates,
            tuple(destinations) or old.destinations,
            tuple(plans) or old.plans,
        )
    if load.plans or not unknown:
        _check_plans(load, frozenset(plan.id for plan in plans or old.plans), report)
    if load.destinations or not unknown:
        known = frozenset(destination.id for destination in destinations or old.destinations)
        places = {item.value.id: item.place for item in load.plans}
        kept = f"the active tariff of tenant {quote(load.tenant)}"  # its plans stay; destinations may not
        for plan in load.tariff.plans if load.tariff else ():
            owner = f"tariff plan {quote(plan.id)}"
            check_buckets(owner, buckets_of(plan), known, places.get(plan.id, kept), report)
        for budget in load.budgets:
            owner = f"budget {quote(budget.value.subject)}"
            check_buckets(owner, budget.value.buckets, known, budget.place, report)


def _needs_active(load: TenantLoad) -> bool:
    if load.publishes:
        return not (load.rates and load.destinations and load.plans)
    return any(item.value.plan or item.value.buckets for item in load.budgets)


def _check_plans(load: TenantLoad, known: frozenset[str], report: Report) -> None:
    for item in load.budgets:
        if item.value.plan and item.value.plan not in known:
            where = (
                "the plans of this load, which replace all others"
                if load.plans
                else "this load or the active tariff"
            )
            whose = f"budget {quote(item.value.subject)}"
            report.error(item.place, f"{whose}: TariffPlanId {quote(item.value.plan)} is not in {where}")
