"""The simulator can fail: each deliberate fault is noticed."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Parts, first_to_notice

ENOUGH_SEEDS = range(300)
"""A tenth of what every test run plays."""


@pytest.mark.parametrize("parts", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_deliberate_fault_is_noticed(parts: Parts) -> None:
    assert first_to_notice(parts, ENOUGH_SEEDS) is not None
