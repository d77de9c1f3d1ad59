"""New tariffs ten times a second under load: every answer is by one version, and nothing piles up."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from common.client import JSONClient
from rater.loader.load import LoadOptions, load_paths
from rater.tariffs.store import KEEP_VERSIONS
from tests.faults.load import Load
from tests.faults.nodes import Node, Site, wait_until

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000}
TENANTS = ("north", "south", "west")
PREFIXES = 30
RELOADS = 60
EVERY_S = 0.1
PART = 10_010
"""What the sample call costs by version 1: 10 s at 1 and 10 s at 1,000. By version n it is n times as much;
a mix of two versions gives no multiple, and no part of one either, as n stays below 1,000."""
MAX_GROWTH_MB = 20
"""Of a rater's memory from the first third of the reloads on."""


def write_version(folder: Path, number: int) -> list[Path]:
    """A file for each tenant; prices are in proportion to the version's number."""
    intervals = [
        {"StartTime": "00:00:00", "EndTime": "12:00:00", "Price": number, "BillingUnit": 1},
        {"StartTime": "12:00:00", "EndTime": "24:00:00", "Price": 1_000 * number, "BillingUnit": 1},
    ]
    periods = [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": intervals}]
    paths = []
    for tenant in TENANTS:
        rates = [
            {
                "CstmId": tenant,
                "Subject": "*any",
                "DestinationPrefix": str(prefix),
                "ActivationPeriods": periods,
            }
            for prefix in range(PREFIXES, 2 * PREFIXES)
        ]
        path = folder / f"{tenant}.json"
        path.write_text(json.dumps(rates))
        paths.append(path)
    return paths


class Reader:
    """Asks for the price of the sample call again and again, in a thread of its own."""

    def __init__(self, client: JSONClient, latest: list[int]) -> None:
        self.versions: set[int] = set()
        self.wrong: list[str] = []
        self.answers = 0
        self._client = client
        self._latest = latest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self._client:
                while not self._stop.is_set():
                    tenant = TENANTS[self.answers % len(TENANTS)]
                    self.answers += 1
                    version, rest = divmod(price(self._client, tenant), PART)
                    self.versions.add(version)
                    if rest or not 1 <= version <= self._latest[0]:
                        self.wrong.append(f"{tenant}: {version} and {rest}, newest is {self._latest[0]}")
        except Exception as error:
            self.wrong.append(repr(error))


def price(client: JSONClient, tenant: str) -> int:
    descriptor = {
        "CstmId": tenant,
        "Subject": "someone",
        "DestinationPrefix": f"{PREFIXES + 7}5551234",
        "TimeStart": "2026-01-01T11:59:50Z",
        "TimeEnd": "2026-01-01T12:00:10Z",
    }
    cost = client.call("GetCost", descriptor)["Cost"]
    assert isinstance(cost, int)
    return cost


def memory_mb(node: Node) -> float:
    return int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * 4096 / 1e6


def test_ten_new_tariffs_a_second_under_load(tmp_path: Path) -> None:
    with Site(tmp_path / "site", raters=2) as site:
        site.start(ACCOUNTS)
        options = LoadOptions(site.store_url, wait_s=0)
        latest = [1]
        load_paths(write_version(tmp_path, 1), LoadOptions(site.store_url, wait_s=60))
        readers = [Reader(site.client(), latest) for _ in range(2)]
        with Load(lambda _: site.client(), ACCOUNTS, threads=2) as load:
            for reader in readers:
                reader.start()
            load.wait(50)
            load.start_measuring()
            memory: list[float] = []
            began_s = time.monotonic()
            for number in range(2, RELOADS + 2):
                wait_until(lambda at=began_s + number * EVERY_S: time.monotonic() >= at, "time passes")
                latest[0] = number
                assert load_paths(write_version(tmp_path, number), options).epoch
                if number == RELOADS // 3:
                    memory = [memory_mb(rater) for rater in site.raters]
            rate = RELOADS / (time.monotonic() - began_s)
            load.recovered(f"{rate:.1f} tariff reloads a second", 1.0)
            with site.client() as client:
                for tenant in TENANTS:
                    wait_until(
                        lambda of=tenant: all(price(client, of) == latest[0] * PART for _ in range(20)),
                        f"{tenant} is rated by its last version",
                    )
            for reader in readers:
                reader.stop()
                assert not reader.wrong, reader.wrong[:5]
                assert len(reader.versions) > 5  # raters did go from version to version
        growth = [memory_mb(rater) - before for rater, before in zip(site.raters, memory, strict=True)]
        print(f"{rate:.1f} reloads/s, {sum(reader.answers for reader in readers)} prices, growth {growth} MB")
        assert max(growth) < MAX_GROWTH_MB, growth
        load.check(site)
        assert site.store is not None
        with site.store.connect() as store:
            for tenant in TENANTS:
                [keys] = store.execute([("KEYS", f"ratel:tariff:{tenant}:*:0")])
                assert len(keys) == KEEP_VERSIONS, keys
