"""Tariff versions in the store: immutable, written as a whole, made active by switching a pointer.

A version is the tenant's `Tariff` as msgpack, compressed, in chunks, beside a hash that says how many
there are and what their SHA-256 is. It is complete before anything points to it, and never changed
afterwards. One script switches the pointers of all tenants of a load at once, and only if each still
points to the version that the load was based on: of two loads at the same time one wins, the other
changes nothing. Going back to an earlier version is the same switch.

The last `KEEP_VERSIONS` numbers of each tenant are kept. What a loader that died left behind has a
number too, so it goes the same way. Keys: `rater.keys`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

import msgspec

from common.errors import TariffConflict, TariffUnreadable
from common.store import Command, Reply, StoreConnection
from rater.accounts import store_error
from rater.keys import TARIFF_ACTIVE, TARIFF_EPOCH, tariff_chunk_key, tariff_key, tariff_next_key
from rater.model import Tariff

FORMAT: Final = 1
"""Raised when `rater.model` changes shape; a version of another format is not read."""

CHUNK_BYTES: Final = 1 << 20
"""Small enough that no other client of the store waits noticeably for one to be read or written."""

KEEP_VERSIONS: Final = 10
"""A way back over some days of daily loads. Each costs its compressed size in the store's memory."""

_PRUNE_WINDOW: Final = 10
"""How many numbers below the kept ones are looked at, for loads that ended before they pruned."""

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
    words = [word.decode() for word in pairs]
    return dict(zip(words[::2], words[1::2], strict=True))


def read_version(store: StoreConnection, tenant: str, version: int) -> Tariff:
    """One version. Raises TariffUnreadable when it is missing, damaged or of another format."""

    def unreadable(detail: str) -> TariffUnreadable:
        return TariffUnreadable(tenant=tenant, version=version, detail=detail)

    metadata = read_metadata(store, tenant, version)
    if not metadata:
        raise unreadable("it is not in the store")
    if metadata.get("format") != str(FORMAT):
        raise unreadable(f"its format is {metadata.get('format')!r}, this release reads {FORMAT}")
    digest, chunks = hashlib.sha256(), []
    for number in range(int(metadata["chunks"])):
        [chunk] = _replies(store, [("GET", tariff_chunk_key(tenant, version, number))])
        if chunk is None:
            raise unreadable(f"chunk {number} is missing")
        digest.update(chunk)
        chunks.append(chunk)
    if digest.hexdigest() != metadata.get("sha256"):
        raise unreadable("its SHA-256 is not the one that was recorded")
    try:
        tariff = _decode(zlib.decompress(b"".join(chunks)))
    except (zlib.error, msgspec.DecodeError) as error:
        raise unreadable(str(error)) from None
    if tariff.tenant != tenant:
        raise unreadable(f"it holds the tariff of tenant {tariff.tenant!r}")
    return tariff


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
        read_version(store, tenant, version)
    return _switch(store, switches)


def _write(store: StoreConnection, tariff: Tariff, version: int, metadata: Mapping[str, str]) -> None:
    packed = zlib.compress(_encode(tariff), _COMPRESSION)
    chunks = range(0, len(packed), CHUNK_BYTES)
    known: dict[str, str | int] = {
        **metadata,
        "format": FORMAT,
        "rates": len(tariff.rates),
        "destinations": len(tariff.destinations),
        "plans": len(tariff.plans),
        "chunks": len(chunks),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    # The hash first: should this end half-way, it says which chunks there are to delete.
    _replies(store, [("HSET", tariff_key(tariff.tenant, version), *_flat(known.items()))])
    for number, start in enumerate(chunks):
        key = tariff_chunk_key(tariff.tenant, version, number)
        _replies(store, [("SET", key, packed[start : start + CHUNK_BYTES])])


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
