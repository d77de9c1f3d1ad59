"""The reckoning: the clients' books against every account and its whole journal.

* Each line follows from the line before by the rules of `workload.applied`, which know nothing of the
  product's code, and the last line is the live account.
* What was acknowledged is in the journal exactly once, as it was asked, with the result that was told,
  within the time of an attempt, and not later than it was told.
* What was refused, or was said to be certainly not done, is not in it; nor is what nobody asked for.
* Opening − debits + credits of all that was done, added up from the books alone, is the credit.
* What the operator decided is in the journal once, written while it was decided. Nothing was taken from an
  account while it was blocked, and what was refused for that was refused at such a time.
* Everything that a key was ever told is the same, byte for byte; a key that came again with other
  parameters was refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from common.errors import Blocked, KeyReused
from common.storage.store import StoreConnection
from rater.store.keys import account_keys
from tests.chaos.books import Entry
from tests.chaos.operating import Decision
from tests.chaos.timeline import Timeline
from tests.chaos.wires import number
from tests.chaos.workload import (
    BONUS_CREDIT,
    DEBITS,
    FLOOR,
    HELD,
    HOT,
    METHODS,
    MICROS,
    SECOND_PRICE,
    SPREAD,
    TENANT,
    TERMS,
    THRESHOLD,
    Account,
    applied,
    opening,
)
from tests.stored import account_fields, line_fields

SUBJECTS: Final = (*HOT, *SPREAD, *FLOOR, *HELD)
CLIENT_TOKEN: Final = "c:"
CLOCK_US: Final = 10_000
"""The journal's times are whole milliseconds of the same clock."""
LATE_US: Final = 1_500_000
"""How much later than its deadline something may be written: the store's clock is learned by asking it, and a
store that is stopped meanwhile answers late, by no more than the rater's patience with it."""
KEPT_MS: Final = (86_400 - 3_600) * 1000
"""A client's key is remembered for a day; no seed takes an hour."""
KEPT_SAMPLE: Final = 50
"""Keys of each account for which that is looked up."""
EVER_US: Final = 1 << 61
"""Beyond every time."""
LOST_ATTEMPT_US: Final = 12_000_000
"""How long an attempt without an answer may go on: its deadline, and a balancer that was stopped."""


@dataclass
class Reckoning:
    acknowledged: int = 0
    refused: int = 0
    open_at_first: int = 0
    """Decided by sending them again."""
    keyless_open: int = 0
    """Sent without a key, with an open outcome: they may be in the journal once or not."""
    unresolved: int = 0
    replays: int = 0
    """Repeated answers that were compared with the first."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    clock: Timeline = field(default_factory=Timeline)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.unresolved)

    def verdicts(self) -> list[str]:
        return [name for name in ("lost", "doubled", "wrong", "unresolved") if getattr(self, name)]

    def examples(self, each: int = 3) -> list[str]:
        return [*self.lost[:each], *self.doubled[:each], *self.wrong[:each]]


def reckon(
    entries: dict[str, Entry],
    store: StoreConnection,
    clock: Timeline | None = None,
    decisions: Sequence[Decision] = (),
    *,
    decisions_may_be_lost: bool = False,
) -> Reckoning:
    """`clock` says where the store's stood, if it was moved. Decisions don't wait for replicas: a failover
    may take them back.
    """
    found = Reckoning(clock=clock or Timeline())
    by_subject: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries.values():
        by_subject[entry.subject].append(entry)
        check_answers(entry, found)
    for subject in SUBJECTS:
        keys = account_keys(TENANT, subject)
        value, lines = store.execute([("GET", keys.account), ("XRANGE", keys.journal, "-", "+")])
        theirs = [each for each in decisions if each.subject == subject]
        reckoned = _Subject(subject, by_subject[subject], theirs, found)
        reckoned.reckon(account_fields(value), lines)
        if not decisions_may_be_lost:
            reckoned.check_decisions()
        decided = [entry.id for entry in by_subject[subject] if entry.keyed and entry.told]
        for key in decided[:: len(decided) // KEPT_SAMPLE + 1]:
            [left_ms] = store.execute([("PTTL", keys.token_prefix + (CLIENT_TOKEN + key).encode())])
            if left_ms < KEPT_MS:
                found.wrong.append(f"{subject}: {key} is remembered for {left_ms} ms")
    return found


def check_answers(entry: Entry, found: Reckoning) -> None:
    if entry.told:
        first = entry.told[0]
        if first.code == 0:
            found.acknowledged += 1
        else:
            found.refused += 1
        found.open_at_first += bool(entry.opens) and entry.keyed
    elif entry.keyed:
        found.unresolved += 1
    else:
        found.keyless_open += bool(entry.opens)
    for told in entry.told[1:]:
        found.replays += 1
        if (told.code, told.text) != (first.code, first.text):
            found.wrong.append(
                f"{entry.id}: told {told.code} {told.text} ({told.purpose}) after {first.code} {first.text}"
            )
        if told.purpose == "replay" and told.marked is False:
            found.wrong.append(f"{entry.id}: a replay that was not marked as one")
    for told in entry.reuses:
        if told.code != KeyReused.code:
            found.wrong.append(f"{entry.id}: used again with another amount, told {told.code} {told.text}")


class _Subject:
    def __init__(
        self, subject: str, entries: Iterable[Entry], decisions: Iterable[Decision], found: Reckoning
    ) -> None:
        self._subject = subject
        self._found = found
        self._decisions = {each.terms: each for each in decisions}
        self._decided: Counter[str] = Counter()
        self._blocked_since_us: int | None = None
        self._blocked: list[tuple[int, int]] = []
        """From when until when, by the store's clock."""
        self._by_key: dict[str, Entry] = {}
        self._keyless: dict[int, Entry] = {}
        for entry in entries:
            if entry.keyed:
                self._by_key[entry.id] = entry
            else:
                self._keyless[entry.amount] = entry
        self._seen: Counter[str] = Counter()

    def _wrong(self, text: str) -> None:
        self._found.wrong.append(f"{self._subject}: {text}")

    def reckon(self, live: dict[str, str], lines: list[Any]) -> None:
        if not lines:
            self._wrong("no journal")
        account = opening(self._subject)
        for place, (entry_id, words) in enumerate(lines, 1):
            line = {name: word.decode(errors="replace") for name, word in line_fields(words).items()}
            if line["seq"] != str(place):
                self._wrong(f"line {place} has seq {line['seq']}")
            if place == 1:
                if line["op"] != "Open":
                    self._wrong(f"begins with {line}")
            elif line["op"] == TERMS:
                self._follow_terms(line, int(entry_id.partition(b"-")[0]) * 1000)
            else:
                account = self._follow(account, line, int(entry_id.partition(b"-")[0]) * 1000)
            if _of_line(line) != account[:4]:
                self._wrong(f"line {place}: expected {account}, found {line}")
                account = Account(*_of_line(line), account.seconds)
        if live and live.get("seq") != str(len(lines)):
            self._wrong(f"the account is at seq {live.get('seq')}, its journal has {len(lines)} lines")
        if not live or _live(live) != account:
            self._wrong(f"holds {live}, its journal ends with {account}")
        if live and (live.get("blocked") == "1") != (self._blocked_since_us is not None):
            self._wrong(f"holds {live}, by its journal it is blocked since {self._blocked_since_us}")
        if self._blocked_since_us is not None:
            self._blocked.append((self._blocked_since_us, EVER_US))
        self._check_entries()
        self._add_up(live)

    def _follow_terms(self, line: dict[str, str], at_us: int) -> None:
        """A decision of the operator's; it changes no balance, which is seen to for every line."""
        decision = self._decisions.get(line["terms"])
        if decision is None:
            self._wrong(f"nobody decided this: {line}")
            return
        self._decided[decision.terms] += 1
        until_us = EVER_US if decision.told_us is None else decision.told_us + CLOCK_US
        if not self._found.clock.possible(at_us, decision.sent_us - CLOCK_US, until_us):
            self._wrong(f"written {at_us - decision.sent_us} µs after it was decided: {line}")
        if decision.blocked and self._blocked_since_us is None:
            self._blocked_since_us = at_us
        elif not decision.blocked and self._blocked_since_us is not None:
            self._blocked.append((self._blocked_since_us, at_us))
            self._blocked_since_us = None

    def check_decisions(self) -> None:
        for terms, decision in self._decisions.items():
            times = self._decided[terms]
            if times > 1:
                self._found.doubled.append(f"{self._subject}: {terms!r} is in the journal {times} times")
            elif decision.told_us is not None and not times:
                self._found.lost.append(f"{self._subject}: {terms!r} was confirmed and is not there")

    def _was_blocked(self, entry: Entry) -> bool:
        """Whether the account can have been so while the entry was asked for and told."""
        sent_us = (
            min([told.sent_us for told in entry.told] + [each.sent_us for each in entry.opens]) - CLOCK_US
        )
        told_us = entry.told[0].at_us + CLOCK_US
        clock = self._found.clock
        return any(
            clock.possible(since_us, -EVER_US, told_us)
            and (until_us == EVER_US or clock.possible(until_us, sent_us, EVER_US))
            for since_us, until_us in self._blocked
        )

    def _follow(self, account: Account, line: dict[str, str], at_us: int) -> Account:
        """The account after a line; the line's entry is held to it."""
        key = line["token"].removeprefix(CLIENT_TOKEN)
        method, amount = line["op"], int(line["amount"])
        if method not in METHODS:
            self._wrong(f"nobody asks for this: {line}")
            return account
        entry = self._by_key.get(key) if key != line["token"] else self._keyless.get(amount)
        if self._blocked_since_us is not None and method in DEBITS and amount > 0:
            self._wrong(f"taken from while it was blocked: {line}")
        after, result = applied(account, method, amount)
        if entry is None or entry.method != method or entry.amount not in (amount, _unasked(method, entry)):
            self._wrong(f"{key} is in the journal, nobody asked for it: {line}")
            return after
        self._seen[entry.id] += 1
        if self._seen[entry.id] > 1:
            return after
        if entry.told and entry.told[0].code == 0:
            told = entry.told[0]
            if Decimal(told.text) * MICROS != result:
                self._wrong(f"{entry.id} was told {told.text}, done it gives {number(result)}")
            if at_us > self._found.clock.latest(told.at_us + CLOCK_US):
                self._wrong(f"{entry.id} was written {at_us - told.at_us} µs after it was acknowledged")
        self._check_time(entry, at_us)
        return after

    def _check_time(self, entry: Entry, at_us: int) -> None:
        """Written within the time of an attempt of which nobody said that it did nothing, and not later."""
        attempts = [(told.sent_us, told.at_us) for told in entry.told]
        for open_ in entry.opens:
            if open_.certain:
                continue
            lost = open_.why == "connection_lost"
            attempts.append((open_.sent_us, open_.sent_us + LOST_ATTEMPT_US if lost else open_.at_us))
        if not (entry.told or entry.opens) or any(
            self._found.clock.possible(at_us, sent_us - CLOCK_US, ended_us + LATE_US)
            for sent_us, ended_us in attempts
        ):
            return
        times = [(sent_us - at_us, ended_us - at_us) for sent_us, ended_us in attempts]
        self._wrong(f"{entry.id} was written when no attempt was under way: they were at {times} µs from it")

    def _check_entries(self) -> None:
        for entry in (*self._by_key.values(), *self._keyless.values()):
            times = self._seen[entry.id]
            acknowledged = bool(entry.told) and entry.told[0].code == 0
            if times > 1:
                self._found.doubled.append(f"{self._subject}: {entry.id} is in the journal {times} times")
            elif acknowledged and not times:
                self._found.lost.append(f"{self._subject}: {entry.id} was acknowledged and is not there")
            elif entry.told and not acknowledged and times:
                self._wrong(f"{entry.id} was refused and is there: {entry.told[0].text}")
            if entry.told and entry.told[0].code == Blocked.code and not self._was_blocked(entry):
                self._wrong(f"{entry.id} was refused as blocked, which the account was not")

    def _add_up(self, live: dict[str, str]) -> None:
        """Opening − debits + credits = balance, from the books alone; the journal says only what became
        of requests without a key whose outcome is open."""
        credit, received = opening(self._subject).credit, 0
        for entry in (*self._by_key.values(), *self._keyless.values()):
            done = entry.told[0].code == 0 if entry.told else bool(self._seen[entry.id])
            if not done:
                continue
            if entry.method == "DebitBalance":
                credit -= entry.amount
            elif entry.method == "DebitSeconds":
                credit -= entry.amount // MICROS * SECOND_PRICE
            elif entry.method == "AddRecievedCallSeconds":
                received += entry.amount
        credit += received // THRESHOLD * BONUS_CREDIT
        if live.get("credit") != str(credit):
            self._wrong(f"holds {live.get('credit')}, by the books it is {credit}")


def _unasked(method: str, entry: Entry) -> int | None:
    """What stands for the amount of a method that has none."""
    return 0 if method.startswith("Reset") else None


def _of_line(line: dict[str, str]) -> tuple[int, int, int, int]:
    return int(line["credit"]), int(line["sms"]), int(line["volume_discount"]), int(line["received"])


def _live(live: dict[str, str]) -> Account:
    return Account(*_of_line(live), int(live["bucket:0"].split(" ")[0]))
