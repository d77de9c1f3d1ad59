"""One run over a file of call records: from where the last one was interrupted, in chunks, to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from rater.bulk.outputs import Outputs, Progress, read_state
from rater.bulk.raters import Rated, Rater
from rater.bulk.records import FileProblem, Format, Record, format_of, read_csv, read_header, read_jsonl

CHUNK: Final = 2_000
"""Records that are rated together."""
SAVE_EVERY_S: Final = 1.0
"""How often all is brought to the disk: an interrupted run loses the work of a second."""


class Files(NamedTuple):
    records: Path
    rated: Path
    rejects: Path

    @property
    def state(self) -> Path:
        return self.rated.with_name(self.rated.name + ".state")


def files_for(records: Path, rated: Path | None, rejects: Path | None) -> Files:
    """`calls.csv` → `calls.rated.csv` and `calls.rejects.csv` beside it, unless said otherwise."""
    return Files(
        records,
        rated or records.with_name(f"{records.stem}.rated{records.suffix}"),
        rejects or records.with_name(f"{records.stem}.rejects{records.suffix}"),
    )


def run(
    files: Files,
    rater: Rater,
    source: str,
    *,
    restart: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Progress:
    """Rate all records; `source` names what rates them. Returns the totals, those of an interrupted run too.

    Raises FileProblem, OSError, and ServiceError and Unauthorized (run it again, it goes on from there).
    """
    with files.records.open("rb") as file:
        columns, progress, form = _begin(files, file, source, restart)
        outputs = Outputs(files.rated, files.rejects, files.state, form, columns, progress)
        try:
            records = _records(file, form, columns, progress)
            saved_s = time.monotonic()
            last: Record | None = None
            while chunk := list(islice(records, CHUNK)):
                _rate(chunk, rater, outputs)
                last = chunk[-1]
                if time.monotonic() - saved_s >= SAVE_EVERY_S:
                    outputs.save(last)
                    saved_s = time.monotonic()
                advance(last.end, progress.input_bytes)
            if last is not None:
                outputs.save(last)
            outputs.finish()
        finally:
            outputs.close()
    return progress


def _begin(files: Files, file: BinaryIO, source: str, restart: bool) -> tuple[list[str], Progress, Format]:
    status = files.records.stat()
    form = format_of(files.records, file.read(64))
    columns, offset, line = read_header(file) if form is Format.CSV else ([], 0, 0)
    fresh = Progress(status.st_size, status.st_mtime_ns, source, offset, line)
    if restart:
        return columns, fresh, form
    known = read_state(files.state)
    if known is None:
        for path in (files.rated, files.rejects):
            if path.exists():
                raise FileProblem(f"{path} is there already; --restart writes it anew")
        return columns, fresh, form
    if (known.input_bytes, known.input_modified_ns) != (status.st_size, status.st_mtime_ns):
        raise FileProblem(f"{files.records} has changed since the interrupted run; --restart begins anew")
    if known.source != source:
        raise FileProblem(
            f"the interrupted run rated by {known.source}, this one would by {source}; --restart begins anew"
        )
    return columns, known, form


def _records(file: BinaryIO, form: Format, columns: list[str], progress: Progress) -> Iterator[Record]:
    if form is Format.CSV:
        return read_csv(file, columns, progress.offset, progress.line)
    return read_jsonl(file, progress.offset, progress.line)


def _rate(chunk: list[Record], rater: Rater, outputs: Outputs) -> None:
    outcomes = iter(rater.rate([record for record in chunk if record.call is not None]))
    for record in chunk:
        outcome = record.problem or next(outcomes)
        if isinstance(outcome, Rated):
            outputs.write(record, outcome)
        else:
            outputs.reject(record, outcome)
