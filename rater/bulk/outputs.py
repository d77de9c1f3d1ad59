"""The files that a run writes, and the place from which an interrupted run goes on.

Records come out in the order in which they came in. Every so often all that is written is brought to the
disk, and then a small state file says how far the input is read and how long each output is by then. A run
that was interrupted, by force too, cuts the outputs to that length and goes on: nothing is missing or twice.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from common.errors import RatelError
from common.money import format_micros
from rater.bulk.raters import Rated
from rater.bulk.records import REASON, FileProblem, Format, Record, kept_columns

ADDED: Final = ("RatedPrefix", "RatedCost", "RatedConnectFee")
STATE_FORMAT: Final = 1

_encode = msgspec.json.Encoder().encode


class Totals(msgspec.Struct):
    """Of one matched prefix."""

    calls: int = 0
    duration_us: int = 0
    cost_micros: int = 0
    fee_micros: int = 0


class Progress(msgspec.Struct):
    """How far a run is."""

    input_bytes: int
    input_modified_ns: int
    source: str
    """What rates: another source can't go on with it."""
    offset: int
    line: int
    rated_bytes: int = 0
    rejects_bytes: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    """By the name of the error."""
    totals: dict[str, Totals] = msgspec.field(default_factory=dict)
    format: int = STATE_FORMAT

    def count(self, record: Record, rated: Rated) -> None:
        assert record.call is not None
        totals = self.totals.setdefault(rated.prefix, Totals())
        totals.calls += 1
        totals.duration_us += record.call.end_us - record.call.start_us
        totals.cost_micros += rated.cost_micros
        totals.fee_micros += rated.fee_micros

    def count_rejected(self, error: RatelError) -> None:
        self.rejected[error.name] = self.rejected.get(error.name, 0) + 1

    @property
    def calls(self) -> int:
        return sum(each.calls for each in self.totals.values())

    @property
    def rejects(self) -> int:
        return Counter(self.rejected).total()


def read_state(path: Path) -> Progress | None:
    """None when there is no state. Raises FileProblem for one that is damaged or of another release."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, OSError) as error:
        raise FileProblem(f"{path} can't be read: {error}; --restart begins anew") from None
    if state.format != STATE_FORMAT:
        raise FileProblem(f"{path} is of another release; --restart begins anew")
    return state


class Outputs:
    """The rated records and the rejects, in the format of the input."""

    def __init__(
        self,
        rated: Path,
        rejects: Path,
        state: Path,
        form: Format,
        columns: Sequence[str],
        progress: Progress,
    ) -> None:
        self.progress = progress
        self._state = state
        self._format = form
        self._rated = _open(rated, progress.rated_bytes)
        self._rejects = _open(rejects, progress.rejects_bytes)
        if form is Format.CSV and not progress.rated_bytes:
            kept = [columns[place] for place in kept_columns(columns)]
            self._rated.write(_row([*kept, *ADDED]))
            self._rejects.write(_row([*REASON, *kept]))
        self._save()

    def write(self, record: Record, rated: Rated) -> None:
        self.progress.count(record, rated)
        added = (rated.prefix, format_micros(rated.cost_micros), format_micros(rated.fee_micros))
        if isinstance(record.cells, dict):
            texts = (_encode(rated.prefix), added[1].encode(), added[2].encode())
            self._rated.write(_object(record.cells | dict(zip(ADDED, map(msgspec.Raw, texts), strict=True))))
        else:
            self._rated.write(_row([*record.cells, *added]))

    def reject(self, record: Record, error: RatelError) -> None:
        self.progress.count_rejected(error)
        reason = (record.line, error.name, error.message)
        if isinstance(record.cells, dict):
            texts = (msgspec.Raw(_encode(each)) for each in reason)
            self._rejects.write(_object(record.cells | dict(zip(REASON, texts, strict=True))))
        else:
            self._rejects.write(_row([*map(str, reason), *record.cells]))

    def save(self, record: Record) -> None:
        """Everything up to and with the record is safe from here on."""
        self.progress.offset, self.progress.line = record.end, record.end_line
        self._save()

    def _save(self) -> None:
        for file in (self._rated, self._rejects):
            file.flush()
            os.fsync(file.fileno())
        progress = self.progress
        progress.rated_bytes, progress.rejects_bytes = self._rated.tell(), self._rejects.tell()
        partial = self._state.with_name(self._state.name + ".new")
        partial.write_bytes(msgspec.json.encode(progress))
        partial.replace(self._state)

    def finish(self) -> None:
        """All is written: the state has done its work."""
        self.close()
        with suppress(FileNotFoundError):
            self._state.unlink()

    def close(self) -> None:
        self._rated.close()
        self._rejects.close()


def _open(path: Path, length: int) -> BinaryIO:
    """Cut to what was safe. Raises FileProblem when there is less than that, or when somebody writes it."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | (0 if length else os.O_CREAT), 0o666), "r+b")
    except OSError as error:
        if not length:
            raise
        raise FileProblem(
            f"{path}, written by the run that was interrupted, can't be opened: {error}"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
        size = file.seek(0, io.SEEK_END)
        if size < length:
            raise FileProblem(f"{path} is shorter than the interrupted run left it; --restart begins anew")
        if size > length:
            file.truncate(length)
        file.seek(length)
    except BlockingIOError:
        file.close()
        raise FileProblem(f"{path}: another run is writing it") from None
    except BaseException:
        file.close()
        raise
    return file


def _row(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _object(members: Mapping[str, msgspec.Raw]) -> bytes:
    return _encode(members) + b"\n"
