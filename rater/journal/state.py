"""How far each account's journal is archived: an SQLite file beside the archive files.

It follows from the archive files and is made anew from them when it is lost; it is there so that
they can be moved elsewhere. One run of an export is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rater.journal.archive import ArchiveError

FORMAT: Final = 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS run (last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cursor (
    tenant TEXT, subject TEXT, id TEXT NOT NULL, seq INTEGER NOT NULL, trimmed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, subject)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS untrimmed ON cursor (tenant, subject) WHERE trimmed < seq;
"""


class Cursor(NamedTuple):
    """The last line of an account that is archived."""

    id: str
    seq: int


class State:
    """The open state; what `begin` is followed by holds from `commit` on. Raises ArchiveError."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA synchronous=EXTRA")  # what is committed survives a power failure
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT):
                raise ArchiveError(f"{path}: has format {version}, this is for {FORMAT}")
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            if self._db.execute("SELECT last FROM run").fetchone() is None:
                self._db.execute("INSERT INTO run VALUES (0)")
            self._db.execute(f"PRAGMA user_version={FORMAT}")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise ArchiveError(f"{path}: {error}") from None

    @property
    def run(self) -> int:
        """The last run that is complete; 0 before the first."""
        return int(self._db.execute("SELECT last FROM run").fetchone()[0])

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self, run: int) -> None:
        self._db.execute("UPDATE run SET last = ?", (run,))
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def cursor(self, tenant: str, subject: str) -> Cursor | None:
        row = self._db.execute(
            "SELECT id, seq FROM cursor WHERE tenant = ? AND subject = ?", (tenant, subject)
        ).fetchone()
        return None if row is None else Cursor(*row)

    def advance(self, tenant: str, subject: str, cursor: Cursor) -> None:
        self._db.execute(
            "INSERT INTO cursor (tenant, subject, id, seq) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET id = excluded.id, seq = excluded.seq",
            (tenant, subject, *cursor),
        )

    def untrimmed(self, size: int) -> Iterator[list[tuple[str, str, Cursor]]]:
        """Accounts with lines that are archived and were not trimmed since, so many at a time."""
        after: tuple[str, str] | None = None
        while True:
            where = "" if after is None else " AND (tenant, subject) > (?, ?)"
            rows = self._db.execute(
                f"SELECT tenant, subject, id, seq FROM cursor WHERE trimmed < seq{where}"
                " ORDER BY tenant, subject LIMIT ?",
                (*(after or ()), size),
            ).fetchall()
            if not rows:
                return
            after = rows[-1][:2]
            yield [(tenant, subject, Cursor(entry_id, seq)) for tenant, subject, entry_id, seq in rows]

    def trimmed(self, done: Iterable[tuple[str, str, Cursor]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE cursor SET trimmed = ? WHERE tenant = ? AND subject = ?",
            ((cursor.seq, tenant, subject) for tenant, subject, cursor in done),
        )
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
