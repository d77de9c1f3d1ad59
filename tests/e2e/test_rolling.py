"""Processes are replaced while clients of every kind ask without a pause: no request fails, none is done twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.addresses import Address, parse_address
from common.store import StoreConnection
from tests.e2e.cluster import Cluster
from tests.e2e.rolling import Traffic
from tests.faults.nodes import RATES, TENANT, Site, wait_until

ACCOUNTS = {"one": 10_000_000, "two": 10_000_000}


def tariff(folder: Path) -> list[str]:
    """Arguments that load accounts and rates for the traffic."""
    budgets = [{"Id": name, "Credit": cents} for name, cents in ACCOUNTS.items()]
    files = {"activation_periods.json": RATES, "user_budgets.json": json.dumps(budgets)}
    for name, text in files.items():
        (folder / name).write_text(text)
    return ["--tenant", TENANT, *(word for name in files for word in ("--load", str(folder / name)))]


def traffic_of(cluster: Cluster) -> Traffic:
    return Traffic(
        ACCOUNTS,
        jsonrpc=[Address(*cluster.jsonrpc)],
        http=[parse_address(cluster.http.removeprefix("http://"))],
        router=[parse_address(cluster.router)],
    )


@pytest.fixture(params=[0, 2], ids=["no gateways", "two gateways"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "data", "--gateways", str(request.param), *tariff(tmp_path))
    try:
        cluster.wait_ready()
        yield cluster
        cluster.stop()
    finally:
        cluster.kill_everything()


def test_up_replaces_everything_under_load_and_no_request_fails(cluster: Cluster) -> None:
    before = set(cluster.processes("common.cli"))
    with traffic_of(cluster) as traffic:
        cluster.up.process.send_signal(signal.SIGHUP)
        cluster.up.wait_for_line("replaced after")
        traffic.wait()
    after = set(cluster.processes("common.cli"))
    assert len(after) == len(before)
    assert not after & before
    assert not +traffic.refused
    assert not traffic.cut["JSON-RPC, a connection each"] + traffic.cut["HTTP, a connection each"]
    with StoreConnection(cluster.store_url, timeout_ms=20_000) as store:
        traffic.check(store)
