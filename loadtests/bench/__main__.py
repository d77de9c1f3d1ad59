"""The benchmark: `python -m loadtests.bench`, or `make bench`.

    python -m loadtests.bench --quick                       # a minute
    python -m loadtests.bench --json out.json --plot out.svg
    python -m loadtests.bench --workloads GetCost,mix --shapes 8x16 --http '' --open ''

It starts a cluster of its own on free ports, and changes nothing else. docs/performance.md says what is
measured and what the columns mean. It ends with 1 when balances do not agree with what was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

from common.limits import raise_file_limit
from common.storage.durability import LEVELS
from loadtests.bench import report
from loadtests.bench.cluster import Site, disagreement
from loadtests.bench.figures import Sample, servers_us, summarise
from loadtests.bench.plan import Parts, Plan, parse_shape
from loadtests.bench.requests import WORKLOADS
from loadtests.bench.run import Bench
from loadtests.bench.tariff import World

QUICK: Final = {
    "workloads": "GetCost,GetCost account,GetMaxSessionTime,DebitBalance hot,DebitBalance spread",
    "shapes": "1x1,64x1,8x16",
    "http": "64",
    "open": "0.8",
    "rounds": 1,
    "seconds": 1.0,
    "accounts": 20_000,
    "requests": 20_000,
}
FULL: Final = {
    "workloads": ",".join(WORKLOADS),
    "shapes": "1x1,8x1,64x1,8x16,32x32",
    "http": "1,16,64",
    "open": "0.5,0.8",
    "rounds": 3,
    "seconds": 3.0,
    "accounts": 100_000,
    "requests": 100_000,
}
RATERS: Final = max(1, (os.cpu_count() or 2) - 1)
"""More than there are cores for only make each other's batches smaller, and each request dearer."""

T = TypeVar("T")


def listed(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def split(text: str) -> tuple[T, ...]:
        return tuple(parse(word.strip()) for word in text.split(",") if word.strip())

    return split


def workload(name: str) -> str:
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(WORKLOADS)}")
    return name


def parse_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lists = "comma-separated"
    parser.add_argument("--quick", action="store_true", help="a minute: fewer and shorter runs, one round")
    parser.add_argument("--workloads", type=listed(workload), help=f"{lists}; of {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--shapes", type=listed(parse_shape), help=f"JSON-RPC, connections x in flight; {lists}"
    )
    parser.add_argument("--http", type=listed(parse_shape), help=f"HTTP, connections; {lists}")
    parser.add_argument("--open", type=listed(float), help=f"open loops, shares of the capacity; {lists}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--accounts", type=int)
    parser.add_argument("--requests", type=int, help="different ones of each workload")
    parser.add_argument("--prefixes", type=int, default=1_000, help="of the tariff")
    parser.add_argument("--raters", type=int, default=RATERS, help="by default one for each core but one")
    parser.add_argument("--gateways", type=int, default=0, help="as processes; 0: in the balancers")
    parser.add_argument("--balancers", type=int, default=1)
    parser.add_argument("--durability", choices=LEVELS, default="everysec")
    parser.add_argument("--keys", action="store_true", help="give each request an idempotency key of its own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and every single run here")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg|png", help="draw it; needs matplotlib")
    quick = parser.parse_known_args(words)[0].quick
    parser.set_defaults(**(QUICK if quick else FULL))
    options = parser.parse_args(words)
    counts = (options.rounds, options.accounts, options.prefixes, options.raters, options.balancers)
    if min(counts) < 1 or options.gateways < 0 or options.seconds <= 0:
        parser.error("rounds, accounts, prefixes, raters and balancers are at least 1, seconds above 0")
    if any(shape.in_flight > 1 for shape in options.http):
        parser.error("over HTTP a connection has one request in flight")
    if any(2 * shape.connections * shape.in_flight > options.requests for shape in options.shapes):
        parser.error("--requests is at least twice as many as are in flight")
    return options


def main(words: list[str]) -> int:
    options = parse_options(words)
    if options.plot:
        from loadtests.bench.plot import draw  # noqa: PLC0415 - without --plot it works without matplotlib
    world = World(options.accounts, options.prefixes)
    plan = Plan(
        options.workloads,
        options.shapes,
        options.http,
        options.open,
        options.rounds,
        options.seconds,
        options.requests,
        options.keys,
        world,
    )
    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is ended, too

    def tell(sample: Sample) -> None:
        print(
            f"[{len(bench.samples)}/{plan.runs}] {sample.workload} {sample.wire} {sample.load}: "
            f"{sample.per_s:,.0f} req/s, {servers_us(sample.cpu_us):.1f} µs",
            file=sys.stderr,
            flush=True,
        )

    with ExitStack() as stack:
        parts = Parts(options.raters, options.gateways, options.balancers)
        site = Site(stack, world, parts, options.durability)
        bench = Bench(plan, site, tell)
        bench.run()
        wrong = disagreement(site.taken(), bench.done, bench.uncertain)
    rows = summarise(bench.samples)
    print(", ".join(f"{name} {value}" for name, value in report.machine().items()), end="\n\n")
    print(report.table(rows), report.memory_table(rows), sep="\n\n")
    for text in dict.fromkeys([*bench.failures, *wrong]):
        print(f"\n{text}")
    if options.json:
        document = report.document(vars(options), rows, bench.samples)
        options.json.write_text(json.dumps(document, indent=1, default=str, ensure_ascii=False))
    if options.plot:
        draw(rows, options.plot)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
