"""Long runs of a cluster of stores under load, Valkey and Redis: `make test-cluster`. Each ends with the
books.

What an account was debited is told four ways, and all must agree: what clients were told, the journal, the
balance, and what a repetition with the same key is answered.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from common.errors import ServiceError
from tests.faults.clusters import ACCOUNTS, UNKNOWN, accounts_of, move_key_by_key, sharded, slot_of_account
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site
from tests.store_cluster import SERVERS, StoreCluster

PROMISE_S = 10.0
ROUNDS = 3
REPLAYS = 300
STEPS = 8

servers = pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS.keys())


def replay(site: Site, load: Load) -> None:
    """What was acknowledged last is answered in the same way when it is asked again, and changes nothing."""
    told = list(load.ledger.told.items())[-REPLAYS:]
    with site.client() as client:
        for key, left in told:
            intent = load.ledger.intents[key]
            descriptor = {
                "CstmId": TENANT,
                "Subject": intent.subject,
                "Amount": intent.amount,
                "RequestId": key,
            }
            assert client.call("DebitBalance", descriptor) == left


def settle(site: Site, load: Load, *errors: str) -> None:
    load.stop()
    load.check(site, *errors)
    replay(site, load)
    load.check(site, *errors)
    summary = json.loads(site.run("audit", "--json", "--store", site.store_url).splitlines()[-1])["summary"]
    assert summary["accounts"] == summary["whole"] == len(ACCOUNTS)
    assert not summary["findings"]
    print(len(load.ledger.told), "acknowledged", dict(load.errors))


def strike(cluster: StoreCluster, load: Load, away: str, back: str) -> None:
    """Each primary in turn, while all accounts are debited, and service is back without it."""
    for number in range(3):
        slot = slot_of_account(list(ACCOUNTS)[number])
        struck = cluster.owner(slot).name
        load.start_measuring()
        getattr(cluster, away)(struck)
        cluster.wait_for_new_owner(slot, struck)
        load.wait(100)
        load.recovered(f"cluster: primary {away}", PROMISE_S)
        getattr(cluster, back)(struck)
        cluster.wait_for_replica(struck)
        load.wait(100)


@servers
@pytest.mark.parametrize(("away", "back"), [("kill", "restart"), ("pause", "resume")])
def test_every_primary_in_turn_is_lost_and_nothing_that_was_confirmed(
    tmp_path: Path, server: str, away: str, back: str
) -> None:
    """Two replicas each, of which one has to confirm: so service is back before the dead one is."""
    with (
        sharded(tmp_path, "--durability", "replicated", server=server, replicas=6) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        load.wait(100)
        strike(cluster, load, away, back)
        settle(site, load, *UNKNOWN)


@servers
def test_slots_move_all_the_time(tmp_path: Path, server: str) -> None:
    with (
        sharded(tmp_path, server=server) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        load.start_measuring()
        print(move_key_by_key(cluster, load, 3 * ROUNDS), "moves")
        load.recovered("cluster: slots moved key by key", PROMISE_S)
        settle(site, load)


@servers
def test_slots_move_and_primaries_die(tmp_path: Path, server: str) -> None:
    with (
        sharded(tmp_path, "--durability", "replicated", server=server, replicas=6) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        for _ in range(ROUNDS):
            subject = next(iter(ACCOUNTS))
            slot = slot_of_account(subject)
            source = cluster.owner(slot).name
            to = next(
                n for n in ("store-0", "store-1", "store-2") if n != source and cluster.role(n) == "master"
            )
            cluster.begin_move(slot, to)
            cluster.move_keys(slot, source, to, 5)
            load.start_measuring()
            struck = next(n for n in cluster.names if n not in (source, to) and cluster.role(n) == "master")
            cluster.kill(struck)
            cluster.move_keys(slot, source, to)
            cluster.end_move(slot, source, to)
            load.wait(100)
            cluster.restart(struck)
            cluster.wait_for_replica(struck)
            load.wait(100)
        settle(site, load, *UNKNOWN)


@servers
@pytest.mark.parametrize("seed", [1, 2])
def test_faults_in_random_order(tmp_path: Path, server: str, seed: int) -> None:
    """The order is a function of the seed. A fault is over before the next one, and most meet a move."""
    chance = random.Random(seed)
    with (
        sharded(tmp_path, "--durability", "replicated", server=server, replicas=6) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        for _ in range(STEPS):
            primaries = [name for name in cluster.names if cluster.role(name) == "master"]
            struck = chance.choice(primaries)
            slot = slot_of_account(chance.choice(list(ACCOUNTS)))
            source = cluster.owner(slot).name
            to = chance.choice([name for name in primaries if name not in (source, struck)])
            moves = source != struck and chance.random() < 0.9
            if moves:
                cluster.begin_move(slot, to)
                cluster.move_keys(slot, source, to, 20)
            fault = chance.choice(("kill", "pause", "kill replica", "flush", "none"))
            print(fault, struck, f"slot {slot} {source} → {to}" if moves else "")
            load.start_measuring()
            if fault == "kill":
                cluster.kill(struck)
            elif fault == "pause":
                cluster.pause(struck)
            elif fault == "kill replica":
                [struck, *_] = cluster.replicas(struck)
                cluster.kill(struck)
            elif fault == "flush":
                cluster.ask(struck, "SCRIPT", "FLUSH")
            load.wait(chance.choice((2, 20)))
            if moves:
                cluster.move_keys(slot, source, to)
                cluster.end_move(slot, source, to)
            load.wait(100)
            load.recovered(f"cluster: {fault}{', a slot half moved' if moves else ''}", PROMISE_S)
            if fault == "pause":
                cluster.resume(struck)
            elif "kill" in fault:
                cluster.restart(struck)
            if fault not in ("flush", "none"):
                cluster.wait_for_replica(struck)
        settle(site, load, *UNKNOWN)


@servers
def test_a_node_is_lost_with_its_replica_and_the_others_accounts_go_on(tmp_path: Path, server: str) -> None:
    with sharded(tmp_path, server=server, appendfsync="always") as (cluster, site):
        lost = "store-1"
        hit = accounts_of(cluster, lost)
        others = {subject: cents for subject, cents in ACCOUNTS.items() if subject not in hit}
        with (
            Load(lambda _: site.client(), hit, threads=4, prefix="hit/") as hit_load,
            Load(lambda _: site.client(), others, threads=4, prefix="others/") as load,
        ):
            hit_load.wait(100)
            load.wait(100)
            [replica] = cluster.replicas(lost)
            load.start_measuring()
            cluster.kill(replica)
            cluster.kill(lost)
            done = hit_load.done
            load.wait(2_000)
            load.recovered("cluster: a node is gone, the others' accounts", PROMISE_S)
            assert hit_load.done <= done + 4
            read = {"CstmId": TENANT, "Subject": next(iter(hit)), "Amount": 1, "DestinationPrefix": "0256"}
            with site.client() as client, pytest.raises(ServiceError):
                client.call("GetMaxSessionTime", read)
            cluster.restart(lost)
            hit_load.wait(100)
            cluster.restart(replica)
            hit_load.wait(100)
        hit_load.check(site, *UNKNOWN)
        load.check(site)


@servers
def test_without_confirmation_a_failover_may_lose_and_never_doubles(tmp_path: Path, server: str) -> None:
    """`everysec`: the successor has what reached it. How much that was is printed; the books of the rest
    agree."""
    with (
        sharded(tmp_path, server=server) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        load.wait(200)
        slot = slot_of_account(next(iter(ACCOUNTS)))
        struck = cluster.owner(slot).name
        load.start_measuring()
        cluster.kill(struck)
        cluster.wait_for_new_owner(slot, struck)
        load.wait(200)
        load.recovered("cluster: primary killed, everysec", PROMISE_S)
        load.stop()
        reckoning = load.reckon(site)
        print(reckoning)
        assert not reckoning.doubled
        if not reckoning.lost:
            assert reckoning.clean, reckoning
        site.run("audit", "--store", site.store_url)
