"""What requests cost each process of real clusters that differ in one thing: processes, or idle
connections.

All clusters are up at once and take turns, several rounds of short closed loops, so that what else the
machine does meets all of them alike; figures are medians over the rounds. CPU time is the steady figure
on a busy machine, rates are not.
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from common.storage.store import StoreConnection
from loadtests.bench.client import Load, RpcConnection
from loadtests.bench.cluster import open_accounts
from loadtests.bench.figures import CLIENT, cpu_s
from loadtests.bench.parts import Started, start
from loadtests.bench.plan import Parts, Shape
from loadtests.bench.requests import Pool, encode_rpc, make_requests
from loadtests.bench.tariff import World

WORLD: Final = World(accounts=10_000, prefixes=1_000)
REQUESTS: Final = 20_000
WARM_UP_S: Final = 0.3
_STORE_TIMEOUT_MS: Final = 60_000


class Case(NamedTuple):
    """One thing to measure."""

    parts: Parts
    workload: str
    shape: Shape
    idle: int = 0
    """Further connections, which say nothing."""


class Run(NamedTuple):
    per_s: float
    cpu_us: dict[str, float]
    """A request's, by kind of process, the client's too."""


def measure(
    cases: Iterable[Case], rounds: int, seconds: float, tell: Callable[[str], None]
) -> dict[Case, Run]:
    """Medians over the rounds."""
    cases = list(cases)
    runs: dict[Case, list[Run]] = {case: [] for case in cases}
    with ExitStack() as stack:
        clusters = {parts: _start(stack, parts) for parts in dict.fromkeys(case.parts for case in cases)}
        for number in range(rounds):
            pools = {
                workload: make_requests(workload, REQUESTS, WORLD, number)
                for workload in dict.fromkeys(case.workload for case in cases)
            }
            for case in cases:
                pool = Pool(pools[case.workload], encode_rpc)
                runs[case].append(_run(clusters[case.parts], case, pool, seconds))
            tell(f"round {number + 1} of {rounds}")
    return {case: _median(of_case) for case, of_case in runs.items()}


def _start(stack: ExitStack, parts: Parts) -> Started:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-scaling-")))
    started = start(stack, folder, WORLD, parts, "everysec")
    with StoreConnection(started.store_url, timeout_ms=_STORE_TIMEOUT_MS) as store:
        open_accounts(store, WORLD)
    return started


def _run(cluster: Started, case: Case, pool: Pool, seconds: float) -> Run:
    pids = cluster.pids | {CLIENT: os.getpid()}
    address = cluster.addresses["rpc"]
    with _idle(address, case.idle), Load(RpcConnection, address, case.shape.connections, pool) as load:
        load.closed_loop(case.shape.in_flight, WARM_UP_S)
        before_s = {name: cpu_s(pid) for name, pid in pids.items()}
        outcome = load.closed_loop(case.shape.in_flight, seconds)
        used_s = {name: cpu_s(pid) - before_s[name] for name, pid in pids.items()}
    if outcome.failed or outcome.unanswered:
        raise SystemExit(f"{case}: errors: {outcome.failures or 'requests without an answer'}")
    cpu_us: dict[str, float] = {}
    for name, spent_s in used_s.items():
        kind = name.split()[0]
        cpu_us[kind] = cpu_us.get(kind, 0.0) + 1e6 * spent_s / len(outcome.latencies_s)
    return Run(outcome.in_time / outcome.seconds, cpu_us)


@contextmanager
def _idle(address: tuple[str, int], count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address))
        if count:
            time.sleep(WARM_UP_S)  # for the balancer to take them all
        yield


def _median(runs: list[Run]) -> Run:
    kinds = runs[0].cpu_us
    return Run(
        statistics.median(run.per_s for run in runs),
        {kind: statistics.median(run.cpu_us[kind] for run in runs) for kind in kinds},
    )


def servers_us(run: Run) -> float:
    return sum(micros for kind, micros in run.cpu_us.items() if kind != CLIENT)
