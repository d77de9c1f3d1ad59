"""What a benchmark's cluster consists of, and how it is started.

With one balancer it is `ratel up`, as users have it. Several balancers are started here, part by part:
they share their ports, or stand behind the gateways, and every rater joins all of them.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from http.client import OK, HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from loadtests.bench.plan import Parts
from loadtests.bench.tariff import World, tariff
from tests.e2e.cluster import Cluster
from tests.faults.nodes import RATEL, Node, StoreNode, free_address, wait_until

READY_IN_A_ROW: Final = 20
"""Connections that are told "ready" one after the other: so many reach every process that shares the port."""

Address = tuple[str, int]


class Started(NamedTuple):
    addresses: dict[str, Address]
    """By wire."""
    pids: dict[str, int]
    store_url: str


def start(stack: ExitStack, folder: Path, world: World, parts: Parts, durability: str) -> Started:
    """A cluster with the tariff loaded, ready. `stack` ends it."""
    files = []
    for name, objects in tariff(world).items():
        files.append(str(folder / name))
        (folder / name).write_text(json.dumps(objects))
    if parts.balancers == 1:
        return _up(stack, folder, files, parts, durability)
    return _single(stack, folder, files, parts, durability)


def named(kind: str, pids: list[int]) -> dict[str, int]:
    """`balancer` when there is one, else `balancer 1` and so on."""
    if len(pids) == 1:
        return {kind: pids[0]}
    return {f"{kind} {place}": pid for place, pid in enumerate(pids, 1)}


def _up(stack: ExitStack, folder: Path, files: list[str], parts: Parts, durability: str) -> Started:
    words = ["--raters", str(parts.raters), "--gateways", str(parts.gateways), "--durability", durability]
    for file in files:
        words += ["--load", file]
    cluster = Cluster(folder / "data", *words)
    stack.callback(cluster.kill_everything)
    cluster.wait_ready()
    http = urlsplit(cluster.http)
    assert http.hostname, cluster.http
    assert http.port, cluster.http
    [store] = cluster.processes("-server")
    pids = {"store": store}
    pids |= named("balancer", cluster.processes("common.cli balancer"))
    pids |= {
        f"gateway {place}": pid
        for place, pid in enumerate(sorted(cluster.processes("common.cli gateway")), 1)
    }
    pids |= {f"rater {place}": pid for place, pid in enumerate(sorted(cluster.rater_pids()), 1)}
    pids |= {"up": cluster.up.process.pid}
    return Started({"rpc": cluster.jsonrpc, "http": (http.hostname, http.port)}, pids, cluster.store_url)


def _single(stack: ExitStack, folder: Path, files: list[str], parts: Parts, durability: str) -> Started:
    jsonrpc, http = free_address(), free_address()
    routers = [free_address() for _ in range(parts.balancers)]
    store = StoreNode(folder, "always" if durability == "always" else "no")

    def begin(name: str, *words: str) -> Node:
        node = Node(name, [*RATEL, *words], folder / f"{name}.log")
        _begin(stack, node)
        return node

    _begin(stack, store)
    store.wait_ready()
    load = begin("load", "load", "--store", store.url, "--wait", "0", *files)
    assert load.wait() == 0, load.log.read_text()
    front = ["--jsonrpc", str(jsonrpc), "--http", str(http), "--reuse-port"]
    nowhere = ["--jsonrpc", "none", "--http", "none"]
    balancers = [
        begin(
            f"balancer {place}", "balancer", *(nowhere if parts.gateways else front), "--router", str(router)
        )
        for place, router in enumerate(routers, 1)
    ]
    joined = [word for router in routers for word in ("--balancer", str(router))]
    promise = ["--store", store.url, "--durability", durability]
    raters = [begin(f"rater {place}", "rater", *joined, *promise) for place in range(1, parts.raters + 1)]
    gateways = [
        begin(f"gateway {place}", "gateway", *joined, *front) for place in range(1, parts.gateways + 1)
    ]
    for nodes, count in ((balancers, parts.raters), (gateways, parts.balancers)):
        for node in nodes:
            wait_until(lambda node=node, count=count: _joined(node) >= count, f"all have joined {node.name}")  # type: ignore[misc]
    _wait_ready((http.host, http.port))
    pids = {node.name: node.pid for node in (store, *balancers, *gateways, *raters)}
    return Started({"rpc": (jsonrpc.host, jsonrpc.port), "http": (http.host, http.port)}, pids, store.url)


def _begin(stack: ExitStack, node: Node) -> None:
    node.start()
    stack.callback(lambda: node.kill() if node.alive else None)


def _joined(node: Node) -> int:
    return node.log.read_text(errors="replace").count(" joins credit=")


def _wait_ready(http: Address) -> None:
    in_a_row = 0
    while in_a_row < READY_IN_A_ROW:
        in_a_row = in_a_row + 1 if _is_ready(http) else 0
        if not in_a_row:
            time.sleep(0.05)


def _is_ready(http: Address) -> bool:
    connection = HTTPConnection(*http, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == OK
    except OSError:
        return False
    finally:
        connection.close()
