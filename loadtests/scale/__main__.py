"""A million prefixes and a million accounts: what lookups, loads, starts and switches cost.

    python -m loadtests.scale
    python -m loadtests.scale --prefixes 100000 --accounts 0 --rate 300 --seconds 5 --json scale.json

It makes its own tariff files, starts its own cluster in a temporary folder, and ends it. The files take
some 700 MB for a million rates, 250 MB for a million accounts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from common.storage.store import StoreConnection
from loadtests.bench.figures import rss_mib
from loadtests.scale import measure
from loadtests.scale.world import World, account_lines
from tests.e2e.cluster import Cluster

FEW_RATES: Final = 300
"""What the cluster begins with: every country."""

Line = tuple[str, dict[str, Any]]
"""What was measured, and the figures."""


def run(options: argparse.Namespace, folder: Path) -> Iterator[Line]:
    world = World(options.prefixes)
    yield from _lookups(options)
    first = measure.write_tariff(folder / "first", world)
    second = measure.write_tariff(folder / "second", world._replace(shift=1))
    small = measure.write_tariff(folder / "small", World(FEW_RATES))
    with ExitStack() as stack:
        cluster = Cluster(folder / "data", "--raters", str(options.raters), "--load", str(small))
        stack.callback(cluster.kill_everything)
        cluster.wait_ready()
        store = stack.enter_context(StoreConnection(cluster.store_url, timeout_ms=60_000))
        yield "load", measure.load(store, cluster.store_url, str(first))._asdict()
        measure.wait_for_switch(store, options.raters)
        yield "rater start", measure.start_rater(cluster.store_url, measure.call("x", "49"))._asdict()
        yield from _switches(options, cluster, store, world, second)
        if options.accounts:
            yield from _accounts(options, cluster, store, folder)


def _lookups(options: argparse.Namespace) -> Iterator[Line]:
    few, many = (measure.lookups(count) for count in (options.few, options.prefixes))
    yield f"lookup, {few.prefixes} prefixes", few._asdict()
    yield f"lookup, {many.prefixes} prefixes", many._asdict()
    ratios = {
        "uniform": many.uniform_us / few.uniform_us,
        "popular": many.popular_us / few.popular_us,
    }
    yield "lookup, ratio", ratios


def _switches(
    options: argparse.Namespace, cluster: Cluster, store: StoreConnection, world: World, second: Path
) -> Iterator[Line]:
    """Latencies are medians of some rounds: one stall of the machine would be all that a p99 is."""
    pids = cluster.rater_pids()
    ask = partial(
        measure.latency, cluster.jsonrpc, measure.get_cost_pool(world), options.rate, options.seconds
    )
    yield "rater memory", {"mib": max(map(rss_mib, pids))}
    for pid in pids:
        measure.forget_peak(pid)
    loading = _asked_while(
        ask, lambda: measure.load(store, cluster.store_url, str(second), "--wait", "0"), options.seconds
    )
    waited_s = measure.wait_for_switch(store, options.raters)
    peak = {"peak_mib": max(map(measure.peak_mib, pids))}
    yield "latency, during a load", measure.medians([loading]) | peak | {"waited_s": waited_s}
    switched_s: list[float] = []

    def switch(version: int) -> None:
        measure.activate(cluster.store_url, version)
        switched_s.append(measure.wait_for_switch(store, options.raters))

    normal, beside, switching = [], [], []
    for _ in range(options.rounds):
        for version in (2, 3):
            normal.append(ask())
            switching.append(_asked_while(ask, partial(switch, version), options.seconds))
            beside.append(
                _asked_while(ask, partial(switch, version), options.seconds)
            )  # it is active already
    yield "latency, normal", measure.medians(normal)
    yield "latency, beside a command that switches nothing", measure.medians(beside)
    peak = {"peak_mib": max(map(measure.peak_mib, pids)), "switch_s": max(switched_s)}
    yield "latency, switching", measure.medians(switching) | peak
    most = measure.medians(switching)["p99_ms"]
    bases = {"normal": normal, "beside a command": beside}
    yield "p99 of switching", {name: most / measure.medians(base)["p99_ms"] for name, base in bases.items()}


def _asked_while(
    ask: Callable[[], measure.Latency], work: Callable[[], Any], seconds: float
) -> measure.Latency:
    with measure.meanwhile(work, seconds / 4):
        return ask()


def _accounts(
    options: argparse.Namespace, cluster: Cluster, store: StoreConnection, folder: Path
) -> Iterator[Line]:
    file = folder / "user_budgets.json"
    with file.open("w") as out:
        out.writelines(account_lines(options.accounts))
    loaded = measure.load(store, cluster.store_url, str(file))
    per_account = {"store_bytes_each": loaded.store_mb * 1e6 / options.accounts}
    yield f"open {options.accounts} accounts", loaded._asdict() | per_account
    [store_pid] = cluster.processes("-server")
    for method in ("GetCost", "DebitBalance"):
        for accounts in (min(options.few_accounts, options.accounts), options.accounts):
            cost = measure.account_cost(cluster.jsonrpc, store_pid, method, accounts, options.seconds / 2)
            yield f"{method}, {accounts} accounts", cost._asdict()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prefixes", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000, help="prefixes to compare lookups with")
    parser.add_argument("--accounts", type=int, default=1_000_000, help="0 leaves them out")
    parser.add_argument("--few-accounts", type=int, default=20_000, help="accounts to compare costs with")
    parser.add_argument("--raters", type=int, default=2)
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second during switches")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement under load")
    parser.add_argument("--rounds", type=int, default=2, help="of switches there and back")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


def _shown(value: Any) -> str:
    return (
        f"{value:,.3f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def main() -> None:
    options = _parser().parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ratel-scale-") as folder:
        for name, figures in run(options, Path(folder)):
            found[name] = figures
            print(
                f"{name}: " + ", ".join(f"{key} {_shown(value)}" for key, value in figures.items()),
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
