"""The load test's own arithmetic: calls, the shape of a day, and books that notice a wrong cent."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest

from common.errors import BelowFloor, DeadlineExceeded, KeyReused
from loadtests.calls.books import Books, Debit, disagreements
from loadtests.calls.day import users_at
from loadtests.calls.plan import CREDIT, SLICE_S, Call, charges, draw_call, files, is_poor, rfc3339, subject

NOW = datetime(2026, 2, 2, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize("talk_s", [1, SLICE_S - 1, SLICE_S, SLICE_S + 1, 10 * SLICE_S + 7])
def test_the_charges_of_a_call_cover_it(talk_s: int) -> None:
    parts = list(charges(talk_s))
    assert [part.begin_s for part in parts] == [0, *(part.end_s for part in parts[:-1])]
    assert parts[-1].end_s == talk_s
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_calls_are_of_accounts_and_to_numbers_that_there_are() -> None:
    world = files(20)
    accounts = {account["Id"] for account in world["user_budgets.json"]}
    prefixes = tuple(rate["DestinationPrefix"] for rate in world["activation_periods.json"])
    for seed in range(50):
        call = draw_call(random.Random(seed), 20, NOW)
        assert isinstance(call, Call)
        assert call.subject in accounts
        assert call.number.startswith(prefixes)
        assert call.talk_s >= 1
    assert sum(is_poor(number) for number in range(20)) == 2
    assert rfc3339(NOW, 45) == "2026-02-02T17:30:45Z"


def test_books_know_every_cent() -> None:
    books = Books()
    done, refused, opened = (books.begin("a", "0256", Decimal(amount)) for amount in ("1.5", "2", "0.25"))
    books.done(done)
    books.done(done)
    books.refused(refused)
    assert books.settle(lambda debit: None) == []
    assert books.taken == {"a": 1_750_000}
    assert books.open == {}
    assert opened.request_id != done.request_id


def test_what_can_not_be_settled_is_told() -> None:
    def repeat(debit: Debit) -> None:
        if debit.subject == "poor":
            raise BelowFloor(amount="1", credit="0", min_credit="0")
        if debit.subject == "reused":
            raise KeyReused(request_id=debit.request_id)
        raise DeadlineExceeded(detail="too late")

    books = Books()
    books.begin("poor", "0256", Decimal(1))
    books.begin("slow", "0256", Decimal(2))
    books.begin("reused", "0256", Decimal(3))
    complaints = books.settle(repeat)
    assert [text.partition(" is unsettled: ")[0] for text in complaints] == [
        "slow: a debit of 2",
        "reused: a debit of 3",
    ]
    assert [debit.subject for debit in books.open.values()] == ["slow", "reused"]


def test_a_millionth_of_a_cent_is_noticed() -> None:
    opening = {subject(number): Decimal(CREDIT) for number in range(3)}
    taken = {subject(0): 1_500_000, subject(1): 1}
    closing = opening | {subject(0): CREDIT - Decimal("1.5"), subject(1): CREDIT - Decimal("0.000001")}
    assert disagreements(opening, closing, taken) == []
    for name in opening:
        wrong = closing | {name: closing[name] - Decimal("0.000001")}
        assert len(disagreements(opening, wrong, taken)) == 1
    assert disagreements(opening, closing, taken | {"stranger": 1}) == [
        "stranger: was charged and has no account"
    ]
    assert disagreements(opening, {}, taken) != []


def test_a_day_has_its_busy_hours() -> None:
    users = [users_at(second, 240.0, 100) for second in range(240)]
    assert (min(users), max(users)) == (10, 100)
    assert users[95] == max(users)
    assert users[30] == min(users)
    assert all(abs(after - before) <= 5 for before, after in pairwise(users))
    assert users_at(239.9, 240.0, 1) == 1
