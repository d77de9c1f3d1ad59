"""Holding every account of a store to its journal, while the store works.

An account and the end of its journal are read in one transaction, so a change in between is no
difference. A journal that takes more than one page is read on from the last line that was seen, until
a page is the last one: that page and the account belong together, and the pages before it are what
they were, because a journal only grows at its end. If that line has been trimmed meanwhile, reading
begins anew.

With archives, the archived lines from before the store's first one and then the store's are one chain,
from the opening on. Archived lines that the store still has are compared with it. The archives are
first brought into a temporary index on the disk, because an account's lines are in many files.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from common.errors import InvalidParams, StoreUnavailable
from common.storage.store import Reply
from common.storage.stores import Store
from rater.journal.archive import ArchiveError, archive_files, read_file
from rater.journal.chain import Finding, check_archive, check_stretch
from rater.journal.lines import (
    Damaged,
    Difference,
    Line,
    LiveAccount,
    decode_account,
    decode_entry,
    decode_line,
    encode_line,
)
from rater.journal.scan import BATCH_LINES, Name, ScanProgress, batches, checked, name_of, pattern, scan
from rater.store.errors import store_error
from rater.store.keys import AccountKeys, account_keys

_PAGE_LINES: Final = 1_000
"""Lines in one round trip when one long journal is read on: 300 kB."""
_MAX_STARTS: Final = 10
"""How often a journal is begun anew because it was trimmed: once a trimming, which takes minutes."""
_WRONG_TYPE: Final = "WRONGTYPE"


class Seen(NamedTuple):
    """An account and its journal at one moment."""

    account: bytes | ResponseError | None
    """None where there is none; an error where the key is of another type."""
    entries: list[Any] | ResponseError


class Result(NamedTuple):
    name: Name
    findings: list[Finding]
    lines: int
    whole: bool
    """The history was checked from the opening on."""


class Summary(NamedTuple):
    accounts: int = 0
    lines: int = 0
    whole: int = 0
    """Accounts that were checked from their opening on; the others since some later line."""
    with_findings: int = 0
    findings: int = 0

    def plus(self, result: Result) -> Summary:
        return Summary(
            self.accounts + 1,
            self.lines + result.lines,
            self.whole + result.whole,
            self.with_findings + bool(result.findings),
            self.findings + len(result.findings),
        )


class Selection(NamedTuple):
    tenant: str | None = None
    subject: str | None = None

    def has(self, name: Name) -> bool:
        return self.tenant in (None, name.tenant) and self.subject in (None, name.subject)


class ArchiveIndex:
    """The lines of archive files by account, in a temporary file. Raises ArchiveError."""

    def __init__(self, paths: Iterable[Path], selection: Selection) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ratel-audit-")
        try:
            self._db = sqlite3.connect(Path(self._folder.name) / "index", isolation_level=None)
            self._db.execute("PRAGMA journal_mode=OFF")  # whatever becomes of it, it is not needed again
            self._db.execute("CREATE TABLE line (account BLOB, seq INTEGER, record TEXT)")
            self._db.execute("BEGIN")
            for path in archive_files(paths):
                self._db.executemany("INSERT INTO line VALUES (?, ?, ?)", _rows(path, selection))
            self._db.execute("CREATE INDEX by_account ON line (account, seq)")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            raise ArchiveError(f"the index of the archives in {self._folder.name}: {error}") from None
        except BaseException:
            self.close()
            raise

    def lines(self, keys: AccountKeys) -> list[Line]:
        rows = self._db.execute(
            "SELECT record FROM line WHERE account = ? ORDER BY seq, rowid", (keys.account,)
        )
        decoded = (decode_line(*json.loads(record)) for (record,) in rows)
        return [line for line in decoded if isinstance(line, Line)]

    def accounts(self) -> Iterable[bytes]:
        return (key for (key,) in self._db.execute("SELECT DISTINCT account FROM line ORDER BY account"))

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        self._folder.cleanup()

    def __enter__(self) -> ArchiveIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rows(path: Path, selection: Selection) -> Iterable[tuple[bytes, int, str]]:
    for tenant, subject, line in read_file(path):
        if selection.has(Name(tenant, subject)):
            try:
                key = account_keys(tenant, subject).account
            except InvalidParams as error:
                raise ArchiveError(f"{path}: {error}") from None
            yield key, line.seq, json.dumps((line.id, encode_line(line)))


def audit(
    store: Store,
    selection: Selection,
    archives: ArchiveIndex | None,
    *,
    key_ttl_ms: int,
    report: Callable[[Result], None],
    progress: ScanProgress,
) -> Summary:
    """Check all selected accounts and report each. Raises StoreUnavailable."""
    summary = Summary()
    seen: set[bytes] = set()  # a scan may bring a key twice, and brings account and journal apart

    def check(names: list[Name]) -> None:
        nonlocal summary
        new = [name for name in names if selection.has(name) and account_keys(*name).account not in seen]
        for batch in batches(new):
            seen.update(keys.account for _, keys in batch)
            for (name, keys), found in zip(batch, _read(store, batch), strict=True):
                archived = archives.lines(keys) if archives else []
                result = check_account(name, found, archived, key_ttl_ms)
                if result is not None:
                    summary = summary.plus(result)
                    report(result)

    if selection.tenant is not None and selection.subject is not None:
        check([Name(selection.tenant, selection.subject)])
    else:
        for names in scan(store, pattern("*", *selection), progress):
            check(names)
    for key in archives.accounts() if archives else ():
        name = name_of(key)
        if key not in seen and name is not None:
            check([name])
    return summary


def check_account(name: Name, seen: Seen, archived: Sequence[Line], key_ttl_ms: int) -> Result | None:
    """What is wrong with one account; None when there is no trace of it."""
    if seen == (None, []) and not archived:
        return None
    findings: list[Finding] = []
    live: LiveAccount | None = None
    retained: list[Line | Damaged] = [decode_entry(*entry) for entry in _entries(seen)]
    for field, found in (("account", seen.account), ("journal", seen.entries)):
        what = "a key of another type" if isinstance(found, ResponseError) else "none"
        if isinstance(found, ResponseError) or found in (None, []):
            findings.append(Finding(None, Difference(field, "one in the store", what)))
    if isinstance(seen.account, bytes):
        decoded = decode_account(seen.account)
        if isinstance(decoded, Difference):
            findings.append(Finding(None, decoded._replace(field=f"account {decoded.field}")))
        else:
            live = decoded
    findings += check_archive(archived, retained)
    begin = next((line.seq for line in retained if isinstance(line, Line)), None)
    history = [*(line for line in archived if begin is None or line.seq < begin), *retained]
    findings += check_stretch(history, live, key_ttl_ms=key_ttl_ms)
    first = history[0] if history else None
    return Result(name, findings, len(history), isinstance(first, Line) and first.seq == 1)


# --- reading ----------------------------------------------------------------------------------------


def _read(store: Store, batch: Sequence[tuple[Name, AccountKeys]]) -> list[Seen]:
    """Each account and its whole journal as they were at one moment."""
    first = _transactions(store, [(keys, "-", BATCH_LINES) for _, keys in batch])
    return [
        seen if len(_entries(seen)) < BATCH_LINES else _read_on(store, keys, seen)
        for (_, keys), seen in zip(batch, first, strict=True)
    ]


def _read_on(store: Store, keys: AccountKeys, begun: Seen) -> Seen:
    size = BATCH_LINES
    for _ in range(_MAX_STARTS):
        entries, page = list(_entries(begun)), begun
        while len(_entries(page)) == size:
            size = _PAGE_LINES
            last = entries[-1][0]
            [page] = _transactions(store, [(keys, last, size)])
            more = _entries(page)
            if not more or more[0][0] != last:
                break
            entries += more[1:]
        else:
            return Seen(page.account, entries)
        [begun] = _transactions(store, [(keys, "-", size)])
    raise StoreUnavailable(detail=f"a journal was trimmed {_MAX_STARTS} times while it was read")


def _transactions(store: Store, wanted: Sequence[tuple[AccountKeys, bytes | str, int]]) -> list[Seen]:
    commands: list[tuple[bytes | str | int, ...]] = []
    for keys, begin, size in wanted:
        commands += [
            ("MULTI",),
            ("GET", keys.account),
            ("XRANGE", keys.journal, begin, "+", "COUNT", size),
            ("EXEC",),
        ]
    replies = store.execute(commands)
    for reply in replies:
        checked(reply)
    return [Seen(*map(_typed, replies[end])) for end in range(3, len(replies), 4)]


def _typed(reply: Reply) -> Reply:
    """The reply; an error only about the key's type."""
    if isinstance(reply, ResponseError) and not str(reply).startswith(_WRONG_TYPE):
        raise store_error(reply)
    return reply


def _entries(seen: Seen) -> list[Any]:
    return [] if isinstance(seen.entries, ResponseError) else seen.entries
