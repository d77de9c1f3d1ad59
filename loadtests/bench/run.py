"""Carries out a plan: every run warmed up, measured, and entered in the books."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from loadtests.bench import limits
from loadtests.bench.client import HttpConnection, Load, Outcome, RpcConnection
from loadtests.bench.cluster import Site, Target
from loadtests.bench.figures import ECHO, HEALTHZ, PERCENTILES, SCRIPT, TRIP, Sample, cpu_s, quantile, rss_mib
from loadtests.bench.plan import Plan, Shape, comparable
from loadtests.bench.requests import Pool, Request, encode_http, encode_rpc, make_requests, place_of

WARM_UP_S: Final = 0.3
"""Before each run, not counted: connections, caches, and the raters' pace that the balancer learns."""

OPEN_CONNECTIONS: Final = {"rpc": 8, "http": 64}
"""Over HTTP each has one request at a time."""

KINDS: Final[dict[str, type[RpcConnection | HttpConnection]]] = {"rpc": RpcConnection, "http": HttpConnection}
ENCODERS: Final = {"rpc": encode_rpc, "http": encode_http}


class Bench:
    """`tell` is given each sample as soon as there is one."""

    def __init__(self, plan: Plan, site: Site, tell: Callable[[Sample], None]) -> None:
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        """Some of the errors, as texts."""
        self.done: Counter[str] = Counter()
        """Requests that were acknowledged, by method."""
        self.uncertain: Counter[str] = Counter()
        """Requests that got no answer, or an error, which may be that the outcome is unknown."""
        self._plan = plan
        self._site = site
        self._tell = tell
        self._round = 0

    def run(self) -> None:
        for number in range(self._plan.rounds):
            self._round = number
            self._limits()
            for workload in self._plan.workloads:
                requests = self._requests(workload)
                for wire, shapes in self._plan.wires():
                    self._workload(workload, wire, shapes, requests)

    def _requests(self, workload: str) -> list[Request]:
        return make_requests(workload, self._plan.requests, self._plan.world, self._round)

    def _limits(self) -> None:
        store, alone, seconds = self._site.store, self._site.store_alone, self._plan.seconds
        limits.script_loop(store, WARM_UP_S)
        run = partial(limits.script_loop, store, seconds)
        self._measure((SCRIPT, "store", f"1x{limits.PIPELINED}"), alone, run)
        self._measure((TRIP, "store", "1x1"), alone, partial(limits.trip_loop, store, seconds))
        echoed = limits.echo_requests(self._requests("GetCost"))
        for workload, wire, shapes, served_by, requests in (
            (ECHO, "rpc", self._plan.shapes, self._site.echo, echoed),
            (HEALTHZ, "http", self._plan.http, self._site.target, [limits.BARE_HTTP] * self._plan.requests),
        ):
            pool = Pool(requests, ENCODERS[wire])
            for shape in shapes:
                self._closed(workload, wire, shape, served_by, pool)

    def _workload(
        self, workload: str, wire: str, shapes: Sequence[Shape], requests: Sequence[Request]
    ) -> None:
        target = self._site.target
        key = secrets.token_hex(8) if self._plan.keys else ""
        pool = Pool(requests, ENCODERS[wire], key)
        rates = {shape: self._closed(workload, wire, shape, target, pool).per_s for shape in shapes}
        capacity = max(rates[shape] for shape in comparable(shapes))
        for share in self._plan.open_shares:
            with Load(KINDS[wire], target.addresses[wire], OPEN_CONNECTIONS[wire], pool) as load:
                rate = share * capacity
                self._enter(pool, load.open_loop(rate, WARM_UP_S))
                run = partial(load.open_loop, rate, self._plan.seconds)
                self._enter(pool, self._measure((workload, wire, f"{share:.0%}"), target, run)[1])

    def _closed(self, workload: str, wire: str, shape: Shape, target: Target, pool: Pool) -> Sample:
        with Load(KINDS[wire], target.addresses[wire], shape.connections, pool) as load:
            warm_up = load.closed_loop(shape.in_flight, WARM_UP_S)
            run = partial(load.closed_loop, shape.in_flight, self._plan.seconds)
            sample, outcome = self._measure((workload, wire, str(shape)), target, run)
        if target is self._site.target:
            self._enter(pool, warm_up)
            self._enter(pool, outcome)
        return sample

    def _measure(
        self, key: tuple[str, str, str], target: Target, run: Callable[[], Outcome]
    ) -> tuple[Sample, Outcome]:
        before_s = {name: cpu_s(pid) for name, pid in target.pids.items()}
        outcome = run()
        used_s = {name: cpu_s(pid) - before_s[name] for name, pid in target.pids.items()}
        answered = len(outcome.latencies_s)
        ordered = sorted(outcome.latencies_s)
        sample = Sample(
            *key,
            round=self._round,
            per_s=outcome.in_time / outcome.seconds,
            latency_ms={name: quantile(ordered, share) * 1000 for name, share in PERCENTILES.items()},
            errors=len(outcome.failed),
            unanswered=len(outcome.unanswered),
            answered=answered,
            checked=outcome.checked,
            cpu_us={name: 1e6 * seconds / max(answered, 1) for name, seconds in used_s.items()},
            rss_mib={name: rss_mib(pid) for name, pid in target.pids.items()},
        )
        self.failures += outcome.failures
        self.samples.append(sample)
        self._tell(sample)
        return sample, outcome

    def _enter(self, pool: Pool, outcome: Outcome) -> None:
        numbers = [*outcome.failed, *outcome.unanswered]
        lost = Counter(pool.requests[place_of(number)].method for number in numbers)
        self.done += pool.taken() - lost
        self.uncertain += lost
