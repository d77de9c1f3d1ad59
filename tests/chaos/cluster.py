"""The cluster of one seed: store, two balancers, three raters, with bad networks in between.

All raters reach a single store through one proxy; the first rater reaches the balancers through one each.
With sentinels there is a group of stores in place of the single one, and no proxy before it. With `clocks`
the single store's wall clock and that of the last rater can be moved. With `gateways` clients ask two
gateways, each of which asks both balancers, the first through one proxy each.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from common.errors import StoreUnavailable
from common.storage.embedded_store import Fsync, socket_path
from common.storage.store import StoreConnection
from tests.chaos.books import now_us
from tests.chaos.timeline import Timeline
from tests.chaos.workload import TARIFF, TENANT, budgets
from tests.faults.clock import Clock
from tests.faults.nodes import RATEL, ROOT, Front, Gateway, Node, Site, wait_until
from tests.faults.proxy import Proxy
from tests.store_group import StoreGroup

BALANCERS: Final = 2
GATEWAYS: Final = 2
RATERS: Final = 3
REPLICAS: Final = 2
"""One of them has to confirm each change, so that after a failover there still is one that can."""
JOURNAL: Final = ("--journal-lines", "10000000")
"""Nothing is trimmed: the journal is the evidence."""
STORE_CLOCK_S: Final = 1.0
"""Nearer to a place than to any other that it is moved to, on a machine that is busy."""
REPLICATED: Final = ("--durability", "replicated", "--replicas", "1")


@functools.cache
def can_replicate() -> bool:
    """Whether raters know how to wait for replicas."""
    text = subprocess.run([*RATEL, "rater", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return "--durability" in text.stdout


class Cluster(Site):
    """A `Site` that is up. A context manager; everything ends with it."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: Fsync = "no",
        sentinels: bool = False,
        clocks: bool = False,
        gateways: bool = False,
    ) -> None:
        folder.mkdir(parents=True)
        self.group = StoreGroup(folder / "group", REPLICAS).__enter__() if sentinels else None
        self.timeline = Timeline()
        self.rater_clock = Clock(folder / "rater-clock") if clocks else None
        self._store_clock = Clock(folder / "store-clock") if clocks else None
        options = (*JOURNAL, *(REPLICATED if sentinels else ()))
        super().__init__(
            folder,
            raters=0,
            balancers=BALANCERS,
            fsync=fsync,
            store_url=self.group.url if self.group else None,
            store_environment=self._store_clock.environment if self._store_clock else {},
        )
        self.store_proxy: Proxy | None = None
        self.routers = [Proxy(balancer.router) for balancer in self.balancers]
        self.gateways: list[Gateway] = []
        self.gateway_routers: list[Proxy] = []
        if gateways:
            straight = [balancer.router for balancer in self.balancers]
            self.gateway_routers = [Proxy(router) for router in straight]
            ways = [[proxy.address for proxy in self.gateway_routers], *[straight] * (GATEWAYS - 1)]
            self.gateways = [Gateway(f"gateway-{n}", folder, way) for n, way in enumerate(ways)]
        url = self.store_url
        if self.store is not None:
            data = folder / "data"
            listen = folder / "proxy.sock"
            self.store_proxy = Proxy(lambda: socket_path(data) or data / "none", listen)
            url = f"unix://{listen}"
        self._options, self._url = options, url
        for number in range(RATERS):
            routers = [proxy.address for proxy in self.routers] if number == 0 else ()
            last = number == RATERS - 1
            environment = self.rater_clock.environment if self.rater_clock and last else {}
            name = f"rater-{number}"
            self.raters.append(self.rater(name, *options, routers=routers, store_url=url, **environment))

    @property
    def fronts(self) -> Sequence[Front]:
        """Whom clients ask."""
        return self.gateways or self.balancers

    @property
    def nodes(self) -> list[Node]:
        return [*super().nodes, *self.gateways]

    def start(self, accounts: dict[str, int]) -> None:
        super().start(accounts)
        for gateway in self.gateways:
            gateway.start()
        wait_until(self._gateways_ask, "the gateways ask both balancers")

    def _gateways_ask(self) -> bool:
        return all(gateway.readiness() >= BALANCERS for gateway in self.gateways)

    def extra_rater(self) -> Node:
        """One more, not started. It passes by all points."""
        words = [*RATEL, "rater", "--store", self._url, *self._options]
        for balancer in self.balancers:
            words += ["--balancer", str(balancer.router)]
        return Node("extra", words, self.folder / "extra.log")

    def load(self, accounts: dict[str, int]) -> None:
        (self.folder / "user_budgets.json").write_text(budgets())
        for name, text in TARIFF.items():
            (self.folder / name).write_text(text)
        self._load("user_budgets.json", *TARIFF)

    def reload(self) -> None:
        """Publish the tariff as a new version; accounts that exist are kept as they are."""
        self._load("user_budgets.json", *TARIFF)

    def _load(self, *names: str) -> None:
        paths = [str(self.folder / name) for name in names]
        self.run("load", "--store", self.store_url, "--tenant", TENANT, "--wait", "0", *paths)

    def connect(self) -> StoreConnection:
        """To the store itself, or to the primary of the moment."""
        url = self.group.primary().url if self.group else self.store_url
        return StoreConnection(url, timeout_ms=30_000)

    def move_store_clock(self, ahead_s: int) -> None:
        """Set it so far ahead, and write down when that was."""
        assert self._store_clock is not None
        before_us = now_us()
        with self.connect() as store:
            self._store_clock.move_to(ahead_s)
            wait_until(lambda: abs(_ahead_s(store) - ahead_s) < STORE_CLOCK_S, "the store's clock has moved")
        self.timeline.moved(before_us, now_us(), ahead_s * 1_000_000)

    def readiness(self) -> int:
        return min(balancer.readiness() for balancer in self.balancers)

    def heal(self) -> float:
        """Wait until everything is there and the store has its replicas; the seconds it took."""
        began_s = time.monotonic()
        if self.group:
            wait_until(self._replicas_follow, "all replicas following the primary")
        wait_until(lambda: self.readiness() >= RATERS, f"{RATERS} raters at every balancer")
        wait_until(self._gateways_ask, f"{BALANCERS} balancers at every gateway")
        return time.monotonic() - began_s

    def _replicas_follow(self) -> bool:
        """Asked anew each time: sentinels may change their mind."""
        assert self.group is not None
        primary = self.group.primary()
        for replica in self.group.replicas():
            try:
                with StoreConnection(replica.url, timeout_ms=1_000) as store:
                    [role] = store.execute([("ROLE",)])
            except StoreUnavailable:
                return False
            if role[0] != b"slave" or role[2:4] != [primary.port, b"connected"]:
                return False
        return self.group.role(primary.name) == "master"

    def close(self) -> None:
        super().close()
        for proxy in (
            *self.routers,
            *self.gateway_routers,
            *([self.store_proxy] if self.store_proxy else []),
        ):
            proxy.close()
        if self.group:
            self.group.stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ahead_s(store: StoreConnection) -> float:
    [[seconds, micros]] = store.execute([("TIME",)])
    return int(seconds) + int(micros) / 1e6 - time.time()


def nice() -> None:
    """Everything that is started from here on leaves the machine to others first."""
    os.nice(5)
