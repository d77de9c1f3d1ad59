"""A primary that dies or hangs under `replicated` durability: its successor has all that was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import NotDurable
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site, wait_until
from tests.store_group import StoreGroup

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}
PROMISE_S = 10.0
UNKNOWN = ("not_durable", "deadline_exceeded", "overloaded", "store_unavailable")
"""What may be said meanwhile. The same key tells afterwards what became of it."""


@contextmanager
def cluster(folder: Path, replicas: int, sentinels: int) -> Iterator[tuple[StoreGroup, Site]]:
    with StoreGroup(folder / "group", replicas=replicas, sentinels=sentinels, appendfsync="no") as group:
        options = ["--durability", "replicated"]
        with Site(folder / "site", raters=2, store_url=group.url, rater_options=options) as site:
            site.start(ACCOUNTS)
            yield group, site


def test_a_primary_that_is_killed_is_succeeded_and_nothing_is_lost(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, 3) as (group, site), Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        dead = group.kill_primary()
        load.wait(200)
        load.recovered("primary killed, failover", PROMISE_S)
        group.restart(dead.name)
        wait_until(lambda: group.role(dead.name) == "slave", "the old primary comes back as a replica")
        load.wait(200)
        load.stop()
        load.check(site, *UNKNOWN)
        load.replay(site)
        load.check(site, *UNKNOWN)  # what was asked again changed nothing


def test_a_primary_that_hangs_and_comes_back_is_not_written_any_more(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, 3) as (group, site), Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        hanging = group.primary()
        group.pause(hanging.name)
        group.wait_for_new_primary(hanging.name)
        load.wait(200)
        load.recovered("primary hangs, failover", PROMISE_S)
        group.resume(hanging.name)
        load.wait(200)
        wait_until(lambda: group.role(hanging.name) == "slave", "the old primary becomes a replica")
        load.wait(200)
        load.stop()
        load.check(site, *UNKNOWN)


def test_without_enough_replicas_nothing_is_called_done(tmp_path: Path) -> None:
    with cluster(tmp_path, 1, 0) as (group, site), Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(200)
        load.start_measuring()
        [replica] = group.replicas()
        group.kill(replica.name)
        began_s = time.monotonic()
        with site.client() as client:
            load.ledger.intend("short", "one", 7)
            debit = {"CstmId": TENANT, "Subject": "one", "Amount": 7, "RequestId": "short"}
            with pytest.raises(NotDurable):
                client.call("DebitBalance", debit)
            wait_until(lambda: load.errors["not_durable"] > 8, "the others are told so, too")
            done = load.done
            wait_until(lambda: load.errors["not_durable"] > 24, "the others are told so again")
            assert load.done == done
            with pytest.raises(NotDurable):  # a replay is no safer than the first time
                client.call("DebitBalance", debit)
            assert client.call("GetMaxSessionTime", debit | {"DestinationPrefix": "0256"}) == 7
            group.restart(replica.name)
            group.wait_for_replica(replica.name)
            lasted_s = time.monotonic() - began_s
            load.wait(100)
            load.recovered("replica killed and started again", PROMISE_S, lasted_s=lasted_s)
            load.ledger.acknowledge("short", client.call("DebitBalance", debit))
        load.stop()
        load.check(site, "not_durable")
