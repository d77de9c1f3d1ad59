"""A tariff as raters take it over: prefix tables in columns, beside the few things that they stand for.

Whoever publishes a tariff packs it once; raters only put it together, which for a million prefixes
takes a fraction of a second instead of many. It comes in parts, each quick to decode: what a part
holds is appended to what came before it. `rater.rating.snapshot` makes a `CompiledTariff` of them, and
`rater.tariffs.store` keeps them beside the tariff that they were made from.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec

from rater.model import ActivationPeriod, Plan, Tariff
from rater.rating.prefixes import Packed, pack

T = TypeVar("T")

PART_WEIGHT: Final = 100
"""Intervals that are compiled in one step: a millisecond."""

ROWS_PER_PART: Final = 4000
"""Small things (answers, odd prefixes) that are decoded in one step."""

COLUMN_BYTES: Final = 1 << 18
"""Of a column in one part: copied in some 50 µs."""


class Definition(msgspec.Struct, frozen=True, array_like=True):
    """What a rate says, without whose it is and for which prefix."""

    timezone: str
    periods: tuple[ActivationPeriod, ...]


class TablePart(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a prefix table. Columns are the bytes of little-endian words."""

    table: int
    """Number 0 is the destinations'; rates have one for each subject from 1 on."""
    subject: str
    """The same in all parts of a table."""
    start_bits: int
    words: bytes = b""
    starts: bytes = b""
    wide: bytes = b""
    answers: tuple[tuple[int, int, int], ...] = ()
    others: tuple[tuple[str, int], ...] = ()


class IndexPart(msgspec.Struct, frozen=True, array_like=True):
    tenant: str
    definitions: tuple[Definition, ...] = ()
    """The values in the tables of rates are numbers of these."""
    destinations: tuple[tuple[str, ...], ...] = ()
    """The values in the table of destinations are numbers of these lists of ids."""
    plans: tuple[Plan, ...] = ()
    tables: tuple[TablePart, ...] = ()


def pack_tariff(tariff: Tariff) -> Iterator[IndexPart]:
    """All parts. What tables refer to comes before them."""
    definitions: dict[tuple[str, tuple[ActivationPeriod, ...]], int] = {}
    by_subject: dict[str, dict[str, int]] = {}
    numbers = _Numbers()
    for rate in tariff.rates:
        number = numbers.get(rate.timezone, rate.periods)
        if number is None:
            number = definitions.setdefault((rate.timezone, rate.periods), len(definitions))
            numbers.put(rate.timezone, rate.periods, number)
        by_subject.setdefault(rate.subject, {})[rate.prefix] = number
    ids, lists = _destinations(tariff)
    weighed = (
        (Definition(zone, periods), sum(1 + len(period.intervals) for period in periods))
        for zone, periods in definitions
    )
    for some in cut(weighed, PART_WEIGHT):
        yield IndexPart(tariff.tenant, definitions=some)
    for some_lists in cut(((each, len(each)) for each in lists), ROWS_PER_PART):
        yield IndexPart(tariff.tenant, destinations=some_lists)
    plans = ((plan, len(plan.buckets) + len(plan.thresholds)) for plan in tariff.plans)
    for some_plans in cut(plans, PART_WEIGHT):
        yield IndexPart(tariff.tenant, plans=some_plans)
    yield from _table_parts(tariff.tenant, 0, "", pack(ids, nested=True))
    for table, subject in enumerate(list(by_subject), 1):
        yield from _table_parts(tariff.tenant, table, subject, pack(by_subject.pop(subject)))


def cut(weighed: Iterable[tuple[T, int]], most: int) -> Iterator[tuple[T, ...]]:
    """Runs of items, each with its weight, that weigh `most` unless one alone does more."""
    run: list[T] = []
    total = 0
    for item, weight in weighed:
        if run and total + 1 + weight > most:
            yield tuple(run)
            run, total = [], 0
        run.append(item)
        total += 1 + weight
    if run:
        yield tuple(run)


class _Numbers:
    """Numbers of definitions by the identity of their periods: to hash these takes microseconds each
    time, and a million rates share a few thousand."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}
        self._kept: list[tuple[ActivationPeriod, ...]] = []
        """So that no identity is used twice."""

    def get(self, zone: str, periods: tuple[ActivationPeriod, ...]) -> int | None:
        return self._known.get((zone, id(periods)))

    def put(self, zone: str, periods: tuple[ActivationPeriod, ...], number: int) -> None:
        self._known[zone, id(periods)] = number
        self._kept.append(periods)


def _destinations(tariff: Tariff) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """By prefix the number of a list of ids, those in the order of the destinations."""
    lists: dict[tuple[str, ...], int] = {}
    by_prefix: dict[str, tuple[str, ...]] = {}
    for destination in tariff.destinations:
        alone = (destination.id,)
        for prefix in destination.prefixes:
            before = by_prefix.get(prefix)
            by_prefix[prefix] = alone if before is None else before + alone
    numbers = {prefix: lists.setdefault(ids, len(lists)) for prefix, ids in by_prefix.items()}
    return numbers, list(lists)


def _table_parts(tenant: str, table: int, subject: str, packed: Packed) -> Iterator[IndexPart]:
    bits = packed.start_bits

    def part(piece: TablePart) -> IndexPart:
        return IndexPart(tenant, tables=(piece,))

    answers = ((answer.length, answer.value, answer.parent) for answer in packed.answers)
    for some in _runs(answers, ROWS_PER_PART):
        yield part(TablePart(table, subject, bits, answers=some))
    for others in _runs(iter(packed.others), ROWS_PER_PART):
        yield part(TablePart(table, subject, bits, others=others))
    for data in _pieces(packed.words):
        yield part(TablePart(table, subject, bits, words=data))
    for data in _pieces(packed.starts):
        yield part(TablePart(table, subject, bits, starts=data))
    for data in _pieces(packed.wide):
        yield part(TablePart(table, subject, bits, wide=data))


def _runs(rows: Iterator[T], most: int) -> Iterator[tuple[T, ...]]:
    while run := tuple(islice(rows, most)):
        yield run


# --- columns ----------------------------------------------------------------------------------------


def _pieces(column: array[int]) -> Iterator[bytes]:
    items = COLUMN_BYTES // column.itemsize
    for start in range(0, len(column), items):
        yield _shuffled(column[start : start + items])


def _shuffled(items: array[int]) -> bytes:
    """First the lowest byte of each item, then the next of each: of sorted words most planes hardly
    change, and what a compressor makes of them is half as long."""
    if sys.byteorder == "big":
        items = array(items.typecode, items)
        items.byteswap()
    data, size = items.tobytes(), items.itemsize
    return b"".join(data[plane::size] for plane in range(size))


def append_column(column: array[int], data: bytes) -> None:
    """The reverse of what `pack_tariff` did with a column. Raises ValueError for a length that can't be."""
    size = column.itemsize
    count, rest = divmod(len(data), size)
    if rest:
        raise ValueError(f"a column of {size}-byte words has {len(data)} bytes")
    items = bytearray(len(data))
    for plane in range(size):
        items[plane::size] = data[plane * count : (plane + 1) * count]
    if sys.byteorder == "big":
        swapped = array(column.typecode, bytes(items))
        swapped.byteswap()
        column.extend(swapped)
    else:
        column.frombytes(items)
