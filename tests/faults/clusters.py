"""A site on a cluster of stores, with accounts on every node of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.storage.cluster_map import slot_of
from rater.store.keys import account_key
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site
from tests.store_cluster import StoreCluster

ACCOUNTS = {f"sub{number}": 1_000_000 for number in range(12)}
"""At least three for each of three primaries, as the slots of these names have it."""

UNKNOWN = ("not_durable", "deadline_exceeded", "overloaded", "store_unavailable")
"""What may be said while a node is away. The same key tells afterwards what became of it."""


@contextmanager
def sharded(folder: Path, *rater_options: str, **options: Any) -> Iterator[tuple[StoreCluster, Site]]:
    """A cluster of 3 + 3 nodes, and a balancer and two raters on it."""
    with (
        StoreCluster(folder / "cluster", **options) as cluster,
        Site(folder / "site", raters=2, store_url=cluster.url, rater_options=rater_options) as site,
    ):
        site.start(ACCOUNTS)
        yield cluster, site


def slot_of_account(subject: str) -> int:
    return slot_of(account_key(TENANT, subject))


def accounts_of(cluster: StoreCluster, *names: str) -> dict[str, int]:
    """Those that these nodes serve now."""
    owners = {subject: cluster.owner(slot_of_account(subject)).name for subject in ACCOUNTS}
    assert {"store-0", "store-1", "store-2"} <= {*owners.values()}
    return {subject: cents for subject, cents in ACCOUNTS.items() if owners[subject] in names}


def move_key_by_key(cluster: StoreCluster, load: Load, turns: int) -> int:
    """Move the accounts' slots from node to node, a turn after the other; how many moves that were."""
    moves = 0
    for turn in range(1, turns + 1):
        for number, subject in enumerate(ACCOUNTS):
            slot, to = slot_of_account(subject), f"store-{(number + turn) % 3}"
            if cluster.owner(slot).name != to:
                cluster.move_slot(slot, to)
                moves += 1
        load.wait(50)
    return moves
