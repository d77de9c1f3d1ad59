"""A rater's tariff watch on a real store: what it picks up, when, and what it does to other threads."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from common.errors import StoreUnavailable
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater.model import ActivationPeriod, Interval, Rate, Tariff
from rater.rating import packed
from rater.rating.packed import IndexPart
from rater.rating.snapshot import Snapshot
from rater.store.keys import RATERS, TARIFF_ACTIVE, TARIFF_EPOCH, tariff_chunk_key
from rater.tariffs import watch as tariff_watch
from rater.tariffs.store import Active, publish
from rater.tariffs.watch import MAX_RETRY_S, RETRY_S, Stopped, TariffReader, TariffWatch

MAX_CALL_US = 86_400_000_000
WITHIN_S = 60.0


def tariff(tenant: str, rates: int = 1, timezone: str = "UTC", price: int = 1) -> Tariff:
    periods = tuple(
        (ActivationPeriod(0, (Interval(0, 0, (), 0, 86_400, 0, 0, price + number, 1_000_000, 0),)),)
        for number in range(rates)
    )
    return Tariff(tenant, tuple(Rate(0, "*any", str(n), timezone, each) for n, each in enumerate(periods)))


def price_of(snapshot: Snapshot | None, tenant: str, number: str = "0") -> int:
    assert snapshot is not None
    rate = snapshot.tenants[tenant].find_rate("x", number)
    assert rate is not None
    return rate.plan.schedules[0].intervals[0].price_nanos


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tenants whose versions were begun to be read, in order."""
    begun: list[str] = []
    real = tariff_watch.read_index

    def read(store: StoreConnection, tenant: str, version: int) -> Iterator[IndexPart]:
        begun.append(tenant)
        return real(store, tenant, version)

    monkeypatch.setattr(tariff_watch, "read_index", read)
    return begun


@pytest.fixture
def reader(store: StoreConnection) -> TariffReader:
    return TariffReader(store, MAX_CALL_US, lambda: None)


@contextmanager
def watching(url: str) -> Iterator[tuple[TariffWatch, threading.Event]]:
    woken = threading.Event()
    watch = TariffWatch("one", StoreConnection(url, timeout_ms=20_000), MAX_CALL_US)
    watch.start(woken.set)
    try:
        yield watch, woken
    finally:
        watch.stop()


# --- damaged versions -----------------------------------------------------------------------------------


def test_a_damaged_version_holds_up_no_other_tenant_and_is_retried_ever_less_often(
    store: StoreConnection, reader: TariffReader, compiles: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, [tariff("bad"), tariff("good")], {}, {})
    [chunk] = store.execute([("GETDEL", tariff_chunk_key("bad", 1, 0))])
    snapshot = reader.look(0)
    assert snapshot is not None
    assert (snapshot.epoch, snapshot.versions) == (1, {"good": 1})
    tries, now_s, pauses = [0.0], 0.0, [RETRY_S]
    while now_s < 40:
        now_s += 0.125
        compiles.clear()
        assert reader.look(now_s) is None
        assert compiles in ([], ["bad"])
        if compiles:
            tries.append(now_s)
    while pauses[-1] < MAX_RETRY_S:
        pauses.append(min(2 * pauses[-1], MAX_RETRY_S))
    found = [after - before for before, after in pairwise(tries)]
    assert found[: len(pauses)] == pauses
    assert set(found[len(pauses) :]) == {MAX_RETRY_S}
    [record] = caplog.records
    assert "chunk 0 is missing" in record.getMessage()

    store.execute([("SET", tariff_chunk_key("bad", 1, 0), chunk)])
    mended = reader.look(now_s + MAX_RETRY_S)
    assert mended is not None
    assert mended.versions == {"bad": 1, "good": 1}
    assert mended.tenants["good"] is snapshot.tenants["good"]


@pytest.mark.parametrize("how", ["missing chunk", "unknown time zone"])
def test_a_tenant_keeps_its_tariff_when_the_new_one_is_damaged(
    store: StoreConnection, reader: TariffReader, how: str
) -> None:
    publish(store, [tariff("a"), tariff("b")], {}, {})
    first = reader.look(0)
    new = tariff("a", timezone="UTC" if how == "missing chunk" else "Mars/Olympus", price=5)
    publish(store, [new, tariff("b", price=7)], {"a": 1, "b": 1}, {})
    if how == "missing chunk":
        store.execute([("DEL", tariff_chunk_key("a", 2, 0))])
    second = reader.look(1)
    assert (price_of(first, "a"), price_of(first, "b")) == (1, 1)
    assert (price_of(second, "a"), price_of(second, "b")) == (1, 7)
    assert second is not None
    assert (second.epoch, second.versions) == (2, {"a": 1, "b": 2})
    publish(store, [tariff("a", price=9)], {"a": 2}, {})
    assert price_of(reader.look(2), "a") == 9


def test_what_was_compiled_when_the_store_went_away_is_not_compiled_again(
    store: StoreConnection, reader: TariffReader, compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, [tariff("a"), tariff("b")], {}, {})
    real = tariff_watch.read_index

    def fails(store: StoreConnection, tenant: str, version: int) -> Iterator[IndexPart]:
        if len(compiles) == 1:
            compiles.append("gone")
            raise StoreUnavailable(detail="gone")
        return real(store, tenant, version)

    monkeypatch.setattr(tariff_watch, "read_index", fails)
    with pytest.raises(StoreUnavailable):
        reader.look(0)
    snapshot = reader.look(0)
    assert snapshot is not None
    assert snapshot.versions == {"a": 1, "b": 1}
    assert len(compiles) == 3
    assert sorted(compiles) == ["a", "b", "gone"]


# --- changes --------------------------------------------------------------------------------------------


def test_other_versions_under_the_same_epoch_are_noticed(
    store: StoreConnection, reader: TariffReader
) -> None:
    publish(store, [tariff("a", price=1)], {}, {})
    publish(store, [tariff("a", price=2)], {"a": 1}, {})
    assert price_of(reader.look(0), "a") == 2
    assert reader.look(0) is None
    store.execute([("HSET", TARIFF_ACTIVE, "a", 1), ("SET", TARIFF_EPOCH, 2)])  # as a backup put back
    assert price_of(reader.look(0), "a") == 1


def test_the_last_snapshot_is_never_lost_between_the_threads(
    store_server: EmbeddedStore, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = 3000
    epochs = iter(range(1, last + 1))
    quiet = threading.Event()

    def active(store: StoreConnection) -> Active:
        epoch = next(epochs, 0)
        if not epoch:
            quiet.set()
        return Active(epoch or last, {})

    monkeypatch.setattr(tariff_watch, "read_active", active)
    monkeypatch.setattr(tariff_watch, "LOOK_EVERY_S", 0)
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    newest = 0
    try:
        with watching(store_server.url) as (watch, _):
            while newest < last:
                is_last = quiet.is_set()
                snapshot = watch.take()
                if snapshot is not None:
                    assert snapshot.epoch > newest
                    newest = snapshot.epoch
                else:
                    assert not is_last, f"{newest} was the last one that was seen"
    finally:
        sys.setswitchinterval(before_s)


class Counted:
    """Something that a weak reference can be made to."""


# --- a big tariff ---------------------------------------------------------------------------------------


def test_work_rests_between_parts_and_can_be_stopped_there(
    store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "PART_WEIGHT", 30)
    publish(store, [tariff("a", rates=1000)], {}, {})
    rests = 0

    def rest() -> None:
        nonlocal rests
        rests += 1
        if rests == 40:
            raise Stopped

    reader = TariffReader(store, MAX_CALL_US, rest)
    before_s = sys.getswitchinterval()
    with pytest.raises(Stopped):
        reader.look(0)
    assert sys.getswitchinterval() == before_s
    assert rests == 40
    assert price_of(reader.look(0), "a", "999") == 1000
    assert rests > 100


def test_a_rater_that_compiles_is_in_the_table_with_what_it_rates_by_and_can_be_stopped(
    store_server: EmbeddedStore, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tariff_watch, "REPORT_EVERY_S", 0)
    compiling = threading.Event()
    reported = threading.Event()

    def endless(store: StoreConnection, tenant: str, version: int) -> Iterator[IndexPart]:
        while True:
            compiling.set()
            reported.wait(0.001)
            yield IndexPart(tenant)

    with watching(store_server.url) as (watch, woken):
        publish(store, [tariff("a")], {}, {})
        assert woken.wait(WITHIN_S)
        while (snapshot := watch.take()) is None:
            woken.clear()
            assert woken.wait(WITHIN_S)
        watch.report_in_use(snapshot.epoch)
        monkeypatch.setattr(tariff_watch, "read_index", endless)
        publish(store, [tariff("a")], {"a": 1}, {})
        assert compiling.wait(WITHIN_S)
        store.execute([("DEL", RATERS)])
        while not (line := store.execute([("HGET", RATERS, "one")])[0]):
            pass
        assert line.startswith(b"1 ")
    assert store.execute([("EXISTS", RATERS)]) == [0]


def test_stopping_does_not_wait_for_ever(
    store_server: EmbeddedStore, store: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tariff_watch, "STOP_WITHIN_S", 0.01)
    stuck, free = threading.Event(), threading.Event()

    def hang(store: StoreConnection) -> Any:
        stuck.set()
        free.wait(WITHIN_S)
        return Active(0, {})

    monkeypatch.setattr(tariff_watch, "read_active", hang)
    with watching(store_server.url) as (watch, _):
        assert stuck.wait(WITHIN_S)
        watch.stop()
        assert not free.is_set()
        free.set()
        monkeypatch.setattr(tariff_watch, "STOP_WITHIN_S", WITHIN_S)


def test_a_tariff_out_of_use_is_freed_without_the_collector(
    store: StoreConnection, reader: TariffReader
) -> None:
    publish(store, [tariff("a", rates=5000), tariff("b")], {}, {})
    old = reader.look(0)
    assert old is not None
    rate = old.tenants["a"].find_rate("x", "77")
    assert rate is not None
    probe = Counted()
    counted = weakref.WeakSet([probe])
    rate.plan.schedules[0].days[0] = probe  # type: ignore[assignment]  # in what a schedule and its days hold
    del rate, probe
    gc.collect()
    gc.disable()
    try:
        publish(store, [tariff("a", price=3)], {"a": 1}, {})
        new = reader.look(1)
        assert price_of(old, "a", "77") == 78  # until it is out of use
        assert counted
        reader.free_replaced()
        assert not counted
        assert price_of(new, "a") == 3
        assert price_of(new, "b") == 1
    finally:
        gc.enable()


# --- a store that is down -------------------------------------------------------------------------------


def test_a_store_that_is_down_is_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setattr(tariff_watch, "LOOK_EVERY_S", 0)
    looks = 0
    enough = threading.Event()

    def down(store: StoreConnection) -> Active:
        nonlocal looks
        looks += 1
        if looks == 100:
            enough.set()
        raise StoreUnavailable(detail="down")

    monkeypatch.setattr(tariff_watch, "read_active", down)
    monkeypatch.setattr(tariff_watch, "WARN_EVERY_S", 3600)
    caplog.set_level(logging.WARNING)
    with watching(f"unix://{tmp_path}/none.sock"):
        assert enough.wait(WITHIN_S)
    messages = [record.getMessage() for record in caplog.records]
    assert [text for text in messages if "sign off" not in text] == [messages[0]]
