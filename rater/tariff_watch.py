"""Keeps a rater's tariff current: a thread that notices a new version and compiles it.

The work loop never waits for a tariff: this thread, with a store connection of its own, looks at
the epoch several times a second, reads and compiles what changed beside the tariff in use, and lays
the finished snapshot down for `take`, which the loop calls between two batches.
It also keeps this rater's line in the store's table of raters, so that a loader can tell when
its version is in use everywhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from common.errors import RatelError
from common.store import StoreConnection
from rater.keys import RATERS
from rater.rating.snapshot import CompiledTariff, Snapshot, compile_tariff
from rater.tariff_store import read_active, read_version

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.1
"""The longest that a rater rates by an old tariff once the new one is small enough to load at once."""

REPORT_EVERY_S: Final = 1.0

EMPTY: Final = Snapshot(0, {}, {})
"""What a rater has before any tariff is loaded; epoch 0 tells balancers to send nothing."""


class TariffWatch:
    """One thread; `take` and `report_in_use` are for the work loop."""

    def __init__(self, name: str, store: StoreConnection, max_call_us: int) -> None:
        self._name = name
        self._store = store
        self._max_call_us = max_call_us
        self._current = EMPTY
        self._ready: Snapshot | None = None
        self._in_use_epoch = 0
        self._reported: tuple[int, float] = (-1, 0.0)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to watch; `wake` is called whenever there is something to take."""
        self._thread = threading.Thread(target=self._run, args=(wake,), name="tariff-watch", daemon=True)
        self._thread.start()

    def take(self) -> Snapshot | None:
        """The newest snapshot, once; None when there is no newer one."""
        snapshot, self._ready = self._ready, None
        return snapshot

    def report_in_use(self, epoch: int) -> None:
        self._in_use_epoch = epoch

    def stop(self) -> None:
        """End the thread and take this rater out of the table."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._store.execute([("HDEL", RATERS, self._name)])
        except RatelError as error:
            log.warning("could not sign off from the table of raters: %s", error)
        self._store.close()

    def _run(self, wake: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                if self._refresh():
                    wake()
                self._report()
            except RatelError as error:
                log.warning("tariff watch: %s", error)
            except Exception:
                # One unreadable version must not end the watch: the next one may be good.
                log.exception("tariff watch")
                self._stop.wait(REPORT_EVERY_S)
            self._stop.wait(LOOK_EVERY_S)

    def _refresh(self) -> bool:
        active = read_active(self._store)
        if active.epoch == self._current.epoch:
            return False
        old = self._current
        compiled: dict[str, CompiledTariff] = {}
        for tenant, version in active.versions.items():
            if old.versions.get(tenant) == version:
                compiled[tenant] = old.tenants[tenant]
            else:
                compiled[tenant] = compile_tariff(
                    read_version(self._store, tenant, version), self._max_call_us
                )
        self._current = Snapshot(active.epoch, dict(active.versions), compiled)
        self._ready = self._current
        return True

    def _report(self) -> None:
        epoch, now_s = self._in_use_epoch, time.monotonic()
        if epoch == self._reported[0] and now_s - self._reported[1] < REPORT_EVERY_S:
            return
        self._store.execute([("HSET", RATERS, self._name, f"{epoch} {time.time_ns() // 1_000_000}")])
        self._reported = (epoch, now_s)
