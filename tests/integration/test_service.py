"""Batches: every request its own outcome, few round trips, tokens that make repeating safe."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.methods import BY_NAME
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import Command, Reply, Sent, StoreConnection
from common.wire import CLIENT_KEY
from rater.model import (
    Account,
    ActivationPeriod,
    Bonus,
    Bucket,
    Destination,
    Interval,
    Plan,
    Rate,
    Tariff,
)
from rater.rating.snapshot import Snapshot, compile_tariff
from rater.work import request_steps
from rater.work import service as service_module
from rater.work.jobs import Job, Outcome, Undecided
from rater.work.service import Service
from tests.integration.conftest import Accounts

MINUTE_US = 60_000_000
EVERY_DAY = Interval(0, 0, (), 0, 86_400, 0, 0, 1_000_000_000, MINUTE_US, 0)
TARIFF = Tariff(
    "vdf",
    rates=(Rate(0, "*any", "07", "UTC", (ActivationPeriod(0, (EVERY_DAY,)),)),),
    destinations=(Destination("mobile", ("07",)),),
    plans=(
        Plan(
            "gold", sms_micros=50_000_000, received_limit_us=10_000_000, bonus=Bonus(credit_micros=7_000_000)
        ),
        Plan("silver", sms_micros=20_000_000),
    ),
)
ANNA = Account("anna", credit_micros=100_000_000, plan="gold", buckets=(Bucket("mobile", 30_000_000, 10, 0),))


class Nowhere:
    def __init__(self, life: str) -> None:
        self.life = life

    def reply(self, seq: int, outcome: Outcome) -> None:
        raise AssertionError("the service answers to its caller")


def job(
    method: str, token: str = "t", client_key: str = "", timeout_us: int = 60_000_000, **fields: Any
) -> Job:
    key = f"{CLIENT_KEY}{client_key}" if client_key else ""
    cd = {"CstmId": "vdf", "Subject": "anna", "DestinationPrefix": "0723"} | fields
    deadline_us = time.monotonic_ns() // 1000 + timeout_us
    return Job(Nowhere(token), 1, BY_NAME.get(method), json.dumps(cd).encode(), key, deadline_us)


def cost(**fields: Any) -> Job:
    return job("GetCost", TimeStart="2024-01-01T00:00:00Z", TimeEnd="2024-01-01T00:02:30Z", **fields)


class CountingStore(StoreConnection):
    """A store that counts round trips, and can lose its connection after having done its work."""

    lose_replies = 0

    def __init__(self, url: str, *, timeout_ms: int) -> None:
        super().__init__(url, timeout_ms=timeout_ms)
        self.trips: list[Sequence[Command]] = []

    def send(self, commands: Sequence[Command]) -> Sent:
        self.trips.append(commands)
        return super().send(commands)

    def receive(self, sent: Sent) -> list[Reply]:
        replies = super().receive(sent)
        if self.lose_replies and any(command[0] == b"EVALSHA" for command in self.trips[-1]):
            self.lose_replies -= 1
            self.close()
            raise service_module.StoreUnavailable(detail="lost")
        return replies


@pytest.fixture
def counting(store: StoreConnection, store_server: EmbeddedStore) -> Iterator[CountingStore]:
    with CountingStore(store_server.url, timeout_ms=20_000) as connection:
        yield connection


@pytest.fixture
def service(counting: CountingStore, accounts: Accounts) -> Service:
    return accounts_and_service(counting, accounts)


def accounts_and_service(counting: CountingStore, accounts: Accounts) -> Service:
    accounts.open(ANNA)
    snapshot = Snapshot(1, {"vdf": 1}, {"vdf": compile_tariff(TARIFF, 31 * 86_400_000_000)})
    return Service(counting, snapshot, key_ttl_ms=60_000, journal_lines=1000)


def results(outcomes: list[Outcome | Undecided]) -> list[Any]:
    """Decoded results; errors by their names."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, Outcome)
        body = json.loads(outcome.body)
        found.append(body["name"] if outcome.code else body)
    return found


def test_each_request_of_a_batch_has_its_own_outcome(service: Service) -> None:
    outcomes = service.process(
        [
            job("DebitBalance", "a", Amount=10),
            job("DebitBalance", "b", Amount="ten"),
            job("DebitSMS", "c", Amount=1),
            job("DebitSeconds", "d", Amount=12),
            job("DebitBalance", "e", Amount=1, Subject="nobody"),
            job("DebitBalance", "f", Amount=1, CstmId="elsewhere"),
            job("NoSuchMethod", "g"),
            job("GetMaxSessionTime", Amount=60),
            cost(DestinationPrefix="99"),
            cost(),
        ]
    )
    *others, call_cost = results(outcomes)
    assert others == [
        90,
        "invalid_params",
        "insufficient_sms",
        18,
        "unknown_subject",
        "unknown_tenant",
        "method_not_found",
        60,
        "no_rate",
    ]
    assert call_cost["Cost"] == 2.2
    assert [span["MinuteInfo"] is not None for span in call_cost["Timespans"]] == [True, False]


def test_a_batch_is_one_round_trip_and_equal_reads_are_sent_once(
    service: Service, counting: CountingStore
) -> None:
    service.process([job("DebitBalance", "warm", Amount=0)])
    counting.trips.clear()
    service.process([cost() for _ in range(50)] + [job("DebitBalance", f"t{n}", Amount=1) for n in range(5)])
    [[change, read]] = counting.trips
    assert len(read) == 1 + 1
    assert change[2] == 5 * 3  # keys of five requests


@pytest.mark.source
def test_methods_that_need_the_plan_find_it_and_follow_it_when_it_changes(
    service: Service, accounts: Accounts, counting: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results(service.process([job("AddRecievedCallSeconds", "a", Amount=25)])) == [5]
    anna = accounts.read("anna")
    assert anna is not None
    assert anna.credit_micros == ANNA.credit_micros + 2 * 7_000_000
    assert results(service.process([job("ResetUserBudget", "b")])) == [0]

    real = service_module.round_trip
    changes = iter([True])

    def change_between(store: StoreConnection, commands: list[Command]) -> Generator[None, None, list[Reply]]:
        replies = yield from real(store, commands)
        if next(changes, False):  # after the plan was read, before the script runs
            accounts.open(ANNA.__class__("anna", plan="silver"), replace=True)
        return replies

    monkeypatch.setattr(service_module, "round_trip", change_between)
    assert results(service.process([job("ResetUserBudget", "c")])) == [0]
    anna = accounts.read("anna")
    assert anna is not None
    assert anna.sms_micros == 20_000_000


@pytest.mark.parametrize("client_key", ["", "k1"])
def test_a_debit_whose_reply_was_lost_is_done_once_when_it_is_processed_again(
    service: Service, counting: CountingStore, accounts: Accounts, client_key: str
) -> None:
    service.process([job("DebitBalance", "warm", Amount=0)])
    request = job("DebitBalance", "t1", client_key, Amount=10)
    counting.lose_replies = 1
    assert service.process([request]) == [Undecided.UNKNOWN]
    (outcome,) = service.process([request])
    assert outcome == Outcome(0, b"90", True)
    assert [line["amount"] for line in accounts.journal("anna")[1:]] == [b"0", b"10000000"]


def test_kinds_of_tokens_never_meet(service: Service, accounts: Accounts) -> None:
    """A client's key that looks like a balancer's token is still another request."""
    jobs = [
        job("DebitBalance", "x", Amount=1),
        job("DebitBalance", "y", "x", Amount=1),
        job("DebitBalance", "z", "g:x", Amount=1),
        job("DebitBalance", "w", RequestId="c:x", Amount=1),
    ]
    assert results(service.process(jobs)) == [99, 98, 97, 96]
    assert len({line["token"] for line in accounts.journal("anna")}) == 5


def test_a_client_key_in_the_request_counts_before_the_header(service: Service) -> None:
    first = service.process([job("DebitBalance", "t1", "header", RequestId="id", Amount=1)])
    again = service.process([job("DebitBalance", "t2", RequestId="id", Amount=1)])
    assert results(first) == results(again) == [99]


def test_an_amount_where_none_is_needed_does_not_make_it_another_request(service: Service) -> None:
    assert results(service.process([job("ResetVolumeDiscountSeconds", "a", "k")])) == [0]
    assert results(service.process([job("ResetVolumeDiscountSeconds", "b", "k", Amount=5)])) == [0]
    assert results(service.process([job("AddVolumeDiscountSeconds", "c", "k", Amount=5)])) == ["key_reused"]


def test_a_mutation_past_its_deadline_is_not_done(service: Service, accounts: Accounts) -> None:
    assert results(service.process([job("DebitBalance", timeout_us=-1_000_000, Amount=1)])) == [
        "deadline_exceeded"
    ]
    assert len(accounts.journal("anna")) == 1


@pytest.mark.source
def test_reads_beyond_the_time_budget_are_left_for_the_next_batch_but_debits_are_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.process([cost()])
    monkeypatch.setattr(service_module, "TIME_BUDGET_US", -1)
    outcomes = service.process([cost(), cost(), job("DebitBalance", "a", Amount=1), cost()])
    assert isinstance(outcomes[0], Outcome)
    assert outcomes[1] is outcomes[3] is Undecided.NOT_BEGUN
    assert outcomes[2] == Outcome(0, b"99", False)


@pytest.mark.source
def test_a_result_too_large_to_be_sent_is_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_steps, "MAX_RESULT_BYTES", 100)
    assert results(service.process([cost()])) == ["result_too_large"]


@pytest.mark.source
def test_a_command_that_cannot_be_made_is_an_error_of_its_batch_and_of_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("rater.work.rounds.batch_command", break_down)
    assert results(service.process([cost(), job("DebitBalance", Amount=1)])) == ["internal_error"] * 2
    monkeypatch.undo()
    assert results(service.process([job("DebitBalance", Amount=1)])) == [99]


@pytest.mark.source
def test_a_store_that_is_loading_leaves_requests_undecided(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = service_module.ResponseError("LOADING the dataset is being read")

    def refuse(_store: StoreConnection, commands: list[Command]) -> Generator[None, None, list[Reply]]:
        yield
        return [loading for _ in commands]

    monkeypatch.setattr(service_module, "round_trip", refuse)
    service.measure_store_clock()
    assert service.process([cost(), job("DebitBalance", Amount=1)]) == [Undecided.UNKNOWN] * 2


def test_a_store_that_is_not_there_leaves_requests_undecided(tmp_path: Path) -> None:
    snapshot = Snapshot(1, {"vdf": 1}, {"vdf": compile_tariff(TARIFF, 31 * 86_400_000_000)})
    with StoreConnection(f"unix://{tmp_path}/none", timeout_ms=100) as nothing:
        service = Service(nothing, snapshot, key_ttl_ms=60_000, journal_lines=1000)
        assert service.process([cost(), job("DebitBalance", Amount=1)]) == [Undecided.UNKNOWN] * 2
