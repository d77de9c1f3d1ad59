"""A whole load: read, check, publish, let the raters pick it up, open the accounts. In this order:

1. Everything is read and checked. Any error ends the load before the store was written to.
2. The new versions are written, and made active by one switch. A conflict with another load is found
   here, and leaves everything as it was, which it could not if accounts had been opened before.
3. The raters get a moment to pick the versions up, so that
4. accounts are opened when the plans and destinations that they name are known to those who serve them.

Each step that writes waits for as many copies as the durability level wants, and ends the load when they do
not confirm it. A load that ends between 2 and 4 is completed by running it again: an account that is there is
kept, and its copies are waited for, too.
Until then a subject without an account is unknown, as it was before the load.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from common.errors import StoreUnavailable
from common.storage.durability import DEFAULT_DURABILITY, Durability
from common.storage.stores import Store, connect
from common.times import format_rfc3339
from rater.accounts.opening import Opening, open_command, parse_open_reply
from rater.loader.assembly import TenantLoad, assemble
from rater.loader.files import read_paths
from rater.loader.report import Report
from rater.model import Account, Tariff
from rater.store.confirmed import make
from rater.store.errors import store_error
from rater.store.keys import RATERS, account_keys
from rater.tariffs.store import Active, publish, read_active, read_version

STORE_TIMEOUT_MS: Final = 10_000
"""A loader is patient: a store that is busy writing out its file is not gone."""

ACCOUNTS_PER_BATCH: Final = 500
"""One round trip for a batch that keeps a store busy for a few milliseconds, not more."""

RATER_SILENT_MS: Final = 3_000
"""Raters report every second, by the store's clock and while they compile, too; one that has not for
this long is gone, and not waited for."""

RATER_FORGOTTEN_MS: Final = 3_600_000
"""A rater that was killed leaves its line behind, which the first load after this long removes."""

MAX_SOURCES: Final = 20
"""File names that a version remembers."""

_LOOK_EVERY_S: Final = 0.05


class Stage(Enum):
    READ = "reading files"
    PUBLISH = "writing tariffs"
    ACCOUNTS = "opening accounts"


Progress = Callable[[Stage, int, int], None]
"""Called with how much of a stage is done, and how much there is: bytes, rates and the like, accounts."""


@dataclass(frozen=True)
class LoadOptions:
    store_url: str
    tenant: str = ""
    """Of objects that name none; "" when not given."""
    dry_run: bool = False
    reset_balances: bool = False
    wait_s: float = 10.0
    """How long raters get to pick up what was published; 0 does not wait."""
    raters: int = 0
    """At least so many are waited for: those that are still starting are not in the store's table yet."""
    durability: Durability = DEFAULT_DURABILITY


@dataclass
class TenantResult:
    tenant: str
    version: int | None
    """None when none was published."""
    tariff: Tariff | None
    """The new version; None when the tenant gets none."""
    carried: frozenset[str]
    """Kinds that were taken over from the version before."""
    accounts: int
    """In the files."""
    opened: dict[Opening, int] = field(default_factory=lambda: dict.fromkeys(Opening, 0))


class PickedUp(NamedTuple):
    raters: int
    of: int


@dataclass
class LoadResult:
    """What a load did. With errors in the report it did nothing."""

    report: Report
    tenants: list[TenantResult] = field(default_factory=list)
    epoch: int | None = None
    picked_up: PickedUp | None = None
    """None when nothing was published, or nobody waited."""
    unchecked: str = ""
    """A dry run: why it could not look at the active tariffs; "" when it could or need not."""


def load_paths(
    paths: Sequence[Path], options: LoadOptions, progress: Progress = lambda stage, done, total: None
) -> LoadResult:
    """Load files and folders, as `ratel load` does; mistakes in them are in the result's report.

    Raises StoreUrlError, StoreUnavailable, TariffConflict, TariffUnreadable when an active version that is to
    be carried over is damaged, and NotDurable: the load ended where too few copies confirmed it.
    """
    with _without_collector():
        return _load_paths(paths, options, progress)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of objects come, none of them in a circle: to look through them again and again takes
    longer than all else."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load_paths(paths: Sequence[Path], options: LoadOptions, progress: Progress) -> LoadResult:
    report = Report()
    contents = read_paths(paths, report, lambda done, total: progress(Stage.READ, done, total))
    with closing(connect(options.store_url, timeout_ms=STORE_TIMEOUT_MS)) as store:
        # When nothing will be written anyway, a store that is down must not hide what was found.
        active = _Active(store, required=not (options.dry_run or report.error_count))
        loads = assemble(contents, options.tenant, active, report)
        result = LoadResult(report, list(map(_result_of, loads)), unchecked=active.unchecked)
        if not report.error_count and not options.dry_run:
            _publish(store, loads, result, active.read(), _sources(paths), progress, options.durability)
            if result.epoch is not None and options.wait_s > 0:
                result.picked_up = wait_for_raters(
                    store, result.epoch, options.wait_s, at_least=options.raters
                )
            _open_accounts(store, loads, result, options, progress)
    return result


def wait_for_raters(store: Store, epoch: int, wait_s: float, *, at_least: int = 0) -> PickedUp:
    """How many of the live raters rate by that epoch or a later one, once all do or time is up."""
    give_up_s = time.monotonic() + wait_s
    while True:
        epochs = _live_epochs(store)
        picked_up = PickedUp(sum(each >= epoch for each in epochs), max(len(epochs), at_least))
        if picked_up.raters == picked_up.of or time.monotonic() >= give_up_s:
            return picked_up
        time.sleep(_LOOK_EVERY_S)


def _live_epochs(store: Store) -> list[int]:
    clock, table = store.execute([("TIME",), ("HGETALL", RATERS)])
    for reply in (clock, table):
        if not isinstance(reply, list):
            raise store_error(reply)
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
    epochs, forgotten = [], []
    for name, line in zip(table[::2], table[1::2], strict=True):
        epoch, unix_ms = map(int, line.split())
        if now_ms - unix_ms <= RATER_SILENT_MS:
            epochs.append(epoch)
        elif now_ms - unix_ms > RATER_FORGOTTEN_MS:
            forgotten.append(name)
    if forgotten:
        store.execute([("HDEL", RATERS, *forgotten)])
    return epochs


class _Active:
    """The active tariffs, looked up when first asked for. Implements `ActiveTariffs`."""

    def __init__(self, store: Store, *, required: bool) -> None:
        self.unchecked = ""
        self._store = store
        self._required = required
        self._active: Active | None = None

    def read(self) -> Active:
        """One and the same state for the whole load: it is what the load is based on."""
        if self._active is None:
            self._active = read_active(self._store)
        return self._active

    def tenants(self) -> list[str] | None:
        return None if self._unreachable() else list(self.read().versions)

    def tariff(self, tenant: str) -> Tariff | None:
        if self._unreachable():
            return None
        version = self.read().versions.get(tenant)
        return Tariff(tenant) if version is None else read_version(self._store, tenant, version)

    def _unreachable(self) -> bool:
        if self._required or self._active is not None:
            return False
        if not self.unchecked:
            try:
                self.read()
            except StoreUnavailable as error:
                self.unchecked = str(error)
        return bool(self.unchecked)


def _result_of(load: TenantLoad) -> TenantResult:
    held = {"rates": load.rates, "destinations": load.destinations, "plans": load.plans}
    carried = frozenset(kind for kind, items in held.items() if load.publishes and not items)
    return TenantResult(load.tenant, None, load.tariff, carried, len(load.budgets))


def _sources(paths: Sequence[Path]) -> str:
    names = [path.name or str(path) for path in paths[:MAX_SOURCES]]
    return ", ".join(name.encode(errors="replace").decode() for name in names)


def _publish(
    store: Store,
    loads: Sequence[TenantLoad],
    result: LoadResult,
    active: Active,
    sources: str,
    progress: Progress,
    durability: Durability,
) -> None:
    tariffs = [load.tariff for load in loads if load.tariff is not None]
    if not tariffs:
        return
    result.epoch, versions = publish(
        store,
        tariffs,
        active.versions,
        {"created": format_rfc3339(time.time_ns() // 1000), "sources": sources},
        lambda done, total: progress(Stage.PUBLISH, done, total),
        durability,
    )
    for tenant in result.tenants:
        tenant.version = dict(versions).get(tenant.tenant)


def _open_accounts(
    store: Store,
    loads: Sequence[TenantLoad],
    result: LoadResult,
    options: LoadOptions,
    progress: Progress,
) -> None:
    replace, waits = options.reset_balances, bool(options.durability.waits)
    total, done = sum(len(load.budgets) for load in loads), 0
    for load, tenant in zip(loads, result.tenants, strict=True):
        for batch in _batches(load.accounts):
            commands = [
                open_command(
                    account_keys(load.tenant, account.subject), account, replace=replace, waits=waits
                )
                for account in batch
            ]
            made = make(store, commands, options.durability)
            for reply in made.replies:
                tenant.opened[parse_open_reply(reply)] += 1
            if made.missing is not None:
                raise made.missing
            done += len(batch)
            progress(Stage.ACCOUNTS, done, total)


def _batches(accounts: list[Account]) -> Iterator[list[Account]]:
    for start in range(0, len(accounts), ACCOUNTS_PER_BATCH):
        yield accounts[start : start + ACCOUNTS_PER_BATCH]
