"""Archive files: journal lines with their account, one a record, as JSON Lines or CSV.

A record is the tenant, the subject, the entry's id and the line's fields, all as text
(`rater.journal.lines`): numbers are integers of millionths, `buckets` netstrings. In CSV (RFC 4180, UTF-8,
a heading first) a field that the line does not have is empty, and an empty list of buckets is
`none`. In JSON such a field is absent, and an object is ASCII throughout.

A file is named `journal-<run>-<tenant>.<format>`, the tenant percent-encoded, cut with a digest where it
is long. The name is for people and for the order: a reader takes the tenant from the records.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from rater.journal.lines import Damaged, Line, decode_line, encode_line


class Format(Enum):
    JSONL = "jsonl"
    CSV = "csv"


COLUMNS: Final = (
    "tenant", "subject", "id", "seq", "op", "amount", "token", "credit", "sms", "traffic",
    "volume_discount", "received", "buckets", "cost", "bonus",
)  # fmt: skip

_FILE: Final = re.compile(r"journal-(\d{8,18})-.*\.(jsonl|csv)")
_NO_BUCKETS: Final = "none"
_MAX_NAME_BYTES: Final = 180
"""Of a tenant in a file's name: the whole name has to fit into 255 bytes."""
_MAX_CELL_CHARS: Final = 64 * 1024 * 1024
"""The CSV reader's own bound of 128 KiB is less than 64 buckets with long names may take."""


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class ArchiveError(Exception):
    """An archive file can't be used; the text says which, where, and why."""


class Record(NamedTuple):
    tenant: str
    subject: str
    line: Line


def file_name(run: int, tenant: str, form: Format) -> str:
    name = quote(tenant.encode("utf-8", "surrogateescape"), safe="")
    name = name.replace(".", "%2E")
    if len(name) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name[:_MAX_NAME_BYTES]}~{digest}"
    return f"journal-{run:08d}-{name}.{form.value}"


def run_of(path: Path) -> int | None:
    """The run that wrote an archive file; None where the name is not that of one."""
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else None


def archive_files(paths: Iterable[Path]) -> list[Path]:
    """The archive files among the paths and in the folders among them, each once, by run."""
    found: dict[Path, int] = {}
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            run = run_of(file)
            if run is not None:
                found[file.resolve()] = run
            elif not path.is_dir():
                raise ArchiveError(
                    f"{path}: not the name of an archive file, journal-<run>-<tenant>.jsonl or .csv"
                )
    return sorted(found, key=lambda file: (found[file], file.name))


# --- writing ----------------------------------------------------------------------------------------


def encode_records(records: Iterable[Record], form: Format, *, heading: bool) -> bytes:
    """What to append to a file; `heading` at its beginning."""
    if form is Format.JSONL:
        return b"".join(map(_json_record, records))
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # CRLF, which also makes it quote texts that hold either of the two
    if heading:
        writer.writerow(COLUMNS)
    for record in records:
        fields = encode_line(record.line)
        if fields.get("buckets") == "":
            fields["buckets"] = _NO_BUCKETS
        head = (record.tenant, record.subject, record.line.id)
        writer.writerow((*head, *(fields.get(name, "") for name in COLUMNS[len(head) :])))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _json_record(record: Record) -> bytes:
    head = {"tenant": record.tenant, "subject": record.subject, "id": record.line.id}
    return _encode(head | encode_line(record.line)).encode() + b"\n"


# --- reading ----------------------------------------------------------------------------------------


def read_file(path: Path) -> Iterator[Record]:
    """The records of an archive file, in order. Raises ArchiveError."""
    rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    number = 0
    try:
        for row in rows:
            number += 1
            tenant, subject, entry_id = (row.pop(name) for name in COLUMNS[:3])
            line = decode_line(entry_id, row)
            if isinstance(line, Damaged):
                field, expected, found = line.difference
                raise ArchiveError(f"{path}: record {number}: {field}: expected {expected}, found {found}")
            yield Record(tenant, subject, line)
    except KeyError as error:
        raise ArchiveError(f"{path}: record {number}: no field {error.args[0]!r}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ArchiveError(f"{path}: record {number + 1}: {error}") from None


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                raise ValueError("is cut off")
            row = json.loads(text)
            if type(row) is not dict or not all(type(value) is str for value in row.values()):
                raise ValueError("expected an object whose values are texts")
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        if tuple(next(reader, ())) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
        for cells in reader:
            if len(cells) != len(COLUMNS):
                raise ValueError(f"expected {len(COLUMNS)} cells, found {len(cells)}")
            # A token and a name may be empty; every other empty cell is a field that is not there.
            row = {
                name: value
                for name, value in zip(COLUMNS, cells, strict=True)
                if value or name in ("tenant", "subject", "token")
            }
            if row.get("buckets") == _NO_BUCKETS:
                row["buckets"] = ""
            yield row
