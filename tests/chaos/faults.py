"""The faults of raters, balancers, gateways, clients and networks, and the list of all."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

from common.client import JSONClient
from common.errors import RatelError
from tests.chaos.clock_faults import CLOCK_FAULTS
from tests.chaos.fault import Fault, Scene, Undo, nothing, stopped
from tests.chaos.store_faults import STORE_FAULTS
from tests.chaos.workload import DIALLED, TENANT
from tests.faults.nodes import Node
from tests.faults.proxy import Proxy

SWARM: Final = 500
UNREAD: Final = 5_000
"""More than a connection may have unanswered."""
POINTS: Final = ("before_write", "after_write", "after_reply")
"""Those of `tests.faults.faulty_rater`, which only a rater's process imports."""
TAKEN_S: Final = 3.0
"""How long to wait for a rater to come by an armed point; another fault may keep all work away."""


def _take(scene: Scene, point: str, action: str) -> Node | None:
    """Arm a point and wait for the rater that takes it."""
    points = scene.cluster.points
    for path in points.folder.glob(f"{point}.taken-*"):
        path.unlink()
    points.arm(point, action)
    give_up_s = time.monotonic() + TAKEN_S
    while time.monotonic() < give_up_s and (points.folder / point).exists():
        time.sleep(0.005)
    with suppress(FileNotFoundError):
        (points.folder / point).unlink()
    taken = points.taken(point)
    return next((rater for rater in scene.cluster.raters if rater.pid in taken), None)


def _killed_at(point: str) -> Callable[[Scene, Random], Undo]:
    def begin(scene: Scene, random: Random) -> Undo:
        rater = _take(scene, point, "kill")
        if rater is None:
            return nothing
        rater.wait()
        return rater.start

    return begin


def _stopped_at(point: str) -> Callable[[Scene, Random], Undo]:
    def begin(scene: Scene, random: Random) -> Undo:
        rater = _take(scene, point, "stop")
        return rater.resume if rater is not None else nothing

    return begin


def _all_raters_stopped(scene: Scene, random: Random) -> Undo:
    """All of them with work in hand, for longer than its deadline."""
    raters = [_take(scene, "before_write", "stop") for _ in scene.cluster.raters]

    def undo() -> None:
        for rater in raters:
            if rater is not None:
                rater.resume()

    return undo


def _all_raters_killed(scene: Scene, random: Random) -> Undo:
    for rater in scene.cluster.raters:
        rater.kill()

    def undo() -> None:
        for rater in scene.cluster.raters:
            rater.start()

    return undo


def _rater(scene: Scene, random: Random) -> Node:
    return random.choice(scene.cluster.raters)


def _balancer(scene: Scene, random: Random) -> Node:
    return random.choice(scene.cluster.balancers)


def _gateway(scene: Scene, random: Random) -> Node:
    return random.choice(scene.cluster.gateways)


def _killed(choose: Callable[[Scene, Random], Node]) -> Callable[[Scene, Random], Undo]:
    def begin(scene: Scene, random: Random) -> Undo:
        node = choose(scene, random)
        node.kill()
        return node.start

    return begin


def _drained(choose: Callable[[Scene, Random], Node]) -> Callable[[Scene, Random], Undo]:
    def begin(scene: Scene, random: Random) -> Undo:
        node = choose(scene, random)
        node.signal(signal.SIGTERM)

        def undo() -> None:
            code = node.wait()
            assert code == 0, f"{node.name} ended with {code} when it was told to"
            node.start()

        return undo

    return begin


def _rater_cut(scene: Scene, random: Random) -> Undo:
    return _cut(scene.cluster.routers, random)


def _gateway_cut(scene: Scene, random: Random) -> Undo:
    return _cut(scene.cluster.gateway_routers, random)


def _cut(ways: list[Proxy], random: Random) -> Undo:
    """Some or all of them, in one direction or both."""
    directions = random.choice([(True, False), (False, True), (True, True)])
    proxies = random.choice([ways, ways[:1], ways[1:]])
    for proxy in proxies:
        proxy.cut(towards_target=directions[0], towards_client=directions[1])

    def undo() -> None:
        for proxy in proxies:
            proxy.heal()

    return undo


def _rater_joins(scene: Scene, random: Random) -> Undo:
    rater = scene.cluster.extra_rater()
    rater.start()

    def undo() -> None:
        rater.terminate()

    return undo


def _clients_dropped(scene: Scene, random: Random) -> Undo:
    for _ in range(5):
        for client in scene.clients:
            client.signal(signal.SIGUSR1)
        time.sleep(random.uniform(0.02, 0.2))
    return nothing


def _clients_swarm(scene: Scene, random: Random) -> Undo:
    """Many connections at once, each with half a message."""
    front = random.choice(scene.cluster.fronts)
    swarm = []
    with suppress(OSError):  # of one that is away, or full
        for _ in range(SWARM):
            swarm.append(socket.create_connection(front.jsonrpc, timeout=1))
            swarm[-1].sendall(b'{"jsonrpc":"2.0","id":1,"met')

    def undo() -> None:
        for connection in swarm:
            connection.close()

    return undo


def _client_never_reads(scene: Scene, random: Random) -> Undo:
    """One that asks as much as it can, and never reads an answer."""
    front = random.choice(scene.cluster.fronts)
    params = f'{{"CstmId":"{TENANT}","Subject":"hot-0","DestinationPrefix":"{DIALLED}","Amount":1}}'
    message = f'{{"jsonrpc":"2.0","id":1,"method":"Responder.GetMaxSessionTime","params":{params}}}'.encode()
    client = socket.socket()
    with suppress(OSError):
        client.settimeout(1)
        client.connect(front.jsonrpc)
        for _ in range(UNREAD):
            client.sendall(message)
    return client.close


def _poison(scene: Scene, random: Random) -> Undo:
    """A request on which raters die: it is given up after two."""
    cluster = scene.cluster
    with (
        JSONClient(random.choice(cluster.fronts).jsonrpc, timeout_s=6.0) as client,
        suppress(RatelError),
    ):
        client.call("DebitBalance", {"CstmId": TENANT, "Subject": "poison", "Amount": 1})

    def undo() -> None:
        for rater in cluster.raters:
            if not rater.alive:
                rater.start()

    return undo


def _tariff_reloaded(scene: Scene, random: Random) -> Undo:
    for _ in range(3):
        scene.cluster.reload()
    return nothing


FAULTS: Final = (
    *(Fault(f"rater killed {point}", "rater", _killed_at(point), (0.1, 1.0)) for point in POINTS),
    *(Fault(f"rater stopped {point}", "rater", _stopped_at(point), (0.2, 6.5)) for point in POINTS),
    Fault("rater killed", "rater", _killed(_rater), (0.1, 1.0)),
    Fault("rater stopped", "rater", stopped(_rater), (0.2, 4.0)),
    Fault("rater drained", "rater", _drained(_rater), (0.0, 0.5)),
    Fault("rater cut off", "network", _rater_cut, (0.5, 4.0)),
    Fault("rater joins and leaves", "network", _rater_joins, (1.5, 3.0)),
    Fault("all raters killed", "rater", _all_raters_killed, (0.0, 0.5)),
    Fault("all raters stopped", "rater", _all_raters_stopped, (7.5, 8.5)),
    Fault("balancer killed", "balancer", _killed(_balancer), (0.1, 1.0)),
    Fault("balancer stopped", "balancer", stopped(_balancer), (0.3, 4.0)),
    Fault("balancer drained", "balancer", _drained(_balancer), (0.0, 0.5)),
    Fault("gateway killed", "gateway", _killed(_gateway), (0.1, 1.0), gateways=True),
    Fault("gateway stopped", "gateway", stopped(_gateway), (0.3, 4.0), gateways=True),
    Fault("gateway drained", "gateway", _drained(_gateway), (0.0, 0.5), gateways=True),
    Fault("gateway cut off", "network", _gateway_cut, (0.5, 4.0), gateways=True),
    Fault("clients dropped", "client", _clients_dropped, (0.0, 0.2)),
    Fault("clients swarm", "client", _clients_swarm, (0.2, 1.0)),
    Fault("client never reads", "client", _client_never_reads, (0.2, 1.0)),
    Fault("request kills raters", "rater", _poison, (0.0, 0.5)),
    Fault("tariff reloaded", "store", _tariff_reloaded, (0.0, 0.2)),
    *STORE_FAULTS,
    *CLOCK_FAULTS,
)
