"""Tariff versions in a real store: whole or not at all, one winner, a way back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import TariffConflict, TariffUnreadable
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater.model import Destination, Plan, Rate, Tariff
from rater.store.keys import TARIFF_ACTIVE, tariff_chunk_key, tariff_key, tariff_next_key
from rater.tariffs import parts as tariff_parts
from rater.tariffs.store import (
    KEEP_VERSIONS,
    Active,
    Switch,
    activate,
    publish,
    read_active,
    read_index,
    read_metadata,
    read_source,
    read_version,
)

HOSTILE = 'a:b{c}%7B"\n\U0001f4de'


def dump(store: StoreConnection) -> dict[bytes, Any]:
    """Everything in the store."""
    [keys] = store.execute([("KEYS", "*")])
    return {key: store.execute([("DUMP", key)])[0] for key in sorted(keys)}


def tariff(tenant: str = "vdf", mark: int = 0) -> Tariff:
    return Tariff(tenant, destinations=(Destination("net", (str(mark),)),))


def test_a_version_of_many_chunks_comes_back_as_it_was(
    store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tariff_parts, "PART_WEIGHT", 50)
    rates = tuple(Rate(0, HOSTILE, str(number), "UTC", ()) for number in range(3000))
    many = Destination("many", tuple(map(str, range(175))))
    destinations = (Destination("d", (HOSTILE,)), Destination("none", ()), many, Destination("e", ("1",)))
    big = Tariff(HOSTILE, rates, destinations, (Plan("p"), Plan("q")))
    calls: list[tuple[int, int]] = []
    epoch, versions = publish(store, [big], {}, {"sources": HOSTILE}, lambda *call: calls.append(call))
    assert (epoch, versions) == (1, [(HOSTILE, 1)])
    assert calls == sorted(calls)
    assert len(calls) > 50
    assert calls[-1] == (3006, 3006)
    assert int(read_metadata(store, HOSTILE, 1)["chunks"]) > 50
    assert read_version(store, HOSTILE, 1) == big
    for part in read_source(store, HOSTILE, 1):
        weight = len(part.says) + sum(len(each.prefixes) for each in part.destinations)
        assert 0 < weight + len(part.plans) <= 50


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: ("DEL", tariff_key("vdf", 1)), "it is not in the store"),
        (lambda: ("DEL", tariff_chunk_key("vdf", 1, 0)), "chunk 0 is missing"),
        (lambda: ("APPEND", tariff_chunk_key("vdf", 1, 0), "x"), "its SHA-256 is not the one"),
        (lambda: ("HSET", tariff_key("vdf", 1), "format", "1"), "its format is '1', this release reads 3"),
        (lambda: ("HDEL", tariff_key("vdf", 1), "index_chunks"), "its number of chunks for raters is ''"),
    ],
)
def test_a_version_that_is_not_whole_is_never_used(
    store: StoreConnection, spoil: Callable[[], tuple[str, ...]], said: str
) -> None:
    publish(store, [tariff()], {}, {})
    store.execute([spoil()])
    with pytest.raises(TariffUnreadable, match=said):
        read_version(store, "vdf", 1)
    with pytest.raises(TariffUnreadable, match=said):
        list(read_index(store, "vdf", 1))


@pytest.mark.parametrize("how", ["DEL", "APPEND"])
def test_the_source_of_a_version_is_not_for_raters_but_no_one_goes_back_to_it_damaged(
    store: StoreConnection, how: str
) -> None:
    publish(store, [tariff()], {}, {})
    publish(store, [tariff(mark=2)], {"vdf": 1}, {})
    index_count = int(read_metadata(store, "vdf", 1)["index_chunks"])
    last = tariff_chunk_key("vdf", 1, int(read_metadata(store, "vdf", 1)["chunks"]) - 1)
    store.execute([("DEL", last) if how == "DEL" else ("APPEND", last, "x")])
    assert len(list(read_index(store, "vdf", 1))) == index_count
    with pytest.raises(TariffUnreadable):
        read_version(store, "vdf", 1)
    with pytest.raises(TariffUnreadable):
        activate(store, [Switch("vdf", 2, 1)])


def test_going_back_is_a_switch_to_a_version_that_is_there(store: StoreConnection) -> None:
    publish(store, [tariff(mark=1)], {}, {})
    publish(store, [tariff(mark=2)], {"vdf": 1}, {})
    assert activate(store, [Switch("vdf", 2, 1)]) == 3
    assert read_active(store) == Active(3, {"vdf": 1})
    with pytest.raises(TariffUnreadable):
        activate(store, [Switch("vdf", 1, 9)])
    with pytest.raises(TariffConflict):
        activate(store, [Switch("vdf", 2, 1)])
    assert read_active(store) == Active(3, {"vdf": 1})
    assert publish(store, [tariff(mark=3)], {"vdf": 1}, {}) == (4, [("vdf", 3)])


def test_a_conflict_switches_no_tenant_and_leaves_nothing_behind(store: StoreConnection) -> None:
    publish(store, [tariff("a"), tariff("b")], {}, {})
    before = dump(store)
    with pytest.raises(TariffConflict, match=r"tenant 'b': version 1 is active by now, not 0"):
        publish(store, [tariff("a", 1), tariff("b", 1)], {"a": 1}, {})
    after = dump(store)
    for tenant in ("a", "b"):  # numbers are not used twice
        del before[f"ratel:tariff:{tenant}:next".encode()], after[f"ratel:tariff:{tenant}:next".encode()]
    assert after == before


def test_of_loads_at_the_same_time_exactly_one_wins(
    store_server: EmbeddedStore, store: StoreConnection
) -> None:
    loaders = 8
    barrier = threading.Barrier(loaders)
    outcomes: list[Any] = [None] * loaders

    def run(number: int) -> None:
        with StoreConnection(store_server.url, timeout_ms=20_000) as own:
            base = read_active(own).versions
            barrier.wait()
            try:
                outcomes[number] = publish(own, [tariff("a", number), tariff("b", number)], base, {})
            except TariffConflict as error:
                outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(loaders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, TariffConflict)]
    active = read_active(store)
    assert active.epoch == 1
    for tenant in ("a", "b"):
        assert read_version(store, tenant, active.versions[tenant]) == tariff(tenant, winner)
    [keys] = store.execute([("KEYS", "ratel:tariff:a:*")])
    count = int(read_metadata(store, "a", active.versions["a"])["chunks"])
    assert len(keys) == 2 + count  # counter, hash and chunks of the winner


def test_old_versions_are_deleted_but_never_the_active_one(store: StoreConnection) -> None:
    def there() -> list[int]:
        return [version for version in range(1, 60) if read_metadata(store, "vdf", version)]

    for version in range(1, KEEP_VERSIONS + 6):
        publish(store, [tariff(mark=version)], {"vdf": version - 1}, {})
    newest = KEEP_VERSIONS + 5
    assert there() == list(range(6, newest + 1))
    activate(store, [Switch("vdf", newest, 6)])
    publish(store, [tariff("other")], {}, {})
    for lost in range(5):  # loaders that lose a race use numbers up, too
        with pytest.raises(TariffConflict):
            publish(store, [tariff(mark=lost)], {"vdf": 1}, {})
    assert 6 in there()
    assert read_version(store, "vdf", 6) == tariff(mark=6)
    publish(store, [tariff(mark=100)], {"vdf": 6}, {})
    assert there() == [*range(newest - KEEP_VERSIONS + 1 + 6, newest + 1), newest + 6]


def test_a_lost_counter_of_versions_gives_out_no_active_one_again(store: StoreConnection) -> None:
    """In a cluster it is on another node than the versions, which may have lost what it did last."""
    for mark in range(1, 4):
        publish(store, [tariff(mark=mark)], {"vdf": mark - 1}, {})
    for lost in (("DEL", tariff_next_key("vdf")), ("SET", tariff_next_key("vdf"), "2")):
        [active] = read_active(store).versions.values()
        store.execute([lost])
        _, [(_, version)] = publish(store, [tariff(mark=9)], {"vdf": active}, {})
        assert version == active + 1
        assert read_active(store).versions == {"vdf": version}


def test_nothing_is_active_in_an_empty_store(store: StoreConnection) -> None:
    assert read_active(store) == Active(0, {})


def test_what_the_store_refuses_is_raised(store: StoreConnection) -> None:
    store.execute([("SET", TARIFF_ACTIVE, "not a hash")])
    with pytest.raises(Exception, match="WRONGTYPE"):
        read_active(store)
