"""The reckoning notices each way in which books and journal can differ."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from common.errors import Blocked
from common.storage.store import Command, Reply
from tests.chaos.books import Entry, Open, Told
from tests.chaos.operating import Decision
from tests.chaos.reckoning import LATE_US, SUBJECTS, Reckoning, check_answers, reckon
from tests.chaos.workload import MICROS, TERMS, Account, applied, opening
from tests.stored import entry_fields, with_figures

SECOND_US = 1_000_000
ASKED_US = 1_000 * SECOND_US
SUBJECT = "hot-0"


class JournalledStore:
    """Accounts as they were opened; in SUBJECT there are debits of a cent with these tokens and times, and
    terms, where the text is one."""

    def __init__(self, *lines: tuple[str, int], credit_off: int = 0, blocked: bool = False) -> None:
        self._lines = lines
        self._credit_off = credit_off
        self._blocked = blocked

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        if commands[0][0] == "PTTL":
            return [86_400_000]
        subject = bytes(commands[0][1]).decode().partition(":")[2].split(":")[1].removesuffix("}")  # type: ignore[arg-type]
        account = opening(subject)
        journal = [_line(1, "Open", "", account, 0)]
        for seq, (token, at_us) in enumerate(self._lines if subject == SUBJECT else (), 2):
            if "blocked=" in token:
                journal.append(_line(seq, TERMS, "", account, at_us, terms=token))
                continue
            account, _ = applied(account, "DebitBalance", MICROS)
            journal.append(_line(seq, "DebitBalance", token, account, at_us))
        live = _figures(account) | {"seq": len(journal)}
        live["credit"] += self._credit_off if subject == SUBJECT else 0
        return [_value(live, account.seconds, self._blocked and subject == SUBJECT), journal]


def _figures(account: Account) -> dict[str, int]:
    return {
        "credit": account.credit,
        "sms": account.sms,
        "traffic": 0,
        "volume_discount": account.volume,
        "received": account.received,
    }


def _value(figures: dict[str, int], seconds: int, blocked: bool) -> bytes:
    """An account with one bucket, and without a plan and a floor."""
    head = with_figures(b"RATELac1" + bytes(56) + bytes((0, 2 * blocked, 0, 1)) + bytes(4), **figures)
    return head + struct.pack("<qqqI", seconds, 10, 20_000_000, len("mobile")) + b"mobile"


def _line(seq: int, op: str, token: str, account: Account, at_us: int, **more: str) -> Any:
    texts = {"seq": seq, "op": op, "amount": MICROS, "token": token} | _figures(account) | more
    fields = {name: str(text).encode() for name, text in texts.items()}
    return [f"{at_us // 1000}-0".encode(), entry_fields(fields)]


def _entry(*told: Told, opens: tuple[Open, ...] = ()) -> dict[str, Entry]:
    entry = Entry("1-1", "DebitBalance", SUBJECT, MICROS, True, ASKED_US)
    entry.told += told
    entry.opens += opens
    return {entry.id: entry}


def _reckon(entries: dict[str, Entry], store: JournalledStore, *decisions: Decision) -> Reckoning:
    return reckon(entries, store, None, decisions)  # type: ignore[arg-type]


LEFT = str(opening(SUBJECT).credit // MICROS - 1)
DONE = Told(ASKED_US, ASKED_US + SECOND_US, 0, LEFT, "ask", None)
LINE = ("c:1-1", ASKED_US + SECOND_US // 2)


def test_books_and_journal_that_agree() -> None:
    found = _reckon(_entry(DONE), JournalledStore(LINE))
    assert found.clean, found.examples()
    assert found.acknowledged == 1
    assert SUBJECT in SUBJECTS


def test_an_acknowledged_debit_that_is_not_there_is_lost() -> None:
    found = _reckon(_entry(DONE), JournalledStore())
    assert len(found.lost) == 1
    assert found.wrong  # the sum, too


def test_a_debit_that_is_there_twice_is_doubled() -> None:
    assert len(_reckon(_entry(DONE), JournalledStore(LINE, LINE)).doubled) == 1


def test_a_refused_debit_must_not_be_there() -> None:
    refused = DONE._replace(code=-32014, text="no")
    assert _reckon(_entry(refused), JournalledStore()).clean
    assert _reckon(_entry(refused), JournalledStore(LINE)).wrong


def test_another_result_than_the_journal_says_is_wrong() -> None:
    assert _reckon(_entry(DONE._replace(text="1")), JournalledStore(LINE)).wrong


def test_what_nobody_asked_for_is_wrong() -> None:
    assert _reckon({}, JournalledStore(LINE)).wrong


def test_a_balance_that_is_not_the_journals_is_wrong() -> None:
    assert _reckon(_entry(DONE), JournalledStore(LINE, credit_off=1)).wrong


def test_what_was_told_before_it_was_written_is_wrong() -> None:
    assert _reckon(_entry(DONE), JournalledStore((LINE[0], DONE.at_us + SECOND_US // 10))).wrong


def test_what_was_written_after_its_deadline_is_wrong_even_if_it_was_sent_again_later() -> None:
    given_up = Open(ASKED_US, ASKED_US + 5 * SECOND_US, "deadline_exceeded", False)
    again = DONE._replace(sent_us=ASKED_US + 20 * SECOND_US, at_us=ASKED_US + 21 * SECOND_US)
    late_us = given_up.at_us + LATE_US + SECOND_US
    assert _reckon(_entry(again, opens=(given_up,)), JournalledStore((LINE[0], late_us))).wrong
    assert _reckon(_entry(again, opens=(given_up,)), JournalledStore((LINE[0], given_up.at_us))).clean


def test_what_was_done_although_it_was_said_that_nothing_was_is_wrong() -> None:
    denied = Open(ASKED_US, ASKED_US + SECOND_US, "overloaded", True)
    again = DONE._replace(sent_us=ASKED_US + 2 * SECOND_US, at_us=ASKED_US + 3 * SECOND_US)
    assert _reckon(_entry(again, opens=(denied,)), JournalledStore(LINE)).wrong
    assert _reckon(_entry(again, opens=(denied._replace(certain=False),)), JournalledStore(LINE)).clean


def _told(text: str, code: int = 0, purpose: str = "ask", marked: bool | None = None) -> Told:
    return Told(0, 0, code, text, purpose, marked)


def _answers(*told: Told, reuses: tuple[Told, ...] = ()) -> Reckoning:
    entry = Entry("1-1", "DebitBalance", "hot-0", MICROS, True, 0)
    entry.told += told
    entry.reuses += reuses
    found = Reckoning()
    check_answers(entry, found)
    return found


def test_answers_to_one_key_have_to_be_the_same() -> None:
    assert _answers(_told("1"), _told("1", purpose="replay", marked=True)).clean
    assert _answers(_told("1"), _told("1.0")).wrong
    assert _answers(_told("1"), _told("no", -32014)).wrong
    assert _answers(_told("1"), _told("1", purpose="replay", marked=False)).wrong
    assert _answers().unresolved == 1


def test_a_key_with_other_parameters_has_to_be_refused() -> None:
    assert _answers(_told("1"), reuses=(_told("used before", -32021),)).clean
    assert _answers(_told("1"), reuses=(_told("1"),)).wrong


BLOCK = Decision(SUBJECT, "prepaid blocked=1", True, ASKED_US - SECOND_US, ASKED_US)
UNBLOCK = Decision(SUBJECT, "prepaid blocked=0", False, ASKED_US + SECOND_US, ASKED_US + 2 * SECOND_US)
BLOCKED = (BLOCK.terms, ASKED_US - SECOND_US // 2)
UNBLOCKED = (UNBLOCK.terms, ASKED_US + 3 * SECOND_US // 2)
NOT_ALLOWED = DONE._replace(code=Blocked.code, text="blocked")


def test_decisions_that_agree() -> None:
    assert _reckon({}, JournalledStore(BLOCKED, UNBLOCKED), BLOCK, UNBLOCK).clean
    assert _reckon({}, JournalledStore(BLOCKED, blocked=True), BLOCK).clean
    assert _reckon({}, JournalledStore(), BLOCK._replace(told_us=None)).clean


def test_a_decision_is_in_the_journal_once_and_written_while_it_was_decided() -> None:
    assert _reckon({}, JournalledStore(), BLOCK).lost
    assert _reckon({}, JournalledStore(BLOCKED, BLOCKED, blocked=True), BLOCK).doubled
    assert _reckon({}, JournalledStore(BLOCKED, blocked=True)).wrong
    assert _reckon({}, JournalledStore((BLOCK.terms, ASKED_US + SECOND_US), blocked=True), BLOCK).wrong
    assert _reckon({}, JournalledStore(BLOCKED), BLOCK).wrong  # the account itself is not
    assert _reckon({}, JournalledStore(BLOCKED, UNBLOCKED, blocked=True), BLOCK, UNBLOCK).wrong


def test_what_was_taken_while_the_account_was_blocked_is_wrong() -> None:
    late = Told(UNBLOCK.sent_us, UNBLOCK.sent_us + SECOND_US, 0, LEFT, "ask", None)
    line = ("c:1-1", late.at_us - 1000)
    assert _reckon(_entry(late), JournalledStore(BLOCKED, UNBLOCKED, line), BLOCK, UNBLOCK).clean
    assert _reckon(_entry(DONE), JournalledStore(BLOCKED, LINE, UNBLOCKED), BLOCK, UNBLOCK).wrong


def test_what_was_refused_as_blocked_while_the_account_was_not_is_wrong() -> None:
    store = JournalledStore(BLOCKED, UNBLOCKED)
    assert _reckon(_entry(NOT_ALLOWED), store, BLOCK, UNBLOCK).clean
    for sent_us, told_us in ((3, 4), (-4, -3)):
        told = NOT_ALLOWED._replace(
            sent_us=ASKED_US + sent_us * SECOND_US, at_us=ASKED_US + told_us * SECOND_US
        )
        assert _reckon(_entry(told), store, BLOCK, UNBLOCK).wrong
    assert _reckon(_entry(NOT_ALLOWED), JournalledStore()).wrong
