"""The simulator can fail: each deliberate fault is noticed."""

from __future__ import annotations

import pytest

from balancer.dispatch import Dispatch
from tests.simulation.mutants import MUTANTS, Parts, first_to_notice

ENOUGH_SEEDS = range(300)
"""A tenth of what every test run plays."""


CHECKED = [
    pytest.param(parts, id=name, marks=[] if parts.dispatch is Dispatch else [pytest.mark.source])
    for name, parts in MUTANTS.items()
]


@pytest.mark.parametrize("parts", CHECKED)
def test_a_deliberate_fault_is_noticed(parts: Parts) -> None:
    assert first_to_notice(parts, ENOUGH_SEEDS) is not None
