"""The generated tariff of `loadtests.scale`: the right size, nothing twice, and the loader likes it."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.scale.world import (
    COUNTRY_CODES,
    PLANS,
    SUBJECTS,
    TENANT,
    World,
    account_lines,
    destinations,
    periods,
    prefixes,
    price,
    rate_lines,
    rows,
)
from tests.unit.tariff_sample import BUDGETS, DESTINATIONS, RATES, read


@pytest.mark.parametrize("count", [1, 10, 5000])
def test_there_are_as_many_prefixes_as_asked_for_and_none_twice(count: int) -> None:
    found = [prefix for prefix, _ in prefixes(count)]
    assert len(found) == len(set(found)) == count
    assert found == [prefix for prefix, _ in prefixes(count)]
    assert all(prefix.isdecimal() and len(prefix) <= 11 for prefix in found)
    codes = set(COUNTRY_CODES)
    assert all(any(prefix[:n] in codes for n in (1, 2, 3)) for prefix in found)


def test_subjects_have_their_shares() -> None:
    counts = Counter(row.subject for row in rows(World(10_000)))
    assert sum(counts.values()) == 10_000
    assert counts.keys() == SUBJECTS.keys()
    for subject, share in SUBJECTS.items():
        assert abs(counts[subject] - share * 10_000) <= len(SUBJECTS)


def test_another_version_has_other_prices_and_the_same_prefixes() -> None:
    assert price(7, shift=1) == price(7) + 2
    assert periods(3) != periods(3, shift=1)
    assert [row[:2] for row in rows(World(500, shift=1))] == [row[:2] for row in rows(World(500))]


def test_its_files_are_loaded_without_a_finding() -> None:
    world = World(3000)
    files = {
        RATES: "".join(rate_lines(world)).encode(),
        DESTINATIONS: destinations(world),
        "tariff_plans.json": PLANS,
        BUDGETS: "".join(account_lines(50)).encode(),
    }
    [load], report = read(files)
    assert (report.errors, report.warnings) == ([], [])
    assert load.tenant == TENANT
    assert (len(load.rates), len(load.accounts)) == (3000, 50)
