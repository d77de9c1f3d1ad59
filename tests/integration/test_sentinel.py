"""Stores that sentinels watch over: finding the primary, and what becomes of debits when it is killed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.errors import StoreUnavailable
from common.storage import store as store_module
from common.storage.durability import Durability, Level
from common.storage.sentinel import Sentinels, parse_sentinel_url
from common.storage.store import StoreConnection
from common.storage.store_url import StoreUrlError, describe_store_url
from rater.journal.commands import audit
from rater.rating.snapshot import Snapshot, compile_tariff
from rater.work.jobs import Job, Outcome
from rater.work.service import Service
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster
from tests.faults.nodes import wait_until
from tests.integration.conftest import STORE_TIMEOUT_MS, Accounts
from tests.integration.test_service import ANNA, TARIFF, job
from tests.store_group import SERVICE, StoreGroup

RATER_TIMEOUT_MS = 1_000
"""A rater's own."""

# --- the URL --------------------------------------------------------------------------------------


def test_a_url_names_sentinels_service_and_how_to_log_in() -> None:
    url = parse_sentinel_url(
        "redis+sentinel://u:p%40ss@a,b:1,[::1]:2/my%20service/3?sentinel_user=s&sentinel_password=q%2F&socket_keepalive=1"
    )
    assert url.sentinels == ("redis://s:q%2F@a:26379", "redis://s:q%2F@b:1", "redis://s:q%2F@[::1]:2")
    assert url.service == "my service"
    primary = url.primary_url(store_module.Address("fe80::1", 6379))
    assert primary == "redis://u:p%40ss@[fe80::1]:6379/3?socket_keepalive=1"
    assert (
        parse_sentinel_url("redis+sentinel://a/s").primary_url(store_module.Address("h", 1)) == "redis://h:1"
    )


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis+sentinel://u:secret@a:1", "name of the service"),
        ("redis+sentinel://u:secret@a:1/", "name of the service"),
        ("redis+sentinel:///service", "HOST or HOST:PORT"),
        ("redis+sentinel://u:secret@a:1,/service", "HOST or HOST:PORT"),
        ("redis+sentinel://u:secret@a:x/service", "HOST or HOST:PORT"),
        ("redis+sentinel://u:sec/ret@a:1/service", "number of a database"),
        ("redis+sentinel://[::1/service", "not a store's URL"),
        ("redis+sentinel://u:secret@a/service/x", "number of a database"),
        ("redis+sentinel://u:secret@a/service?sentinel_pass=secret", "sentinel_pass"),
        ("redis+sentinel://u:secret@a/service?socket_timeout=x", "socket_timeout"),
    ],
)
def test_a_wrong_url_is_found_at_once_and_no_password_shown(url: str, complaint: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        StoreConnection(url)
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_url_is_described_without_its_secrets() -> None:
    url = "redis+sentinel://u:secret@a:1,b:2/service/3?sentinel_password=secret"
    assert describe_store_url(url) == "redis+sentinel://a:1,b:2/service/3"


# --- whom to ask ----------------------------------------------------------------------------------


def test_the_sentinel_that_answered_last_is_asked_first() -> None:
    asked: list[str] = []
    dead = {"redis://a:1", "redis://b:1"}

    def ask(url: str, _command: Any, _timeout_ms: int) -> list[bytes]:
        asked.append(url)
        if url in dead:
            raise StoreUnavailable(detail=f"{url} is dead")
        return [b"h", b"6379"]

    sentinels = Sentinels(parse_sentinel_url("redis+sentinel://a:1,b:1,c:1/s"), ask)
    problems: list[str] = []
    assert next(sentinels.primaries(problems)) == "redis://h:6379"
    assert problems == ["redis://a:1 is dead", "redis://b:1 is dead"]
    assert next(sentinels.primaries(problems)) == "redis://h:6379"
    assert asked == ["redis://a:1", "redis://b:1", "redis://c:1", "redis://c:1"]
    dead = {"redis://c:1"}
    assert list(sentinels.primaries(problems)) == ["redis://h:6379"]
    assert asked[4:] == ["redis://c:1", "redis://a:1", "redis://b:1"]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreGroup]:
    with StoreGroup(tmp_path_factory.mktemp("group"), password="pass") as running:
        yield running


def test_the_primary_is_found_and_its_password_and_database_are_used(group: StoreGroup) -> None:
    hosts, _, options = group.url.partition(f"/{SERVICE}")
    with StoreConnection(group.url) as store, StoreConnection(f"{hosts}/{SERVICE}/2{options}") as second:
        assert store.execute([("ROLE",)])[0][0] == b"master"
        assert store.execute([("SET", "k", 1), ("GET", "k")]) == [b"OK", b"1"]
        assert second.execute([("GET", "k")]) == [None]
    wrong = group.url.replace("sentinel_password=pass", "sentinel_password=wrong")
    with pytest.raises(StoreUnavailable, match="no primary found") as caught:
        StoreConnection(wrong).execute([("PING",)])
    assert "wrong" not in str(caught.value)


def test_a_service_that_the_sentinels_do_not_know_is_named(group: StoreGroup) -> None:
    with pytest.raises(StoreUnavailable, match="does not know the service 'other'"):
        StoreConnection(group.url.replace(f"/{SERVICE}", "/other")).execute([("PING",)])


def test_sentinels_that_are_dead_or_hang_are_passed_over(group: StoreGroup) -> None:
    group.kill("sentinel-0")
    group.pause("sentinel-1")
    try:
        with StoreConnection(group.url) as store:
            for _ in range(2):
                assert store.execute([("PING",)]) == [b"PONG"]
                store.close()
    finally:
        group.resume("sentinel-1")
        group.restart("sentinel-0")


def test_a_sentinel_that_names_a_replica_is_not_believed(
    group: StoreGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter([group.replicas()[0].port, group.primary().port, group.primary().port])
    monkeypatch.setattr(
        store_module, "_ask", lambda _url, _command, _timeout_ms: [b"127.0.0.1", b"%d" % next(names)]
    )
    with StoreConnection(group.url) as store:
        assert store.execute([("ROLE",)])[0][0] == b"master"
    names = iter([group.replicas()[0].port] * 3)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{group.replicas()[0].port} is not a primary"):
        StoreConnection(group.url).execute([("PING",)])


def test_an_old_primary_that_wakes_is_left_as_soon_as_the_sentinels_name_another(tmp_path: Path) -> None:
    with StoreGroup(tmp_path, replicas=1, sentinels=3) as group, StoreConnection(group.url) as store:
        old = group.primary()
        assert store.execute([("PING",)]) == [b"PONG"]
        store.leave_old_primary()
        first = store.number
        assert first, "it was left, though it is the primary"
        group.pause(old.name)
        new = group.wait_for_new_primary(old.name)
        group.resume(old.name)
        assert store.execute([("ROLE",)])[0][0] == b"master", "it is to take itself for the primary still"
        assert store.number == first

        def has_left() -> bool:
            store.leave_old_primary()
            return store.number != first

        wait_until(has_left, "the old primary was left")
        assert store.execute([("CONFIG", "GET", "port")]) == [[b"port", b"%d" % new.port]]


# --- failover -------------------------------------------------------------------------------------


class Debtor:
    """Debits one account as a rater and its clients would: what is unknown is sent again with its key."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.store = StoreConnection(url, timeout_ms=RATER_TIMEOUT_MS)
        Accounts(self.store).open(ANNA)
        snapshot = Snapshot(1, {"vdf": 1}, {"vdf": compile_tariff(TARIFF, 31 * 86_400_000_000)})
        self._service = Service(
            self.store,
            snapshot,
            key_ttl_ms=3_600_000,
            journal_lines=1_000_000,
            durability=Durability(Level.REPLICATED, 1, 300),
        )
        self.acknowledged: dict[str, bytes] = {}
        self.unknown = 0
        self.stop = False
        self._progress = threading.Condition()

    def run(self) -> None:
        """Debit until told to stop, each batch until all of it is acknowledged."""
        while not self.stop:
            first = len(self.acknowledged)
            jobs = [
                job("DebitBalance", "", f"k{n}", timeout_us=600_000_000, Amount=0.000001)
                for n in range(first, first + 20)
            ]
            while jobs:
                jobs = self._process(jobs)
            with self._progress:
                self._progress.notify_all()

    def wait_for_progress(self, debits: int = 400) -> None:
        wanted = len(self.acknowledged) + debits
        with self._progress:
            assert self._progress.wait_for(lambda: len(self.acknowledged) >= wanted, timeout=60)

    def _process(self, jobs: list[Job]) -> list[Job]:
        again = []
        for request, outcome in zip(jobs, self._service.process(jobs), strict=True):
            if isinstance(outcome, Outcome) and outcome.code == 0:
                self.acknowledged[request.key.removeprefix("c:")] = outcome.body
            else:
                if isinstance(outcome, Outcome):
                    assert json.loads(outcome.body)["name"] in ("not_durable", "store_unavailable")
                self.unknown += 1
                again.append(request)
        if again:
            time.sleep(0.02)  # a client's pause between attempts
        return again

    def reckon(self) -> None:
        """Each acknowledged debit is in the journal exactly once, and the balance is what they leave."""
        with StoreConnection(self._url, timeout_ms=STORE_TIMEOUT_MS) as store:
            lines = Accounts(store).journal("anna")[1:]
            anna = Accounts(store).read("anna")
        assert [line["token"].decode() for line in lines] == [f"c:{key}" for key in self._in_order()]
        assert anna is not None
        assert anna.credit_micros == ANNA.credit_micros - len(self.acknowledged)
        assert [f"{int(line['credit']) / 1e6:.6f}" for line in lines] == [
            f"{float(self.acknowledged[key]):.6f}" for key in self._in_order()
        ]

    def _in_order(self) -> list[str]:
        """The balances fall: an order of the keys in which they were carried out."""
        return sorted(self.acknowledged, key=lambda key: -float(self.acknowledged[key]))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_primary_costs_no_acknowledged_debit_and_doubles_none(tmp_path: Path, replicas: int) -> None:
    with StoreGroup(tmp_path, replicas=replicas, sentinels=3, appendfsync="everysec") as group:
        debtor = Debtor(group.url)
        thread = threading.Thread(target=debtor.run)
        thread.start()
        try:
            debtor.wait_for_progress()
            old = group.kill_primary().name
            new = group.wait_for_new_primary(old).name
            if replicas > 1:
                debtor.wait_for_progress()
            grown = _growth_as_primary(group, old)
            debtor.wait_for_progress()  # a single replica's confirmation was missing until it was back
        finally:
            debtor.stop = True
            thread.join()
        assert grown == 0, "the old primary was not written when it came back as one"
        assert debtor.unknown > 0
        debtor.reckon()
        # On a busy machine the sentinels may have taken a live primary for dead, and done it once more.
        replica = old if group.primary().name != old else new
        group.wait_for_replica(replica)
        with (
            StoreConnection(group.member(replica).url, timeout_ms=STORE_TIMEOUT_MS) as copy,
            StoreConnection(group.url, timeout_ms=STORE_TIMEOUT_MS) as store,
        ):
            assert Accounts(copy).journal("anna") == Accounts(store).journal("anna")
        debtor.store.close()


def _growth_as_primary(group: StoreGroup, name: str) -> int:
    """Start a dead primary again: by how much its journal grows until it becomes a replica."""
    group.make_sentinels_patient()
    group.restart(name)
    lengths: list[int] = []
    while group.role(name) != "slave":
        try:
            with StoreConnection(group.member(name).url) as own:
                role, length = own.execute([("ROLE",), ("XLEN", "ratel:{vdf:anna}:journal")])
        except StoreUnavailable:  # it closes its connections when it is demoted
            continue
        if role[0] == b"master":
            lengths.append(length)
    assert lengths[0] > 0
    return lengths[-1] - lengths[0]


def test_a_whole_cluster_goes_on_after_its_store_s_primary_was_killed(tmp_path: Path) -> None:
    with StoreGroup(tmp_path / "group", replicas=2) as group:
        load = ("--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
        cluster = Cluster(tmp_path / "data", "--store", group.url, "--durability", "replicated", *load)
        try:
            cluster.wait_ready()
            assert cluster.store_url == describe_store_url(group.url)
            with cluster.client() as client:
                request = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256", "Amount": 1}
                before = client.call("Responder.DebitBalance", request | {"RequestId": "before"})
                group.wait_for_new_primary(group.kill_primary().name)
                after = _call_until_done(cluster, request | {"RequestId": "after"})
                assert after == before - 1
                assert _call_until_done(cluster, request | {"RequestId": "before"}) == before
            result = CliRunner().invoke(audit, ["--store", group.url])
            assert result.exit_code == 0, result.output
        finally:
            cluster.stop()


def _call_until_done(cluster: Cluster, request: dict[str, Any]) -> Any:
    """A client's retries with the same key: answers that leave the outcome unknown are none."""
    while True:
        status, body = cluster.request(
            "POST",
            "/jsonrpc",
            json.dumps(
                {"jsonrpc": "2.0", "id": 1, "method": "Responder.DebitBalance", "params": request}
            ).encode(),
        )
        if status == 200 and "result" in body:
            return body["result"]
        time.sleep(0.05)
