"""What limits a cluster of so many cores, and the split of its processes that gets most out of them.
Pure.

Operational bounds, which hold whatever the distributions are (Denning and Buzen 1978):

* *utilisation law*: a station of n single-threaded processes that spends c µs on a request carries n/c
  requests a µs;
* *core budget*: all processes together can't use more than the cores there are.

The capacity is the least of these. What a request costs a station depends on the layout: it is so much
for each request, and so much for each message, which all requests in it share. With more processes on
both sides of a link the same traffic travels in more and smaller messages, so adding processes costs
something, here as in reality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

STATIONS: Final = ("store", "rater", "balancer", "gateway", "behind")
"""`balancer` with its gateways in it; or `gateway` as a process of its own, and `behind` it the balancer."""

CORES: Final = "cores"

WAY_SHARE: Final = 2
"""Of what is in flight, one part in so many waits at one end of a link: the rest is at the other one."""

JOINS: Final = 2
"""Balancers that a rater joins: one more than it needs. More would cut its messages into smaller ones."""

_MAX_PROCESSES: Final = 10_000
"""Far more than any layout: the search ends in any case."""


class Cost(NamedTuple):
    request_us: float
    message_us: float
    """Shared by all requests in a message: system calls, a turn of the loop, the envelope."""


Costs = Mapping[str, Cost]
"""By station."""


class Layout(NamedTuple):
    shards: int
    """Stores, each with its part of the accounts and with raters of its own."""
    raters: int
    balancers: int
    gateways: int
    """0: each balancer has them in it."""

    def counts(self) -> dict[str, int]:
        """Processes by station."""
        counts = {"store": self.shards, "rater": self.raters}
        if self.gateways:
            return counts | {"gateway": self.gateways, "behind": self.balancers}
        return counts | {"balancer": self.balancers}

    def with_one_more(self, station: str) -> Layout:
        field = {"store": "shards", "rater": "raters", "gateway": "gateways"}.get(station, "balancers")
        more = self._replace(**{field: getattr(self, field) + 1})
        return more._replace(raters=max(more.raters, more.shards))


class Traffic(NamedTuple):
    in_flight: float
    """Requests that are on their way at any time, all together."""
    per_connection: float
    """Of them on each connection."""


class Capacity(NamedTuple):
    per_s: float
    limit: str
    """A station, or CORES."""
    cost_us: dict[str, float]
    """A request's, by station."""
    utilisation: dict[str, float]
    """Of each station's processes, and of the CORES, at this rate."""


def messages(layout: Layout, traffic: Traffic) -> dict[str, float]:
    """How many messages a request is at each station: sent to it and on behalf of it, one way."""

    def each(links: float) -> float:
        return 1 / max(1.0, traffic.in_flight / WAY_SHARE / links)

    client = 1 / max(1.0, traffic.per_connection)
    work = each(layout.raters * min(layout.balancers, JOINS))
    pipeline = each(layout.raters)
    found = {"store": pipeline, "rater": work + pipeline}
    if layout.gateways:
        forward = each(layout.gateways * layout.balancers)
        return found | {"gateway": client + forward, "behind": forward + work}
    return found | {"balancer": client + work}


def costs_us(costs: Costs, layout: Layout, traffic: Traffic) -> dict[str, float]:
    """What a request costs each station."""
    return {
        station: costs[station].request_us + costs[station].message_us * count
        for station, count in messages(layout, traffic).items()
    }


def capacity(costs: Costs, layout: Layout, cores: int, traffic: Traffic, client_us: float = 0.0) -> Capacity:
    """`client_us` is what a request costs a client on the same cores."""
    cost_us = costs_us(costs, layout, traffic)
    total_us = sum(cost_us.values()) + client_us
    counts = layout.counts()
    bounds = {station: counts[station] * 1e6 / cost_us[station] for station in cost_us}
    bounds[CORES] = cores * 1e6 / total_us
    limit = min(bounds, key=lambda name: bounds[name])
    per_s = bounds[limit]
    utilisation = {name: per_s / bound for name, bound in bounds.items()}
    return Capacity(per_s, limit, cost_us, utilisation)


def best(costs: Costs, cores: int, traffic: Traffic, max_shards: int) -> tuple[Layout, Capacity]:
    """The split with the highest capacity; of equal ones that with the fewest processes."""
    found: tuple[Layout, Capacity] | None = None
    for gateways in (0, 1):
        for layout, reached in _growing(Layout(1, 1, 1, gateways), costs, cores, traffic, max_shards):
            if found is None or reached.per_s > found[1].per_s * (1 + 1e-9):
                found = layout, reached
    assert found
    return found


def _growing(
    layout: Layout, costs: Costs, cores: int, traffic: Traffic, max_shards: int
) -> Iterator[tuple[Layout, Capacity]]:
    """One more of whatever limits, until it is the cores or a store that can't be more."""
    for _ in range(_MAX_PROCESSES):
        reached = capacity(costs, layout, cores, traffic)
        yield layout, reached
        if reached.limit == CORES or (reached.limit == "store" and layout.shards >= max_shards):
            return
        layout = layout.with_one_more(reached.limit)
