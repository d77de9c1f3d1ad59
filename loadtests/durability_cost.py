"""What each durability level costs: the same debits against clusters that differ in nothing else.

    python -m loadtests.durability_cost --folder /var/tmp               # some three minutes
    python -m loadtests.durability_cost --folder /var/tmp --rounds 2 --seconds 1

A cluster for each level is up all the time, and they take turns: everysec, always, replicated,
replicated-always, everysec, … A machine that is slow for a while is so for all of them, so what counts is
a level's share of `everysec` within a round, of which the median over all rounds is shown. Clusters that
wait for their turn use next to nothing.

`everysec` and `always` have the embedded store. The replicated levels have a primary and a replica on this
machine, without sentinels, so they share its disk and its cores: on hosts of their own the replica's work
costs the primary's host nothing, and the network's round trip comes on top. With `replicated` the stores
force their writes to the disk once a second, with `replicated-always` each of them.

What forcing a write to the disk costs depends on the disk under `--folder`, so that is said with the
figures, with what a small write and fdatasync takes there. A folder in memory proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from common.limits import raise_file_limit
from common.storage.durability import LEVELS
from loadtests.bench.client import Load, RpcConnection
from loadtests.bench.figures import cpu_s, quantile
from loadtests.bench.plan import Shape, parse_shape
from loadtests.bench.report import machine
from loadtests.bench.requests import BALANCE, WORKLOADS, Pool, encode_rpc, make_requests, subject
from loadtests.bench.tariff import TENANT, World, tariff
from tests.e2e.cluster import Cluster
from tests.store_group import StoreGroup

BASE: Final = "everysec"
WARM_UP_S: Final = 0.3
"""Before each run, not counted: connections, and the raters' pace that the balancer learns."""

REQUESTS: Final = 20_000
"""Different ones, of each cluster; they are sent again and again."""

PREFIXES: Final = 20
"""No debit looks at a rate."""

PROBES: Final = 50
PROBE_BYTES: Final = 4096
IN_MEMORY: Final = ("tmpfs", "ramfs")


class Disk(NamedTuple):
    """Where the stores write."""

    device: str
    filesystem: str
    fsync_ms: float
    """Median of a small write with its fdatasync."""


class Run(NamedTuple):
    per_s: float
    p50_ms: float
    p99_ms: float
    servers_us: float
    """CPU of a request: balancer, raters and all stores."""
    errors: int


@dataclass(frozen=True)
class Candidate:
    """One level's cluster."""

    level: str
    cluster: Cluster
    pids: list[int]
    pool: Pool

    def run(self, shape: Shape, seconds: float) -> Run:
        with Load(RpcConnection, self.cluster.jsonrpc, shape.connections, self.pool) as load:
            load.closed_loop(shape.in_flight, WARM_UP_S)
            before_s = sum(map(cpu_s, self.pids))
            outcome = load.closed_loop(shape.in_flight, seconds)
            used_s = sum(map(cpu_s, self.pids)) - before_s
        ordered = sorted(outcome.latencies_s)
        return Run(
            outcome.in_time / outcome.seconds,
            quantile(ordered, 0.5) * 1e3,
            quantile(ordered, 0.99) * 1e3,
            1e6 * used_s / max(len(ordered), 1),
            len(outcome.failed) + len(outcome.unanswered),
        )


def start(stack: ExitStack, folder: Path, level: str, workload: str, world: World, raters: int) -> Candidate:
    """A cluster with its accounts; `stack` ends it."""
    folder.mkdir()
    words = ["--raters", str(raters), "--durability", level, "--tenant", TENANT]
    pids: list[int] = []
    if level.startswith("replicated"):
        fsync = "always" if level == "replicated-always" else "everysec"
        group = StoreGroup(folder / "stores", replicas=1, sentinels=0, appendfsync=fsync)
        stack.enter_context(group)
        words += ["--store", group.url, "--replicas", "1"]
        pids += [group.member(name).pid for name in ("store-0", "store-1")]
    budgets = [{"CstmId": TENANT, "Id": subject(n), "Credit": BALANCE} for n in range(world.accounts)]
    for name, objects in {**tariff(world), "user_budgets.json": budgets}.items():
        (folder / name).write_text(json.dumps(objects))
        words += ["--load", str(folder / name)]
    cluster = Cluster(folder / "data", *words)
    stack.callback(cluster.stop)
    cluster.wait_ready()
    pids += [cluster.up.process.pid, *cluster.processes()]
    return Candidate(level, cluster, pids, Pool(make_requests(workload, REQUESTS, world), encode_rpc))


def disk_under(folder: Path) -> Disk:
    device, filesystem = mount_of(folder.resolve(), Path("/proc/self/mountinfo").read_text())
    times_s = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(PROBES):
            began_s = time.monotonic()
            file.write(bytes(PROBE_BYTES))
            os.fdatasync(file.fileno())
            times_s.append(time.monotonic() - began_s)
    return Disk(device, filesystem, statistics.median(times_s) * 1e3)


def mount_of(folder: Path, mountinfo: str) -> tuple[str, str]:
    """Device and type of the file system that holds a folder, by Linux' list of mounts (proc(5)). Pure."""
    found, best = ("?", "?"), -1
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best = len(point.parts)
            filesystem, device = right.split()[:2]
            found = device, filesystem
    return found


def shares(rounds: list[dict[str, Run]], level: str) -> list[float]:
    """Of the rate of `everysec` in the same round. Pure."""
    return [runs[level].per_s / runs[BASE].per_s for runs in rounds]


def table(rounds: list[dict[str, Run]]) -> str:
    """Medians over the rounds; errors are added up. Pure."""
    lines = [
        "| level | of everysec: median | least–most | debits/s | p50, p99 ms | servers' CPU µs | errors |",
        "| --- |" + " ---: |" * 6,
    ]
    for level in rounds[0]:
        runs = [each[level] for each in rounds]
        share = shares(rounds, level)
        per_s, p50_ms, p99_ms, servers_us = (
            statistics.median(getattr(run, name) for run in runs)
            for name in ("per_s", "p50_ms", "p99_ms", "servers_us")
        )
        lines.append(
            f"| {level} | {statistics.median(share):.0%} | {min(share):.0%}–{max(share):.0%} | {per_s:,.0f} "
            f"| {p50_ms:.1f}, {p99_ms:.1f} | {servers_us:.1f} | {sum(run.errors for run in runs)} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.durability_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    debits = [name for name in WORKLOADS if name.startswith("Debit")]
    parser.add_argument(
        "--folder", type=Path, required=True, help="an existing one, on the disk that is meant"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--shape", type=parse_shape, default=Shape(8, 16), help="connections x in flight")
    parser.add_argument("--workload", choices=debits, default="DebitBalance spread")
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--raters", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run here")
    options = parser.parse_args()
    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the clusters are ended, too
    rounds: list[dict[str, Run]] = []
    with ExitStack() as stack:
        home = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-durability-", dir=options.folder))
        )
        disk = disk_under(home)
        world = World(options.accounts, PREFIXES)
        candidates = [
            start(stack, home / level, level, options.workload, world, options.raters) for level in LEVELS
        ]
        for number in range(options.rounds):
            rounds.append({each.level: each.run(options.shape, options.seconds) for each in candidates})
            told = ", ".join(f"{level} {run.per_s:,.0f}/s" for level, run in rounds[-1].items())
            print(f"[{number + 1}/{options.rounds}] {told}", file=sys.stderr, flush=True)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(
        f"{options.workload} at {options.shape}, {options.accounts:,} accounts, {options.raters} raters, "
        f"{options.rounds} rounds of {options.seconds:g} s"
    )
    print(
        f"stores on {disk.filesystem} ({disk.device}); a write of {PROBE_BYTES} bytes with fdatasync there: "
        f"{disk.fsync_ms:.2f} ms"
    )
    if disk.filesystem in IN_MEMORY:
        print("THAT IS MEMORY: what it costs to force writes to a disk does not show here")
    print(f"\n{table(rounds)}")
    if options.json:
        plain = [{level: run._asdict() for level, run in runs.items()} for runs in rounds]
        options.json.write_text(json.dumps({"disk": disk._asdict(), "rounds": plain}, indent=1))
    return 1 if any(run.errors for runs in rounds for run in runs.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
