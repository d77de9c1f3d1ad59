"""Long runs of a cluster of stores under load, Valkey and Redis: `make test-cluster`. Each ends with the
books.

What an account was debited is told four ways, and all must agree: what clients were told, the journal, the
balance, and what a repetition with the same key is answered.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.cli import main
from common.errors import ServiceError, StoreUnavailable
from common.storage.cluster import ClusterConnection
from common.storage.durability import Durability, Level
from common.storage.stores import connect
from rater.store.users import OPERATOR
from rater.work.jobs import Outcome, Undecided
from tests.faults.clusters import ACCOUNTS, UNKNOWN, accounts_of, move_key_by_key, sharded, slot_of_account
from tests.faults.load import Load
from tests.faults.lookers import Lookers
from tests.faults.nodes import TENANT, Site
from tests.integration.conftest import STORE_TIMEOUT_MS
from tests.integration.test_cluster import debit, open_accounts, service, subjects
from tests.integration.test_load import write
from tests.integration.test_operators_durability import BRIEFLY, ratel, run, sure, surely
from tests.integration.test_service import job, results
from tests.store_cluster import SERVERS, StoreCluster
from tests.unit.tariff_sample import BUDGETS, RATES, sample_files

PROMISE_S = 10.0
TIMEOUT_MS = 1_000
"""A rater's own, for the store."""
ROUNDS = 3
STEPS = 8

servers = pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS.keys())


def settle(site: Site, load: Load, *errors: str) -> None:
    load.stop()
    load.check(site, *errors)
    load.replay(site)
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
            time.sleep(chance.random())  # while the slot is half moved, its account holds up every client
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


# --- operators ------------------------------------------------------------------------------------------


def block_some(site: Site, *options: str) -> list[str]:
    """Accounts of every node, which are then blocked."""
    blocked = [f"blocked{number}" for number in range(12)]
    for subject in blocked:
        operate(site, "create", subject, "--credit", "100", *options)
        operate(site, "block", subject, *options)
    return blocked


def operate(site: Site, command: str, subject: str, *options: str) -> str:
    """`ratel account` in this process: while it asks, debits of an account that moves are held up."""
    words = ["account", command, TENANT, subject, *options, "--store", site.store_url]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, (words, done.output)
    return done.output


@servers
def test_blocked_accounts_stay_blocked_and_looks_go_on_while_primaries_die(
    tmp_path: Path, server: str
) -> None:
    with sharded(tmp_path, "--durability", "replicated", server=server, replicas=6) as (cluster, site):
        blocked = block_some(site, "--durability", "replicated")
        with (
            Load(lambda _: site.client(), ACCOUNTS) as load,
            Lookers(site.client, list(ACCOUNTS), blocked) as looks,
        ):
            load.wait(100)
            strike(cluster, load, "kill", "restart")
            [struck, *_] = [name for name in cluster.names if cluster.role(name) == "master"]
            hit = [subject for subject in blocked if cluster.owner(slot_of_account(subject)).name == struck]
            for subject in hit:  # told that it is done, and the primary dies
                sure(cluster.url, "credit", TENANT, subject, "5", "--request-id", "last")
                sure(cluster.url, "set", TENANT, subject, "--floor", "-7")
            cluster.kill(struck)
            for subject in hit:
                cluster.wait_for_new_owner(slot_of_account(subject), struck)
                found = json.loads(sure(cluster.url, "show", TENANT, subject, "--json"))
                assert (found["Blocked"], found["Credit"], found["MinCredit"]) == (True, 105, -7)
            load.wait(100)
            load.stop()
        looks.check(*UNKNOWN)
        load.check(site, *UNKNOWN)
        audited = json.loads(site.run("audit", "--json", "--store", cluster.url).splitlines()[-1])["summary"]
        assert (audited["accounts"], audited["findings"]) == (len(ACCOUNTS) + len(blocked), 0)


@servers
def test_looks_and_operators_commands_do_not_fail_while_slots_move(tmp_path: Path, server: str) -> None:
    with sharded(tmp_path, server=server, replicas=0) as (cluster, site):
        blocked = block_some(site)
        with (
            Load(lambda _: site.client(), ACCOUNTS) as load,
            Lookers(site.client, list(ACCOUNTS), blocked) as looks,
        ):
            for turn in range(1, ROUNDS + 1):
                for number, subject in enumerate((*blocked, *ACCOUNTS)):
                    slot, to = slot_of_account(subject), f"store-{(number + turn) % 3}"
                    if cluster.owner(slot).name == to:
                        continue
                    source = cluster.begin_move(slot, to)
                    cluster.move_keys(slot, source, to, 1)
                    operate(site, "show", subject)  # half of its keys are there
                    operate(site, "history", subject)
                    cluster.move_keys(slot, source, to)
                    cluster.end_move(slot, source, to)
                    if subject in blocked:
                        operate(site, "credit", subject, "1", "--request-id", f"{turn}")
                site.run("tariff", "list", "--store", cluster.url)
                site.run("audit", "--store", cluster.url)
            load.wait(50)
            load.stop()
        looks.check()
        load.check(site)
        for subject in blocked:
            found = json.loads(operate(site, "show", subject, "--json"))
            assert found["Blocked"]
            assert found["Credit"] == found["Changes"] + 98, "a line for the opening, the block and each cent"


def test_what_an_operator_was_told_survives_a_failover_and_the_rest_is_told_as_such(tmp_path: Path) -> None:
    with StoreCluster(tmp_path) as cluster:
        names = {cluster.owner(slot_of_account(f"c{n}")).name: f"c{n}" for n in range(9)}
        assert len(names) == 3
        files = sample_files()
        files[RATES][0]["CstmId"] = TENANT
        files[BUDGETS] = [{"Id": f"loaded{number}", "Credit": 7} for number in range(1200)]
        surely(cluster.url, "load", str(write(tmp_path / "tariff", files)), "--wait", "0")
        for subject in names.values():
            sure(cluster.url, "create", TENANT, subject, "--credit", "100")
            sure(cluster.url, "credit", TENANT, subject, "5")
            sure(cluster.url, "block", TENANT, subject)
        [struck, *_] = names
        [replica] = cluster.replicas(struck)
        slot = slot_of_account(names[struck])
        cluster.kill(struck)
        cluster.wait_for_new_owner(slot, struck)
        for subject in names.values():
            found = json.loads(sure(cluster.url, "show", TENANT, subject, "--json"))
            assert (found["Blocked"], found["Credit"], found["Changes"]) == (True, 105, 3)
        audited = json.loads(surely(cluster.url, "audit", "--json").splitlines()[-1])["summary"]
        assert (audited["accounts"], audited["findings"]) == (1200 + len(names), 0)
        [version, *_] = json.loads(surely(cluster.url, "tariff", "list", TENANT, "--json"))[TENANT]
        assert (version["active"], version["state"]) == (True, "whole")
        again = ratel(cluster.url, "load", str(tmp_path / "tariff"), "--wait", "0", *BRIEFLY)
        assert again.exit_code == 3, "a part of it has no replica"
        assert "the load is not complete: 1 of 2 copies confirmed" in again.stderr
        refused = run(cluster.url, "unblock", TENANT, names[struck], *BRIEFLY)
        assert refused.exit_code == 3, "the successor has no replica"
        assert "1 of 2 copies confirmed" in refused.stderr
        cluster.restart(struck)
        cluster.wait_for_replica(struck)
        assert cluster.owner(slot).name == replica
        assert "not blocked" in sure(cluster.url, "unblock", TENANT, names[struck])
        assert "1200 kept" in surely(cluster.url, "load", str(tmp_path / "tariff"), "--wait", "0")


@servers
def test_a_cluster_with_users_fails_over_and_hands_slots_over(tmp_path: Path, server: str) -> None:
    """Replicas log in as the user that is for them, and operators find what has gone elsewhere."""
    with StoreCluster(tmp_path, server=server, has_users=True) as cluster:
        url = cluster.url_for(OPERATOR)
        slot = slot_of_account("one")
        sure(url, "create", TENANT, "one", "--credit", "100")
        struck = cluster.owner(slot).name
        cluster.kill(struck)
        successor = cluster.wait_for_new_owner(slot, struck).name
        cluster.restart(struck)
        cluster.wait_for_replica(struck)
        assert sure(url, "credit", TENANT, "one", "5").startswith("105 cents")
        to = next(n for n in cluster.names if n != successor and cluster.role(n) == "master")
        cluster.move_slot(slot, to)
        assert sure(url, "credit", TENANT, "one", "5").startswith("110 cents")
        entries = [
            dict(zip(entry[::2], entry[1::2], strict=True))
            for name in cluster.names
            for entry in cluster.ask(name, "ACL", "LOG")
        ]
        assert [entry for entry in entries if entry[b"object"] != b"client"] == []


# --- a rater's service by itself ----------------------------------------------------------------------


def test_a_node_without_its_replica_leaves_only_its_own_accounts_unconfirmed(tmp_path: Path) -> None:
    with (
        StoreCluster(tmp_path, options=("cluster-replica-no-failover yes",)) as cluster,
        ClusterConnection(cluster.url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0) as work,
    ):
        names = subjects(cluster)
        open_accounts(work, *names.values())
        serve = service(work, Durability(Level.REPLICATED, 1, 300))
        jobs = [debit(name, f"{name}/1") for name in names.values()]
        assert results(serve.process(jobs)) == [99] * 3
        [lonely, *_] = names
        [replica] = cluster.replicas(lonely)
        cluster.kill(replica)
        again = [debit(name, f"{name}/2") for name in names.values()]
        said = dict(zip(names, results(serve.process(again)), strict=True))
        assert said == {name: "not_durable" if name == lonely else 98 for name in names}
        assert results(serve.process([jobs[list(names).index(lonely)]])) == ["not_durable"]
        cluster.restart(replica)
        cluster.wait_for_replica(replica)
        assert results(serve.process(again)) == [98] * 3


def test_a_node_that_is_lost_leaves_the_accounts_of_the_others_alone(tmp_path: Path) -> None:
    with (
        StoreCluster(tmp_path, replicas=0) as cluster,
        ClusterConnection(cluster.url, timeout_ms=TIMEOUT_MS, patience_ms=0) as work,
    ):
        names = subjects(cluster)
        open_accounts(work, *names.values())
        serve = service(work)
        numbers = count(1)

        def debits() -> dict[str, Any]:
            number = next(numbers)
            jobs = [debit(name, f"{name}/{number}") for name in names.values()]
            jobs += [job("GetMaxSessionTime", Subject=name, Amount=1) for name in names.values()]
            outcomes = serve.process(jobs)
            for change, read in zip(outcomes[:3], outcomes[3:], strict=True):
                assert isinstance(change, Outcome) == isinstance(read, Outcome)
            return dict(zip(names, outcomes, strict=False))

        [lost, *others] = names
        for away, back in ((cluster.kill, cluster.restart), (cluster.pause, cluster.resume)):
            debits()
            away(lost)
            began_s = time.monotonic()
            for _ in range(10):
                outcomes = debits()
                assert outcomes.pop(lost) is Undecided.APART
                assert all(isinstance(outcome, Outcome) for outcome in outcomes.values())
            # The time-out is paid once; a node that hangs is then asked briefly and seldom.
            assert time.monotonic() - began_s < 10 * TIMEOUT_MS / 1000 / 2
            back(lost)
            while debits()[lost] is Undecided.APART:
                time.sleep(0.02)
        for name in others:
            cluster.kill(name)
        cluster.kill(lost)
        while serve.process([debit(names[lost], "last")]) != [Undecided.UNKNOWN]:
            time.sleep(0.02)
        for name in cluster.names:
            cluster.restart(name)
        while not isinstance(serve.process([debit(names[lost], "last")])[0], Outcome):
            time.sleep(0.02)


# --- TLS --------------------------------------------------------------------------------------------


def make_certificates(folder: Path) -> Path:
    """A CA and a server's certificate for 127.0.0.1."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj")
    openssl(*new, "/CN=test", "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2")
    openssl(*new, "/CN=store", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signed)
    return folder


@pytest.mark.skipif(
    "redis" not in SERVERS or not shutil.which("openssl"), reason="needs Debian's redis-server and openssl"
)
def test_a_cluster_that_speaks_tls(tmp_path: Path) -> None:
    """The server that comes with Ratel has no TLS, so it is Debian's."""
    certificates = make_certificates(tmp_path)
    with (
        sharded(tmp_path, server=SERVERS["redis"], certificates=certificates, replicas=0) as (cluster, site),
        Load(lambda _: site.client(), ACCOUNTS) as load,
    ):
        assert cluster.url.startswith("rediss+cluster://")
        load.wait(100)
        load.start_measuring()
        move_key_by_key(cluster, load, 1)
        load.recovered("cluster: slots moved, TLS", PROMISE_S)
        settle(site, load)
        with pytest.raises(StoreUnavailable, match=r"no node answers.*certificate verify failed"):
            connect(cluster.url.partition("?")[0]).execute([("GET", "a")])
