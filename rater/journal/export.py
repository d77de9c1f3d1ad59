"""Archiving journals: each run writes every account's new lines to files, without gap or duplicate.

The folder holds archive files (`rater.journal.archive`), the state (`rater.journal.state`: how far each
account is archived, and the last complete run) and a lock that one export at a time holds. A run:

1. Temporary files (`*.tmp`) that an interrupted run left are removed. Archive files of runs after the
   last complete one are whole, since a file gets its name when all of it is on the disk: their lines
   count as archived, and the state is brought up to them. Nothing that has its final name is ever
   taken back, so not even a store that has dropped these lines meanwhile makes a gap.
2. Each account's lines after its last archived one are written to a temporary file for its tenant, and
   the positions changed in an open transaction of the state.
3. The files are forced to the disk, then renamed, then the folder is forced to the disk.
4. The transaction is committed, and the run is complete.
5. With `trim`, the lines before each account's last archived one are removed from the store. That line
   stays: it is the link to the next, and what shows that the store still is the one that was
   archived (`trim_journal.lua` looks at it again in the same step).

Killed at any point, the next run goes on: before 3 everything is done anew, within 3 what has its name
counts and the rest is done anew, after 3 everything counts.

A line follows the last archived one when its sequence number is the next. If it is a later one, the
lines between were dropped before they could be archived: they are `Lost`, and the export goes on behind
them. If the store does not hold the archived line, but others from before or instead of it, it has been
set back to an older state or is another store: a `Conflict`, and the account is left alone, as is one
with a damaged line.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.storage.stores import Store
from rater.journal.archive import (
    ArchiveError,
    Format,
    Record,
    archive_files,
    encode_records,
    file_name,
    read_file,
    run_of,
)
from rater.journal.lines import Damaged, Line, decode_entry, id_order
from rater.journal.scan import (
    BATCH_ACCOUNTS,
    BATCH_LINES,
    Name,
    ScanProgress,
    batches,
    checked,
    pattern,
    scan,
)
from rater.journal.state import Cursor, State
from rater.store.keys import AccountKeys, account_keys
from rater.store.scripts import SCRIPTS, execute

STATE_FILE: Final = "state.sqlite"
LOCK_FILE: Final = "lock"
_TEMPORARY: Final = ".tmp"

Account = tuple[Name, AccountKeys]


class Lost(NamedTuple):
    """Lines that neither the archive nor the store holds."""

    name: Name
    first_seq: int
    last_seq: int


class Conflict(NamedTuple):
    name: Name
    text: str


Problem = Lost | Conflict


class ExportResult(NamedTuple):
    run: int
    """The last complete one; a run without new lines does not count."""
    lines: int
    adopted: int
    """Lines of an interrupted run, which count as well."""
    accounts: int
    files: tuple[Path, ...]
    trimmed: int


def export(
    store: Store,
    folder: Path,
    form: Format,
    *,
    trim: bool,
    problem: Callable[[Problem], None],
    progress: ScanProgress = lambda passed, total: None,
) -> ExportResult:
    """One run. Raises ArchiveError for the folder, StoreUnavailable, OSError; then it may be run again."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        state = State(folder / STATE_FILE)
        try:
            adopted = _recover(folder, state, problem)
            run = _Run(store, folder, form, state, problem)
            run.read(progress)
            files = run.finish()
            trimmed = _trim(store, state) if trim else 0
            return ExportResult(state.run, run.lines, adopted, len(run.accounts), files, trimmed)
        except sqlite3.Error as error:
            raise ArchiveError(f"{folder / STATE_FILE}: {error}") from error
        finally:
            state.rollback()
            state.close()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveError(f"{folder}: another export is at work there") from None
        yield


def _recover(folder: Path, state: State, problem: Callable[[Problem], None]) -> int:
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink()
    last = state.run
    newer = [path for path in archive_files([folder]) if (run_of(path) or 0) > last]
    if not newer:
        return 0
    _sync(folder)  # the interrupted run may not have come to it
    lines = 0
    state.begin()
    for path in newer:
        for tenant, subject, line in read_file(path):
            known = state.cursor(tenant, subject)
            seq = known.seq if known else 0
            if line.seq <= seq:
                account = f"tenant {tenant!r}, subject {subject!r}"
                raise ArchiveError(f"{path}: {account}: seq {line.seq} is archived already")
            if line.seq > seq + 1:
                problem(Lost(Name(tenant, subject), seq + 1, line.seq - 1))
            state.advance(tenant, subject, Cursor(line.id, line.seq))
            lines += 1
    state.commit(max(run_of(path) or 0 for path in newer))
    return lines


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk, whoever wrote it."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class _Run:
    """One run's files, and the lines that go into them."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        form: Format,
        state: State,
        problem: Callable[[Problem], None],
    ) -> None:
        self._store = store
        self._folder = folder
        self._form = form
        self._state = state
        self._problem = problem
        self._number = state.run + 1
        self._files: dict[str, Path] = {}
        """The final paths by tenant."""
        self._left_alone: set[Name] = set()
        self.lines = 0
        self.accounts: set[Name] = set()

    def read(self, progress: ScanProgress) -> None:
        """Write all new lines to temporary files; the scan may bring an account twice, not its lines."""
        self._state.begin()
        for names in scan(self._store, pattern("journal"), progress):
            for batch in batches([name for name in names if name not in self._left_alone]):
                rest = batch
                while rest:
                    rest = self._read_pages(rest)

    def finish(self) -> tuple[Path, ...]:
        """Make the temporary files archive files, and the state that of after this run."""
        if not self._files:
            self._state.rollback()
            return ()
        for path in self._files.values():
            _sync(_temporary(path))
        for path in self._files.values():
            _temporary(path).rename(path)
        _sync(self._folder)
        self._state.commit(self._number)
        return tuple(self._files.values())

    def _read_pages(self, batch: list[Account]) -> list[Account]:
        """Archive the next lines of each account; those that have more."""
        cursors = [self._state.cursor(*name) for name, _ in batch]
        replies = self._store.execute(
            [
                ("XRANGE", keys.journal, cursor.id if cursor else "-", "+", "COUNT", BATCH_LINES)
                for (_, keys), cursor in zip(batch, cursors, strict=True)
            ]
        )
        records: defaultdict[str, list[Record]] = defaultdict(list)
        more = []
        for account, cursor, reply in zip(batch, cursors, replies, strict=True):
            name = account[0]
            lines = self._new_lines(account, cursor, checked(reply))
            records[name.tenant] += (Record(*name, line) for line in lines)
            if lines:
                self._state.advance(*name, Cursor(lines[-1].id, lines[-1].seq))
                self.accounts.add(name)
            if len(reply) == BATCH_LINES and name not in self._left_alone:
                more.append(account)
        for tenant, of_tenant in records.items():
            if of_tenant:
                self._write(tenant, of_tenant)
        return more

    def _write(self, tenant: str, records: list[Record]) -> None:
        first = tenant not in self._files
        path = self._files.setdefault(tenant, self._folder / file_name(self._number, tenant, self._form))
        with _temporary(path).open("xb" if first else "ab") as file:
            file.write(encode_records(records, self._form, heading=first))
        self.lines += len(records)

    def _new_lines(self, account: Account, cursor: Cursor | None, entries: list[Any]) -> list[Line]:
        """What follows the last archived line. Tells what is lost on the way, or why there is nothing."""
        name = account[0]
        decoded = [decode_entry(entry_id, pairs) for entry_id, pairs in entries]
        if cursor is not None:
            conflict = self._conflict(account, cursor, decoded)
            if conflict:
                return self._leave_alone(name, conflict)
            if decoded and decoded[0].id == cursor.id:
                del decoded[0]
        seq = cursor.seq if cursor else 0
        lines: list[Line] = []
        for line in decoded:
            if isinstance(line, Damaged):
                field, expected, found = line.difference
                self._leave_alone(name, f"entry {line.id}: {field}: expected {expected}, found {found}")
                break
            if line.seq <= seq:
                self._leave_alone(name, f"entry {line.id}: seq {line.seq} comes after seq {seq}")
                break
            if line.seq > seq + 1:
                self._problem(Lost(name, seq + 1, line.seq - 1))
            seq = line.seq
            lines.append(line)
        return lines

    def _conflict(self, account: Account, cursor: Cursor, decoded: list[Line | Damaged]) -> str:
        """Why the store's journal does not go on from the archived line; empty when it does."""
        first = decoded[0] if decoded else None
        if first is not None and first.id == cursor.id:
            if isinstance(first, Line) and first.seq == cursor.seq:
                return ""
            return f"the archive's last line, seq {cursor.seq}, is another one in the store"
        # It may have been dropped by the bound on lines: then all before it are gone as well.
        [oldest] = self._store.execute([("XRANGE", account[1].journal, "-", "+", "COUNT", 1)])
        if not checked(oldest):
            return f"the archive ends with seq {cursor.seq}, the store has no line at all"
        if id_order(oldest[0][0].decode()) < id_order(cursor.id):
            return f"the archive's last line, seq {cursor.seq}, is missing in the store, older ones are not"
        return ""

    def _leave_alone(self, name: Name, text: str) -> list[Line]:
        self._left_alone.add(name)
        self._problem(Conflict(name, text))
        return []


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + _TEMPORARY)


def _trim(store: Store, state: State) -> int:
    removed = 0
    for accounts in state.untrimmed(BATCH_ACCOUNTS):
        commands = []
        for tenant, subject, cursor in accounts:
            keys = account_keys(tenant, subject)
            sha = SCRIPTS["trim_journal"].sha
            commands.append(("EVALSHA", sha, 2, keys.account, keys.journal, cursor.id, cursor.seq))
        replies = [checked(reply) for reply in execute(store, commands)]
        counts = [reply for reply in replies if type(reply) is int]
        removed += sum(counts)
        state.trimmed(account for account, reply in zip(accounts, replies, strict=True) if type(reply) is int)
    return removed
