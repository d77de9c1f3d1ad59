"""Processes are replaced while clients of all kinds ask on and on: none fails, nothing is done twice."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.addresses import Address, parse_address
from common.storage.store import StoreConnection
from tests.e2e.cluster import Cluster
from tests.e2e.rolling import ServiceManager, SocketActivated, Traffic
from tests.faults.nodes import RATES, TENANT, Balancer, Node, Site
from tests.faults.proxy import Proxy

ACCOUNTS = {f"account-{number}": 10_000_000 for number in range(40)}
"""So many that no journal is trimmed: it keeps some 10,000 lines."""
BY_CONNECTION = ("JSON-RPC, a connection each", "HTTP, a connection each")
"""Clients that can't repeat anything safely without a key: they must not even be cut."""


def tariff(folder: Path) -> list[str]:
    """Arguments that load accounts and rates for the traffic."""
    budgets = [{"Id": name, "Credit": cents} for name, cents in ACCOUNTS.items()]
    files = {"activation_periods.json": RATES, "user_budgets.json": json.dumps(budgets)}
    for name, text in files.items():
        (folder / name).write_text(text)
    return ["--tenant", TENANT, *(word for name in files for word in ("--load", str(folder / name)))]


def check(traffic: Traffic, store_url: str) -> None:
    assert not +traffic.refused, "no connection is refused"
    assert not sum(traffic.cut[kind] for kind in (*BY_CONNECTION, "library", "ZeroMQ")), traffic.cut
    with StoreConnection(store_url, timeout_ms=20_000) as store:
        traffic.check(store)


# --- `ratel up` --------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 2], ids=["no gateways", "two gateways"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "data", "--gateways", str(request.param), *tariff(tmp_path))
    try:
        cluster.wait_ready()
        yield cluster
        cluster.stop()
    finally:
        cluster.kill_everything()


def traffic_of(cluster: Cluster) -> Traffic:
    return Traffic(
        ACCOUNTS,
        jsonrpc=[Address(*cluster.jsonrpc)],
        http=[parse_address(cluster.http.removeprefix("http://"))],
        router=[parse_address(cluster.router)],
    )


def test_up_replaces_everything_under_load_and_no_request_fails(cluster: Cluster) -> None:
    before = set(cluster.processes("common.cli"))
    with traffic_of(cluster) as traffic:
        cluster.up.process.send_signal(signal.SIGHUP)
        cluster.up.wait_for_line("replaced after")
        traffic.wait()
    after = set(cluster.processes("common.cli"))
    assert len(after) == len(before)
    assert not after & before
    check(traffic, cluster.store_url)


# --- services ----------------------------------------------------------------------------------------


class Host:
    """A balancer that is handed its sockets, and raters, as units of a service manager."""

    def __init__(self, folder: Path, raters: int) -> None:
        self.site = Site(folder / "site", raters=0)
        self.balancer = SocketActivated("balancer-0", folder / "site")
        self.site.balancers = [self.balancer]
        self.site.raters = [self.site.rater(f"rater-{number}") for number in range(raters)]
        sockets = {f"ratel-balancer-{name}.socket": self.balancer for name in ("jsonrpc", "http", "router")}
        self.units: dict[str, Node] = {
            **{f"ratel-rater@{n}.service": node for n, node in enumerate(self.site.raters, 1)},
            "ratel-balancer.service": self.balancer,
            **sockets,
        }
        self.manager = ServiceManager(folder, self.units, lambda _: self.balancer.readiness() == raters)

    @property
    def url(self) -> str:
        return f"http://{self.balancer.http}"

    def traffic(self) -> Traffic:
        there = self.balancer
        return Traffic(ACCOUNTS, jsonrpc=[there.jsonrpc], http=[there.http], router=[there.router])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path, raters=3)
    with host.site as site:
        site.start(ACCOUNTS)
        yield host
    host.manager.close()
    host.balancer.close()


def test_a_host_s_raters_and_balancer_are_restarted_under_load(host: Host) -> None:
    before = [node.pid for node in (host.balancer, *host.site.raters)]
    with host.traffic() as traffic:
        rolled = host.manager.roll("all", "--ask", host.url)
        traffic.wait()
    print(rolled.stdout)
    assert rolled.returncode == 0, rolled.stderr
    assert host.manager.restarted == [
        *(f"ratel-rater@{n}.service" for n in (1, 2, 3)),
        "ratel-balancer.service",
    ]
    after = [node.pid for node in (host.balancer, *host.site.raters)]
    assert not set(after) & set(before)
    check(traffic, host.site.store_url)


def test_a_roll_stops_at_what_does_not_come_back(host: Host) -> None:
    third = host.site.raters[2].pid
    host.manager.broken = "ratel-rater@2.service"
    with host.traffic() as traffic:
        rolled = host.manager.roll("raters", "--ask", host.url)
        traffic.wait()
    assert rolled.returncode == 1
    assert (
        rolled.stderr == "Error: ratel-rater@2.service did not start again; "
        "journalctl -u ratel-rater@2.service says why\n"
    )
    assert host.manager.restarted == ["ratel-rater@1.service", "ratel-rater@2.service"]
    assert host.site.raters[2].pid == third
    check(traffic, host.site.store_url)


def test_raters_come_and_go_under_load(host: Host) -> None:
    """A host of raters is added, one is taken away in order, one dies."""
    site = host.site
    with host.traffic() as traffic:
        more = [site.rater(f"more-{number}") for number in range(2)]
        site.raters += more
        for rater in more:
            rater.start()
        site.wait_ready(5)
        traffic.wait()
        for rater in site.raters[:2]:
            assert rater.terminate() == 0
        traffic.wait()
        site.raters[2].kill()
        traffic.wait()
        assert host.balancer.readiness() == 2
    check(traffic, site.store_url)


# --- two balancers behind one address ----------------------------------------------------------------

LAME_DUCK_S = 0.5


class LoadBalancer:
    """A plain one, of layer 4: asks /readyz, and sends connections to the first balancer that is ready."""

    def __init__(self, balancers: list[Balancer]) -> None:
        self._balancers = balancers
        self._chosen = balancers[0]
        self.jsonrpc = Proxy(lambda: self._chosen.jsonrpc)
        self.http = Proxy(lambda: self._chosen.http)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self._chosen = next((b for b in self._balancers if b.readiness()), self._chosen)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.jsonrpc.close()
        self.http.close()


def replace_in_turn(site: Site, traffic: Traffic) -> None:
    for balancer in site.balancers:
        assert balancer.terminate() == 0
        traffic.wait()
        balancer.start()
        site.wait_ready()
        traffic.wait()


def test_balancers_behind_a_load_balancer_are_replaced_under_load(tmp_path: Path) -> None:
    options = ["--lame-duck", str(LAME_DUCK_S)]
    with Site(tmp_path / "site", raters=2, balancers=2, balancer_options=options) as site:
        site.start(ACCOUNTS)
        routers = [balancer.router for balancer in site.balancers]
        with closing(LoadBalancer(site.balancers)) as front:
            addresses = {"jsonrpc": [front.jsonrpc.address], "http": [front.http.address]}
            with Traffic(ACCOUNTS, **addresses, router=routers) as traffic:
                replace_in_turn(site, traffic)
        check(traffic, site.store_url)
