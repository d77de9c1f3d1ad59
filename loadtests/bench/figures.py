"""Percentiles, medians, CPU time and memory: how a run becomes figures."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
CLIENT: Final = "client"
"""The one process whose CPU is not the servers'."""

_PROCESS_CLOCK: Final = 2
"""CPUCLOCK_SCHED: clock_getcpuclockid(3) on Linux makes an id of this and the inverted process id."""


def cpu_s(pid: int) -> float:
    """CPU time of all of a process's threads, to the nanosecond: /proc/PID/stat counts in ticks of 10 ms."""
    return time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK) / 1e9


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the least value that so large a share is not above; 0 if there is none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    workload: str
    wire: str
    """rpc, http or store."""
    load: str
    """`8x16` for a closed loop of 8 connections with 16 requests in flight each, `80 %` for an open one."""
    round: int
    per_s: float
    latency_ms: dict[str, float]
    errors: int
    unanswered: int
    answered: int
    checked: int
    cpu_us: dict[str, float]
    """Per answered request, by process."""
    rss_mib: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.workload, self.wire, self.load


class Spread(NamedTuple):
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of a kind. What must not be hidden is added up, the rest is a median."""

    workload: str
    wire: str
    load: str
    rounds: int
    per_s: Spread
    latency_ms: dict[str, Spread]
    errors: int
    unanswered: int
    answered: int
    checked: int
    servers_us: Spread
    cpu_us: dict[str, Spread]
    rss_mib: dict[str, float]
    """The most that was seen."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.workload, self.wire, self.load


def servers_us(cpu_us: dict[str, float]) -> float:
    return sum(micros for process, micros in cpu_us.items() if process != CLIENT)


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def summarise(samples: Iterable[Sample]) -> list[Row]:
    """A row for each key, in the order in which these came first."""
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.key, []).append(sample)
    return [_row(group) for group in groups.values()]


def _row(group: list[Sample]) -> Row:
    first = group[0]

    def each(values: Callable[[Sample], dict[str, float]]) -> dict[str, Spread]:
        return {name: spread(values(sample)[name] for sample in group) for name in values(first)}

    return Row(
        *first.key,
        rounds=len(group),
        per_s=spread(sample.per_s for sample in group),
        latency_ms=each(lambda sample: sample.latency_ms),
        errors=sum(sample.errors for sample in group),
        unanswered=sum(sample.unanswered for sample in group),
        answered=sum(sample.answered for sample in group),
        checked=sum(sample.checked for sample in group),
        servers_us=spread(servers_us(sample.cpu_us) for sample in group),
        cpu_us=each(lambda sample: sample.cpu_us),
        rss_mib={name: seen.most for name, seen in each(lambda sample: sample.rss_mib).items()},
    )


# --- what to compare with -------------------------------------------------------------------------

ECHO: Final = "(echo)"
HEALTHZ: Final = "(healthz)"
SCRIPT: Final = "(debit script)"
TRIP: Final = "(round trip)"
"""Workloads that are limits, not work: see docs/performance.md."""


class Reference(NamedTuple):
    per_s: int
    servers_us: int


ANCESTOR: Final = {
    ("GetCost", "rpc", "1x1"): Reference(2_432, 401),
    ("GetCost", "rpc", "64x1"): Reference(7_840, 179),
    ("GetCost", "rpc", "8x16"): Reference(9_428, 156),
    ("GetCost", "rpc", "32x32"): Reference(9_252, 163),
    ("GetMaxSessionTime", "rpc", "1x1"): Reference(2_312, 422),
    ("GetMaxSessionTime", "rpc", "64x1"): Reference(6_868, 198),
    ("GetMaxSessionTime", "rpc", "8x16"): Reference(7_269, 185),
    ("GetMaxSessionTime", "rpc", "32x32"): Reference(7_658, 178),
    ("DebitBalance", "rpc", "1x1"): Reference(4_001, 241),
    ("DebitBalance", "rpc", "64x1"): Reference(14_161, 101),
    ("DebitBalance", "rpc", "8x16"): Reference(15_424, 94),
    ("DebitBalance", "rpc", "32x32"): Reference(16_415, 89),
    ("GetCost", "http", "64x1"): Reference(7_900, 199),
    ("DebitSMS", "http", "64x1"): Reference(10_000, 141),
}
"""The Go system of 2012 that the API comes from, with Redis and one rater, on another machine of 2 cores."""


def ancestor(row: Row) -> Reference | None:
    """By the method alone: it had no fast path for subjects without an account."""
    return ANCESTOR.get((row.workload.split()[0], row.wire, row.load))


BARE: Final = "÷ bare"
SCRIPTS: Final = "÷ script"
TRIPS: Final = "÷ trip"
RATE: Final = "rate ×"
THRIFT: Final = "thrift ×"
RATIOS: Final = (BARE, SCRIPTS, TRIPS, RATE, THRIFT)
"""The servers' CPU as a multiple of the echo's or of the bare HTTP reply's; as one of the script's; the
median latency as one of a round trip to the store; the rate as a multiple of the ancestor's; and its
CPU as one of ours. The first three are the better the less, the others the more."""


def ratios(row: Row, rows: dict[tuple[str, str, str], Row]) -> dict[str, float]:
    """Those of `RATIOS` for which there is something to compare with in the same benchmark."""
    if row.workload.startswith("("):
        return {}
    found: dict[str, float] = {}

    def over(name: str, value: float, limit: float) -> None:
        if limit:
            found[name] = value / limit

    if row.wire == "rpc" and (echo := rows.get((ECHO, "rpc", row.load))):
        over(BARE, row.servers_us.median, echo.servers_us.median)
    if row.wire == "http" and (bare := rows.get((HEALTHZ, "http", row.load))):
        over(BARE, row.servers_us.median, bare.servers_us.median)
    if row.workload.startswith("Debit") and (
        script := next((r for r in rows.values() if r.workload == SCRIPT), None)
    ):
        over(SCRIPTS, row.servers_us.median, script.servers_us.median)
    if row.load == "1x1" and (trip := rows.get((TRIP, "store", "1x1"))):
        over(TRIPS, row.latency_ms["p50"].median, trip.latency_ms["p50"].median)
    if reference := ancestor(row):
        over(RATE, row.per_s.median, reference.per_s)
        over(THRIFT, reference.servers_us, row.servers_us.median)
    return found
