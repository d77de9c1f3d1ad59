"""Raters that die, stall and are cut off, at every moment: what clients were told is what was done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.nodes import Site, wait_until

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", raters=2) as site:
        site.start(ACCOUNTS)
        yield site


@pytest.mark.parametrize("point", ["before_write", "after_write", "after_reply"])
def test_a_rater_killed_at_this_point_costs_no_client_an_error(site: Site, point: str) -> None:
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        for _ in range(4):
            load.wait(100)
            already = len(site.points.taken(point))
            site.points.arm(point, "kill")
            wait_until(lambda before=already: len(site.points.taken(point)) > before, "a rater died")
            dead = next(rater for rater in site.raters if rater.pid in site.points.taken(point))
            dead.wait()
            load.wait(100)
            dead.start()
            site.wait_ready()
    reckoning = load.reckon(site)
    assert reckoning.clean, reckoning
    assert not reckoning.unresolved
    assert not load.errors
