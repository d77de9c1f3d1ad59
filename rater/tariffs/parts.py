"""A `Tariff` in parts, and back again exactly: the form in which the store keeps what was loaded.

A million rates say one of a few thousand things about one of a few subjects. So a part has columns: the
things and the subjects that have not occurred before, and for each rate the numbers of both beside its
prefix. A part is one chunk in the store, as compressed msgpack. Raters never read these parts; they have
their own form of the tariff (`rater.rating.packed`), written beside this one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from rater.model import ActivationPeriod, Destination, Plan, Rate, Tariff
from rater.rating.packed import IndexPart, cut

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

PART_WEIGHT: Final = 10_000
"""Rates, intervals, prefixes, buckets in a part: some 50 kB compressed, so that no other client of
the store waits for one to be read or written."""

_COMPRESSION: Final = 1
"""Of zlib's levels the fastest: a higher one takes several times as long to save little."""


class Saying(msgspec.Struct, frozen=True, array_like=True):
    """What a rate says, without whose it is and for which prefix."""

    tor: int
    timezone: str
    periods: tuple[ActivationPeriod, ...]


class SourcePart(msgspec.Struct, frozen=True, array_like=True):
    tenant: str
    sayings: tuple[Saying, ...] = ()
    """Those that have not occurred before; they are numbered through all parts."""
    subjects: tuple[str, ...] = ()
    """The same."""
    says: tuple[int, ...] = ()
    """Of each rate the number of its saying."""
    whose: tuple[int, ...] = ()
    """Of each rate the number of its subject."""
    prefixes: tuple[str, ...] = ()
    """Of each rate."""
    destinations: tuple[Destination, ...] = ()
    """One of many prefixes may be spread over parts that follow each other."""
    plans: tuple[Plan, ...] = ()


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_source: Final = msgspec.msgpack.Decoder(SourcePart).decode
_decode_index: Final = msgspec.msgpack.Decoder(IndexPart).decode


class BadPart(ValueError):
    """Bytes that no part was made into, or parts that do not belong together."""


def to_chunk(part: SourcePart | IndexPart) -> bytes:
    return zlib.compress(_encode(part), _COMPRESSION)


def to_source_part(chunk: bytes) -> SourcePart:
    """Raises BadPart."""
    return _unpack(chunk, _decode_source)


def to_index_part(chunk: bytes) -> IndexPart:
    """Raises BadPart."""
    return _unpack(chunk, _decode_index)


def _unpack(chunk: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(zlib.decompress(chunk))
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPart(str(error)) from None


def source_parts(tariff: Tariff) -> Iterator[SourcePart]:
    tenant = tariff.tenant
    yield from _rate_parts(tariff)
    destinations = (
        (Destination(each.id, each.prefixes[start : start + PART_WEIGHT]), PART_WEIGHT)
        if len(each.prefixes) > PART_WEIGHT
        else (each, len(each.prefixes))
        for each in tariff.destinations
        for start in range(0, max(1, len(each.prefixes)), PART_WEIGHT)
    )
    for some_destinations in cut(destinations, PART_WEIGHT):
        yield SourcePart(tenant, destinations=some_destinations)
    plans = ((plan, len(plan.buckets) + len(plan.thresholds)) for plan in tariff.plans)
    for some_plans in cut(plans, PART_WEIGHT):
        yield SourcePart(tenant, plans=some_plans)


def _rate_parts(tariff: Tariff) -> Iterator[SourcePart]:
    by_identity: dict[tuple[int, str, int], int] = {}
    """To hash periods takes microseconds each time, and many rates share them; `tariff` holds them."""
    sayings: _Numbers[Saying] = _Numbers()
    subjects: _Numbers[str] = _Numbers()
    says: list[int] = []
    whose: list[int] = []
    prefixes: list[str] = []
    weight = 0
    for rate in tariff.rates:
        identity = rate.tor, rate.timezone, id(rate.periods)
        number = by_identity.get(identity)
        if number is None:
            number = by_identity[identity] = sayings.of(Saying(rate.tor, rate.timezone, rate.periods))
            weight += sum(1 + len(period.intervals) for period in rate.periods)
        says.append(number)
        whose.append(subjects.of(rate.subject))
        prefixes.append(rate.prefix)
        weight += 1
        if weight >= PART_WEIGHT:
            columns = tuple(says), tuple(whose), tuple(prefixes)
            yield SourcePart(tariff.tenant, sayings.take_new(), subjects.take_new(), *columns)
            says, whose, prefixes, weight = [], [], [], 0
    if says:
        columns = tuple(says), tuple(whose), tuple(prefixes)
        yield SourcePart(tariff.tenant, sayings.take_new(), subjects.take_new(), *columns)


class _Numbers(Generic[H]):
    """Gives each value a number, in the order in which they occur."""

    def __init__(self) -> None:
        self._numbers: dict[H, int] = {}
        self._new: list[H] = []

    def of(self, value: H) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._numbers)
            self._new.append(value)
        return number

    def take_new(self) -> tuple[H, ...]:
        """Those that have occurred since the last call."""
        new, self._new = tuple(self._new), []
        return new


class Rates:
    """Reads the rates of parts that follow each other."""

    def __init__(self) -> None:
        self._sayings: list[Saying] = []
        self._subjects: list[str] = []

    def of(self, part: SourcePart) -> Iterator[Rate]:
        """Raises BadPart."""
        self._sayings += part.sayings
        self._subjects += part.subjects
        try:
            for number, whose, prefix in zip(part.says, part.whose, part.prefixes, strict=True):
                saying = self._sayings[number]
                yield Rate(saying.tor, self._subjects[whose], prefix, saying.timezone, saying.periods)
        except (IndexError, ValueError) as error:
            raise BadPart(str(error)) from None


def join(tenant: str, parts: Iterable[SourcePart]) -> Tariff:
    """Raises BadPart, and what `parts` raises."""
    rates: list[Rate] = []
    destinations: list[Destination] = []
    plans: list[Plan] = []
    reader = Rates()
    for part in parts:
        rates += reader.of(part)
        plans += part.plans
        for each in part.destinations:
            was_cut = destinations and destinations[-1].id == each.id
            before = destinations.pop().prefixes if was_cut else ()
            destinations.append(Destination(each.id, before + each.prefixes))
    return Tariff(tenant, tuple(rates), tuple(destinations), tuple(plans))
