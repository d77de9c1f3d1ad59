"""What a request costs each station: measured once, or read from a benchmark's JSON. Pure.

Each station has two costs, found by least squares from loads with different numbers of requests in a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from loadtests.bench.plan import Parts, Shape, parse_shape
from loadtests.scaling.model import STATIONS, Cost, Costs, Layout, Traffic, costs_us, messages

MEASURED: Final = (
    "November 2026, by --check: of two series of 3 rounds the lesser, on AMD EPYC, 2 cores with other work, "
    "Python 3.11, Valkey 9.1, 10,000 accounts, 1,000 prefixes"
)
DEFAULTS: Final[Mapping[str, Costs]] = {
    "GetCost": {
        "store": Cost(0.65, 17.9),
        "rater": Cost(13.91, 89.9),
        "balancer": Cost(4.10, 39.5),
        "gateway": Cost(2.40, 65.6),
        "behind": Cost(4.88, 93.7),
    },
    "GetCost account": {
        "store": Cost(1.52, 19.8),
        "rater": Cost(17.90, 90.9),
        "balancer": Cost(2.00, 83.3),
        "gateway": Cost(5.53, 33.4),
        "behind": Cost(6.90, 72.2),
    },
    "DebitBalance spread": {
        "store": Cost(16.08, 73.3),
        "rater": Cost(10.61, 82.2),
        "balancer": Cost(4.60, 29.8),
        "gateway": Cost(3.52, 49.1),
        "behind": Cost(5.00, 116.4),
    },
    "mix": {
        "store": Cost(7.68, 57.3),
        "rater": Cost(15.68, 89.9),
        "balancer": Cost(4.95, 26.3),
        "gateway": Cost(5.06, 33.6),
        "behind": Cost(5.98, 94.7),
    },
}

LOADS_TO_FIT: Final = 3
"""Different loads of a station from which both its costs can be told; with fewer known ones are scaled."""

LEAST_IN_FLIGHT: Final = 16
"""Of a load that counts: with less, waking processes up is most of what a request costs."""


class Observation(NamedTuple):
    layout: Layout
    traffic: Traffic
    cpu_us: Mapping[str, float]
    """A request's, by station."""


def layout_of(parts: Parts) -> Layout:
    return Layout(1, parts.raters, parts.balancers, parts.gateways)


def traffic_of_shape(shape: Shape) -> Traffic:
    return Traffic(shape.connections * shape.in_flight, shape.in_flight)


def by_station(cpu_us: Mapping[str, float]) -> dict[str, float]:
    """By station, from what each process took, `rater 1` and so on. The client and `up` are none."""
    found: dict[str, float] = {}
    behind = any(name.split()[0] == "gateway" for name in cpu_us)
    for name, micros in cpu_us.items():
        kind = name.split()[0]
        station = "behind" if behind and kind == "balancer" else kind
        if station in STATIONS:
            found[station] = found.get(station, 0.0) + micros
    return found


def fit(observations: Sequence[Observation], known: Costs) -> Costs:
    """Costs by station. Stations that were not observed keep the `known` ones."""
    found = dict(known)
    for station in STATIONS:
        points = [
            (messages(seen.layout, seen.traffic)[station], seen.cpu_us[station])
            for seen in observations
            if station in seen.cpu_us
        ]
        if len({count for count, _ in points}) >= LOADS_TO_FIT:
            found[station] = line(points)
        elif points:
            request_us, message_us = known[station]
            ratio = sum(us / (request_us + message_us * count) for count, us in points) / len(points)
            found[station] = Cost(request_us * ratio, message_us * ratio)
    return found


def line(points: Sequence[tuple[float, float]]) -> Cost:
    """The least squares of the relative errors, neither part below 0, of (messages, µs) a request."""
    weights = [1 / us**2 for _, us in points]
    total = sum(weights)
    x_mean = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    y_mean = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - x_mean) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    both = sum(w * (x - x_mean) * (y - y_mean) for w, (x, y) in zip(weights, points, strict=True))
    message_us = max(0.0, both / spread)
    if message_us * x_mean > y_mean:
        squares = sum(w * x * x for w, (x, _) in zip(weights, points, strict=True))
        return Cost(0.0, sum(w * x * y for w, (x, y) in zip(weights, points, strict=True)) / squares)
    return Cost(y_mean - message_us * x_mean, message_us)


def predicted_us(costs: Costs, parts: Parts, shape: Shape) -> dict[str, float]:
    return costs_us(costs, layout_of(parts), traffic_of_shape(shape))


def read(document: Mapping[str, Any], known: Mapping[str, Costs]) -> dict[str, Costs]:
    """Costs by workload, from what `python -m loadtests.bench --json` wrote; the rest is as known."""
    options = document["options"]
    parts = Parts(options["raters"], options.get("gateways", 0), options.get("balancers", 1))
    found = dict(known)
    for workload in known:
        seen = [
            Observation(layout_of(parts), traffic_of_shape(shape), by_station(cpu_us))
            for shape, cpu_us in _closed_loops(document["rows"], workload)
        ]
        found[workload] = fit(seen, known[workload])
    return found


def _closed_loops(
    rows: Iterable[Mapping[str, Any]], workload: str
) -> Iterable[tuple[Shape, dict[str, float]]]:
    """Over JSON-RPC, with enough in flight."""
    for row in rows:
        if row["workload"] == workload and row["wire"] == "rpc" and "x" in row["load"]:
            shape = parse_shape(row["load"])
            if shape.connections * shape.in_flight >= LEAST_IN_FLIGHT:
                yield shape, {name: spread["median"] for name, spread in row["cpu_us"].items()}
