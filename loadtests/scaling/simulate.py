"""Latency by simulation: Poisson arrivals, natural batching, and no more processes running than there are
cores. Pure.

Every process takes all that waits for it as one batch, spends `message_us` on it and `request_us` on each
request, and passes them all on at the end: what the processes of a cluster do (docs/architecture.md,
"Natural batching"). A request goes to the least loaded process of each station, and back through the same
ones. It is kinder than reality: nothing is collected, preempted or swapped, and a message takes no time
between processes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Final, NamedTuple

from loadtests.scaling.model import Cost, Costs, Layout

THERE: Final = {"balancer": 0.5, "gateway": 0.5, "behind": 0.5, "rater": 0.7, "store": 1.0}
"""The share of a station's cost on the way there; the rest is on the way back. A profile of a rater has some
seven tenths before the store's reply."""

WARM_UP: Final = 0.2
"""The share of requests that don't count: the queues were empty when they came."""

MAX_BATCH: Final = 256


class Latency(NamedTuple):
    p50_us: float
    p99_us: float
    mean_us: float
    per_s: float
    utilisation: dict[str, float]
    """Of each station's processes."""


class _Process:
    __slots__ = ("busy_us", "load", "queue", "running", "station")

    def __init__(self, station: str) -> None:
        self.station = station
        self.queue: deque[_Request] = deque()
        self.load = 0
        """Requests that were given to it and have not left it for good."""
        self.running = False
        self.busy_us = 0.0


class _Request:
    __slots__ = ("began_us", "path", "step")

    def __init__(self, began_us: float, path: list[_Process]) -> None:
        self.began_us = began_us
        self.path = path
        self.step = 0


class Simulation:
    """Processes by station, front to back as in `order`."""

    def __init__(
        self, costs: Costs, counts: Mapping[str, int], cores: int, chance: Random, max_batch: int = MAX_BATCH
    ) -> None:
        self._costs = costs
        self._order = [name for name in ("balancer", "gateway", "behind", "rater", "store") if name in counts]
        self._stations = {name: [_Process(name) for _ in range(counts[name])] for name in self._order}
        self._free_cores = cores
        self._ready: deque[_Process] = deque()
        """Have something to do and wait for a core."""
        self._chance = chance
        self._max_batch = max_batch
        self._events: list[tuple[float, int, _Process | None, list[_Request]]] = []
        self._serial = 0
        self._latencies_us: list[float] = []

    def run(self, per_s: float, requests: int) -> Latency:
        """So many requests, arriving at random at this mean rate."""
        gap_us = 1e6 / per_s
        arrived, now_us = 0, 0.0
        self._at(self._chance.expovariate(1) * gap_us, None, [])
        while self._events:
            now_us, _, process, batch = heapq.heappop(self._events)
            if process is not None:
                self._finish(process, batch, now_us)
                continue
            arrived += 1
            self._enter(now_us)
            if arrived < requests:
                self._at(now_us + self._chance.expovariate(1) * gap_us, None, [])
        latencies = sorted(self._latencies_us[int(WARM_UP * requests) :])
        return Latency(
            latencies[len(latencies) // 2],
            latencies[len(latencies) * 99 // 100],
            sum(latencies) / len(latencies),
            requests * 1e6 / now_us,
            {
                name: sum(process.busy_us for process in processes) / len(processes) / now_us
                for name, processes in self._stations.items()
            },
        )

    def _at(self, time_us: float, process: _Process | None, batch: list[_Request]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (time_us, self._serial, process, batch))

    def _enter(self, now_us: float) -> None:
        there = [self._choose(processes) for processes in self._stations.values()]
        for process in there:
            process.load += 1
        self._arrive(_Request(now_us, [*there, *reversed(there[:-1])]))
        self._dispatch(now_us)

    def _choose(self, processes: list[_Process]) -> _Process:
        """The less loaded of two, as good as the least of all for this; of stores the account's."""
        first = self._chance.choice(processes)
        if len(processes) == 1 or first.station == "store":
            return first
        second = self._chance.choice(processes)
        return first if first.load <= second.load else second

    def _arrive(self, request: _Request) -> None:
        process = request.path[request.step]
        process.queue.append(request)
        if not process.running:
            process.running = True
            self._ready.append(process)

    def _dispatch(self, now_us: float) -> None:
        while self._free_cores and self._ready:
            process = self._ready.popleft()
            self._free_cores -= 1
            count = min(len(process.queue), self._max_batch)
            batch = [process.queue.popleft() for _ in range(count)]
            took_us = self._cost_us(process.station, batch)
            process.busy_us += took_us
            self._at(now_us + took_us, process, batch)

    def _cost_us(self, station: str, batch: list[_Request]) -> float:
        cost: Cost = self._costs[station]
        there = THERE[station]
        turn = len(self._order) - 1
        shares = sum(there if request.step <= turn else 1 - there for request in batch)
        ways = {request.step <= turn for request in batch}
        return cost.request_us * shares + cost.message_us * sum(there if way else 1 - there for way in ways)

    def _finish(self, process: _Process, batch: list[_Request], now_us: float) -> None:
        self._free_cores += 1
        process.running = bool(process.queue)
        if process.running:
            self._ready.append(process)
        for request in batch:
            request.step += 1
            if request.step == len(request.path):
                self._latencies_us.append(now_us - request.began_us)
                for one in request.path[: len(self._order)]:
                    one.load -= 1
            else:
                self._arrive(request)
        self._dispatch(now_us)


def latency(costs: Costs, layout: Layout, cores: int, per_s: float, requests: int, seed: int) -> Latency:
    """A run of its own; the same for the same seed."""
    return Simulation(costs, layout.counts(), cores, Random(seed)).run(per_s, requests)
