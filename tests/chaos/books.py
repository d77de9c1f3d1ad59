"""The clients' books: one file a process, a line for each intention before it is sent and each answer after.

A line is a JSON list; the first member says which:

* `intend`: id, method, subject, amount, keyed, time
* `told`: id, time of sending, time, code (0 or a refusal's), text, what for (`ask`, `twin`, `replay`,
  `reuse`), whether it was marked as a replay (HTTP alone says so, else null)
* `open`: id, time of sending, time, why: whether it was done is not known, or it was certainly not done
  (`certain`)

The text of a success is the result's JSON as it was received, byte for byte; of a refusal its message.
Times are the wall clock's microseconds, as in the journal's entry ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tests.chaos.workload import Ask

BUFFER_BYTES: Final = 1 << 20
_encode = msgspec.json.Encoder().encode


def now_us() -> int:
    return time.time_ns() // 1000


class Told(NamedTuple):
    sent_us: int
    at_us: int
    code: int
    text: str
    purpose: str
    marked: bool | None


class Open(NamedTuple):
    sent_us: int
    at_us: int
    why: str
    certain: bool
    """It is certain that nothing was done."""


class Entry:
    """All about one intention."""

    __slots__ = ("amount", "id", "keyed", "method", "opens", "reuses", "sent_us", "subject", "told")

    def __init__(self, id_: str, method: str, subject: str, amount: int, keyed: bool, sent_us: int) -> None:
        self.id, self.method, self.subject = id_, method, subject
        self.amount, self.keyed, self.sent_us = amount, keyed, sent_us
        self.told: list[Told] = []
        self.reuses: list[Told] = []
        self.opens: list[Open] = []


class Pen:
    """Writes one process' book."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=BUFFER_BYTES)

    def intend(self, ask: Ask) -> None:
        self._write("intend", ask.id, ask.method, ask.subject, ask.amount, ask.keyed, now_us())

    def told(self, ask: Ask, told: Told) -> None:
        self._write("told", ask.id, *told)

    def open(self, ask: Ask, open_: Open) -> None:
        self._write("open", ask.id, *open_)

    def _write(self, *row: Any) -> None:
        self._file.write(_encode(row) + b"\n")

    def close(self) -> None:
        self._file.close()


def read(paths: list[Path]) -> dict[str, Entry]:
    """All entries of all books, by id."""
    entries: dict[str, Entry] = {}
    for path in paths:
        for what, *row in _rows(path):
            if what == "intend":
                entries[row[0]] = Entry(*row)
            elif what == "told":
                told = Told(*row[1:])
                entry = entries[row[0]]
                (entry.reuses if told.purpose == "reuse" else entry.told).append(told)
            else:
                entries[row[0]].opens.append(Open(*row[1:]))
    return entries


def _rows(path: Path) -> Iterator[list[Any]]:
    decode = msgspec.json.Decoder(list[Any]).decode
    with path.open("rb") as file:
        for line in file:
            yield decode(line)
