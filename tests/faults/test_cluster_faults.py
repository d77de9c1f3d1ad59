"""A cluster of stores under load: a primary dies, slots move. What takes long is in `cluster_runs.py`."""

from __future__ import annotations

from pathlib import Path

from tests.faults.clusters import ACCOUNTS, UNKNOWN, accounts_of, move_key_by_key, sharded, slot_of_account
from tests.faults.load import Load
from tests.faults.nodes import wait_until

PROMISE_S = 10.0


def test_a_primary_that_is_killed_is_succeeded_and_the_others_accounts_notice_nothing(tmp_path: Path) -> None:
    with sharded(tmp_path, "--durability", "replicated") as (cluster, site):
        struck = "store-0"
        hit, others = accounts_of(cluster, struck), accounts_of(cluster, *{*cluster.names} - {struck})
        with (
            Load(lambda _: site.client(), hit, threads=4, prefix="hit/") as hit_load,
            Load(lambda _: site.client(), others, threads=4, prefix="others/") as load,
        ):
            hit_load.wait(100)
            load.wait(100)
            for each in (hit_load, load):
                each.start_measuring()
            cluster.kill(struck)
            began = hit_load.done
            load.wait(100)
            assert hit_load.done <= began + 4, "it died before these, and its successor is not chosen so soon"
            cluster.wait_for_new_owner(slot_of_account(next(iter(hit))), struck)
            cluster.restart(struck)  # the successor alone can't have a change confirmed
            wait_until(lambda: cluster.role(struck) == "slave", "the old primary comes back as a replica")
            hit_load.wait(100)
            hit_load.recovered("cluster: primary killed, failover", PROMISE_S)
            load.recovered("cluster: the others' accounts meanwhile", PROMISE_S)
        hit_load.check(site, *UNKNOWN)
        load.check(site)


def test_slots_that_move_under_load_fail_no_request(tmp_path: Path) -> None:
    with sharded(tmp_path, replicas=0) as (cluster, site), Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(100)
        load.start_measuring()
        assert move_key_by_key(cluster, load, 3) > 20
        load.recovered("cluster: slots moved key by key", PROMISE_S)
        if cluster.moves_whole_slots:
            for first, last, to in ((0, 8_000, "store-2"), (4_000, 8_000, "store-1"), (0, 3_999, "store-0")):
                for begin, end, owner in cluster.ranges(first, last):
                    if owner != to:
                        cluster.move_whole_slots(begin, end, to)
                load.wait(50)
            load.recovered("cluster: slots moved as a whole", PROMISE_S)
        load.stop()
        load.check(site)
