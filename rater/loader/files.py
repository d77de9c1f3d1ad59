"""Tariff files → rates, destinations, plans and budgets, each with its place and the tenant it names.

A file is cut into its objects before any of them is decoded, so that each has a line number, a bad
one costs only itself, and no more than one object's JSON is ever held as Python values. It is read
in pieces (`rater.loader.pieces`). Should it turn out not to be JSON, what came of it is forgotten, and
the whole file is looked at for what is wrong with it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from rater.loader.fields import Fields, Source
from rater.loader.items import Contents, Item
from rater.loader.kinds import SHAPES, Kind, kind_of, kinds_in_name
from rater.loader.pieces import BOM, NotCut, Piece, pieces
from rater.loader.plans import read_budget, read_destination, read_plan
from rater.loader.quick import Quick
from rater.loader.rates import read_rate
from rater.loader.report import Report, describe, quote
from rater.loader.strict_json import DuplicateField, loads

MAX_FILE_BYTES: Final = 1 << 30
"""A file that is wrong is looked at as a whole. A gigabyte holds millions of rates; split what is larger."""

FilesProgress = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are."""


def read_paths(paths: Sequence[Path], report: Report, progress: FilesProgress) -> Contents:
    """Read the files, and every *.json of the folders (not of folders in them); mistakes are reported."""
    files = _find_files(paths, report)
    contents = Contents(complete=not report.error_count)
    names = [file.name for file in files]
    total_bytes = sum(_size_bytes(file) for file in files)
    done_bytes = 0
    quick = Quick()
    for file in files:
        # The bare name reads best in a place; the whole path where two files share a name.
        source = Source(_printable(file.name if names.count(file.name) == 1 else str(file)), report)
        advance = partial(_advance, progress, done_bytes, total_bytes)
        if _read_file(file, source, contents, quick, advance):
            done_bytes += _size_bytes(file)
        else:
            contents.complete = False
    progress(total_bytes, total_bytes)
    return contents


def _advance(progress: FilesProgress, before_bytes: int, total_bytes: int, done_bytes: int) -> None:
    progress(before_bytes + done_bytes, total_bytes)


def _find_files(paths: Sequence[Path], report: Report) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            try:
                files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".json")
            except OSError as error:
                report.error(_printable(str(path)), f"can not be read: {error.strerror}")
                continue
            if not files:
                report.error(_printable(str(path)), "has no *.json files")
        for file in files:
            found.setdefault(file.resolve(), file)  # a file named twice is read once
    return list(found.values())


def _read_file(
    file: Path, source: Source, contents: Contents, quick: Quick, progress: Callable[[int], None]
) -> bool:
    if _size_bytes(file) > MAX_FILE_BYTES:
        source.report.error(
            source.name, f"is larger than {MAX_FILE_BYTES} bytes; split it into several files"
        )
        return False
    try:
        with file.open("rb") as stream:
            _read_stream(stream, source, contents, quick, progress)
    except OSError as error:
        source.report.error(source.name, f"can not be read: {error.strerror}")
        return False
    return True


def read_text(data: bytes, source: Source, contents: Contents, progress: Callable[[int], None]) -> None:
    """Read one file's bytes into `contents`."""
    _read_stream(io.BytesIO(data), source, contents, Quick(), progress)


def _read_stream(
    stream: BinaryIO, source: Source, contents: Contents, quick: Quick, progress: Callable[[int], None]
) -> None:
    before, said = contents.mark(), source.report.mark()
    reader = _Reader(source, contents, quick)
    try:
        for piece in pieces(stream):
            reader.read(piece)
            progress(piece.offset)
    except NotCut:
        contents.go_back(before)
        source.report.go_back(said)
        contents.complete = False
        stream.seek(0)
        _say_what_is_wrong(stream.read().removeprefix(BOM), source)


class _Reader:
    """Reads the objects of one file, one after the other."""

    def __init__(self, source: Source, contents: Contents, quick: Quick) -> None:
        self._source = source
        self._contents = contents
        self._quick = quick
        self._named = kinds_in_name(Path(source.name).name)
        self._index = 0

    def read(self, piece: Piece) -> None:
        add_rate = self._contents.rates.add
        quick_rate = self._quick.rate
        for line, text in _located(piece):
            found = quick_rate(text)
            if found is not None:
                add_rate(*found, self._source, self._index, line)
            elif not self._read_budget(text, line):
                self._read_carefully(text, line)
            self._index += 1

    def _read_budget(self, text: bytes, line: int) -> bool:
        found = self._quick.budget(text)
        if found is not None:
            self._contents.budgets.add(*found, self._source, self._index, line)
        return found is not None

    def _read_carefully(self, text: bytes, line: int) -> None:
        source, index = self._source, self._index
        place = f"{source.name}[{index}] (line {line})"
        values = _decode(text, place, source.report)
        kind = kind_of(values, self._named) if values is not None else None
        if values is not None and isinstance(kind, Kind):
            fields = Fields(values, SHAPES[kind], source, f"[{index}]", line=line)
            _add(self._contents, kind, fields, source, index)
        else:
            self._contents.complete = False
            if kind is not None:
                source.report.error(place, str(kind))


def _located(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """(line, text) of each object."""
    data, line, offset = piece.data, piece.line, 0
    for element in piece.elements:
        text = bytes(element)
        start = data.index(text, offset)  # only white space and a comma are in between
        if start > offset:
            line += data.count(b"\n", offset, start)
        yield line, text
        line += text.count(b"\n")
        offset = start + len(text)


def _add(contents: Contents, kind: Kind, fields: Fields, source: Source, index: int) -> None:
    match kind:
        case Kind.RATE:
            contents.rates.append(Item(*read_rate(fields), source, index, fields.line))
        case Kind.DESTINATION:
            contents.destinations.append(Item(*read_destination(fields), source, index, fields.line))
        case Kind.PLAN:
            contents.plans.append(Item(*read_plan(fields), source, index, fields.line))
        case Kind.BUDGET:
            contents.budgets.append(Item(*read_budget(fields), source, index, fields.line))


def _printable(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return name.encode(errors="replace").decode()


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


# --- JSON -------------------------------------------------------------------------------------------


_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _say_what_is_wrong(data: bytes, source: Source) -> None:
    try:
        _elements(data)
    except msgspec.ValidationError:
        found = "an object" if data.lstrip()[:1] == b"{" else "a single value"
        source.report.error(
            f"{source.name} (line 1)", f"expected a list of objects: [{{…}}, …], found {found}"
        )
    except RecursionError:
        source.report.error(source.name, "is nested too deep to be a tariff file")
    except msgspec.DecodeError as error:
        source.report.error(*_syntax_error(data, source.name, str(error)))
    else:
        source.report.error(source.name, "changed while it was read")


def _syntax_error(data: bytes, name: str, said: str) -> tuple[str, str]:
    """Place and text for a file that is not JSON, or that ends too early."""
    end = len(data.rstrip())
    if not end:
        return name, "is empty; expected a list of objects: [{…}, …]"
    what, _, byte = said.rstrip(")").partition(" (byte ")
    offset = int(byte) if byte.isdecimal() else end
    place = f"{name} (line {_line_of(data, min(offset, end))})"
    try:
        loads(data.decode())
    except UnicodeDecodeError as error:
        return f"{name} (line {_line_of(data, error.start)})", "is not UTF-8 text"
    except json.JSONDecodeError as error:
        if offset >= end:
            return place, "the file ends in the middle of its JSON: was it truncated?"
        return f"{name} (line {error.lineno})", f"not valid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError):
        pass
    # What the strict reader alone refuses: half of a surrogate pair, else NaN and its like.
    if any(word in what for word in ("truncated", "escape", "surrogate")):
        return (
            place if byte else name,
            "not valid JSON: a text holds half of a surrogate pair (\\uD800 to \\uDFFF)",
        )
    return place, f"not valid JSON: {what}"


def _line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _decode(text: bytes, place: str, report: Report) -> dict[str, Any] | None:
    """One element, which is known to be JSON; None when it is not an object that can be used."""
    try:
        value = loads(text.decode())
    except DuplicateField as error:
        report.error(place, f"the field {quote(str(error))} is given twice in one object")
    except UnicodeDecodeError:
        report.error(place, "is not UTF-8 text")
    except RecursionError:
        report.error(place, "is nested too deep")
    except ValueError as error:  # an integer of thousands of digits
        report.error(place, f"can not be read: {error}")
    else:
        if isinstance(value, dict):
            return value
        report.error(place, f"expected an object, found {describe(value)}")
    return None
