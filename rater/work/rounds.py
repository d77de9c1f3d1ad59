"""What a rater asks of the store in one round trip: reads of accounts, and changes of them."""

from __future__ import annotations

from collections.abc import Iterator

from common.storage.store import Command
from rater.accounts.looks import MAX_LOOKS, Look, journal_command
from rater.accounts.mutations import MAX_SCRIPT_REQUESTS, batch_command, read_command
from rater.descriptor import Descriptor
from rater.rating.snapshot import CompiledTariff
from rater.store.keys import AccountKeys
from rater.work.change import Change

Read = tuple[int, int, Descriptor, CompiledTariff | None]
"""The number of its job in the batch, the place of its account in the reply, what is asked and by which
tariff; none where the account's plan is wanted, for a change. A plain tuple, because most of what a rater
does is to make one and take it apart."""


class Round:
    """One round trip: a command for each list of changes, then one for all reads, which see the changes;
    at last one for each journal that somebody looks at."""

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.looks: list[Look] = []
        self.left: list[int] = []
        """Jobs that there is no room for in this one."""
        self.changes: list[Change] = []
        self.alone: list[Change] = []
        """Not together with others: one of those that it was with went wrong."""
        self.lists: list[list[Change]] = []
        """Set by `commands`: the changes that each script call makes."""
        self._accounts: list[bytes] = []
        self._place_of: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self.reads or self.changes or self.alone or self.looks)

    def read(self, job: int, account: bytes, descriptor: Descriptor, tariff: CompiledTariff | None) -> None:
        """Many may ask for the same account: it is read once."""
        accounts = self._accounts
        place = self._place_of.setdefault(account, len(accounts))
        if place == len(accounts):
            accounts.append(account)
        self.reads.append((job, place, descriptor, tariff))

    def look(self, job: int, keys: AccountKeys, descriptor: Descriptor, lines: int) -> None:
        """Read an account and the end of its journal, in the same slot."""
        if len(self.looks) >= MAX_LOOKS:
            self.left.append(job)
            return
        place = self._place_of.setdefault(keys.account, len(self._accounts))
        if place == len(self._accounts):
            self._accounts.append(keys.account)
        self.looks.append(Look(job, place, descriptor, keys.journal, lines))

    def commands(self) -> list[Command]:
        self.lists = list(self._lists())
        commands: list[Command] = []
        for changes in self.lists:
            method = changes[0].mutation.method
            commands.append(batch_command(method, [(change.keys, change.mutation) for change in changes]))
        if self._accounts:
            commands += self._reads(self._accounts)
        return commands + list(map(journal_command, self.looks)) if self.looks else commands

    def places(self) -> list[int]:
        """The numbers of all its jobs."""
        changes = [change.job for change in (*self.changes, *self.alone)]
        return [job for job, *_ in self.reads] + changes + [look.job for look in self.looks]

    def _lists(self) -> Iterator[list[Change]]:
        """By method; those of an account together, in order, so that it is read and written once."""
        by_method: dict[str, list[Change]] = {}
        for change in self.changes:
            by_method.setdefault(change.mutation.method, []).append(change)
        for changes in by_method.values():
            changes.sort(key=account_of)
            yield from self._calls(changes)
        for change in self.alone:
            yield [change]

    def _reads(self, accounts: list[bytes]) -> list[Command]:
        return [read_command(accounts)]

    def _calls(self, changes: list[Change]) -> list[list[Change]]:
        """Of one method, by account: those that are made by one script call."""
        if len(changes) <= MAX_SCRIPT_REQUESTS:
            return [changes]
        starts = range(0, len(changes), MAX_SCRIPT_REQUESTS)
        return [changes[start : start + MAX_SCRIPT_REQUESTS] for start in starts]


def account_of(change: Change) -> bytes:
    return change.keys.account
