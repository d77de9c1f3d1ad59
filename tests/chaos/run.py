"""One seed: a fresh cluster, clients at work, the nemesis, and the reckoning."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from common.storage.embedded_store import Fsync
from tests.chaos.books import read
from tests.chaos.client import ENDED, PROGRESS, STOPPED, Orders
from tests.chaos.cluster import Cluster, can_replicate
from tests.chaos.fault import Fault, Scene
from tests.chaos.faults import FAULTS
from tests.chaos.nemesis import Struck, plan, strike
from tests.chaos.operating import Operator
from tests.chaos.reckoning import Reckoning, reckon
from tests.faults.clock import LIBRARIES
from tests.faults.nodes import RATEL, ROOT, Node, wait_until

CLIENTS: Final = 2
ZMQ_CLIENT: Final = 1
"""This one speaks ZeroMQ as well."""
REPLAY_SHARE: Final = 0.1
PATIENCE_S: Final = 120.0
"""For the clients to finish what is in progress when all is well again."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    debits: int
    """Acknowledged ones, before the seed may end."""
    steps: int = 8
    """Of the nemesis, before the seed may end."""
    faults: tuple[str, ...] = ()
    """Names; none are all."""
    every_group: int = 4
    """Each so many-th seed has a group of stores with sentinels; 0 is none."""
    every_gateways: int = 3
    """In so many pairs of seeds there is one whose clients go through gateways; 0 is none."""


class Gap(msgspec.Struct):
    fault: str
    longest_s: float
    """Without any acknowledgement, from the fault until service was back."""


class SeedResult(msgspec.Struct, kw_only=True):
    seed: int
    kind: str
    """Of the store."""
    front: str = ""
    """Whom the clients ask."""
    acknowledged: int = 0
    refused: int = 0
    open_at_first: int = 0
    keyless_open: int = 0
    unresolved: int = 0
    replays: int = 0
    decisions: int = 0
    """Of the operator."""
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    seconds: float = 0.0
    gaps: list[Gap] = []
    problems: list[str] = []
    """Examples of what does not agree, and the nemesis' steps, when something is wrong."""
    verdicts: list[str] = []

    @property
    def clean(self) -> bool:
        return not self.verdicts


class Client(Node):
    """A client process as its parent sees it."""

    def __init__(self, folder: Path, orders: Orders) -> None:
        self.progress = Path(orders.progress)
        self.progress.write_bytes(bytes(PROGRESS.size))
        path = folder / f"client-{orders.number}.json"
        path.write_bytes(msgspec.json.encode(orders))
        super().__init__(
            f"client-{orders.number}",
            [sys.executable, "-m", "tests.chaos.client", str(path)],
            folder / f"client-{orders.number}.log",
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def tell(self, order: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()

    def wait(self) -> int:
        code = super().wait()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code

    @property
    def state(self) -> tuple[int, int, int]:
        """Acknowledged, in progress, phase."""
        assert self.alive or self._process is None or self._process.returncode == 0, (
            f"{self.name} died: {self.log.read_text()[-2000:]}"
        )
        return PROGRESS.unpack(self.progress.read_bytes())


def kind_of(seed: int, settings: Settings) -> str:
    """The store of a seed: forced to the disk by every write, by the system, or a group of two."""
    if settings.every_group and seed % settings.every_group == 0 and can_replicate():
        return "replicated"
    return "always" if seed % 2 else "no"


def has_gateways(seed: int, settings: Settings) -> bool:
    """By pairs of seeds, so that both kinds of stores have them, with one fault at a time and with two."""
    every = settings.every_gateways
    return bool(every) and seed // 2 % every == 1 % every


def left_out() -> list[str]:
    """Names of the faults that are not possible on this machine."""
    return [fault.name for fault in FAULTS if fault.clock and not LIBRARIES]


def faults_for(kind: str, names: Sequence[str], *, gateways: bool = False) -> list[Fault]:
    unknown = set(names) - {fault.name for fault in FAULTS}
    assert not unknown, f"there are no faults {sorted(unknown)}"
    possible = [fault for fault in FAULTS if (fault.group if kind == "replicated" else fault.single)]
    chosen = [fault for fault in possible if not names or fault.name in names]
    chosen = [fault for fault in chosen if gateways or not fault.gateways]
    chosen = [fault for fault in chosen if fault.name not in left_out()]
    assert chosen, f"none of the faults {names} is possible here"
    # What only a group or gateways can suffer comes more often, as there are fewer seeds with them.
    return chosen + [fault for fault in chosen if not fault.single or fault.gateways] * 2


def run_seed(seed: int, folder: Path, settings: Settings) -> SeedResult:
    """What goes wrong on the way is in the result as well as what does not add up."""
    began_s = time.monotonic()
    kind = kind_of(seed, settings)
    gateways = has_gateways(seed, settings)
    result = SeedResult(seed=seed, kind=kind, front="gateways" if gateways else "balancers")
    struck: list[Struck] = []
    try:
        fsync: Fsync = "always" if kind == "always" else "no"
        faults = faults_for(kind, settings.faults, gateways=gateways)
        clocks = any(fault.clock for fault in faults)
        with Cluster(
            folder, fsync=fsync, sentinels=kind == "replicated", clocks=clocks, gateways=gateways
        ) as cluster:
            cluster.start({})
            store_url = cluster.group.url if cluster.group else cluster.store_url
            operator = Operator(seed, store_url, [front.jsonrpc for front in cluster.fronts])
            try:
                _work(seed, cluster, settings, faults, struck, operator)
            except Exception as error:  # what was done up to here is reckoned all the same
                _stuck(result, error)
            entries = read([cluster.folder / f"book-{number}" for number in range(CLIENTS)])
            with cluster.connect() as store:
                lossy = cluster.group is not None
                decisions = operator.decisions
                reckoned = reckon(entries, store, cluster.timeline, decisions, decisions_may_be_lost=lossy)
                _enter(result, reckoned)
                result.decisions = len(decisions)
            _audit(cluster, result)
        told_us = sorted(told.at_us for entry in entries.values() for told in entry.told[:1])
        result.gaps = [gap for step in struck for gap in _gaps(step, told_us)]
    except Exception as error:
        _stuck(result, error)
    if not result.clean:
        result.problems += [f"step: {step.step}" for step in struck]
    result.seconds = time.monotonic() - began_s
    return result


def _stuck(result: SeedResult, error: Exception) -> None:
    result.verdicts.append("stuck")
    result.problems.append(f"{type(error).__name__}: {error}")


def _work(
    seed: int,
    cluster: Cluster,
    settings: Settings,
    faults: Sequence[Fault],
    struck: list[Struck],
    operator: Operator,
) -> None:
    """The clients' work, the operator's and the nemesis' faults, with the books as what is left of them."""
    orders = [
        Orders(
            seed=seed,
            number=number,
            book=str(cluster.folder / f"book-{number}"),
            progress=str(cluster.folder / f"progress-{number}"),
            jsonrpc=[front.jsonrpc for front in cluster.fronts],
            http=[front.http for front in cluster.fronts],
            routers=[balancer.router for balancer in cluster.balancers] if number == ZMQ_CLIENT else [],
            replay_share=REPLAY_SHARE,
        )
        for number in range(CLIENTS)
    ]
    clients = [Client(cluster.folder, order) for order in orders]
    try:
        for client in clients:
            client.start()
        operator.start()

        def acknowledged() -> int:
            return sum(client.state[0] for client in clients)

        wait_until(lambda: acknowledged() > 0, "the first acknowledgement")
        scene = Scene(cluster, list(clients))
        for step in plan(seed, faults, overlapping=seed % 3 == 0):
            if acknowledged() >= settings.debits and len(struck) >= settings.steps:
                break
            try:
                struck.append(strike(step, scene, acknowledged))
            except Exception as error:
                raise RuntimeError(f"at {step}: {error}") from error
        operator.stop()
        if operator.failure is not None:
            raise operator.failure
        for order, phase in (("stop", STOPPED), ("replay", ENDED)):
            for client in clients:
                client.tell(order)
            _wait_for(clients, phase)
        for client in clients:
            client.wait()
    finally:
        operator.stop()
        for client in clients:
            if client.alive:
                client.signal(signal.SIGTERM)
                client.wait()


def _wait_for(clients: list[Client], phase: int) -> None:
    """Until they have nothing more in progress, and are in this phase."""
    done = 0, phase
    wait_until(lambda: all(client.state[1:] == done for client in clients), f"{phase=}", PATIENCE_S)


def _enter(result: SeedResult, found: Reckoning) -> None:
    for name in ("acknowledged", "refused", "open_at_first", "keyless_open", "unresolved", "replays"):
        setattr(result, name, getattr(found, name))
    for name in ("lost", "doubled", "wrong"):
        setattr(result, name, len(getattr(found, name)))
    result.verdicts += found.verdicts()
    result.problems += found.examples()


def _audit(cluster: Cluster, result: SeedResult) -> None:
    url = cluster.group.primary().url if cluster.group else cluster.store_url
    audit = subprocess.run(
        [*RATEL, "audit", "--store", url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if audit.returncode:
        result.verdicts.append("audit")
        result.problems.append("audit: " + "; ".join((audit.stdout + audit.stderr).splitlines()[-3:]))


def _gaps(struck: Struck, told_us: list[int]) -> list[Gap]:
    """One for each of a step's faults: two at a time share the gap."""
    times = [struck.began_us, *(t for t in told_us if struck.began_us < t < struck.ended_us), struck.ended_us]
    longest_s = max(later - earlier for earlier, later in pairwise(times)) / 1e6
    return [Gap(fault.name, longest_s) for fault in struck.step.faults]
