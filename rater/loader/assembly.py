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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rater.loader.check import buckets_of, check_buckets, check_rate
from rater.loader.files import Contents, Item
from rater.loader.report import Report, quote
from rater.model import Account, Destination, Plan, Rate, Tariff

T = TypeVar("T")


class ActiveTariffs(Protocol):
    """The active versions, as far as they are needed."""

    def tenants(self) -> list[str] | None:
        """None when they can't be looked up, which only a dry run puts up with."""

    def tariff(self, tenant: str) -> Tariff | None:
        """An empty one for a tenant that has none; None when it can't be looked up."""


@dataclass
class TenantLoad:
    """What a load means for one tenant."""

    tenant: str
    rates: list[Item[Rate]] = field(default_factory=list)
    destinations: list[Item[Destination]] = field(default_factory=list)
    plans: list[Item[Plan]] = field(default_factory=list)
    budgets: list[Item[Account]] = field(default_factory=list)
    tariff: Tariff | None = None
    """The new version; None when there is none to publish."""

    @property
    def publishes(self) -> bool:
        return bool(self.rates or self.destinations or self.plans)

    @property
    def accounts(self) -> list[Account]:
        return [item.value for item in self.budgets]


def assemble(contents: Contents, tenant: str, active: ActiveTariffs, report: Report) -> list[TenantLoad]:
    """One entry for each tenant of the load, by name; what is wrong or suspicious is in the report.

    `tenant` is the one given to the loader, "" for none.
    """
    loads = _by_tenant(contents, tenant, active, report)
    for load in loads:
        _check_unique(load, report)
        if load.tenant and contents.complete:
            _complete(load, active, report)
    for item in contents.rates:
        check_rate(item.tenant, item.value, item.place, report)
    return loads


# --- tenants ----------------------------------------------------------------------------------------


def _by_tenant(contents: Contents, tenant: str, active: ActiveTariffs, report: Report) -> list[TenantLoad]:
    loads: dict[str, TenantLoad] = {}

    def load_of(name: str) -> TenantLoad:
        return loads.setdefault(name, TenantLoad(name))

    for rate in contents.rates:
        load_of(rate.tenant).rates.append(rate)
    homeless = [
        item.place
        for items in (contents.destinations, contents.plans, contents.budgets)
        for item in items
        if not item.tenant
    ]
    default = tenant
    if homeless and not default:
        # What could not be read may have said it.
        default = _default_tenant(list(loads), homeless, active, report if contents.complete else Report())
    for destination in contents.destinations:
        load_of(destination.tenant or default).destinations.append(destination)
    for plan in contents.plans:
        load_of(plan.tenant or default).plans.append(plan)
    for budget in contents.budgets:
        load_of(budget.tenant or default).budgets.append(budget)
    return [load for _, load in sorted(loads.items())]


def _default_tenant(in_rates: list[str], homeless: list[str], active: ActiveTariffs, report: Report) -> str:
    """The tenant of objects that name none, "" when it is not clear, which is reported."""
    tenants: list[str] | None = in_rates
    where = "the rates of this load are"
    if not in_rates:
        tenants = active.tenants()
        where = "there are no rates in this load, and the active tariffs are"
    if tenants is not None and len(tenants) == 1:
        return tenants[0]
    more = f" (so do {len(homeless) - 1} other objects)" if len(homeless) > 1 else ""
    if tenants is None:
        why = "there are no rates in this load, and the store could not be asked for its tenants"
    elif not tenants:
        why = f"{where} of no tenant"
    else:
        names = ", ".join(map(quote, sorted(tenants)[:5])) + (", …" if len(tenants) > 5 else "")
        why = f"{where} of {len(tenants)} tenants: {names}"
    report.error(homeless[0], f"names no CstmId{more}, and {why}; say whose they are with --tenant")
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
    items: Iterable[Item[T]], key: Callable[[T], tuple[str, ...]], name: Callable[[T], str], report: Report
) -> None:
    seen: dict[tuple[str, ...], Item[T]] = {}
    for item in items:
        names = key(item.value)
        if not all(names):
            continue  # reported already
        first = seen.setdefault(names, item)
        if first is not item:
            report.error(item.place, f"duplicate {name(item.value)}; the first one is {first.place}")


def _complete(load: TenantLoad, active: ActiveTariffs, report: Report) -> None:
    """Carry over what the load leaves out, and check what refers to what."""
    plans = [item.value for item in load.plans]
    destinations = [item.value for item in load.destinations]
    old = Tariff(load.tenant)
    unknown = False
    if _needs_active(load):
        found = active.tariff(load.tenant)
        unknown = found is None
        old = found or old
    if load.publishes:
        load.tariff = Tariff(
            load.tenant,
            tuple(item.value for item in load.rates) or old.rates,
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
