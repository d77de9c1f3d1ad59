"""Tariff files → rates, destinations, plans and budgets, each with its place and the tenant it names.

A file is cut into its objects before any of them is decoded, so that each has a line number, a bad
one costs only itself, and no more than one object's JSON is ever held as Python values.
Numbers keep their text (`JsonNumber`), and a field that is given twice is an error: JSON leaves it
open which of the two counts, and it may be a price.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from rater.loader.fields import Fields, JsonNumber, Source
from rater.loader.kinds import SHAPES, Kind, kind_of, kinds_in_name
from rater.loader.plans import read_budget, read_destination, read_plan
from rater.loader.rates import read_rate
from rater.loader.report import Report, describe, quote
from rater.model import Account, Destination, Plan, Rate

T = TypeVar("T")

MAX_FILE_BYTES: Final = 1 << 30
"""A file is read as a whole. A gigabyte holds several million rates; split what is larger."""

_BOM: Final = b"\xef\xbb\xbf"
_PROGRESS_EVERY: Final = 256

FilesProgress = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are."""


class Item(NamedTuple, Generic[T]):
    tenant: str
    """"" when the object names none."""
    value: T
    source: Source
    position: int
    """In the file's list, from 0."""
    line: int

    @property
    def place(self) -> str:
        return f"{self.source.name}[{self.position}] (line {self.line})"


@dataclass
class Contents:
    """Everything that the files hold, in their order."""

    rates: list[Item[Rate]] = field(default_factory=list)
    destinations: list[Item[Destination]] = field(default_factory=list)
    plans: list[Item[Plan]] = field(default_factory=list)
    budgets: list[Item[Account]] = field(default_factory=list)
    complete: bool = True
    """False when a file or an object could not be read at all, so that references may dangle."""


class DuplicateField(ValueError):
    """An object has two fields of the same name."""


def read_paths(paths: Sequence[Path], report: Report, progress: FilesProgress) -> Contents:
    """Read the files, and every *.json of the folders (not of folders in them); mistakes are reported."""
    files = _find_files(paths, report)
    contents = Contents(complete=not report.error_count)
    names = [file.name for file in files]
    total_bytes = sum(_size_bytes(file) for file in files)
    done_bytes = 0
    for file in files:
        # The bare name reads best in a place; the whole path where two files share a name.
        source = Source(_printable(file.name if names.count(file.name) == 1 else str(file)), report)
        data = _read_bytes(file, source)
        if data is None:
            contents.complete = False
        else:
            read_text(data, source, contents, partial(_advance, progress, done_bytes, total_bytes))
            done_bytes += len(data)
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


def read_text(data: bytes, source: Source, contents: Contents, progress: Callable[[int], None]) -> None:
    """Read one file's bytes into `contents`."""
    named = kinds_in_name(Path(source.name).name)
    data = data.removeprefix(_BOM)
    elements = _split(data, source)
    if elements is None:
        contents.complete = False
        return
    for index, (line, offset, text) in enumerate(_located(data, elements)):
        place = f"{source.name}[{index}] (line {line})"
        values = _decode(text, place, source.report)
        kind = kind_of(values, named) if values is not None else None
        if values is not None and isinstance(kind, Kind):
            fields = Fields(values, SHAPES[kind], source, f"[{index}]", line=line)
            _add(contents, kind, fields, source, index)
        else:
            contents.complete = False
            if kind is not None:
                source.report.error(place, str(kind))
        if index % _PROGRESS_EVERY == 0:
            progress(offset)


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


def _read_bytes(file: Path, source: Source) -> bytes | None:
    if _size_bytes(file) > MAX_FILE_BYTES:
        source.report.error(
            source.name, f"is larger than {MAX_FILE_BYTES} bytes; split it into several files"
        )
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        source.report.error(source.name, f"can not be read: {error.strerror}")
        return None


# --- JSON -------------------------------------------------------------------------------------------

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _split(data: bytes, source: Source) -> list[msgspec.Raw] | None:
    """The elements of the file's list; a file that is not one is reported."""
    try:
        return _elements(data)
    except msgspec.ValidationError:
        found = "an object" if data.lstrip()[:1] == b"{" else "a single value"
        source.report.error(
            f"{source.name} (line 1)", f"expected a list of objects: [{{…}}, …], found {found}"
        )
    except RecursionError:
        source.report.error(source.name, "is nested too deep to be a tariff file")
    except msgspec.DecodeError as error:
        source.report.error(*_syntax_error(data, source.name, str(error)))
    return None


def _located(data: bytes, elements: list[msgspec.Raw]) -> Iterator[tuple[int, int, bytes]]:
    """(line, offset, text) of each element."""
    line, offset = 1, 0
    for element in elements:
        text = bytes(element)
        start = data.index(text, offset)  # only white space and a comma are in between
        line += data.count(b"\n", offset, start)
        yield line, start, text
        line += text.count(b"\n")
        offset = start + len(text)


def _syntax_error(data: bytes, name: str, said: str) -> tuple[str, str]:
    """Place and text for a file that is not JSON, or that ends too early."""
    end = len(data.rstrip())
    if not end:
        return name, "is empty; expected a list of objects: [{…}, …]"
    what, _, byte = said.rstrip(")").partition(" (byte ")
    offset = int(byte) if byte.isdecimal() else end
    place = f"{name} (line {_line_of(data, min(offset, end))})"
    try:
        _loads(data.decode())
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise DuplicateField(next(name for name in counts if counts[name] > 1))
    return values


_loads = json.JSONDecoder(object_pairs_hook=_object, parse_float=JsonNumber).decode


def _decode(text: bytes, place: str, report: Report) -> dict[str, Any] | None:
    """One element, which is known to be JSON; None when it is not an object that can be used."""
    try:
        value = _loads(text.decode())
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
