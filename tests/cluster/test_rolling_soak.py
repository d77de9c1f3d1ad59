"""Rolls again and again under load, and what they cost: for `make test-cluster`, which shows the figures."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.rolling import Traffic
from tests.e2e.test_rolling import ACCOUNTS, Host, check, replace_in_turn, tariff, traffic_of
from tests.faults.nodes import Site, wait_until

pytestmark = [
    pytest.mark.skipif("RATEL_TEST_CLUSTER" not in os.environ, reason="takes minutes: make test-cluster"),
    pytest.mark.timeout(900),
]

ROLLS = int(os.environ.get("RATEL_TEST_ROLLS", "10"))
CALM_S = 3.0
"""Before the rolls, for the figures beside them."""


def measured(traffic: Traffic, began_s: float, ended_s: float, rolls: int) -> None:
    calm, rolling = traffic.rate_per_s(began_s - CALM_S, began_s), traffic.rate_per_s(began_s, ended_s)
    print(
        f"{rolls} rolls in {ended_s - began_s:.1f} s: {rolling:.0f} requests/s, {calm:.0f} before; "
        f"longest time without any answer {traffic.longest_pause_ms(began_s, ended_s):.0f} ms"
    )


def calm() -> float:
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() >= began_s + CALM_S, "time passes")
    return time.monotonic()


@pytest.mark.parametrize("gateways", [0, 2])
def test_up_is_rolled_again_and_again(tmp_path: Path, gateways: int) -> None:
    cluster = Cluster(tmp_path / "data", "--gateways", str(gateways), *tariff(tmp_path))
    try:
        cluster.wait_ready()
        with traffic_of(cluster) as traffic:
            began_s = calm()
            for number in range(1, ROLLS + 1):
                cluster.up.process.send_signal(signal.SIGHUP)
                wait_until(
                    lambda number=number: (
                        sum(line.startswith("replaced after") for line in cluster.up.lines) == number
                    ),
                    "it is rolled",
                )
            ended_s = time.monotonic()
            traffic.wait()
        measured(traffic, began_s, ended_s, ROLLS)
        check(traffic, cluster.store_url)
        cluster.stop()
    finally:
        cluster.kill_everything()


@pytest.mark.parametrize("what", ["raters", "balancer"])
def test_a_host_is_rolled_again_and_again(tmp_path: Path, what: str) -> None:
    host = Host(tmp_path, raters=3)
    with host.site as site:
        site.start(ACCOUNTS)
        with host.traffic() as traffic:
            began_s = calm()
            for _ in range(ROLLS):
                rolled = host.manager.roll(what, "--ask", host.url)
                assert rolled.returncode == 0, rolled.stderr
            ended_s = time.monotonic()
            traffic.wait()
        measured(traffic, began_s, ended_s, ROLLS)
        check(traffic, site.store_url)
    host.manager.close()
    host.balancer.close()


def test_balancers_under_one_name_are_replaced_under_load(tmp_path: Path) -> None:
    """DNS gives both addresses: who is refused at one goes to the other, and nobody who was let in is cut."""
    with Site(tmp_path / "site", raters=2, balancers=2) as site:
        site.start(ACCOUNTS)
        jsonrpc, http, router = zip(*((b.jsonrpc, b.http, b.router) for b in site.balancers), strict=True)
        with Traffic(ACCOUNTS, jsonrpc=jsonrpc, http=http, router=router) as traffic:
            replace_in_turn(site, traffic)
        traffic.refused.clear()
        check(traffic, site.store_url)
