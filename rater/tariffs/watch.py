"""Keeps a rater's tariff current: a thread that notices a new version and takes it over.

The work loop never waits for a tariff: this thread, with a store connection of its own, looks at
what is active several times a second, reads and compiles what changed beside the tariff in use, and
lays the finished snapshot down for `take`, which the loop calls between two batches.

Both threads share one interpreter, so that everything here that grows with the tariff is done in
steps of some milliseconds with a rest after each. What a step made is then hidden from the garbage
collector, which would otherwise stop both threads to look through millions of objects; a tariff
that went out of use is taken apart by reference counts alone.

A tenant whose version can't be read or compiled keeps the one that it had, and the others get
theirs. The thread also keeps this rater's line in the store's table of raters, during a long
compile as well, so that a loader can tell whom to wait for.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

from common.errors import RatelError, StoreUnavailable
from common.logs import Throttle
from common.storage.stores import Store
from rater.rating.snapshot import CompiledTariff, Snapshot, compile_in_steps
from rater.store.errors import store_error
from rater.store.keys import RATERS
from rater.store.memory import StoreMemory, read_memory
from rater.tariffs.store import Active, read_active, read_index

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.1
"""The longest that a rater rates by an old tariff once the new one is small enough to load at once."""

REPORT_EVERY_S: Final = 1.0

REST_S: Final = 0.003
"""After each step, asleep: a work loop that is busy gets the greater part of the interpreter."""

SWITCH_S: Final = 0.0005
"""How long the work loop waits for the interpreter in the middle of a step: with Python's 5 ms each
of its reads and writes would cost that, some ten times a batch."""

RETRY_S: Final = 0.25
MAX_RETRY_S: Final = 5.0
"""Pauses between attempts at a damaged version double from one to the other."""

STOP_WITHIN_S: Final = 3.0
"""Two calls to a store that does not answer, and some. Whoever ends us would kill us later."""

MEMORY_EVERY_S: Final = 3.0
"""How old the figures of the store's memory may be that people see."""

WARN_EVERY_S: Final = 10.0
"""A store that is down is worth a line now and then, not one at each look."""

EMPTY: Final = Snapshot(0, {}, {})
"""What a rater has before any tariff is loaded; epoch 0 tells balancers to send nothing."""


class Stopped(Exception):
    """Raised by a rest when there is no point in going on."""


class _Compiled(NamedTuple):
    version: int
    tariff: CompiledTariff


class TariffReader:
    """Makes snapshots of what is active in the store, reading what changed only. For one thread.

    `rest` is called after each step; what it raises ends the work, which the next call resumes.
    """

    def __init__(self, store: Store, max_call_us: int, rest: Callable[[], None]) -> None:
        self._store = store
        self._max_call_us = max_call_us
        self._rest = rest
        self._seen = Active(0, {})
        self._compiled: dict[str, _Compiled] = {}
        self._damaged: dict[str, str] = {}
        """What was said of the version of a tenant that has to be tried again."""
        self._retry_at_s = 0.0
        self._retry_pause_s = RETRY_S
        self._replaced: list[CompiledTariff] = []
        self.latest = EMPTY

    def look(self, now_s: float) -> Snapshot | None:
        """A snapshot when there is a new one. Raises StoreUnavailable; what was compiled is kept."""
        active = read_active(self._store)
        changed = active != self._seen
        if not changed and not (self._damaged and now_s >= self._retry_at_s):
            return None
        compiled_any = self._compile(active)
        if changed:
            self._retry_pause_s = RETRY_S
        if self._damaged:
            self._retry_at_s = now_s + self._retry_pause_s
            self._retry_pause_s = min(2 * self._retry_pause_s, MAX_RETRY_S)
        self._seen = active
        if not changed and not compiled_any:
            return None
        self.latest = Snapshot(
            active.epoch,
            {tenant: compiled.version for tenant, compiled in self._compiled.items()},
            {tenant: compiled.tariff for tenant, compiled in self._compiled.items()},
        )
        return self.latest

    def free_replaced(self) -> None:
        """Free the memory of what the latest snapshot does not hold: nobody may use it any more."""
        held = {id(tariff) for tariff in self.latest.tenants.values()}
        waiting = [tariff for tariff in self._replaced if id(tariff) in held]
        while self._replaced:
            tariff = self._replaced.pop()
            if id(tariff) not in held:
                self._run(_returning_none(tariff.take_apart()))
        self._replaced = waiting

    def _compile(self, active: Active) -> bool:
        """Bring `_compiled` and `_damaged` in line; whether anything new was compiled."""
        for tenant in self._compiled.keys() - active.versions.keys():
            self._replaced.append(self._compiled.pop(tenant).tariff)
        for tenant in self._damaged.keys() - active.versions.keys():
            del self._damaged[tenant]
        compiled_any = False
        for tenant, version in active.versions.items():
            old = self._compiled.get(tenant)
            if old is None or old.version != version:
                tariff = self._compile_version(tenant, version)
                if tariff is None:
                    continue
                compiled_any = True
                self._compiled[tenant] = _Compiled(version, tariff)
                if old is not None:
                    self._replaced.append(old.tariff)
            self._damaged.pop(tenant, None)
        return compiled_any

    def _compile_version(self, tenant: str, version: int) -> CompiledTariff | None:
        """None when it can't be done, which is logged once."""
        try:
            parts = read_index(self._store, tenant, version)
            return self._run(compile_in_steps(tenant, parts, self._max_call_us))
        except (StoreUnavailable, Stopped):
            raise
        except Exception as error:  # whatever is wrong with one tenant must not hold up the others
            said = f"tenant={tenant!r} version={version} {type(error).__name__}: {error}"
            if self._damaged.get(tenant) != said:
                log.error("tariff not taken, rating goes on with the one before, if any: %s", said)
                self._damaged[tenant] = said
            return None

    def _run(self, steps: Generator[None, None, T]) -> T:
        with _quick_switches():
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    result: T = end.value
                    return result
                self._rest()


class TariffWatch:
    """One thread, which alone uses the connection; `take` and `report_in_use` are for the work loop."""

    def __init__(self, name: str, store: Store, max_call_us: int) -> None:
        self._name = name
        self._store = store
        self._reader = TariffReader(store, max_call_us, self._rest)
        self._ready: deque[Snapshot] = deque(maxlen=1)
        """Appending and popping are one step each, so that no snapshot is lost between the threads."""
        self._has_looked = False
        self._taken = EMPTY
        self._in_use = EMPTY
        self._reported: tuple[int, float] = (-1, 0.0)
        self.memory = StoreMemory()
        self._next_memory_s = 0.0
        self._warnings = Throttle(WARN_EVERY_S)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to watch; `wake` is called whenever there is something to take."""
        _hide_from_collector()
        self._thread = threading.Thread(target=self._run, args=(wake,), name="tariff-watch", daemon=True)
        self._thread.start()

    @property
    def is_settled(self) -> bool:
        """Whether what was active at the start, which may be nothing, was read and taken."""
        return self._has_looked and not self._ready

    def take(self) -> Snapshot | None:
        """The newest snapshot, once; None when there is no newer one."""
        try:
            self._taken = self._ready.pop()
        except IndexError:
            return None
        return self._taken

    def report_in_use(self, epoch: int) -> None:
        """What was taken last is in use, and nothing older is."""
        assert epoch == self._taken.epoch
        self._in_use = self._taken

    def stop(self) -> None:
        """End the thread, which takes this rater out of the table; not later than `STOP_WITHIN_S`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_WITHIN_S)
            if self._thread.is_alive():
                log.warning("the tariff watch did not end in time and is left behind")

    def _run(self, wake: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                snapshot = self._reader.look(time.monotonic())
                if snapshot is not None:
                    self._ready.append(snapshot)
                    wake()
                self._has_looked = True
                self._report()
                if self._in_use is self._reader.latest:
                    self._reader.free_replaced()
            except Stopped:
                break
            except RatelError as error:
                self._warn(str(error))
            except Exception:
                log.exception("tariff watch")  # a mistake in here, which must not end the watch
                self._stop.wait(MAX_RETRY_S)
            self._look_at_memory()
            self._stop.wait(LOOK_EVERY_S)
        self._sign_off()

    def _rest(self) -> None:
        _hide_from_collector()
        if self._stop.wait(REST_S):
            raise Stopped
        try:
            self._report()
        except RatelError as error:
            self._warn(str(error))

    def _report(self) -> None:
        epoch, now_s = self._in_use.epoch, time.monotonic()
        if epoch == self._reported[0] and now_s - self._reported[1] < REPORT_EVERY_S:
            return
        [clock] = self._store.execute([("TIME",)])
        if not isinstance(clock, list):
            raise store_error(clock)
        unix_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
        self._store.execute([("HSET", RATERS, self._name, f"{epoch} {unix_ms}")])
        self._reported = (epoch, now_s)

    def _look_at_memory(self) -> None:
        """Whatever became of the tariffs: in a cluster they may be on a node that is away."""
        now_s = time.monotonic()
        if now_s < self._next_memory_s:
            return
        self._next_memory_s = now_s + MEMORY_EVERY_S
        try:
            self.memory = read_memory(self._store)
        except RatelError as error:
            self._warn(str(error))

    def _sign_off(self) -> None:
        try:
            self._store.execute([("HDEL", RATERS, self._name)])
        except RatelError as error:
            log.warning("could not sign off from the table of raters: %s", error)
        self._store.close()

    def _warn(self, text: str) -> None:
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning("tariff watch: %s held_back=%s", text, held)


def _returning_none(steps: Iterator[None]) -> Generator[None, None, None]:
    yield from steps


def _hide_from_collector() -> None:
    """No collection looks at what is there now again. Garbage is collected first, to be hidden never;
    there is little to look through, since all that was there the last time is hidden."""
    gc.collect()
    gc.freeze()


@contextmanager
def _quick_switches() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
