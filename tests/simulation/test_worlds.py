"""Thousands of simulated worlds: whatever goes wrong, every request is done at most once and answered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.weather import FAULTS
from tests.simulation.world import World

SEEDS = 3_000
SEEDS_A_TEST = 100
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_in_every_world_each_request_is_done_at_most_once_and_answered(first: int) -> None:
    events: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_A_TEST):
        world = World(seed)
        try:
            events += world.run().events
        except AssertionError as error:
            pytest.fail(f"{error}; replay it: python -m tests.simulation --seed {seed} --trace")
    expected = {"asked again", "copy", "deadline", "death", "quarantined"}
    expected |= {"refused", "replayed", "sent again", "silence", "store timeout"}
    assert events.keys() >= expected, "the worlds were too mild"


def test_every_kind_of_fault_strikes() -> None:
    events = sum((World(seed).run().events for seed in range(SEEDS, SEEDS + 200)), Counter[str]())
    assert events.keys() >= {*FAULTS, "changes lost", "nothing was done"}


def test_a_world_is_a_function_of_its_seed_in_every_process() -> None:
    traces = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "tests.simulation", "--from", "7", "--seeds", "20", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        traces.append([line for line in run.stdout.splitlines() if "of CPU" not in line])
    assert len(traces[0]) > 1_000
    assert traces[0] == traces[1]
