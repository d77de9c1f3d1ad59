"""The faults of the store: killed, stopped, out of reach, full, read-only, and its primary lost."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

from common.errors import StoreUnavailable
from common.storage.store import Command, StoreConnection
from tests.chaos.fault import Fault, Scene, Undo, nothing, stopped
from tests.faults.nodes import Node, StoreNode, wait_until

LEFT_BYTES: Final = 20_000
"""At most, on a disk that is about to be full: some dozens of changes."""


def _store(scene: Scene, random: Random) -> Node:
    assert scene.cluster.store is not None
    return scene.cluster.store


def _store_killed(scene: Scene, random: Random) -> Undo:
    store = scene.cluster.store
    assert store is not None
    store.kill()

    def undo() -> None:
        store.start()
        store.wait_ready()

    return undo


def _store_cut(scene: Scene, random: Random) -> Undo:
    proxy = scene.cluster.store_proxy
    assert proxy is not None
    directions = random.choice([None, (True, False), (False, True), (True, True)])
    if directions is None:
        proxy.refuse()
    else:
        proxy.cut(towards_target=directions[0], towards_client=directions[1])
    return proxy.heal


def _store_told(begin: list[Command], end: list[Command]) -> Callable[[Scene, Random], Undo]:
    def tell(scene: Scene, commands: list[Command]) -> None:
        with scene.cluster.connect() as store:
            for reply in store.execute(commands):
                assert not isinstance(reply, Exception), reply

    def work(scene: Scene, random: Random) -> Undo:
        tell(scene, begin)
        return lambda: tell(scene, end)

    return work


def _disk_full(scene: Scene, random: Random) -> Undo:
    """A limit of file sizes stands for the disk: a write fails in the same way, after a part of it.

    Where every write is forced to the disk the store ends before it answers, and is started again when there
    is space. Otherwise it goes on, refuses further changes, and writes the rest when there is space; what it
    answered as the disk ran full is until then in its memory alone. A kill would lose that, which is a limit
    said out loud. So the fault is over only when all is written, and as a fault of the store it never comes
    together with one that kills it.
    """
    store = scene.cluster.store
    assert store is not None
    growing = max(store.data_dir.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)
    _, hard = resource.prlimit(store.pid, resource.RLIMIT_FSIZE)
    full = growing.stat().st_size + random.randint(1, LEFT_BYTES)
    resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (full, hard))

    def undo() -> None:
        with suppress(ProcessLookupError):
            resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (hard, hard))
        wait_until(lambda: not store.alive or _has_written(store), "the store has written everything")
        if not store.alive:
            store.start()
            store.wait_ready()

    return undo


def _has_written(store: StoreNode) -> bool:
    try:
        with store.connect(timeout_ms=1_000) as connection:
            [text] = connection.execute([("INFO", "persistence")])
    except StoreUnavailable:
        return False
    return b"aof_last_write_status:ok" in text


def _scripts_flushed(scene: Scene, random: Random) -> Undo:
    with scene.cluster.connect() as store:
        for _ in range(10):
            store.execute([("SCRIPT", "FLUSH")])
            time.sleep(random.uniform(0.01, 0.1))
    return nothing


def _primary_lost(action: str) -> Callable[[Scene, Random], Undo]:
    def begin(scene: Scene, random: Random) -> Undo:
        group = scene.cluster.group
        assert group is not None
        old = group.primary().name
        (group.kill if action == "kill" else group.pause)(old)

        def undo() -> None:
            group.wait_for_new_primary(old)
            if action == "kill":
                group.restart(old)
            else:
                group.resume(old)  # it takes itself for the primary until a sentinel tells it

        return undo

    return begin


def _replicas_cut_off(scene: Scene, random: Random) -> Undo:
    """The primary dies after its replicas lost it: what it took meanwhile must not be acknowledged."""
    group = scene.cluster.group
    assert group is not None
    for replica in group.replicas():
        with StoreConnection(replica.url) as store:
            store.execute([("REPLICAOF", "127.0.0.1", "1")])
    time.sleep(random.uniform(0.3, 1.0))
    old = group.kill_primary().name

    def undo() -> None:
        new = group.wait_for_new_primary(old)
        for replica in group.replicas():
            if replica.name not in (old, new.name):
                with StoreConnection(replica.url) as store:
                    store.execute([("REPLICAOF", "127.0.0.1", new.port)])
        group.restart(old)

    return undo


def _replica_killed(scene: Scene, random: Random) -> Undo:
    group = scene.cluster.group
    assert group is not None
    name = random.choice(group.replicas()).name
    group.kill(name)

    def undo() -> None:
        group.restart(name)

    return undo


STORE_FAULTS: Final = (
    Fault("scripts flushed", "store", _scripts_flushed, (0.0, 0.2)),
    Fault("store killed", "store", _store_killed, (0.0, 1.0), group=False),
    Fault("store stopped", "store", stopped(_store), (0.3, 3.0), group=False),
    Fault("store unreachable", "store", _store_cut, (0.3, 8.0), group=False),
    Fault(
        "store full",
        "store",
        _store_told([("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "0")]),
        (0.2, 1.5),
        group=False,
    ),
    Fault("disk full", "store", _disk_full, (0.3, 2.0), group=False),
    Fault(
        "store read-only",
        "store",
        _store_told([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")]),
        (0.2, 1.5),
        group=False,
    ),
    Fault(
        "store without replicas",
        "store",
        _store_told(
            [("CONFIG", "SET", "min-replicas-to-write", "1")],
            [("CONFIG", "SET", "min-replicas-to-write", "0")],
        ),
        (0.2, 1.5),
        group=False,
    ),
    Fault("primary killed", "store", _primary_lost("kill"), (0.5, 2.0), single=False),
    Fault("primary stopped", "store", _primary_lost("stop"), (0.5, 2.0), single=False),
    Fault("replicas cut off and primary killed", "store", _replicas_cut_off, (0.5, 2.0), single=False),
    Fault("replica killed", "store", _replica_killed, (0.3, 3.0), single=False),
)
