"""A cluster of stores: where commands go, by whose clock, and what becomes of them while slots are on their
way."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis.exceptions import ResponseError

from common.cli import main
from common.errors import StoreUnavailable
from common.storage.cluster import ClusterConnection
from common.storage.cluster_map import slot_of
from common.storage.durability import Durability
from rater.accounts.opening import open_command
from rater.journal.commands import audit
from rater.journal.scan import pattern, scan
from rater.model import Account
from rater.rating.snapshot import Snapshot, compile_tariff
from rater.store import scripts
from rater.store.keys import account_keys
from rater.work.cluster_service import ClusterService
from rater.work.jobs import Undecided
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster
from tests.faults.clock import LIBRARIES, Clock
from tests.integration.conftest import STORE_TIMEOUT_MS, Accounts
from tests.integration.test_service import TARIFF, job, results
from tests.store_cluster import CHOSEN, SERVERS, StoreCluster
from tests.store_members import wait_until

SNAPSHOT = Snapshot(1, {"vdf": 1}, {"vdf": compile_tariff(TARIFF, 31 * 86_400_000_000)})
_numbers = count()


@pytest.fixture(scope="module", params=CHOSEN)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoreCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with StoreCluster(folder, replicas=0, server=SERVERS[request.param], password="pass") as running:
        yield running


@pytest.fixture
def store(cluster: StoreCluster) -> Iterator[ClusterConnection]:
    with ClusterConnection(cluster.url, timeout_ms=STORE_TIMEOUT_MS) as connection:
        yield connection


@pytest.fixture
def work(cluster: StoreCluster) -> Iterator[ClusterConnection]:
    """As a rater has it."""
    with ClusterConnection(cluster.url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0) as connection:
        yield connection


def service(work: ClusterConnection, durability: Durability | None = None) -> ClusterService:
    options = {"durability": durability} if durability else {}
    return ClusterService(work, SNAPSHOT, key_ttl_ms=600_000, journal_lines=100_000, **options)


def subjects(cluster: StoreCluster) -> dict[str, str]:
    """A new subject for each primary, by its name."""
    found: dict[str, str] = {}
    while len(found) < 3:
        subject = f"s{next(_numbers)}"
        found.setdefault(cluster.owner(account_slot(subject)).name, subject)
    return found


def account_slot(subject: str) -> int:
    return slot_of(account_keys("vdf", subject).account)


def open_accounts(store: ClusterConnection, *names: str) -> None:
    commands = [
        open_command(account_keys("vdf", name), Account(name, credit_micros=100_000_000, plan="gold"))
        for name in names
    ]
    assert scripts.execute(store, commands) == [b"Opened"] * len(names)


def debit(subject: str, key: str, amount: int = 1, **fields: Any) -> Any:
    return job("DebitBalance", "t", key, Subject=subject, Amount=amount, **fields)


def credit(store: ClusterConnection, subject: str) -> float:
    account = Accounts(store).read(subject)
    assert account is not None
    return account.credit_micros / 1_000_000


# --- where commands go ------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_commands_whatever_node_they_are_from(
    store: ClusterConnection,
) -> None:
    keys = [f"order:{number}" for number in range(200)]
    assert store.execute([("SET", key, key) for key in keys]) == [b"OK"] * 200
    mixed = [word for key in keys for word in (("GET", key), ("STRLEN", key))]
    replies = store.execute([*mixed, ("TIME",), ("MULTI",), ("GET", keys[0]), ("GET", keys[0]), ("EXEC",)])
    assert replies[:400:2] == [key.encode() for key in keys]
    assert replies[1:400:2] == [len(key) for key in keys]
    assert isinstance(replies[400], list)
    assert replies[401:] == [b"OK", b"QUEUED", b"QUEUED", [keys[0].encode()] * 2]


def test_an_error_of_one_command_is_a_value_among_the_replies(store: ClusterConnection) -> None:
    one, error, three = store.execute([("SET", "e1", 1), ("LPUSH", "e1", 2), ("SET", "e3", 3)])
    assert (one, three) == (b"OK", b"OK")
    assert isinstance(error, ResponseError)
    assert "WRONGTYPE" in str(error)


def test_batches_may_be_on_their_way_at_the_same_time(
    store: ClusterConnection, cluster: StoreCluster
) -> None:
    store.execute([("SET", "b1", 0)])
    slot = slot_of("b1")
    to = next(name for name in cluster.names if name != cluster.owner(slot).name)
    cluster.move_slot(slot, to)  # so that the first of them has to be sent once more
    first = store.send([("INCR", "b1"), ("GET", "b2")])
    second = store.send([("INCR", "b1"), ("SET", "b2", "x")])
    assert store.unread == 2
    assert {*store.receive(second).replies} == {1, b"OK"}
    assert store.receive(first).replies == [2, None]
    assert store.unread == 0


def test_scripts_are_loaded_where_they_are_missing(store: ClusterConnection, cluster: StoreCluster) -> None:
    names = subjects(cluster)
    open_accounts(store, *names.values())
    flushed = names.popitem()[0]
    cluster.ask(flushed, "SCRIPT", "FLUSH")
    more = subjects(cluster)
    open_accounts(store, *more.values())


def test_a_wrong_password_is_told(cluster: StoreCluster) -> None:
    with pytest.raises(StoreUnavailable, match="no node answers") as caught:
        ClusterConnection(cluster.url.replace(":pass@", ":wrong@")).execute([("GET", "a")])
    assert "WRONGPASS" in str(caught.value) or "invalid username-password" in str(caught.value)
    assert "wrong@" not in str(caught.value)


# --- slots on their way -----------------------------------------------------------------------------


def test_accounts_of_a_slot_that_is_on_its_way_wait_and_the_others_do_not(
    store: ClusterConnection, work: ClusterConnection, cluster: StoreCluster
) -> None:
    names = subjects(cluster)
    open_accounts(store, *names.values())
    (source, moving), (to, other), _ = names.items()
    serve = service(work)
    assert results(serve.process([debit(moving, f"{moving}/0")])) == [99]
    slot = account_slot(moving)
    cluster.begin_move(slot, to)
    assert cluster.move_keys(slot, source, to, 1) == 1
    jobs = [debit(moving, f"{moving}/1"), debit(other, f"{other}/1"), debit(moving, f"{moving}/0")]
    begun = serve.process(jobs)
    assert results(begun[1:2]) == [99]
    assert begun[0] is begun[2] is Undecided.APART
    cluster.move_keys(slot, source, to)
    assert serve.process(jobs)[0] is Undecided.APART  # its token is at neither of the two
    cluster.end_move(slot, source, to)
    assert results(serve.process(jobs)) == [98, 99, 99]
    assert results(serve.process(jobs)) == [98, 99, 99]
    assert credit(store, moving) == 98


def test_reads_find_an_account_wherever_it_is(
    store: ClusterConnection, work: ClusterConnection, cluster: StoreCluster
) -> None:
    names = subjects(cluster)
    open_accounts(store, *names.values())
    (source, moving), (to, _), _ = names.items()
    serve = service(work)
    slot = account_slot(moving)
    question = job("GetMaxSessionTime", Subject=moving, Amount=1000)
    expected = results(serve.process([question]))
    cluster.begin_move(slot, to)
    assert results(serve.process([question])) == expected
    cluster.move_keys(slot, source, to)
    assert results(serve.process([question])) == expected
    cluster.end_move(slot, source, to)
    assert results(serve.process([question])) == expected


def test_what_is_patient_waits_for_a_slot_to_arrive(store: ClusterConnection, cluster: StoreCluster) -> None:
    [subject, *_] = subjects(cluster).values()
    slot = account_slot(subject)
    source = cluster.owner(slot).name
    to = next(name for name in cluster.names if name != source)
    cluster.begin_move(slot, to)
    trip = store.send(
        [open_command(account_keys("vdf", subject), Account(subject, credit_micros=1))], loads=scripts.LOADS
    )
    with ClusterConnection(cluster.url, timeout_ms=300) as hasty:
        [refused] = scripts.execute(hasty, [open_command(account_keys("vdf", subject), Account(subject))])
    assert str(refused).startswith("TRYAGAIN")
    cluster.end_move(slot, source, to)
    assert store.receive(trip).replies == [b"Opened"]


def test_a_scan_misses_no_account_though_its_slot_moves_to_where_was_looked_before(
    store: ClusterConnection, cluster: StoreCluster
) -> None:
    names = [f"scan{number}" for number in range(24)]
    open_accounts(store, *names)
    found: set[str] = set()
    moved = False
    for step in scan(store, pattern("account"), lambda passed, total: None):
        found.update(name.subject for name in step)
        if not moved:  # nodes are scanned in the order of their addresses, so the first one is done
            first = min((cluster.member(name) for name in cluster.names), key=lambda member: member.port)
            for name in names:
                if cluster.owner(account_slot(name)).name != first.name:
                    cluster.move_slot(account_slot(name), first.name)
            moved = True
    assert {*names} <= found


# --- clocks -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreCluster, list[Clock]]]:
    """A cluster of nodes each of which has a clock of its own."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed (package faketime)")
    folder = tmp_path_factory.mktemp("clocks")
    clocks = [Clock(folder / f"clock-{number}") for number in range(3)]
    environments = {f"store-{number}": clock.environment for number, clock in enumerate(clocks)}
    with StoreCluster(folder / "cluster", replicas=0, environments=environments) as cluster:
        yield cluster, clocks


def move(cluster: StoreCluster, name: str, clock: Clock, ahead_s: int) -> None:
    """Set a node's clock, and wait until the node sees it."""
    clock.move_to(ahead_s)
    wait_until(
        lambda: abs(int(cluster.ask(name, "TIME")[0]) - time.time() - ahead_s) < 2,
        f"the clock of {name} moves",
    )


def test_each_node_s_own_clock_decides_whether_it_is_late(clocks: tuple[StoreCluster, list[Clock]]) -> None:
    cluster, [ahead_clock, _, behind_clock] = clocks
    move(cluster, "store-0", ahead_clock, 3_600)
    move(cluster, "store-2", behind_clock, -3_600)
    with ClusterConnection(cluster.url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0) as work:
        names = subjects(cluster)
        open_accounts(work, *names.values())
        serve = service(work)
        in_time = [debit(name, f"{name}/1", timeout_us=5_000_000) for name in names.values()]
        late = [debit(name, f"{name}/2", timeout_us=-500_000) for name in names.values()]
        assert results(serve.process(in_time)) == [99] * 3
        assert results(serve.process(late)) == ["deadline_exceeded"] * 3
        # From the node whose clock is an hour ahead to the one an hour behind, and back; the rater finds
        # out by being sent on.
        moving = names["store-0"]
        for number, to in ((3, "store-2"), (4, "store-0")):
            cluster.move_slot(account_slot(moving), to)
            jobs = [
                debit(moving, f"{moving}/{number}", timeout_us=5_000_000),
                debit(moving, f"{moving}/{number}late", timeout_us=-500_000),
            ]
            assert results(serve.process(jobs)) == [101 - number, "deadline_exceeded"]
        credits = {name: credit(work, subject) for name, subject in names.items()}
        assert credits == {"store-0": 97, "store-1": 99, "store-2": 99}


def test_a_node_s_clock_that_jumps_ahead_is_noticed(clocks: tuple[StoreCluster, list[Clock]]) -> None:
    cluster, [_, clock, _] = clocks
    with ClusterConnection(cluster.url, timeout_ms=STORE_TIMEOUT_MS, patience_ms=0) as work:
        names = subjects(cluster)
        open_accounts(work, *names.values())
        serve = service(work)
        hit, other = names["store-1"], names["store-0"]
        move(cluster, "store-1", clock, 20)
        first = serve.process([debit(hit, "a", timeout_us=10_000_000), debit(other, "b")])
        assert first[0] is Undecided.NOT_BEGUN
        assert results(first[1:]) == [99]
        assert results(serve.process([debit(hit, "a", timeout_us=10_000_000)])) == [99]
        move(cluster, "store-1", clock, 100)
        jobs = [debit(hit, "c", timeout_us=10_000_000), debit(other, "d")]
        assert results(serve.process(jobs)) == ["deadline_exceeded", 98]
        assert credit(work, hit) == 99


# --- everything that has a --store -------------------------------------------------------------------


def test_an_audit_covers_every_node(store: ClusterConnection, cluster: StoreCluster) -> None:
    names = subjects(cluster)
    open_accounts(store, *names.values())
    runner = CliRunner()
    result = runner.invoke(audit, ["--store", cluster.url, "--json"])
    assert result.exit_code == 0, result.output
    there = sum(len(cluster.ask(name, "KEYS", "ratel:{vdf:*}:account")) for name in cluster.names)
    assert json.loads(result.output)["summary"]["accounts"] == there >= 3
    for name in names.values():
        Accounts(store).tamper(name, credit=1)
    result = runner.invoke(audit, ["--store", cluster.url])
    assert result.exit_code == 1
    assert "in 3 accounts" in result.output
    for name in names.values():
        keys = account_keys("vdf", name)
        store.execute([("DEL", keys.account), ("DEL", keys.journal)])


def test_the_whole_of_ratel_works_on_a_cluster(tmp_path: Path, cluster: StoreCluster) -> None:
    def ratel(*words: str) -> str:
        done = CliRunner().invoke(main, list(words), env={"RATEL_STORE": cluster.url})
        assert done.exit_code == 0, done.output
        return done.output

    load = ("--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
    running = Cluster(tmp_path / "data", "--store", cluster.url, *load)
    try:
        running.wait_ready()
        assert "pass@" not in running.store_url
        with running.client() as client:
            request = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256", "Amount": 1}
            before = client.call("DebitBalance", request | {"RequestId": "one"})
            assert client.call("DebitBalance", request | {"RequestId": "two"}) == before - 1
            assert client.call("DebitBalance", request | {"RequestId": "one"}) == before
        picked_up = ratel("load", "--tenant", "vdf", str(SAMPLE_TARIFF))
        assert "version 2" in picked_up
        assert "picked up by 2 raters" in picked_up
        assert "*    2" in ratel("tariff", "list", "vdf")
        ratel("tariff", "diff", "vdf", "1", "2")
        ratel("tariff", "activate", "vdf", "1")
        assert "*    1" in ratel("tariff", "list", "vdf")
        of_rif = ("audit", "--tenant", "vdf", "--subject", "rif")
        assert "1 account, 3 lines: 1 checked from the opening on" in ratel(*of_rif)
        ratel("journal", "export", "--to", str(tmp_path / "archive"), "--trim")
        assert "1 account, 1 line: 0 checked from the opening on" in ratel(*of_rif)
        whole = ratel(*of_rif, "--archive", str(tmp_path / "archive"))
        assert "1 account, 3 lines: 1 checked from the opening on" in whole
    finally:
        running.stop()


def test_batches_are_under_way_at_the_same_time_while_slots_move_and_nodes_answer(
    store: ClusterConnection, work: ClusterConnection, cluster: StoreCluster
) -> None:
    names = subjects(cluster)
    open_accounts(store, *names.values())
    serve = service(work)
    assert results(serve.process([debit(name, f"{name}/0") for name in names.values()])) == [99] * 3
    assert work.unread == 0
    (_, moving), (to, _), _ = names.items()
    cluster.move_slot(account_slot(moving), to)
    flights = [serve.begin([debit(name, f"{name}/{turn}") for name in names.values()]) for turn in (1, 2)]
    assert work.unread == 2
    poll = select.poll()
    poll.register(work.fileno(), select.POLLIN)
    assert poll.poll(10_000)
    for flight in flights:
        assert not flight.landed
        serve.go_on(flight)
        assert flight.landed
    first, second = (results(flight.outcomes) for flight in flights)
    # What was sent on to another node came there behind the later batch.
    assert sorted((first[0], second[0])) == [97, 98]
    assert (first[1:], second[1:]) == ([98, 98], [97, 97])
    assert work.unread == 0
    assert not work.has_input
