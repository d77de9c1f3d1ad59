"""Where the cluster grows: `python -m loadtests.scaling`.

    python -m loadtests.scaling                           # the model: what limits, the best split, latency
    python -m loadtests.scaling --costs bench.json --cores 16,64
    python -m loadtests.scaling --check                   # the model beside real clusters, some 4 minutes
    python -m loadtests.scaling --steady                  # by number of raters and of connections, 2 minutes

The first two compute only. The others start clusters on this machine. docs/performance.md, "Where it grows".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from common.limits import raise_file_limit
from loadtests.bench.report import machine
from loadtests.scaling import check, costs, tables
from loadtests.scaling.model import Costs


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(word) for word in text.split(","))
    if min(found) < 1:
        raise ValueError("numbers above 0 are wanted")
    return found


def parse_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--costs", type=Path, metavar="JSON", help="of `python -m loadtests.bench --json`")
    parser.add_argument("--cores", type=numbers, default=(2, 4, 16, 64, 256), help="comma-separated")
    parser.add_argument("--in-flight", type=int, default=64, help="requests on their way for each core")
    parser.add_argument("--per-connection", type=int, default=16, help="of them on each connection")
    parser.add_argument("--requests", type=int, default=20_000, help="simulated for each latency")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--check", action="store_true", help="measure clusters of several kinds")
    parser.add_argument("--steady", action="store_true", help="measure what raters and connections cost")
    parser.add_argument("--rounds", type=int, default=5, help="of measuring; figures are medians")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    options = parser.parse_args(words)
    if min(options.in_flight, options.per_connection, options.rounds) < 1 or options.seconds <= 0:
        parser.error("what is in flight, per connection and rounds are at least 1, seconds above 0")
    if options.requests < tables.FEWEST_REQUESTS:
        parser.error(f"at least {tables.FEWEST_REQUESTS} requests, for a percentile of them")
    return options


def main(words: list[str]) -> int:
    options = parse_options(words)
    if options.check or options.steady:
        raise_file_limit()
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
        if options.check:
            print(check.check(options.rounds, options.seconds, tell))
        if options.steady:
            print(check.steady(options.rounds, options.seconds, tell))
        return 0
    known: Mapping[str, Costs] = costs.DEFAULTS
    source = costs.MEASURED
    if options.costs:
        known = costs.read(json.loads(options.costs.read_text()), known)
        source = f"{options.costs}; what it does not have: {source}"
    print(f"Costs: {source}\n\n{tables.costs(known)}")
    print(tables.growth(known, options))
    return 0


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
