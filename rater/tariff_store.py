"""Tariff versions in the store: immutable, written as a whole, made active by switching a pointer.

A version is the tenant's `Tariff` cut into parts, each a small `Tariff` of its own, as compressed
msgpack in a chunk; beside them a hash says how many there are and what their SHA-256 is. Parts are
small since one is decoded in one go, during which nothing else in a rater runs. A version is
complete before anything points to it, and never changed afterwards. One script switches the pointers
of all tenants of a load at once, and only if each still points to the version that the load was
based on: of two loads at the same time one wins, the other changes nothing. Going back to an earlier
version is the same switch.

The last `KEEP_VERSIONS` numbers of each tenant are kept. What a loader that died left behind has a
number too, so it goes the same way. Keys: `rater.keys`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple, TypeVar

import msgspec

from common.errors import TariffConflict, TariffUnreadable
from common.store import Command, Reply, StoreConnection
from rater.accounts import store_error
from rater.keys import TARIFF_ACTIVE, TARIFF_EPOCH, tariff_chunk_key, tariff_key, tariff_next_key
from rater.model import Destination, Plan, Rate, Tariff

T = TypeVar("T")

FORMAT: Final = 2
"""Raised when `rater.model` or the layout changes; a version of another format is not read."""

PART_WEIGHT: Final = 1000
"""Intervals, prefixes, buckets in a part: decoded within a millisecond or two, and some 20 kB
compressed, so that no other client of the store waits for one to be read or written."""

KEEP_VERSIONS: Final = 10
"""A way back over some days of daily loads. Each costs its compressed size in the store's memory."""

_PRUNE_WINDOW: Final = 10
"""How many numbers below the kept ones are looked at, for loads that ended before they pruned."""

_MAX_COUNT_DIGITS: Final = 9
"""Of a number of chunks; the first one that is missing ends the reading in any case."""

_COMPRESSION: Final = 1
"""Of zlib's levels the fastest: a higher one takes several times as long to save little."""

_PUBLISH: Final = (files("rater") / "lua" / "publish_tariff.lua").read_text(encoding="utf-8")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Tariff).decode

PublishProgress = Callable[[int, int], None]
"""Called with the number of tenants that are written and that of all."""


class Active(NamedTuple):
    """What raters should rate by."""

    epoch: int
    """0 before anything was published."""
    versions: dict[str, int]
    """By tenant."""


class Switch(NamedTuple):
    tenant: str
    base: int
    """The version that must be active for the switch to happen, 0 for none."""
    version: int


# --- reading ----------------------------------------------------------------------------------------


def read_active(store: StoreConnection) -> Active:
    """Epoch and versions. The epoch is never newer than the versions, so no switch is missed."""
    epoch, pairs = _replies(store, [("GET", TARIFF_EPOCH), ("HGETALL", TARIFF_ACTIVE)])
    versions = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return Active(int(epoch or 0), {tenant.decode(): int(version) for tenant, version in versions.items()})


def read_metadata(store: StoreConnection, tenant: str, version: int) -> dict[str, str]:
    """What is known of a version; empty when there is no such version."""
    [pairs] = _replies(store, [("HGETALL", tariff_key(tenant, version))])
    words = [word.decode(errors="replace") for word in pairs]
    return dict(zip(words[::2], words[1::2], strict=True))


def read_version(store: StoreConnection, tenant: str, version: int) -> Tariff:
    """One version as a whole. Raises as `read_parts` does."""
    rates: list[Rate] = []
    destinations: list[Destination] = []
    plans: list[Plan] = []
    for part in read_parts(store, tenant, version):
        rates += part.rates
        plans += part.plans
        for each in part.destinations:
            was_cut = destinations and destinations[-1].id == each.id
            before = destinations.pop().prefixes if was_cut else ()
            destinations.append(Destination(each.id, before + each.prefixes))
    return Tariff(tenant, tuple(rates), tuple(destinations), tuple(plans))


def read_parts(store: StoreConnection, tenant: str, version: int) -> Iterator[Tariff]:
    """One version in parts that are quick to decode. Raises TariffUnreadable, before the first part
    when anything is missing, damaged or of another format.

    A destination of many prefixes may be spread over parts that follow each other.
    """

    def unreadable(detail: str) -> TariffUnreadable:
        return TariffUnreadable(tenant=tenant, version=version, detail=detail)

    metadata = read_metadata(store, tenant, version)
    if not metadata:
        raise unreadable("it is not in the store")
    if metadata.get("format") != str(FORMAT):
        raise unreadable(f"its format is {metadata.get('format')!r}, this release reads {FORMAT}")
    digest, chunks = hashlib.sha256(), []
    count = metadata.get("chunks", "")
    if not (count.isdecimal() and len(count) <= _MAX_COUNT_DIGITS):
        raise unreadable(f"its number of chunks is {count[:40]!r}")
    for number in range(int(count)):
        [chunk] = _replies(store, [("GET", tariff_chunk_key(tenant, version, number))])
        if chunk is None:
            raise unreadable(f"chunk {number} is missing")
        digest.update(chunk)
        chunks.append(chunk)
    if digest.hexdigest() != metadata.get("sha256"):
        raise unreadable("its SHA-256 is not the one that was recorded")
    for chunk in chunks:
        try:
            part = _decode(zlib.decompress(chunk))
        except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise unreadable(str(error)) from None
        if part.tenant != tenant:
            raise unreadable(f"it holds the tariff of tenant {part.tenant!r}")
        yield part


# --- publishing -------------------------------------------------------------------------------------


def publish(
    store: StoreConnection,
    tariffs: Sequence[Tariff],
    base: Mapping[str, int],
    metadata: Mapping[str, str],
    progress: PublishProgress = lambda done, total: None,
) -> tuple[int, list[tuple[str, int]]]:
    """Write a new version for each tariff, and make all of them active at once.

    `base` has the version of each tenant that its tariff was made from, none for a new tenant;
    `metadata` goes to each version. Returns the epoch, and tenant and version of each. Raises
    TariffConflict when another version is active by now; then nothing is switched or left behind.
    """
    written: list[Switch] = []
    try:
        for tariff in tariffs:
            [version] = _replies(store, [("INCR", tariff_next_key(tariff.tenant))])
            written.append(Switch(tariff.tenant, base.get(tariff.tenant, 0), version))
            _write(store, tariff, version, metadata)
            progress(len(written), len(tariffs))
        epoch = _switch(store, written)
    except TariffConflict:
        for tenant, _, version in written:
            _delete(store, tenant, [version])
        raise
    for switch in written:
        _prune(store, switch)
    return epoch, [(tenant, version) for tenant, _, version in written]


def activate(store: StoreConnection, switches: Sequence[Switch]) -> int:
    """Make versions active that are in the store already, as for going back; returns the epoch.

    Raises TariffUnreadable when one is not there whole, TariffConflict as `publish` does.
    """
    for tenant, _, version in switches:
        for _ in read_parts(store, tenant, version):
            pass
    return _switch(store, switches)


def _write(store: StoreConnection, tariff: Tariff, version: int, metadata: Mapping[str, str]) -> None:
    chunks = [zlib.compress(_encode(part), _COMPRESSION) for part in _parts(tariff)]
    known: dict[str, str | int] = {
        **metadata,
        "format": FORMAT,
        "rates": len(tariff.rates),
        "destinations": len(tariff.destinations),
        "plans": len(tariff.plans),
        "chunks": len(chunks),
        "sha256": hashlib.sha256(b"".join(chunks)).hexdigest(),
    }
    # The hash first: should this end half-way, it says which chunks there are to delete.
    _replies(store, [("HSET", tariff_key(tariff.tenant, version), *_flat(known.items()))])
    for number, chunk in enumerate(chunks):
        _replies(store, [("SET", tariff_chunk_key(tariff.tenant, version, number), chunk)])


def _parts(tariff: Tariff) -> Iterator[Tariff]:
    rates = ((rate, sum(1 + len(period.intervals) for period in rate.periods)) for rate in tariff.rates)
    for some_rates in _cut(rates):
        yield Tariff(tariff.tenant, rates=some_rates)
    destinations = (
        (Destination(each.id, each.prefixes[start : start + PART_WEIGHT]), PART_WEIGHT)
        if len(each.prefixes) > PART_WEIGHT
        else (each, len(each.prefixes))
        for each in tariff.destinations
        for start in range(0, max(1, len(each.prefixes)), PART_WEIGHT)
    )
    for some_destinations in _cut(destinations):
        yield Tariff(tariff.tenant, destinations=some_destinations)
    plans = ((plan, len(plan.buckets) + len(plan.thresholds)) for plan in tariff.plans)
    for some_plans in _cut(plans):
        yield Tariff(tariff.tenant, plans=some_plans)


def _cut(weighed: Iterable[tuple[T, int]]) -> Iterator[tuple[T, ...]]:
    """Runs of items, each with its weight, that weigh `PART_WEIGHT` at most unless one alone does."""
    run: list[T] = []
    total = 0
    for item, weight in weighed:
        if run and total + 1 + weight > PART_WEIGHT:
            yield tuple(run)
            run, total = [], 0
        run.append(item)
        total += 1 + weight
    if run:
        yield tuple(run)


def _switch(store: StoreConnection, switches: Sequence[Switch]) -> int:
    words = _flat((tenant, *numbers) for tenant, *numbers in switches)
    [outcome] = _replies(store, [("EVAL", _PUBLISH, 2, TARIFF_ACTIVE, TARIFF_EPOCH, *words)])
    if outcome[0] == 1:
        return int(outcome[1])
    tenant = outcome[1].decode()
    raise TariffConflict(
        tenant=tenant,
        expected=next(switch.base for switch in switches if switch.tenant == tenant),
        active=int(outcome[2]),
    )


def _prune(store: StoreConnection, done: Switch) -> None:
    last = done.version - KEEP_VERSIONS
    old = set(range(max(1, last - _PRUNE_WINDOW + 1), last + 1))
    if 0 < done.base <= last:
        old.add(done.base)  # it was kept for as long as it was active, after going back to it
    [active] = _replies(store, [("HGET", TARIFF_ACTIVE, done.tenant)])
    _delete(store, done.tenant, sorted(old - {int(active or 0)}))


def _delete(store: StoreConnection, tenant: str, versions: Sequence[int]) -> None:
    counts = _replies(store, [("HGET", tariff_key(tenant, version), "chunks") for version in versions])
    for version, count in zip(versions, counts, strict=True):
        if count is not None:
            chunks = [tariff_chunk_key(tenant, version, number) for number in range(int(count))]
            # One command each, the hash last: on a cluster the keys are in different slots.
            _replies(store, [("DEL", key) for key in (*chunks, tariff_key(tenant, version))])


def _flat(rows: Iterable[Iterable[str | int]]) -> Command:
    return tuple(word for row in rows for word in row)


def _replies(store: StoreConnection, commands: Sequence[Command]) -> list[Reply]:
    """The replies; raises what the store refused."""
    replies = store.execute(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise store_error(reply)
    return replies
