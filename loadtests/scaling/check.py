"""The model beside real clusters on this machine, and what raters and connections add to a request's cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loadtests.bench.figures import CLIENT
from loadtests.bench.plan import Parts, Shape
from loadtests.bench.report import markdown, number
from loadtests.scaling import costs
from loadtests.scaling.costs import Observation
from loadtests.scaling.measure import Case, Run, measure, servers_us
from loadtests.scaling.model import Costs, capacity

Tell = Callable[[str], None]

WORKLOADS: Final = ("GetCost", "GetCost account", "DebitBalance spread", "mix")
LOAD: Final = Shape(8, 16)
FITTED: Final = (Parts(2), Parts(2, gateways=1))
FITTED_AT: Final = (Shape(8, 2), Shape(64, 1), LOAD, Shape(32, 32))
"""From these the two costs of each station are found; all the rest is prediction."""

PREDICTED: Final = (
    Parts(1),
    Parts(2),
    Parts(4),
    Parts(2, gateways=1),
    Parts(2, gateways=2),
    Parts(2, balancers=2),
    Parts(2, gateways=2, balancers=2),
)

STEADY_RATERS: Final = (1, 2, 4, 8)
STEADY_WORKLOADS: Final = ("GetCost", "DebitBalance spread")
CONNECTIONS: Final = 4
"""For each rater, so that it has as much to do, however many there are."""

BUSY: Final = Shape(64, 1)
IDLE: Final = 1_000


def check(rounds: int, seconds: float, tell: Tell) -> str:
    cases = [Case(parts, workload, LOAD) for workload in WORKLOADS for parts in PREDICTED]
    cases += [
        Case(parts, workload, shape)
        for workload in WORKLOADS
        for parts in FITTED
        for shape in FITTED_AT
        if shape != LOAD
    ]
    runs = measure(cases, rounds, seconds, tell)
    found = {workload: fitted(runs, workload) for workload in WORKLOADS}
    rows = [
        compared(case, runs[case], found[case.workload])
        for case in cases
        if case.shape == LOAD and case.parts in PREDICTED
    ]
    return f"{fit_table(found)}\n\n{markdown(_HEADER, rows, {0})}"


_HEADER: Final = (
    "workload",
    "raters",
    "gateways",
    "balancers",
    "CPU µs predicted",
    "measured",
    "ratio",
    "req/s predicted",
    "measured",
    "ratio",
    "each station's ratio",
)


def fitted(runs: Mapping[Case, Run], workload: str) -> Costs:
    """Those of the clusters that are for fitting, at all loads."""
    seen = [
        Observation(
            costs.layout_of(case.parts), costs.traffic_of_shape(case.shape), costs.by_station(run.cpu_us)
        )
        for case, run in runs.items()
        if case.workload == workload and case.parts in FITTED
    ]
    return costs.fit(seen, {})


def fit_table(found: Mapping[str, Costs]) -> str:
    rows = [
        [workload, *(f"{number(cost.request_us)} + {number(cost.message_us)}" for cost in of.values())]
        for workload, of in found.items()
    ]
    return markdown(("fitted, µs a request + a message", *next(iter(found.values()))), rows, {0})


def compared(case: Case, run: Run, found: Costs) -> list[str]:
    layout, traffic = costs.layout_of(case.parts), costs.traffic_of_shape(case.shape)
    cores = len(os.sched_getaffinity(0))
    predicted = capacity(found, layout, cores, traffic, run.cpu_us[CLIENT])
    seen = costs.by_station(run.cpu_us)
    total_us = sum(predicted.cost_us.values())
    return [
        case.workload,
        *map(str, case.parts),
        number(total_us),
        number(servers_us(run)),
        f"{servers_us(run) / total_us:.2f}",
        number(predicted.per_s),
        number(run.per_s),
        f"{run.per_s / predicted.per_s:.2f}",
        ", ".join(f"{name} {seen[name] / us:.2f}" for name, us in predicted.cost_us.items()),
    ]


def steady(rounds: int, seconds: float, tell: Tell) -> str:
    """By the number of raters, with a load in proportion and with the same; and with idle connections."""
    by_raters = [
        Case(Parts(raters), workload, Shape(CONNECTIONS * raters, LOAD.in_flight))
        for workload in STEADY_WORKLOADS
        for raters in STEADY_RATERS
    ]
    same_load = [
        Case(Parts(raters), workload, LOAD) for workload in STEADY_WORKLOADS for raters in STEADY_RATERS
    ]
    by_idle = [Case(Parts(2), workload, BUSY, idle) for workload in STEADY_WORKLOADS for idle in (0, IDLE)]
    runs = measure(dict.fromkeys([*by_raters, *same_load, *by_idle]), rounds, seconds, tell)
    return "\n\n".join(
        (
            steady_table(by_raters, runs, "raters"),
            steady_table(same_load, runs, "raters"),
            steady_table(by_idle, runs, "idle connections"),
        )
    )


def steady_table(cases: Sequence[Case], runs: Mapping[Case, Run], varies: str) -> str:
    first: dict[str, float] = {}
    rows = []
    for case in cases:
        run = runs[case]
        total_us = servers_us(run)
        base_us = first.setdefault(case.workload, total_us)
        rows.append(
            [
                case.workload,
                str(case.shape),
                str(case.parts.raters if varies == "raters" else case.idle),
                number(total_us),
                f"{total_us / base_us:.2f}",
                *(number(run.cpu_us[kind]) for kind in ("store", "balancer", "rater")),
            ]
        )
    header = ("workload", "load", varies, "CPU µs", "÷ first", "store", "balancer", "raters")
    return markdown(header, rows, {0})
