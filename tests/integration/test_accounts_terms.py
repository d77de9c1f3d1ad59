"""What operators decide about accounts: the terms, and whether one is blocked."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Blocked, InternalError, UnknownSubject
from common.money import LIMIT
from rater import scripts
from rater.account_terms import Terms, parse_terms_reply, terms_command
from rater.accounts import MutationResult, Refused, batch_command, parse_mutation_reply
from rater.journal.audit import Selection, audit
from rater.keys import account_keys
from rater.model import Account, Bucket

MICRO = 1_000_000
DIALLED: dict[str, Any] = {"destination": "0723", "matches": (("retea", 4),)}
RIF = Account(
    "rif", 100 * MICRO, 50 * MICRO, plan="seara", buckets=(Bucket("retea", 60 * MICRO, 1, 0),), reset_day=3
)


def decide(accounts: Any, subject: str = "rif", **terms: Any) -> bool | None:
    command = terms_command(account_keys("vdf", subject), Terms(**terms))
    return parse_terms_reply(scripts.execute(accounts.store, [command])[0])


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
    assert (line["op"], line["amount"], line["token"]) == (b"SetTerms", b"0", b"")
    assert line["terms"].decode() == f"prepaid floor={LIMIT} reset_day=31 blocked=0 plan=x"
    assert [each["seq"] for each in accounts.journal()] == [b"%d" % seq for seq in range(1, 11)]
    assert_whole(accounts)


def test_what_there_is_not_is_said(accounts: Any) -> None:
    assert decide(accounts, "nobody", blocked=True) is None
    assert accounts.read("nobody") is None
    accounts.store.execute([("SET", account_keys("vdf", "odd").account, "x" * 100)])
    with pytest.raises(InternalError):
        decide(accounts, "odd", blocked=True)


@pytest.mark.parametrize("terms", [{"min_credit_micros": LIMIT + 1}, {"reset_day": 32}, {"reset_day": -1}])
def test_terms_out_of_range_are_refused_here(terms: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"floor|reset day"):
        terms_command(account_keys("vdf", "rif"), Terms(**terms))


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
