"""Several hosts for real, and any one cable between them cut under load: nothing is lost, nothing doubled.

`make test-cluster` runs it: it takes root, for the namespaces, and some minutes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.client import JSONClient
from common.security.curve import Role
from tests.cluster.hosts import Network
from tests.cluster.site import CABLES, HOSTS, RATERS, HostedSite
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.faults.nodes import TENANT, wait_until

ACCOUNTS = {f"account-{number}": 10_000_000 for number in range(8)}
CUT_S = 3.0
"""Longer than silence is tolerated (1.5 s) and connections are kept (2 s), shorter than a deadline (5 s)."""
PROMISE_S = 4.0
UNKNOWN = ("deadline_exceeded", "connection_lost")
"""What clients may be told while a cable is cut; the same key tells afterwards what became of it."""


def why_not() -> str:
    if os.environ.get("RATEL_TEST_CLUSTER") != "1":
        return "takes minutes: make test-cluster"
    if os.geteuid():
        return "network namespaces take root"
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    return "" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"


pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(900)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[HostedSite]:
    """On hosts with cables of 2 ± 1 ms each way, and 1 % of all packets lost. This thread is the client's."""
    network = Network(HOSTS, CABLES, delay_ms=2, jitter_ms=1, loss=0.01)
    with network, network.inside("client"), HostedSite(tmp_path / "site", network) as site:
        site.store_server.start()
        site.start(ACCOUNTS)
        site.gateway.start()
        wait_until(lambda: site.gateway.readiness() == 2, "the gateway has both balancers")
        yield site
    print(f"packets: {network.counts}")


def connect(site: HostedSite, number: int) -> JSONClient:
    """A third of the clients each begin with one balancer, the other, and the gateway."""
    one, other = (balancer.jsonrpc for balancer in site.balancers)
    first = (one, other, site.gateway.jsonrpc)[number % 3]
    return JSONClient([first, other if first == one else one])


class Cuts:
    """One after the other, each under a load of its own: clients stay with the server that they fled to."""

    def __init__(self, site: HostedSite) -> None:
        self.site = site
        self.ledger = Ledger(TENANT, ACCOUNTS)
        self.errors: Counter[str] = Counter()
        self.load: Load | None = None

    def cut(self, what: str, *cables: str, lasted_s: float = 0.0) -> None:
        def client(number: int) -> JSONClient:
            return connect(self.site, number)

        with Load(client, ACCOUNTS, threads=9, prefix=f"{what}/", ledger=self.ledger) as self.load:
            self.load.wait(50)
            self.load.start_measuring()
            self.site.network.cut(*cables)
            time.sleep(CUT_S)
            self.site.network.mend(*cables)
            self.load.recovered(f"{what} cut", PROMISE_S, lasted_s=lasted_s)
            self.site.wait_ready(len(RATERS))
            wait_until(lambda: self.site.gateway.readiness() == 2, "the gateway has both balancers again")
        self.errors += self.load.errors


def test_a_stranger_is_refused_on_every_host(site: HostedSite) -> None:
    site.ring.new("stranger", Role.RATER)
    stranger = site.rater("stranger", *site.ring.peer_options("stranger"))
    stranger.command = site.network.on("r3", stranger.command)
    stranger.start()
    try:
        refusal = f"refused peer={site.network.address['r3']}"
        for balancer in site.balancers:
            wait_until(lambda balancer=balancer: balancer.says(refusal), "the stranger is refused")
        wait_until(lambda: stranger.says("our key stranger"), "the stranger is told")
        assert all(balancer.readiness() == len(RATERS) for balancer in site.balancers)
    finally:
        stranger.kill()


def test_any_one_cable_may_be_cut(site: HostedSite) -> None:
    cuts = Cuts(site)
    began_s = time.monotonic()
    for cable in site.network.cables:
        cuts.cut(cable, cable)
    to_store = [cable for cable in site.network.cables if cable.endswith("-store")]
    cuts.cut("the store's host", *to_store, lasted_s=CUT_S)
    rate = len(cuts.ledger.told) / (time.monotonic() - began_s)
    assert cuts.load is not None
    with site.network.inside("store"):
        cuts.load.check(site, *UNKNOWN)
    print(site.run("audit", "--store", site.store_url))
    print(f"{len(cuts.ledger.told)} debits, {rate:.0f} a second; errors overcome: {dict(cuts.errors)}")
    assert cuts.errors.keys() <= set(UNKNOWN), cuts.errors
