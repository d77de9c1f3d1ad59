"""Wall clocks that jump, under load: the store's decides when a request is too late, the raters' nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.storage.store import StoreConnection
from tests.faults.clock import LIBRARIES, Clock
from tests.faults.load import Load
from tests.faults.nodes import Site, wait_until

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (package faketime)")

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}
PROMISE_S = 4.0
POSITIONS_S = [at for jump_s in (3, 3_600, 86_400) for at in (jump_s, 0, -jump_s, 0)]
"""How far ahead the clock is, one after the other."""


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def test_the_clock_of_the_stores_host_jumps_ahead_and_back(tmp_path: Path, clock: Clock) -> None:
    with Site(tmp_path / "site", raters=2, store_environment=clock.environment) as site:
        site.start(ACCOUNTS)
        assert site.store is not None
        with Load(lambda _: site.client(), ACCOUNTS) as load, site.store.connect() as store:
            load.wait(100)
            for ahead_s in POSITIONS_S:
                load.start_measuring()
                before_s = time_of(store) - time.time()
                clock.move_to(ahead_s)
                wait_until(lambda was=before_s: abs(time_of(store) - time.time() - was) > 2, "it jumped")
                load.wait(200)
                load.recovered(f"store's clock jumps to {ahead_s:+d} s", PROMISE_S)
        load.check(site, "deadline_exceeded")


def time_of(store: StoreConnection) -> float:
    [[seconds, micros]] = store.execute([("TIME",)])
    return int(seconds) + int(micros) / 1e6


def test_the_clock_of_the_raters_host_jumps_ahead_and_back(tmp_path: Path, clock: Clock) -> None:
    site = Site(tmp_path / "site", raters=0)
    site.raters += [site.rater(f"rater-{number}", **clock.environment) for number in range(2)]
    with site:
        site.start(ACCOUNTS)
        with Load(lambda _: site.client(), ACCOUNTS) as load:
            load.wait(100)
            for ahead_s in POSITIONS_S:
                load.start_measuring()
                clock.move_to(ahead_s)
                load.wait(200)
                load.recovered(f"raters' clock jumps to {ahead_s:+d} s", PROMISE_S)
        load.check(site)
