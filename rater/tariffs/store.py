"""Tariff versions in the store: immutable, written as a whole, made active by switching a pointer.

A version is in chunks of two kinds, one after the other: first the *index*, which is what raters rate
by (`rater.rating.packed`), then the *source*, from which the tenant's `Tariff` comes back as it was loaded
(`rater.tariffs.parts`). A hash beside them says how many there are and what their SHA-256 is. A
version is
complete before anything points to it, and never changed afterwards. One script switches the pointers
of all tenants of a load at once, and only if each still points to the version that the load was
based on: of two loads at the same time one wins, the other changes nothing. Going back to an earlier
version is the same switch.

The last `KEEP_VERSIONS` numbers of each tenant are kept. What a loader that died left behind has a
number too, so it goes the same way. Keys: `rater.store.keys`; the fields of the hash:

| field | holds |
| --- | --- |
| `format` | how it is written, see `FORMAT` |
| `created`, `sources` | when, from what files |
| `rates`, `destinations`, `plans` | how many |
| `chunks`, `index_chunks` | how many in all, and of them the index's |
| `sha256`, `index_sha256` | of all chunks, and of the index's |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple, TypeVar

from common.errors import TariffConflict, TariffUnreadable
from common.storage.durability import DEFAULT_DURABILITY, Durability
from common.storage.store import Command, Reply
from common.storage.stores import Store
from rater.model import Tariff
from rater.rating.packed import IndexPart, pack_tariff
from rater.store.confirmed import change, make
from rater.store.errors import store_error
from rater.store.keys import TARIFF_ACTIVE, TARIFF_EPOCH, tariff_chunk_key, tariff_key, tariff_next_key
from rater.tariffs.parts import (
    BadPart,
    SourcePart,
    join,
    source_parts,
    to_chunk,
    to_index_part,
    to_source_part,
)

P = TypeVar("P", SourcePart, IndexPart)

FORMAT: Final = 3
"""Raised when `rater.model` or the layout changes; a version of another format is not read."""

KEEP_VERSIONS: Final = 10
"""A way back over some days of daily loads. Each costs its compressed size in the store's memory."""

_PRUNE_WINDOW: Final = 10
"""How many numbers below the kept ones are looked at, for loads that ended before they pruned."""

_MAX_COUNT_DIGITS: Final = 9
"""Of a number of chunks; the first one that is missing ends the reading in any case."""

_PUBLISH: Final = (files("rater") / "lua" / "publish_tariff.lua").read_text(encoding="utf-8")

PublishProgress = Callable[[int, int], None]
"""Called with how many rates, destinations and plans are written, and how many there are."""


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


class Version(NamedTuple):
    number: int
    known: dict[str, str]
    """The fields of its hash."""
    is_whole: bool
    """Whether all chunks are there; what is in them, only reading shows."""


# --- reading ----------------------------------------------------------------------------------------


def read_active(store: Store) -> Active:
    """Epoch and versions. The epoch is never newer than the versions, so no switch is missed."""
    epoch, pairs = _replies(store, [("GET", TARIFF_EPOCH), ("HGETALL", TARIFF_ACTIVE)])
    versions = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return Active(int(epoch or 0), {tenant.decode(): int(version) for tenant, version in versions.items()})


def read_metadata(store: Store, tenant: str, version: int) -> dict[str, str]:
    """What is known of a version; empty when there is no such version."""
    [pairs] = _replies(store, [("HGETALL", tariff_key(tenant, version))])
    words = [word.decode(errors="replace") for word in pairs]
    return dict(zip(words[::2], words[1::2], strict=True))


def list_versions(store: Store, tenant: str) -> list[Version]:
    """Those that are kept, the oldest first; none of a tenant for whom nothing was loaded."""
    last, active = _replies(store, [("GET", tariff_next_key(tenant)), ("HGET", TARIFF_ACTIVE, tenant)])
    newest = int(last or 0)
    numbers = {*range(max(1, newest - KEEP_VERSIONS - _PRUNE_WINDOW + 1), newest + 1), int(active or 0)} - {0}
    found = []
    for number in sorted(numbers):
        known = read_metadata(store, tenant, number)
        if known:
            count = known.get("chunks", "")
            chunks = range(int(count)) if count.isdecimal() and len(count) <= _MAX_COUNT_DIGITS else range(0)
            there = _replies(store, [("EXISTS", tariff_chunk_key(tenant, number, each)) for each in chunks])
            found.append(Version(number, known, bool(chunks) and all(there)))
    return found


def read_version(store: Store, tenant: str, version: int) -> Tariff:
    """One version as a whole, as it was published. Raises TariffUnreadable."""
    try:
        return join(tenant, read_source(store, tenant, version))
    except BadPart as error:
        raise TariffUnreadable(tenant=tenant, version=version, detail=str(error)) from None


def read_source(store: Store, tenant: str, version: int) -> Iterator[SourcePart]:
    """What was published, in parts. Raises TariffUnreadable, before the first part when anything of the
    version is missing, damaged or of another format."""
    chunks, index_count = _read_chunks(store, tenant, version, whole=True)
    return _parts(tenant, version, chunks[index_count:], to_source_part)


def read_index(store: Store, tenant: str, version: int) -> Iterator[IndexPart]:
    """What raters rate by, in parts that are quick to decode. Raises as `read_source` does, but for the
    chunks of the source, which it does not look at."""
    chunks, _ = _read_chunks(store, tenant, version, whole=False)
    return _parts(tenant, version, chunks, to_index_part)


def _read_chunks(store: Store, tenant: str, version: int, *, whole: bool) -> tuple[list[bytes], int]:
    """The chunks of the index, or all of them, and how many of them are the index's."""

    def unreadable(detail: str) -> TariffUnreadable:
        return TariffUnreadable(tenant=tenant, version=version, detail=detail)

    def count(field: str, of: str) -> int:
        text = metadata.get(field, "")
        if not (text.isdecimal() and len(text) <= _MAX_COUNT_DIGITS):
            raise unreadable(f"its number of {of} is {text[:40]!r}")
        return int(text)

    metadata = read_metadata(store, tenant, version)
    if not metadata:
        raise unreadable("it is not in the store")
    if metadata.get("format") != str(FORMAT):
        raise unreadable(f"its format is {metadata.get('format')!r}, this release reads {FORMAT}")
    index_count = count("index_chunks", "chunks for raters")
    digest, chunks = hashlib.sha256(), []
    for number in range(count("chunks", "chunks") if whole else index_count):
        [chunk] = _replies(store, [("GET", tariff_chunk_key(tenant, version, number))])
        if chunk is None:
            raise unreadable(f"chunk {number} is missing")
        digest.update(chunk)
        chunks.append(chunk)
    if digest.hexdigest() != metadata.get("sha256" if whole else "index_sha256"):
        raise unreadable("its SHA-256 is not the one that was recorded")
    return chunks, index_count


def _parts(tenant: str, version: int, chunks: list[bytes], unpack: Callable[[bytes], P]) -> Iterator[P]:
    chunks.reverse()
    while chunks:  # each is freed as soon as it is unpacked
        try:
            part = unpack(chunks.pop())
        except BadPart as error:
            raise TariffUnreadable(tenant=tenant, version=version, detail=str(error)) from None
        if part.tenant != tenant:
            detail = f"it holds the tariff of tenant {part.tenant!r}"
            raise TariffUnreadable(tenant=tenant, version=version, detail=detail)
        yield part


# --- publishing -------------------------------------------------------------------------------------


def publish(
    store: Store,
    tariffs: Sequence[Tariff],
    base: Mapping[str, int],
    metadata: Mapping[str, str],
    progress: PublishProgress = lambda done, total: None,
    durability: Durability = DEFAULT_DURABILITY,
) -> tuple[int, list[tuple[str, int]]]:
    """Write a new version for each tariff, and make all of them active at once.

    `base` has the version of each tenant that its tariff was made from, none for a new tenant;
    `metadata` goes to each version. Returns the epoch, and tenant and version of each. Raises
    TariffConflict when another version is active by now; then nothing is switched or left behind. Raises
    NotDurable when too few copies confirmed what was written last: a version that is not switched to goes
    with the old ones, as after any load that ended.
    """
    written: list[Switch] = []
    tell = _Progress(progress, sum(map(_size, tariffs)))
    try:
        for tariff in tariffs:
            active = base.get(tariff.tenant, 0)
            version = _next_version(store, tariff.tenant, active, durability)
            written.append(Switch(tariff.tenant, active, version))
            _write(store, tariff, version, metadata, tell, durability)
        epoch = _switch(store, written, durability)
    except TariffConflict:
        for tenant, _, version in written:
            _delete(store, tenant, [version])
        raise
    for switch in written:
        _prune(store, switch)
    return epoch, [(tenant, version) for tenant, _, version in written]


def activate(store: Store, switches: Sequence[Switch], durability: Durability = DEFAULT_DURABILITY) -> int:
    """Make versions active that are in the store already, as for going back; returns the epoch.

    Raises TariffUnreadable when one is not there whole, TariffConflict and NotDurable as `publish` does.
    """
    for tenant, _, version in switches:
        for _ in read_source(store, tenant, version):
            pass
        for _ in read_index(store, tenant, version):
            pass
    return _switch(store, switches, durability)


def _size(tariff: Tariff) -> int:
    return len(tariff.rates) + len(tariff.destinations) + len(tariff.plans)


class _Progress:
    def __init__(self, tell: PublishProgress, total: int) -> None:
        self._tell = tell
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._tell(self._done, self._total)


def _next_version(store: Store, tenant: str, active: int, durability: Durability) -> int:
    """A number above the active one's, also where the store has forgotten that it gave that out: in a cluster
    the counter may be on a node that lost its last change. Raters that have a version don't read it again: it
    is never written over."""
    version = 0
    while version <= active:  # once, but for what was lost
        version = int(_change(store, ("INCR", tariff_next_key(tenant)), durability))
    return version


def _write(
    store: Store,
    tariff: Tariff,
    version: int,
    metadata: Mapping[str, str],
    progress: _Progress,
    durability: Durability,
) -> None:
    digest, chunks = hashlib.sha256(), []
    for part in pack_tariff(tariff):
        chunks.append(to_chunk(part))
        digest.update(chunks[-1])
    index_count, index_sha256 = len(chunks), digest.hexdigest()
    left = _size(tariff)
    for source in source_parts(tariff):
        chunks.append(to_chunk(source))
        digest.update(chunks[-1])
        left -= len(source.says)
        progress.add(len(source.says))
    known: dict[str, str | int] = {
        **metadata,
        "format": FORMAT,
        "rates": len(tariff.rates),
        "destinations": len(tariff.destinations),
        "plans": len(tariff.plans),
        "index_chunks": index_count,
        "index_sha256": index_sha256,
        "chunks": len(chunks),
        "sha256": digest.hexdigest(),
    }
    # The hash first: should this end half-way, it says which chunks there are to delete.
    _change(store, ("HSET", tariff_key(tariff.tenant, version), *_flat(known.items())), durability)
    for number, chunk in enumerate(chunks):
        _change(store, ("SET", tariff_chunk_key(tariff.tenant, version, number), chunk), durability)
    progress.add(left)


def _switch(store: Store, switches: Sequence[Switch], durability: Durability) -> int:
    words = _flat((tenant, *numbers) for tenant, *numbers in switches)
    command = ("EVAL", _PUBLISH, 2, TARIFF_ACTIVE, TARIFF_EPOCH, *words)
    [outcome], missing = make(store, [command], durability)
    if isinstance(outcome, Exception):
        raise store_error(outcome)
    if outcome[0] == 1:
        if missing is not None:
            raise missing
        return int(outcome[1])
    tenant = outcome[1].decode()
    raise TariffConflict(
        tenant=tenant,
        expected=next(switch.base for switch in switches if switch.tenant == tenant),
        active=int(outcome[2]),
    )


def _prune(store: Store, done: Switch) -> None:
    last = done.version - KEEP_VERSIONS
    old = set(range(max(1, last - _PRUNE_WINDOW + 1), last + 1))
    if 0 < done.base <= last:
        old.add(done.base)  # it was kept for as long as it was active, after going back to it
    [active] = _replies(store, [("HGET", TARIFF_ACTIVE, done.tenant)])
    _delete(store, done.tenant, sorted(old - {int(active or 0)}))


def _delete(store: Store, tenant: str, versions: Sequence[int]) -> None:
    counts = _replies(store, [("HGET", tariff_key(tenant, version), "chunks") for version in versions])
    for version, count in zip(versions, counts, strict=True):
        if count is not None:
            chunks = [tariff_chunk_key(tenant, version, number) for number in range(int(count))]
            # One command each, the hash last: on a cluster the keys are in different slots.
            _replies(store, [("DEL", key) for key in (*chunks, tariff_key(tenant, version))])


def _flat(rows: Iterable[Iterable[str | int]]) -> Command:
    return tuple(word for row in rows for word in row)


def _change(store: Store, command: Command, durability: Durability) -> Reply:
    """The reply. Raises what the store refused, and NotDurable."""
    reply = change(store, command, durability)
    if isinstance(reply, Exception):
        raise store_error(reply)
    return reply


def _replies(store: Store, commands: Sequence[Command]) -> list[Reply]:
    """The replies; raises what the store refused."""
    replies = store.execute(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise store_error(reply)
    return replies
