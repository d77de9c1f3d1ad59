"""The model's answers as Markdown tables that read well as plain text. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from loadtests.bench.report import markdown, number
from loadtests.scaling.model import CORES, STATIONS, Capacity, Costs, Layout, Traffic, best
from loadtests.scaling.simulate import latency

FEWEST_REQUESTS: Final = 1_000
SHARES: Final = (0.5, 0.8)
"""Of the capacity, at which latency is simulated."""

ALL_BUSY: Final = 0.99
"""What is as busy as what limits has to be more with it."""

MANY_SHARDS: Final = 1_000

_HEADER: Final = (
    "workload", "cores", "stores", "balancers", "gateways", "raters", "req/s", "limit", "busy",
    *(f"p50/p99 ms at {share:.0%}" for share in SHARES), "then add",
)  # fmt: skip


def costs(known: Mapping[str, Costs]) -> str:
    rows = [
        [workload, *(f"{number(of[name].request_us)} + {number(of[name].message_us)}" for name in STATIONS)]
        for workload, of in known.items()
    ]
    return markdown(("µs a request + a message", *STATIONS), rows, {0})


def growth(known: Mapping[str, Costs], options: argparse.Namespace) -> str:
    """One store, and as many as are needed."""
    parts = []
    for title, shards in (("One store", 1), ("As many stores as are needed", MANY_SHARDS)):
        rows = [
            _row(workload, of, cores, shards, options)
            for workload, of in known.items()
            for cores in options.cores
        ]
        parts.append(f"\n{title}:\n\n{markdown(_HEADER, rows, {0})}")
    return "\n".join(parts)


def traffic(cores: int, options: argparse.Namespace) -> Traffic:
    """Clients that bring more as there is more to bring it to."""
    return Traffic(options.in_flight * cores, options.per_connection)


def _row(workload: str, of: Costs, cores: int, shards: int, options: argparse.Namespace) -> list[str]:
    layout, found = best(of, cores, traffic(cores, options), shards)
    latencies = []
    for share in SHARES:
        seen = latency(of, layout, cores, share * found.per_s, options.requests, options.seed)
        latencies.append(f"{number(seen.p50_us / 1000)}/{number(seen.p99_us / 1000)}")
    return [
        workload,
        str(cores),
        str(layout.shards),
        str(layout.balancers),
        str(layout.gateways),
        str(layout.raters),
        number(found.per_s),
        found.limit,
        busy(found),
        *latencies,
        then_add(of, layout, found, options),
    ]


def busy(found: Capacity) -> str:
    """Per cent of each station's processes and of the cores, in the order of `found`."""
    return ", ".join(f"{name} {share:.0%}" for name, share in found.utilisation.items())


def then_add(of: Costs, layout: Layout, found: Capacity, options: argparse.Namespace) -> str:
    """What has to come first for more, and what with it for twice as much."""
    if found.limit != CORES:
        return " and ".join(f"a {name}" for name, share in found.utilisation.items() if share > ALL_BUSY)
    cores = 2 * round(sum(found.cost_us.values()) * found.per_s / 1e6)
    twice, _ = best(of, cores, traffic(cores, options), MANY_SHARDS)
    return "cores: " + ", ".join(
        f"+{more} {name}"
        for name, more in (
            (name, twice_count - count)
            for (name, twice_count), count in zip(twice._asdict().items(), layout, strict=True)
        )
        if more > 0
    )
