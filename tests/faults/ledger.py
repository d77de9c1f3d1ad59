"""What clients intended and what they were told, and the reckoning with what the store holds.

A debit is written down before it is sent, and again when its answer is there. The reckoning reads
every account with its whole journal and holds them to each other and to the books:

* opening + credits − debits = balance, line by line and at the end;
* what was acknowledged is in the journal exactly once, with the amount and the balance that was told;
* what was refused is not in it;
* nothing is in it that nobody intended.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from common.storage.stores import Store
from rater.store.keys import account_keys
from tests.stored import account_fields, line_fields

MICROS = 1_000_000
CLIENT_TOKEN = "c:"
"""The store's name for a client's key begins so, see `rater.work.request_steps`."""


class Intent(NamedTuple):
    subject: str
    amount: int
    """Whole cents taken from the credit; negative gives."""


@dataclass
class Reckoning:
    acknowledged: int = 0
    refused: int = 0
    unresolved: int = 0
    """Intended, and never told what became of it."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Everything else that does not agree."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def __str__(self) -> str:
        examples = [*self.lost[:3], *self.doubled[:3], *self.wrong[:5]]
        return (
            f"acknowledged={self.acknowledged} refused={self.refused} unresolved={self.unresolved}"
            f" lost={len(self.lost)} doubled={len(self.doubled)} wrong={len(self.wrong)} {examples}"
        )


class Ledger:
    """Safe to use from several threads. Keys are the clients' request ids."""

    def __init__(self, tenant: str, openings: dict[str, int]) -> None:
        self.tenant = tenant
        self.openings = dict(openings)
        self.intents: dict[str, Intent] = {}
        self.told: dict[str, Decimal] = {}
        """The credit left, as it was acknowledged."""
        self.refusals: dict[str, int] = {}
        self.conflicts: list[str] = []
        self._lock = threading.Lock()

    def intend(self, key: str, subject: str, amount: int) -> None:
        with self._lock:
            assert key not in self.intents, f"the test used the key {key} twice"
            self.intents[key] = Intent(subject, amount)

    def acknowledge(self, key: str, left: int | Decimal) -> None:
        with self._lock:
            if self.told.setdefault(key, Decimal(left)) != left or key in self.refusals:
                self.conflicts.append(
                    f"{key}: told {left} after {self.told[key]} {self.refusals.get(key, '')}"
                )

    def refuse(self, key: str, code: int) -> None:
        with self._lock:
            if self.refusals.setdefault(key, code) != code or key in self.told:
                self.conflicts.append(f"{key}: refused with {code} after {self.told.get(key, '')}")

    def reckon(self, store: Store) -> Reckoning:
        found = Reckoning(
            len(self.told),
            len(self.refusals),
            len(self.intents.keys() - self.told.keys() - self.refusals.keys()),
        )
        found.wrong += self.conflicts
        for subject, opening in self.openings.items():
            self._reckon_account(store, subject, opening * MICROS, found)
        return found

    def _reckon_account(self, store: Store, subject: str, credit: int, found: Reckoning) -> None:
        keys = account_keys(self.tenant, subject)
        value, lines = store.execute([("GET", keys.account), ("XRANGE", keys.journal, "-", "+")])
        if not lines:
            found.wrong.append(f"{subject}: no journal")
            return
        seen: Counter[str] = Counter()
        seq = 1
        for number, (_, words) in enumerate(lines):
            line = line_fields(words)
            if int(line["seq"]) != seq:
                found.wrong.append(f"{subject}: journal line {number} has seq {int(line['seq'])}, not {seq}")
                seq = int(line["seq"])
            seq += 1
            key = line["token"].decode().removeprefix(CLIENT_TOKEN)
            if number == 0:
                if line["op"] != b"Open" or int(line["credit"]) != credit:
                    found.wrong.append(f"{subject}: opened with {line}")
                credit = int(line["credit"])
                continue
            seen[key] += 1
            self._check_line(subject, key, line, credit, found)
            credit = int(line["credit"])
        live = account_fields(value).get("credit")
        if live != str(credit):
            found.wrong.append(f"{subject}: holds {live}, its journal ends with {credit}")
        found.doubled += [f"{subject}: {key} {times} times" for key, times in seen.items() if times > 1]
        for key, intent in self.intents.items():
            if intent.subject != subject:
                continue
            if key in self.told and not seen[key]:
                found.lost.append(f"{subject}: {key} was acknowledged and is not there")
            if key in self.refusals and seen[key]:
                found.wrong.append(f"{subject}: {key} was refused and is there")

    def _check_line(
        self, subject: str, key: str, line: dict[str, Any], before: int, found: Reckoning
    ) -> None:
        intent = self.intents.get(key)
        if intent is None or intent.subject != subject:
            found.wrong.append(f"{subject}: {key} is in the journal, and nobody asked for it")
            return
        after = int(line["credit"])
        if int(line["amount"]) != intent.amount * MICROS or after != before - intent.amount * MICROS:
            found.wrong.append(f"{subject}: {key} took {before - after} for {intent.amount} cents: {line}")
        if key in self.told and self.told[key] * MICROS != after:
            found.wrong.append(f"{subject}: {key} was told {self.told[key]}, the journal says {after}")
