"""Call records from a file, CSV with a header or JSON Lines, each with its place in the file.

Column names are those of the call descriptor or the short ones of HTTP, in any case: `CstmId`, `Subject`
(`subj`), `DestinationPrefix` (`dest`), `TimeStart` (`start`), and `TimeEnd` (`end`) or `duration` in seconds;
`TOR` if there is one. Other columns are kept as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from common.errors import InvalidParams, ParseError, RatelError
from common.methods import BY_NAME
from common.money import NotExact, parse_decimal, to_micros
from common.times import format_rfc3339, parse_rfc3339
from rater.descriptor import Descriptor
from rater.descriptor_reader import parse_descriptor
from rater.json_fields import NumberText

FIELDS: Final = {
    "cstmid": "CstmId",
    "subject": "Subject",
    "subj": "Subject",
    "destinationprefix": "DestinationPrefix",
    "dest": "DestinationPrefix",
    "timestart": "TimeStart",
    "start": "TimeStart",
    "timeend": "TimeEnd",
    "end": "TimeEnd",
    "duration": "duration",
    "tor": "TOR",
}
"""Column in lower case → field."""

REASON: Final = ("RejectLine", "RejectError", "RejectMessage")
"""What a reject has beside the record's own columns. A file of rejects may be put right and rated: these are
then left out."""

MAX_LINE_BYTES: Final = 65_536

_GET_COST: Final = BY_NAME["GetCost"]
_encode = msgspec.json.Encoder().encode
_decode_cell = msgspec.json.Decoder(float_hook=NumberText).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Format(Enum):
    CSV = "csv"
    JSONL = "jsonl"


class FileProblem(Exception):
    """The file as a whole can't be read; the text says why."""


class Record(NamedTuple):
    line: int
    """On which it begins, from 1."""
    end_line: int
    end: int
    """The offset of what follows it."""
    cells: Sequence[str] | dict[str, msgspec.Raw]
    """As they came: a row, or an object."""
    call: Descriptor | None
    params: dict[str, Any] | None
    """The call descriptor, for a cluster."""
    problem: RatelError | None
    """Why there is no call."""


def format_of(path: Path, header: bytes) -> Format:
    """By the name, else by the first byte."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return Format.CSV
    if suffix in (".jsonl", ".ndjson", ".json"):
        return Format.JSONL
    return Format.JSONL if header.lstrip()[:1] == b"{" else Format.CSV


class Lines:
    """The lines of a file as text, with the offset behind the last one that was given out."""

    def __init__(self, file: BinaryIO, offset: int, number: int) -> None:
        self._file = file
        self.offset = offset
        self.number = number
        file.seek(offset)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        if len(raw) > MAX_LINE_BYTES:
            raise FileProblem(f"line {self.number + 1} is longer than {MAX_LINE_BYTES} bytes")
        self.offset += len(raw)
        self.number += 1
        return raw.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")


def read_header(file: BinaryIO) -> tuple[list[str], int, int]:
    """The columns of a CSV, the offset behind them, and their last line. Raises FileProblem."""
    lines = Lines(file, 0, 0)
    try:
        columns = next(csv.reader(lines, strict=True))
    except StopIteration:
        raise FileProblem("it is empty: a CSV begins with the names of its columns") from None
    except csv.Error as error:
        raise FileProblem(f"line 1: {error}") from None
    known = [FIELDS[name.strip().lower()] for name in columns if name.strip().lower() in FIELDS]
    for field in ("CstmId", "Subject", "DestinationPrefix", "TimeStart"):
        if field not in known:
            raise FileProblem(f"its first line names no column {field}; it names {', '.join(columns)[:200]}")
    if "TimeEnd" not in known and "duration" not in known:
        raise FileProblem("its first line names neither TimeEnd nor duration")
    twice = next((field for field in known if known.count(field) > 1), None)
    if twice is not None:
        raise FileProblem(f"its first line names two columns for {twice}")
    return columns, lines.offset, lines.number


def read_csv(file: BinaryIO, columns: Sequence[str], offset: int, line: int) -> Iterator[Record]:
    """The records from an offset on. Raises FileProblem for what is no CSV at all."""
    places = {
        FIELDS[name.strip().lower()]: place
        for place, name in enumerate(columns)
        if name.strip().lower() in FIELDS
    }
    lines = Lines(file, offset, line)
    rows = csv.reader(lines, strict=True)
    while True:
        begin = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problem = ParseError(detail=str(error))
            yield Record(begin, lines.number, lines.offset, [], None, None, problem)
            rows = csv.reader(lines, strict=True)
            continue
        if not row:
            continue
        if len(row) != len(columns):
            detail = f"{len(row)} columns, the first line names {len(columns)}"
            yield Record(begin, lines.number, lines.offset, row, None, None, ParseError(detail=detail))
            continue
        fields: dict[str, Any] = {field: row[place] for field, place in places.items() if row[place]}
        kept = [row[place] for place in kept_columns(columns)]
        yield _record(begin, lines.number, lines.offset, kept, fields)


def kept_columns(columns: Sequence[str]) -> list[int]:
    """The places of the columns that go into the outputs."""
    return [place for place, name in enumerate(columns) if name not in REASON]


def read_jsonl(file: BinaryIO, offset: int, line: int) -> Iterator[Record]:
    lines = Lines(file, offset, line)
    for text in lines:
        if not text.strip():
            continue
        number, end = lines.number, lines.offset
        try:
            cells = _decode_object(text.encode("utf-8", "surrogateescape"))
            named = [name for name in cells if name.lower() in FIELDS]
            values = [(FIELDS[name.lower()], _decode_cell(cells[name])) for name in named]
            problem = _ambiguity(text, named, values)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            shown = {"Text": msgspec.Raw(_encode(text.rstrip("\r\n").encode(errors="replace").decode()))}
            yield Record(number, number, end, shown, None, None, ParseError(detail=str(error)))
            continue
        kept = {name: raw for name, raw in cells.items() if name not in REASON}
        fields = {field: value for field, value in values if value is not None}
        if problem is not None:
            yield Record(number, number, end, kept, None, None, problem)
        else:
            yield _record(number, number, end, kept, fields)


def _ambiguity(text: str, named: Sequence[str], values: Sequence[tuple[str, Any]]) -> InvalidParams | None:
    """What could be meant in two ways: a field that is given twice, or a number in place of a text."""
    given = [field for field, value in values if value is not None]
    # The decoder takes the last of two equal names. They may stand there as values, too: so it is looked at.
    if "\\" in text or any(text.count(f'"{name}"') > 1 for name in named):
        pairs = json.loads(text, object_pairs_hook=list, parse_int=str)
        given = [
            FIELDS[name.lower()] for name, value in pairs if name.lower() in FIELDS and value is not None
        ]
    twice = next((field for field in given if given.count(field) > 1), None)
    if twice is not None:
        return InvalidParams(field=twice, detail="is given twice")
    for field, value in values:
        if type(value) is NumberText and field not in ("duration", "TOR"):
            return InvalidParams(field=field, detail="expected a string, not a number")
    return None


def _record(
    line: int,
    end_line: int,
    end: int,
    cells: Sequence[str] | dict[str, msgspec.Raw],
    fields: dict[str, Any],
) -> Record:
    try:
        params = _params(fields)
        call = parse_descriptor(_encode(params), _GET_COST)
    except RatelError as error:
        return Record(line, end_line, end, cells, None, None, error)
    except UnicodeEncodeError:
        return Record(line, end_line, end, cells, None, None, ParseError(detail="it is not UTF-8"))
    return Record(line, end_line, end, cells, call, params, None)


def _params(fields: dict[str, Any]) -> dict[str, Any]:
    """The call descriptor of a record, its end reckoned where a duration is given."""
    params = {name: value for name, value in fields.items() if name != "duration"}
    if "TOR" in params and isinstance(params["TOR"], str):
        try:
            params["TOR"] = int(params["TOR"])
        except ValueError:
            raise InvalidParams(field="TOR", detail=f"expected an integer, not {params['TOR']!r}") from None
    duration = fields.get("duration")
    if duration is None:
        return params
    if params.get("TimeEnd"):
        raise InvalidParams(field="duration", detail="is given beside TimeEnd: only one of them can hold")
    try:
        length_us = to_micros(parse_decimal(str(duration)))
        start_us = parse_rfc3339(str(params.get("TimeStart", "")))
        end = format_rfc3339(start_us + length_us)
    except NotExact as error:
        raise InvalidParams(field="duration", detail=str(error)) from None
    except (ValueError, OverflowError) as error:
        raise InvalidParams(field="TimeStart", detail=str(error)) from None
    if length_us < 0:
        raise InvalidParams(field="duration", detail="is negative")
    return params | {"TimeEnd": end}
