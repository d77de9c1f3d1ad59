"""Acknowledged only when it is as safe as the level says: stores that are cut off, full, demoted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.commands.up_command import up
from common.errors import StoreUnavailable
from common.storage.durability import Durability, Level
from common.storage.embedded_store import EmbeddedStore, find_server
from common.storage.store import Command, Reply, Sent, StoreConnection
from rater.accounts.mutation import Mutation, Refused
from rater.accounts.mutations import mutation_command, parse_mutation_reply
from rater.accounts.opening import open_command
from rater.command import rater
from rater.model import Account, Bonus, Bucket, Plan
from rater.rating.snapshot import Snapshot, compile_tariff
from rater.store.keys import account_keys
from rater.store.scripts import execute
from rater.work import service as service_module
from rater.work.jobs import Outcome, Undecided
from rater.work.service import Service
from tests.integration.conftest import STORE_TIMEOUT_MS, Accounts
from tests.integration.test_service import ANNA, TARIFF, cost, job, results
from tests.store_group import StoreGroup, is_redis_7_0

PATIENT_MS = 20_000
"""Of a wait that must be fulfilled: the machine that runs the tests may be busy with something else."""
SHORT_MS = 50
"""Of a wait that can't be."""


class Recording(StoreConnection):
    """A connection that notes the batches that it sends."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_ms=STORE_TIMEOUT_MS + PATIENT_MS)
        self.sent: list[list[Command]] = []

    def send(self, commands: Any) -> Sent:
        self.sent.append(list(commands))
        return super().send(commands)


@pytest.fixture(autouse=True)
def _has_waitaof(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    level = callspec.params.get("level") if callspec else None
    if level in (Level.ALWAYS, Level.REPLICATED_ALWAYS) and is_redis_7_0():
        pytest.skip("Redis 7.0 has no WAITAOF")


def serve(store: StoreConnection, level: Level, timeout_ms: int, replicas: int = 1) -> Service:
    snapshot = Snapshot(1, {"vdf": 1}, {"vdf": compile_tariff(TARIFF, 31 * 86_400_000_000)})
    durability = Durability(level, replicas, timeout_ms)
    return Service(store, snapshot, key_ttl_ms=60_000, journal_lines=1000, durability=durability)


def debit(key: str, amount: int = 10, **fields: Any) -> service_module.Job:
    return job("DebitBalance", f"g-{key}", key, timeout_us=600_000_000, Amount=amount, **fields)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreGroup]:
    with StoreGroup(tmp_path_factory.mktemp("group"), replicas=1, sentinels=0) as running:
        yield running


@pytest.fixture
def primary(group: StoreGroup) -> Iterator[Recording]:
    """A connection to the primary, which is empty but for anna; its replica runs and keeps up."""
    group.resume("store-1")
    with Recording(group.url) as connection:
        assert connection.execute([("FLUSHALL", "SYNC")]) == [b"OK"]
        Accounts(connection).open(ANNA)
        group.wait_for_replica("store-1")
        yield connection
    group.resume("store-1")


@pytest.fixture
def other(group: StoreGroup, primary: Recording) -> Iterator[Recording]:
    with Recording(group.url) as connection:
        yield connection


def journal(store: StoreConnection) -> list[bytes]:
    return [line["op"] for line in Accounts(store).journal("anna")]


# --- the levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", Level)
def test_what_the_copies_confirm_is_acknowledged_in_one_round_trip(primary: Recording, level: Level) -> None:
    service = serve(primary, level, PATIENT_MS)
    service.measure_store_clock()
    primary.sent.clear()
    assert service.process([debit("a")]) == [Outcome(0, b"90", False)]
    assert service.process([debit("a")]) == [Outcome(0, b"90", True)]
    words = [[command[0] for command in batch] for batch in primary.sent]
    waits = {
        Level.EVERYSEC: [],
        Level.ALWAYS: [b"WAITAOF"],
        Level.REPLICATED: [b"WAIT"],
        Level.REPLICATED_ALWAYS: [b"WAIT", b"WAITAOF"],
    }
    assert words == [[b"EVALSHA", *waits[level]]] * 2


def test_reads_alone_wait_for_nothing(primary: Recording) -> None:
    service = serve(primary, Level.REPLICATED, PATIENT_MS)
    service.process([cost()])
    assert [[command[0] for command in batch] for batch in primary.sent][-1] == [b"MGET"]


def test_a_shortfall_is_an_error_of_what_was_decided_and_of_nothing_else(
    group: StoreGroup, primary: Recording
) -> None:
    assert results(serve(primary, Level.EVERYSEC, 1).process([debit("used")])) == [90]
    group.pause("store-1")
    service = serve(primary, Level.REPLICATED, SHORT_MS)
    outcomes = service.process(
        [
            debit("new"),
            job("DebitSMS", "s", "refused", Amount=1),
            debit("used"),
            debit("used", 11),
            debit("stranger", Subject="nobody"),
            job("DebitBalance", "wrong", "wrong", Amount="ten"),
            job("GetMaxSessionTime", Amount=60),
            job("DebitBalance", "late", timeout_us=-1_000_000, Amount=1),
            job("AddRecievedCallSeconds", "r", "r", Amount=25),
            cost(),
        ]
    )
    *names, call_cost = results(outcomes)
    assert names == [
        "not_durable",
        "not_durable",
        "not_durable",
        "key_reused",
        "unknown_subject",
        "invalid_params",
        60,
        "deadline_exceeded",
        "not_durable",
    ]
    assert call_cost["Cost"] == 2
    first = outcomes[0]
    assert isinstance(first, Outcome)
    error = json.loads(first.body)
    assert error["data"] == {"confirmed": 1, "copies": 2, "timeout_ms": SHORT_MS}
    assert "1 of 2 copies" in error["message"]


@pytest.mark.parametrize("level", [Level.REPLICATED, Level.REPLICATED_ALWAYS])
@pytest.mark.parametrize("method", ["DebitBalance", "DebitSMS"])
def test_a_replay_elsewhere_is_acknowledged_only_when_the_copies_have_the_original(
    group: StoreGroup, primary: Recording, other: Recording, level: Level, method: str
) -> None:
    """An accepted debit and a stored refusal, repeated on another connection than the one that wrote."""
    request = job(method, "t", "key", timeout_us=600_000_000, Amount=10)
    group.pause("store-1")
    assert results(serve(primary, level, SHORT_MS).process([request])) == ["not_durable"]
    for _ in range(2):
        assert results(serve(other, level, SHORT_MS).process([request])) == ["not_durable"]
    group.resume("store-1")
    patient = serve(other, level, PATIENT_MS)
    first, second = patient.process([request]), patient.process([request])
    assert first == second
    assert results(first) == ([90] if method == "DebitBalance" else ["insufficient_sms"])
    assert isinstance(first[0], Outcome)
    assert first[0].replayed
    assert journal(primary) == ([b"Open", b"DebitBalance"] if method == "DebitBalance" else [b"Open"])
    with StoreConnection(group.member("store-1").url) as copy:
        assert Accounts(copy).read("anna") == Accounts(primary).read("anna")


def test_a_replay_makes_the_key_live_anew(primary: Recording) -> None:
    service = serve(primary, Level.EVERYSEC, 1)
    service.process([debit("k")])
    token = account_keys("vdf", "anna").token_prefix + b"c:k"
    assert primary.execute([("PEXPIRE", token, 5_000)]) == [1]
    assert service.process([debit("k")]) == [Outcome(0, b"90", True)]
    [left_ms] = primary.execute([("PTTL", token)])
    assert 5_000 < left_ms <= 60_000


@pytest.mark.parametrize("level", [Level.REPLICATED, Level.REPLICATED_ALWAYS])
def test_the_wait_follows_what_a_missing_script_delayed(
    group: StoreGroup, primary: Recording, level: Level
) -> None:
    service = serve(primary, level, SHORT_MS)
    service.measure_store_clock()
    group.pause("store-1")
    assert primary.execute([("SCRIPT", "FLUSH")]) == [b"OK"]
    assert results(service.process([debit("a")])) == ["not_durable"]
    group.resume("store-1")
    assert primary.execute([("SCRIPT", "FLUSH")]) == [b"OK"]
    assert results(serve(primary, level, PATIENT_MS).process([debit("a"), debit("b")])) == [90, 80]


def test_more_replicas_than_there_are_is_a_shortfall(primary: Recording) -> None:
    [outcome] = serve(primary, Level.REPLICATED, SHORT_MS, replicas=2).process([debit("a")])
    assert isinstance(outcome, Outcome)
    assert json.loads(outcome.body)["data"]["copies"] == 3


@pytest.mark.parametrize(
    ("store_name", "level", "confirmed"),
    [
        ("store-0", Level.ALWAYS, 0),
        ("store-0", Level.REPLICATED_ALWAYS, 0),
        ("store-1", Level.REPLICATED_ALWAYS, 1),
    ],
)
def test_a_copy_without_a_file_confirms_no_level_that_needs_one(
    group: StoreGroup, primary: Recording, store_name: str, level: Level, confirmed: int
) -> None:
    with StoreConnection(group.member(store_name).url) as member:
        member.execute([("CONFIG", "SET", "appendonly", "no")])
        try:
            [outcome] = serve(primary, level, SHORT_MS).process([debit("a")])
        finally:
            assert member.execute([("CONFIG", "SET", "appendonly", "yes")]) == [b"OK"]
    assert isinstance(outcome, Outcome)
    body = json.loads(outcome.body)
    assert (body["name"], body["data"]["confirmed"]) == ("not_durable", confirmed)
    assert results(serve(primary, level, PATIENT_MS).process([debit("a")])) == [90]


def test_a_store_that_does_not_know_the_command_confirms_nothing(
    primary: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durability, "waits", ((b"WAITDISK", 1),))
    assert results(serve(primary, Level.ALWAYS, SHORT_MS).process([debit("a")])) == ["not_durable"]


def test_settings_that_can_t_be_kept_are_refused() -> None:
    for level in ("replicated", "replicated-always"):
        refused = CliRunner().invoke(up, ["--durability", level])
        assert refused.exit_code == 2
        assert f"--durability {level} needs --store" in refused.output
    assert "sometimes" in CliRunner().invoke(rater, [], env={"RATEL_DURABILITY": "sometimes"}).output
    assert "--replicas" in CliRunner().invoke(rater, [], env={"RATEL_REPLICAS": "0"}).output


# --- a store that takes no writes -----------------------------------------------------------------

PLAN = Plan("p", sms_micros=5, received_limit_us=10, bonus=Bonus(7, bucket=Bucket("new", 1, 0, 0)))
FULL = Account(
    "rif",
    credit_micros=1000,
    sms_micros=10,
    volume_discount_us=3,
    plan="p",
    buckets=(Bucket("d", 9, 0, 1), Bucket("e", 9, 0, 1)),
)
KEYS = account_keys("vdf", "rif")
MUTATIONS: dict[str, dict[str, Any]] = {
    "DebitBalance": {"amount_micros": 5},
    "DebitSMS": {"amount_micros": 5},
    "DebitSeconds": {"amount_micros": 5, "destination": "0723", "matches": (("d", 2),)},
    "AddVolumeDiscountSeconds": {"amount_micros": 5},
    "ResetVolumeDiscountSeconds": {},
    "AddRecievedCallSeconds": {"amount_micros": 25, "plan_id": "p", "plan": PLAN},
    "ResetUserBudget": {"plan_id": "p", "plan": PLAN},
}
STATES: dict[str, tuple[list[Command], list[Command]]] = {
    "OOM": ([("CONFIG", "SET", "maxmemory", 1)], [("CONFIG", "SET", "maxmemory", 0)]),
    "READONLY": ([("REPLICAOF", "127.0.0.1", 1)], [("REPLICAOF", "NO", "ONE")]),
    "NOREPLICAS": (
        [("CONFIG", "SET", "min-replicas-to-write", 1)],
        [("CONFIG", "SET", "min-replicas-to-write", 0)],
    ),
}


def mutation(method: str, token: str = "") -> Mutation:
    return Mutation(
        method=method,
        tenant="vdf",
        subject="rif",
        token=token or method,
        token_ttl_ms=3_600_000,
        **MUTATIONS[method],
    )


def everything(store: StoreConnection) -> dict[bytes, list[Reply]]:
    """All keys with their bytes and when they expire."""
    [keys] = store.execute([("KEYS", "*")])
    return {key: store.execute([("DUMP", key), ("PEXPIRETIME", key)]) for key in keys}


def expect_no_trace(store: StoreConnection, word: str, expected: type[Exception]) -> None:
    """Every mutation, and an opening that replaces, is refused with `word` and changes no byte."""
    before = everything(store)
    assert len(before) == 3
    for method in MUTATIONS:
        [[reply]] = execute(store, [mutation_command(KEYS, mutation(method))])
        outcome = parse_mutation_reply(mutation(method), reply)
        assert isinstance(outcome, Refused), method
        assert type(outcome.error) is expected, method
        assert word in str(outcome.error)
        assert everything(store) == before, method
    [reply] = execute(store, [open_command(KEYS, FULL, replace=True)])
    assert word in str(reply)
    assert everything(store) == before


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("lone")) as server:
        yield server


@pytest.fixture
def lone_store(lone: EmbeddedStore) -> Iterator[StoreConnection]:
    with StoreConnection(lone.url, timeout_ms=STORE_TIMEOUT_MS) as store:
        store.execute([("FLUSHALL", "SYNC")])
        execute(store, [open_command(KEYS, FULL), mutation_command(KEYS, mutation("DebitBalance", "done"))])
        yield store


@pytest.mark.parametrize("state", STATES)
def test_a_store_that_takes_no_writes_is_left_as_it_is(lone_store: StoreConnection, state: str) -> None:
    enter, leave = STATES[state]
    lone_store.execute(enter)
    try:
        expect_no_trace(lone_store, state, StoreUnavailable)
    finally:
        lone_store.execute(leave)
    for method in MUTATIONS:
        [[reply]] = execute(lone_store, [mutation_command(KEYS, mutation(method))])
        assert reply.startswith(b"OK "), "the same request is done once the store takes writes again"


def test_a_store_that_can_t_write_its_file_is_left_as_it_is(tmp_path: Path) -> None:
    folder, path = tmp_path / "data", tmp_path / "s"
    folder.mkdir()
    words = [
        find_server(),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(folder),
        "--save",
        "3600 1",
    ]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "ready to accept" in line.lower():
                break
        with StoreConnection(f"unix://{path}", timeout_ms=STORE_TIMEOUT_MS) as store:
            opening = [open_command(KEYS, FULL), mutation_command(KEYS, mutation("DebitBalance", "done"))]
            assert execute(store, opening) == [b"Opened", [b"OK 995"]]
            shutil.rmtree(folder)
            store.execute([("BGSAVE",)])
            while b"rdb_last_bgsave_status:err" not in store.execute([("INFO", "persistence")])[0]:
                pass  # the child that saves is at work
            expect_no_trace(store, "MISCONF", StoreUnavailable)
    finally:
        server.kill()
        server.communicate()


def test_a_full_store_still_replays(lone_store: StoreConnection) -> None:
    lone_store.execute([("CONFIG", "SET", "maxmemory", 1)])
    try:
        [[reply]] = execute(lone_store, [mutation_command(KEYS, mutation("DebitBalance", "done"))])
    finally:
        lone_store.execute([("CONFIG", "SET", "maxmemory", 0)])
    assert reply == b"*OK 995"


def test_a_demoted_store_leaves_requests_undecided_and_its_connection_is_given_up(
    lone: EmbeddedStore,
) -> None:
    with Recording(lone.url) as store:
        Accounts(store).open(ANNA)
        service = serve(store, Level.EVERYSEC, 1)
        service.measure_store_clock()
        store.execute([("REPLICAOF", "127.0.0.1", 1)])
        try:
            assert service.process([debit("a"), debit("b")]) == [Undecided.UNKNOWN] * 2
            assert store.number == 0
        finally:
            store.execute([("REPLICAOF", "NO", "ONE")])
        assert store.number == 2
        assert results(service.process([debit("a"), debit("b")])) == [90, 80]


# --- clocks ---------------------------------------------------------------------------------------


@pytest.fixture
def service(lone: EmbeddedStore) -> Iterator[Service]:
    with Recording(lone.url) as store:
        store.execute([("FLUSHALL", "SYNC")])
        Accounts(store).open(ANNA)
        running = serve(store, Level.EVERYSEC, 1)
        running.measure_store_clock()
        yield running


def set_store_clock(service: Service, step_s: int) -> None:
    """As if the store's clock had been set by so much since it was measured."""
    service._steps.clock_offset_us -= step_s * 1_000_000


MINUTE = 60_000_000


def test_what_a_store_whose_clock_was_set_forward_drops_is_done_in_the_next_turn(service: Service) -> None:
    request = job("DebitBalance", "t", timeout_us=20_000_000, Amount=10)
    set_store_clock(service, 25)
    assert service.process([request, cost()])[0] is Undecided.NOT_BEGUN
    assert service.process([request]) == [Outcome(0, b"90", False)]


def test_a_long_step_of_the_clock_costs_the_requests_under_way_and_no_others(service: Service) -> None:
    """After so long a token may be gone: what was dropped may have been done, elsewhere, long ago."""
    set_store_clock(service, 40)
    request = job("DebitBalance", "t", timeout_us=30_000_000, Amount=10)
    assert results(service.process([request])) == ["deadline_exceeded"]
    assert service.process([request]) == [Outcome(0, b"90", False)]


def test_what_is_late_by_both_clocks_is_dropped(service: Service) -> None:
    set_store_clock(service, 25)
    assert results(service.process([job("DebitBalance", timeout_us=-1, Amount=1)])) == ["deadline_exceeded"]


@pytest.mark.parametrize("step_s", [-7200, 7200])
def test_a_new_connection_is_asked_for_its_clock_before_anything_else(service: Service, step_s: int) -> None:
    store = service._store
    assert isinstance(store, Recording)
    store.close()
    set_store_clock(service, step_s)
    store.sent.clear()
    late, timely = (
        job("DebitBalance", "a", timeout_us=-1_000_000, Amount=1),
        job("DebitBalance", "b", Amount=10),
    )
    assert results(service.process([late, timely])) == ["deadline_exceeded", 90]
    assert store.sent[0] == [("TIME",)]


def test_a_connection_that_breaks_is_asked_again(lone: EmbeddedStore, service: Service) -> None:
    with StoreConnection(lone.url) as admin:
        admin.execute([("CLIENT", "KILL", "TYPE", "NORMAL")])
    request = job("DebitBalance", "a", Amount=10)
    assert service.process([request]) == [Undecided.UNKNOWN]
    set_store_clock(service, 7200)
    assert results(service.process([request])) == [90]
