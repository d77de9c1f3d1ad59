"""What CURVE costs: the same requests against two clusters, one of which has keys.

    python -m loadtests.curve_cost                       # a minute and a half
    python -m loadtests.curve_cost --rounds 1 --seconds 0.2

Both are up all the time, one balancer and two raters each, and take turns. Shown is the CPU of balancer and
raters together for each request, user and system time of all their threads: the store has no part in it.
What counts is the difference within a round, of which the median over all rounds is shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from common.limits import raise_file_limit
from common.security.curve import Role
from loadtests.bench.client import Load, RpcConnection
from loadtests.bench.figures import cpu_s
from loadtests.bench.plan import Shape, parse_shape
from loadtests.bench.report import machine
from loadtests.bench.requests import BALANCE, WORKLOADS, Pool, encode_rpc, make_requests, subject
from loadtests.bench.tariff import TENANT, World, tariff
from tests.faults.nodes import RATEL, Site
from tests.keyring import KeyRing

WORLD: Final = World(accounts=1_000, prefixes=100)
REQUESTS: Final = 20_000
"""Different ones; they are sent again and again."""

WARM_UP_S: Final = 0.3
RATERS: Final = 2
WORKLOAD_NAMES: Final = ("GetCost", "DebitBalance spread")
SHAPES: Final = (Shape(1, 1), Shape(8, 16))


class Run(NamedTuple):
    per_s: float
    cpu_us: float
    """Of balancer and raters, for each request."""
    errors: int


class Candidate:
    """One cluster, with or without keys; `stack` ends it."""

    def __init__(self, stack: ExitStack, folder: Path, *, curve: bool) -> None:
        folder.mkdir()
        ring = KeyRing(folder / "keys")
        ring.new("rater", Role.RATER, allowed=True)
        self.site = Site(
            folder / "site",
            raters=RATERS,
            balancer_options=ring.balancer_options if curve else (),
            rater_options=ring.peer_options("rater") if curve else (),
        )
        for rater in self.site.raters:  # those of the tests look for faults to make
            rater.command[: len(RATEL) + 1] = [*RATEL, "rater", *rater.command[len(RATEL) : len(RATEL) + 1]]
        stack.enter_context(self.site)
        self.site.start({})
        self._load(folder)

    def _load(self, folder: Path) -> None:
        budgets = [{"CstmId": TENANT, "Id": subject(n), "Credit": BALANCE} for n in range(WORLD.accounts)]
        paths = []
        for name, objects in {**tariff(WORLD), "user_budgets.json": budgets}.items():
            paths.append(folder / name)
            paths[-1].write_text(json.dumps(objects))
        self.site.run("load", "--store", self.site.store_url, "--tenant", TENANT, *map(str, paths))

    def run(self, pool: Pool, shape: Shape, seconds: float) -> Run:
        pids = [node.pid for node in (*self.site.balancers, *self.site.raters)]
        with Load(RpcConnection, self.site.balancers[0].jsonrpc, shape.connections, pool) as load:
            load.closed_loop(shape.in_flight, WARM_UP_S)
            before_s = sum(map(cpu_s, pids))
            outcome = load.closed_loop(shape.in_flight, seconds)
            used_s = sum(map(cpu_s, pids)) - before_s
        answered = max(len(outcome.latencies_s), 1)
        errors = len(outcome.failed) + len(outcome.unanswered)
        return Run(outcome.in_time / outcome.seconds, 1e6 * used_s / answered, errors)


def row(name: str, plain: list[Run], curve: list[Run]) -> str:
    more_us = statistics.median(b.cpu_us - a.cpu_us for a, b in zip(plain, curve, strict=True))
    share = statistics.median(b.cpu_us / a.cpu_us for a, b in zip(plain, curve, strict=True))
    cpu_us, per_s = ([statistics.median(values) for values in pairs] for pairs in _both(plain, curve))
    return (
        f"| {name} | {cpu_us[0]:.1f} | {cpu_us[1]:.1f} | {more_us:+.1f} ({share - 1:+.0%}) "
        f"| {per_s[0]:,.0f} | {per_s[1]:,.0f} | {sum(run.errors for run in (*plain, *curve))} |"
    )


def _both(plain: list[Run], curve: list[Run]) -> tuple[list[list[float]], list[list[float]]]:
    both = (plain, curve)
    return [[run.cpu_us for run in runs] for runs in both], [[run.per_s for run in runs] for runs in both]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.curve_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each run")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOAD_NAMES)
    parser.add_argument(
        "--shapes", nargs="+", type=parse_shape, default=SHAPES, help="connections x in flight"
    )
    options = parser.parse_args()
    raise_file_limit()
    pools = {name: Pool(make_requests(name, REQUESTS, WORLD), encode_rpc) for name in options.workloads}
    rows = []
    errors = 0
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-curve-")))
        plain, curve = (Candidate(stack, home / name, curve=name == "curve") for name in ("plain", "curve"))
        for workload, pool in pools.items():
            for shape in options.shapes:
                pairs = [
                    (plain.run(pool, shape, options.seconds), curve.run(pool, shape, options.seconds))
                    for _ in range(options.rounds)
                ]
                ours, theirs = ([pair[place] for pair in pairs] for place in (0, 1))
                errors += sum(run.errors for pair in pairs for run in pair)
                rows.append(row(f"{workload} {shape}", ours, theirs))
                print(rows[-1], file=sys.stderr, flush=True)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print("\n| workload | CPU µs | with CURVE | more | req/s | with CURVE | errors |")
    print("| --- |" + " ---: |" * 6)
    print("\n".join(rows))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
