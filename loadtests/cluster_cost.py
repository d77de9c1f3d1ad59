"""What sharding costs: CPU time of a debit and of a read, of the stores together and of the rater.

    python -m loadtests.cluster_cost

It starts a single store, a cluster of one node and one of three in a temporary folder, all without replicas,
and gives a rater's `Service` the same batches on each; nothing else is touched. The least of several rounds
is shown, and the rounds take turns, so that other work on the machine meets all alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from common.clock import monotonic_us
from common.methods import BY_NAME
from common.storage.stores import Store, connect
from loadtests.bench.figures import cpu_s
from rater.accounts.opening import open_command
from rater.model import Account, Tariff
from rater.rating.snapshot import Snapshot, compile_tariff
from rater.store.keys import account_keys
from rater.store.scripts import execute
from rater.work.cluster_service import service_for
from rater.work.jobs import Job, Outcome
from tests.store_cluster import StoreCluster
from tests.store_group import StoreGroup

TENANT: Final = "vdf"
ACCOUNTS: Final = 20_000
CREDIT_MICROS: Final = 10**15
BATCHES: Final = (1, 16, 64, 512)
"""Requests in one, up to the most that a rater takes."""
REQUESTS: Final = 4_096
"""In a round, whatever the batches are."""
STRIDE: Final = 7_919
"""A prime: the accounts come in an order that no cache expects."""
DEADLINE_US: Final = 60_000_000
METHODS: Final = ("DebitBalance", "GetMaxSessionTime")

_serial = count()


class Nobody:
    life = "0123456789abcdef"

    def reply(self, seq: int, outcome: Outcome) -> None: ...


def jobs(method: str, size: int) -> list[Job]:
    made = []
    for _ in range(size):
        number = next(_serial)
        descriptor = {
            "CstmId": TENANT,
            "Subject": subject(number * STRIDE % ACCOUNTS),
            "DestinationPrefix": "0256",
            "Amount": 1,
        }
        params = json.dumps(descriptor).encode()
        made.append(Job(Nobody(), number, BY_NAME[method], params, "", monotonic_us() + DEADLINE_US))
    return made


def subject(number: int) -> str:
    return f"40256{number:08}"


def fill(store: Store) -> None:
    for begin in range(0, ACCOUNTS, 1_000):
        names = (subject(number) for number in range(begin, begin + 1_000))
        commands = [open_command(account_keys(TENANT, n), Account(n, CREDIT_MICROS)) for n in names]
        assert set(execute(store, commands)) == {b"Opened"}


class Place:
    """A store, or several, and a rater's service on it."""

    def __init__(self, url: str, pids: list[int]) -> None:
        self._pids = pids
        store = connect(url, timeout_ms=60_000)
        fill(store)
        tariff = compile_tariff(Tariff(TENANT), 31 * 86_400_000_000)
        snapshot = Snapshot(1, {TENANT: 1}, {TENANT: tariff})
        self._service = service_for(store, snapshot, key_ttl_ms=60_000, journal_lines=1_000)

    def cost(self, method: str, size: int) -> tuple[float, float, float]:
        """CPU µs for each request: of the stores together, of the busiest, and of this process."""
        batches = [jobs(method, size) for _ in range(max(1, REQUESTS // size))]
        before = [cpu_s(pid) for pid in self._pids]
        client_s = time.process_time()
        for batch in batches:
            outcomes = self._service.process(batch)
            assert method != "DebitBalance" or all(getattr(outcome, "code", 1) == 0 for outcome in outcomes)
        client_s = time.process_time() - client_s
        spent = [cpu_s(pid) - was for pid, was in zip(self._pids, before, strict=True)]
        each = 1e6 / sum(map(len, batches))
        return sum(spent) * each, max(spent) * each, client_s * each


def measure(places: dict[str, Place], rounds: int) -> dict[tuple[str, int, str], tuple[float, ...]]:
    least: dict[tuple[str, int, str], tuple[float, ...]] = {}
    for _ in range(rounds):
        for method in METHODS:
            for size in BATCHES:
                for name, place in places.items():
                    costs = place.cost(method, size)
                    known = least.get((method, size, name), costs)
                    least[method, size, name] = tuple(map(min, known, costs))
    return least


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    make: dict[str, Callable[[Path], StoreGroup | StoreCluster]] = {
        "one store": lambda folder: StoreGroup(folder, replicas=0, sentinels=0, appendfsync="no"),
        "cluster of 1": lambda folder: StoreCluster(folder, primaries=1, replicas=0),
        "cluster of 3": lambda folder: StoreCluster(folder, primaries=3, replicas=0),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratel-")))
        places = {}
        for name, start in make.items():
            stores = stack.enter_context(start(folder / name.replace(" ", "-")))
            places[name] = Place(stores.url, [stores.member(each).pid for each in stores.names])
        least = measure(places, rounds)
    print("| CPU µs for each | batch | on | stores together | the busiest | rater |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for (method, size, name), (stores_us, most_us, rater_us) in least.items():
        print(f"| {method} | {size} | {name} | {stores_us:.1f} | {most_us:.1f} | {rater_us:.1f} |")


if __name__ == "__main__":
    main()
