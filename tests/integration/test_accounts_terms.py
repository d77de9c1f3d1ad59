"""What operators decide about accounts: the terms, and whether one is blocked."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Blocked, InternalError, KeyReused, UnknownSubject
from common.money import LIMIT
from rater.accounts.mutation import Mutation, MutationResult, Refused
from rater.accounts.mutations import batch_command, mutation_command, parse_mutation_reply
from rater.accounts.terms import Terms, fingerprint
from rater.journal.audit import Selection, audit
from rater.model import Account, Bucket
from rater.store import scripts
from rater.store.keys import account_keys

MICRO = 1_000_000
DIALLED: dict[str, Any] = {"destination": "0723", "matches": (("retea", 4),)}
RIF = Account(
    "rif", 100 * MICRO, 50 * MICRO, plan="seara", buckets=(Bucket("retea", 60 * MICRO, 1, 0),), reset_day=3
)


def setting(accounts: Any, subject: str = "rif", token: str = "", **terms: Any) -> Any:
    wanted = Terms(**terms)
    fields = {"token": token} if token else {}
    return accounts.mutation(
        "SetTerms", subject=subject, terms=wanted, destination=fingerprint(wanted), **fields
    )


def decide(accounts: Any, subject: str = "rif", **terms: Any) -> bool:
    """Whether something has changed."""
    outcome = accounts.send(setting(accounts, subject, **terms))
    if isinstance(outcome, Refused):
        raise outcome.error
    assert not outcome.replayed
    return {MICRO: True, 0: False}[outcome.value_micros]


def assert_whole(accounts: Any) -> None:
    found: list[Any] = []
    audit(
        accounts.store,
        Selection(None, None),
        None,
        key_ttl_ms=60_000,
        report=found.append,
        progress=lambda *_: None,
    )
    assert [result.findings for result in found if result.findings] == []


def test_each_term_is_changed_by_itself(accounts: Any) -> None:
    accounts.open(RIF)
    expected = RIF
    for terms in (
        {"postpaid": True},
        {"min_credit_micros": -5 * MICRO},
        {"min_credit_micros": 0},
        {"min_credit_micros": None},
        {"reset_day": 0},
        {"plan": ""},
        {"plan": "zi și noapte"},
        {"blocked": True},
        {"postpaid": False, "blocked": False, "min_credit_micros": LIMIT, "plan": "x", "reset_day": 31},
    ):
        values = {name: getattr(expected, name) for name in Account.__struct_fields__} | terms
        expected = Account(**values)
        assert decide(accounts, **terms) is True
        assert accounts.read() == expected
        assert decide(accounts, **terms) is False
        assert accounts.read() == expected
    line = accounts.journal()[-1]
    assert (line["op"], line["amount"]) == (b"SetTerms", b"0")
    assert line["token"].startswith(b"test.")
    assert line["terms"].decode() == f"prepaid floor={LIMIT} reset_day=31 blocked=0 plan=x"
    assert [each["seq"] for each in accounts.journal()] == [b"%d" % seq for seq in range(1, 11)]
    assert_whole(accounts)


def test_what_there_is_not_is_said(accounts: Any) -> None:
    with pytest.raises(UnknownSubject):
        decide(accounts, "nobody", blocked=True)
    assert accounts.read("nobody") is None
    accounts.store.execute([("SET", account_keys("vdf", "odd").account, "x" * 100)])
    with pytest.raises(InternalError):
        decide(accounts, "odd", blocked=True)


@pytest.mark.parametrize("terms", [{"min_credit_micros": LIMIT + 1}, {"reset_day": 32}, {"reset_day": -1}])
def test_terms_out_of_range_are_refused_here(terms: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"floor|reset day"):
        mutation_command(
            account_keys("vdf", "rif"),
            Mutation(
                method="SetTerms",
                tenant="vdf",
                subject="rif",
                token="t",
                token_ttl_ms=1000,
                terms=Terms(**terms),
            ),
        )


def test_terms_are_set_once_under_a_token(accounts: Any) -> None:
    accounts.open(RIF)
    block = setting(accounts, blocked=True, token="c:block")
    assert accounts.send(block) == MutationResult(MICRO, False)
    assert accounts.send(block) == MutationResult(MICRO, True)
    decide(accounts, blocked=False)
    assert accounts.send(block) == MutationResult(MICRO, True)  # what it did stands, and is not done again
    assert not accounts.read().blocked
    same = setting(accounts, blocked=False, token="c:same")
    lines = len(accounts.journal())
    assert accounts.send(same) == MutationResult(0, False)
    decide(accounts, blocked=True)
    assert accounts.send(same) == MutationResult(0, True)
    assert accounts.read().blocked
    assert len(accounts.journal()) == lines + 1
    assert_whole(accounts)


@pytest.mark.parametrize(
    "other",
    [
        {"blocked": False},
        {"blocked": True, "plan": "x"},
        {"min_credit_micros": None},
        {"plan": "x 1"},
        {"plan": "x", "blocked": True},
    ],
)
def test_a_token_is_for_the_same_terms_only(accounts: Any, other: dict[str, Any]) -> None:
    accounts.open(RIF)
    accounts.send(setting(accounts, blocked=True, token="c:one"))
    refused = accounts.send(setting(accounts, token="c:one", **other))
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, KeyReused)
    assert accounts.read().plan == "seara"


def test_a_list_sets_terms_of_many_and_of_one_account_again_and_again(accounts: Any) -> None:
    """In one run of the script, with plans that grow and shrink: each sees what the one before it did."""
    accounts.open(RIF)
    accounts.open(Account("ana", 10 * MICRO))
    batch = [
        (account_keys("vdf", mutation.subject), mutation)
        for mutation in (
            setting(accounts, plan="a much longer plan than before"),
            setting(accounts, plan="a much longer plan than before"),
            setting(accounts, blocked=True),
            setting(accounts, plan=""),
            setting(accounts, "ana", postpaid=True),
            setting(accounts, "nobody", blocked=True),
            setting(accounts, "ana", postpaid=True),
        )
    ]
    [replies] = scripts.execute(accounts.store, [batch_command("SetTerms", batch)])
    outcomes = [parse_mutation_reply(m, reply) for (_, m), reply in zip(batch, replies, strict=True)]
    changed = [each.value_micros if isinstance(each, MutationResult) else None for each in outcomes]
    assert changed == [MICRO, 0, MICRO, MICRO, MICRO, None, 0]
    found = accounts.read()
    assert (found.plan, found.blocked, found.buckets) == ("", True, RIF.buckets)
    assert accounts.read("ana").postpaid
    assert_whole(accounts)


def test_a_blocked_account_gives_nothing_and_takes_what_is_given_back(accounts: Any) -> None:
    accounts.open(RIF)
    decide(accounts, blocked=True)
    for method in ("DebitBalance", "DebitSMS", "DebitSeconds"):
        error = accounts.refuse(method, 1, **DIALLED)
        assert isinstance(error, Blocked)
        assert error.data == {"subject": "rif"}
    assert accounts.run("DebitBalance", -1) == 101
    assert accounts.run("DebitSMS", -1) == 51
    assert accounts.run("DebitSeconds", -1, **DIALLED) == 61
    assert accounts.run("DebitBalance", 0) == 101
    assert accounts.run("AddVolumeDiscountSeconds", 5) == 5
    decide(accounts, blocked=False)
    assert accounts.run("DebitBalance", 1) == 100
    assert_whole(accounts)


def test_an_outcome_stands_whatever_is_decided_later(accounts: Any) -> None:
    accounts.open(RIF)
    done, refused = accounts.mutation("DebitBalance", 1), accounts.mutation("DebitBalance", 2)
    assert accounts.send(done) == MutationResult(99 * MICRO, False)
    decide(accounts, blocked=True)
    assert accounts.send(done) == MutationResult(99 * MICRO, True)
    assert isinstance(accounts.send(refused), Refused)
    decide(accounts, blocked=False)
    again = accounts.send(refused)
    assert isinstance(again.error, Blocked)
    assert again.replayed


def test_in_a_list_only_the_blocked_account_is_refused(accounts: Any) -> None:
    accounts.open(RIF)
    accounts.open(Account("ana", 10 * MICRO))
    decide(accounts, blocked=True)
    batch = [
        (account_keys("vdf", subject), accounts.mutation("DebitBalance", amount, subject=subject))
        for subject, amount in (("ana", 1), ("rif", 1), ("rif", -1), ("ana", 1), ("nobody", 1))
    ]
    [replies] = scripts.execute(accounts.store, [batch_command("DebitBalance", batch)])
    outcomes = [parse_mutation_reply(m, reply) for (_, m), reply in zip(batch, replies, strict=True)]
    assert outcomes[0] == MutationResult(9 * MICRO, False)
    assert isinstance(outcomes[1], Refused)
    assert isinstance(outcomes[1].error, Blocked)
    assert outcomes[2] == MutationResult(101 * MICRO, False)
    assert outcomes[3] == MutationResult(8 * MICRO, False)
    assert isinstance(outcomes[4], Refused)
    assert isinstance(outcomes[4].error, UnknownSubject)
    assert_whole(accounts)


@pytest.mark.parametrize("postpaid", [False, True])
def test_loading_does_not_unblock(accounts: Any, postpaid: bool) -> None:
    accounts.open(RIF)
    decide(accounts, blocked=True)
    accounts.open(Account("rif", 7 * MICRO, postpaid=postpaid), replace=True)
    found = accounts.read()
    assert (found.credit_micros, found.postpaid, found.blocked) == (7 * MICRO, postpaid, True)
    assert_whole(accounts)
