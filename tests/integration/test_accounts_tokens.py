"""A token makes a mutation happen once; a deadline makes it happen in time or not at all."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec import structs

from common.errors import (
    BelowFloor,
    DeadlineExceeded,
    InsufficientCredit,
    InsufficientSeconds,
    InsufficientSms,
    InternalError,
    InvalidParams,
    KeyReused,
    NoBucket,
    NoTariffPlan,
    OutOfRange,
    StoreUnavailable,
)
from common.money import LIMIT
from rater.accounts.mutation import MutationResult, Refused
from rater.accounts.mutations import mutation_command, parse_mutation_reply
from rater.accounts.opening import parse_open_reply
from rater.model import Account, Bonus, Bucket, Plan
from rater.store import scripts
from rater.store.keys import account_keys

MICRO = 1_000_000
PLAN = Plan("p", sms_micros=5, received_limit_us=10, bonus=Bonus(7), buckets=(Bucket("d", 9, 0, 0),))


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("DebitBalance", {"amount_micros": 5}),
    ("DebitSMS", {"amount_micros": 5}),
    ("DebitSeconds", {"amount_micros": 5, "destination": "07\n23", "matches": (("d", 2),)}),
    ("AddVolumeDiscountSeconds", {"amount_micros": 5}),
    ("ResetVolumeDiscountSeconds", {}),
    ("AddRecievedCallSeconds", {"amount_micros": 25, "plan_id": "p", "plan": PLAN}),
    ("ResetUserBudget", {"plan_id": "p", "plan": PLAN}),
]
REFUSED: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("DebitBalance", {"amount_micros": 1000}, BelowFloor),
    ("DebitBalance", {"amount_micros": -LIMIT}, OutOfRange),
    ("DebitSMS", {"amount_micros": 1000}, InsufficientSms),
    (
        "DebitSeconds",
        {"amount_micros": 1000, "destination": "1", "matches": (("d", 2),)},
        InsufficientSeconds,
    ),
    (
        "DebitSeconds",
        {"amount_micros": 60, "destination": "1", "matches": (("dear", 2),)},
        InsufficientCredit,
    ),
    ("DebitSeconds", {"amount_micros": -1, "destination": "1"}, NoBucket),
    ("ResetUserBudget", {"plan_id": "p"}, NoTariffPlan),
]


@pytest.fixture
def account(accounts: Any) -> Account:
    value = Account(
        "rif",
        credit_micros=100,
        sms_micros=100,
        plan="p",
        min_credit_micros=50,
        buckets=(Bucket("d", 100, 0, 0), Bucket("dear", 100, 0, 1_000_000_000)),
    )
    accounts.open(value)
    return value


@pytest.mark.parametrize(("method", "fields"), ACCEPTED)
def test_a_repeated_token_gives_the_same_result_and_changes_nothing(
    accounts: Any, account: Account, method: str, fields: dict[str, Any]
) -> None:
    mutation = accounts.mutation(method, **fields)
    first = accounts.send(mutation)
    assert isinstance(first, MutationResult)
    accounts.run("DebitBalance", amount_micros=3)
    after = accounts.state()
    for _ in range(3):
        assert accounts.send(mutation) == structs.replace(first, replayed=True)
    assert accounts.state() == after


@pytest.mark.parametrize(("method", "fields", "kind"), REFUSED)
def test_a_repeated_token_is_refused_again_even_when_it_would_be_granted_by_now(
    accounts: Any, account: Account, method: str, fields: dict[str, Any], kind: type[Exception]
) -> None:
    mutation = accounts.mutation(method, **fields)
    first = accounts.send(mutation)
    assert isinstance(first, Refused)
    assert type(first.error) is kind
    accounts.open(Account("rif", -1, 10_000, plan="p", postpaid=True), replace=True)
    after = accounts.state()
    again = accounts.send(mutation)
    assert again.replayed
    assert type(again.error) is kind
    assert (again.error.message, again.error.data) == (first.error.message, first.error.data)
    assert accounts.state() == after


def test_a_replay_does_not_depend_on_the_plan_that_the_caller_knows(accounts: Any, account: Account) -> None:
    mutation = accounts.mutation("AddRecievedCallSeconds", amount_micros=25, plan_id="p", plan=PLAN)
    first = accounts.send(mutation)
    other = accounts.mutation("AddRecievedCallSeconds", amount_micros=25, token=mutation.token, plan_id="q")
    assert accounts.send(other) == structs.replace(first, replayed=True)


@pytest.mark.parametrize(
    "change",
    [
        {"amount_micros": 6},
        {"amount_micros": -5},
        {"destination": "0724"},
        {"destination": "0723\nOK 1"},
        {"method": "DebitSMS"},
    ],
)
def test_a_token_used_for_something_else_is_refused(
    accounts: Any, account: Account, change: dict[str, Any]
) -> None:
    fields = {"amount_micros": 5, "destination": "0723", "matches": (("d", 1),), "request_id": "mine"}
    first = accounts.mutation("DebitSeconds", **fields)
    accounts.send(first)
    method = change.pop("method", "DebitSeconds")
    error = accounts.refuse(method, **(fields | change), token=first.token)
    assert isinstance(error, KeyReused)
    assert error.data == {"request_id": "mine"}
    assert accounts.send(first).replayed


def test_a_token_belongs_to_one_account(accounts: Any, account: Account) -> None:
    accounts.open(Account("other", credit_micros=100))
    for subject in ("rif", "other"):
        assert accounts.run("DebitBalance", amount_micros=5, token="same", subject=subject) == 95e-6


def test_a_token_lives_as_long_as_it_was_told_to(accounts: Any, account: Account) -> None:
    granted = accounts.mutation("DebitBalance", amount_micros=5, token_ttl_ms=86_400_000)
    refused = accounts.mutation("DebitBalance", amount_micros=5000, token_ttl_ms=86_400_000)
    for mutation in (granted, refused):
        accounts.send(mutation)
        key = account_keys("vdf", "rif").token_prefix + mutation.token.encode()
        [left_ms] = accounts.store.execute([("PTTL", key)])
        assert 86_000_000 < left_ms <= 86_400_000
        accounts.store.execute([("DEL", key)])
    assert accounts.run("DebitBalance", amount_micros=5, token=granted.token) == 90e-6


@pytest.mark.parametrize(("method", "fields"), ACCEPTED)
def test_what_is_past_its_deadline_is_not_done(
    accounts: Any, account: Account, method: str, fields: dict[str, Any]
) -> None:
    now_us = monotonic_us() + accounts.store.clock_offset_us(monotonic_us)
    error = accounts.refuse(method, **fields, deadline_us=now_us - 1_000_000, token="t")
    assert isinstance(error, DeadlineExceeded)
    assert accounts.store.execute([("EXISTS", account_keys("vdf", "rif").token_prefix + b"t")]) == [0]
    accounts.run(method, **fields, deadline_us=now_us + 3_600_000_000, token="t")


def test_a_replay_is_answered_after_the_deadline_too(accounts: Any, account: Account) -> None:
    first = accounts.send(accounts.mutation("DebitBalance", amount_micros=5, token="t"))
    late = accounts.mutation("DebitBalance", amount_micros=5, token="t", deadline_us=1)
    assert accounts.send(late) == structs.replace(first, replayed=True)


def test_scripts_that_the_store_has_forgotten_are_loaded_and_run_once(
    accounts: Any, account: Account
) -> None:
    keys = account_keys("vdf", "rif")
    accounts.store.execute([("SCRIPT", "FLUSH", "SYNC")])
    mutations = [accounts.mutation("DebitBalance", amount_micros=1) for _ in range(5)]
    commands = [mutation_command(keys, mutation) for mutation in mutations]
    replies = scripts.execute(accounts.store, [("PING",), *commands, ("NONSENSE",), ("PING",)])
    assert replies[0] == replies[-1] == b"PONG"
    assert isinstance(replies[-2], Exception)
    results = [parse_mutation_reply(m, r) for m, [r] in zip(mutations, replies[1:-2], strict=True)]
    assert sorted(result.value_micros for result in results) == [*range(95, 100)]
    assert not any(result.replayed for result in results)
    assert accounts.read().credit_micros == 95


def test_odd_names_and_tokens_are_kept_apart_and_come_back_exactly(accounts: Any) -> None:
    names = [
        "a",
        "a:b",
        "a{b",
        "a}b",
        "{",
        "}",
        "a%3Ab",
        "a\nb",
        "a b",
        '"',
        "'",
        "\0",
        "😀",
        "é",
        "",
        "%",
        "*",
    ]
    pairs = [(tenant, subject) for tenant in names for subject in names]
    for credit, (tenant, subject) in enumerate(pairs):
        accounts.tenant = tenant
        accounts.open(Account(subject, credit_micros=credit, plan=subject))
    for credit, (tenant, subject) in enumerate(pairs):
        accounts.tenant = tenant
        token = f"{subject}\n{tenant}\r\n*"
        outcome = accounts.send(
            accounts.mutation("DebitBalance", amount_micros=-1, subject=subject, token=token)
        )
        assert outcome == MutationResult(credit + 1, False)
        assert accounts.read(subject) == Account(subject, credit_micros=credit + 1, plan=subject)
        assert accounts.journal(subject)[-1]["token"] == token.encode()
    assert accounts.store.execute([("DBSIZE",)]) == [3 * len(pairs)]


@pytest.mark.parametrize("field", ["token", "destination"])
def test_text_that_is_not_unicode_is_refused_before_anything_is_sent(accounts: Any, field: str) -> None:
    mutation = accounts.mutation("DebitBalance", **{field: "\ud800"})
    with pytest.raises(InvalidParams, match="lone surrogate"):
        mutation_command(account_keys("vdf", "rif"), mutation)


def test_what_the_store_refuses_is_told_apart_from_what_we_did_wrong(accounts: Any) -> None:
    keys = account_keys("vdf", "rif")
    mutation = accounts.mutation("DebitBalance", 1)
    accounts.store.execute([("SET", keys.account, "not a hash")])
    outcome = accounts.send(mutation)
    assert isinstance(outcome.error, InternalError)
    accounts.store.execute([("DEL", keys.account)])
    accounts.open(Account("rif"))
    try:
        accounts.store.execute([("CONFIG", "SET", "maxmemory", "1")])
        before = accounts.state()
        outcome = accounts.send(mutation)
        assert isinstance(outcome.error, StoreUnavailable)
        assert "OOM" in outcome.error.message
        assert accounts.state() == before
        with pytest.raises(StoreUnavailable, match="OOM"):
            accounts.open(Account("new"))
    finally:
        accounts.store.execute([("CONFIG", "SET", "maxmemory", "0")])
    assert accounts.run("DebitBalance", 1, token=mutation.token) == -1
    for junk in (None, 5, [], b"Gibberish 12"):
        assert isinstance(parse_mutation_reply(mutation, junk).error, InternalError)
    with pytest.raises(InternalError):
        parse_open_reply(None)
