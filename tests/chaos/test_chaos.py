"""A short chaos run: the books agree after faults of every kind; and its own parts are what they promise."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos import run
from tests.chaos.cluster import BALANCERS
from tests.chaos.faults import FAULTS
from tests.chaos.nemesis import plan
from tests.chaos.run import Settings, faults_for, has_gateways, kind_of, left_out, run_seed
from tests.chaos.workload import MICROS, SECOND_PRICE, THRESHOLD, applied, opening, stream

QUICK = (
    "rater killed after_write",
    "rater killed before_write",
    "rater stopped",
    "rater cut off",
    "balancer killed",
    "clients dropped",
    "store killed",
    "store unreachable",
    "scripts flushed",
    "disk full",
    "store clock jumps",
    "rater clock jumps",
)


@pytest.mark.timeout(600)  # it takes less than a minute where there is nothing else to do
def test_no_cent_is_lost_or_doubled_whatever_is_struck(tmp_path: Path) -> None:
    possible = tuple(name for name in QUICK if name not in left_out())
    settings = Settings(debits=2_000, steps=len(possible), faults=possible, every_group=0)
    result = run_seed(1, tmp_path / "site", settings)
    assert result.clean, result.problems
    assert result.acknowledged >= settings.debits
    assert result.refused
    assert result.replays
    assert result.decisions
    assert {gap.fault for gap in result.gaps} == set(possible)
    joined = re.compile(r"client=\w+ joins")  # one client speaks ZeroMQ to both
    logs = [tmp_path / "site" / f"balancer-{number}.log" for number in range(BALANCERS)]
    assert all(joined.search(log.read_text()) for log in logs)


@pytest.mark.timeout(600)
def test_no_cent_is_lost_or_doubled_by_way_of_gateways(tmp_path: Path) -> None:
    names = (
        "gateway killed",
        "gateway stopped",
        "gateway drained",
        "gateway cut off",
        "balancer killed",
        "balancer stopped",
        "balancer drained",
    )
    settings = Settings(debits=2_000, steps=16, faults=names, every_group=0, every_gateways=1)
    result = run_seed(2, tmp_path / "site", settings)
    assert result.clean, result.problems
    assert result.front == "gateways"
    assert result.acknowledged >= settings.debits
    assert result.replays
    assert {gap.fault for gap in result.gaps} == set(names)


def test_seeds_of_every_kind_have_gateways() -> None:
    settings = Settings(debits=1)
    seeds = [seed for seed in range(1, 21) if has_gateways(seed, settings)]
    assert seeds == [2, 3, 8, 9, 14, 15, 20]
    assert {kind_of(seed, settings) for seed in seeds} >= {"no", "always"}
    assert {seed % 3 == 0 for seed in seeds} == {True, False}  # with two faults at a time, too
    assert not any(has_gateways(seed, Settings(debits=1, every_gateways=0)) for seed in range(20))
    assert all(has_gateways(seed, Settings(debits=1, every_gateways=1)) for seed in range(20))


def test_faults_of_gateways_are_left_out_where_there_are_none() -> None:
    theirs = {fault.name for fault in FAULTS if fault.gateways}
    assert theirs.isdisjoint(fault.name for fault in faults_for("no", ()))
    assert theirs <= {fault.name for fault in faults_for("no", (), gateways=True)}


def test_a_seed_is_always_the_same_plan_and_the_same_requests() -> None:
    one, same, other = (list(islice(plan(seed, FAULTS, overlapping=True), 40)) for seed in (3, 3, 6))
    assert one == same != other
    assert list(islice(stream(3, 1), 500)) == list(islice(stream(3, 1), 500))
    assert list(islice(stream(3, 1), 500)) != list(islice(stream(3, 0), 500))


def test_every_fault_comes_before_any_comes_again() -> None:
    steps = list(islice(plan(1, FAULTS, overlapping=False), 2 * len(FAULTS)))
    for deck in (steps[: len(FAULTS)], steps[len(FAULTS) :]):
        assert {step.faults[0].name for step in deck} == {fault.name for fault in FAULTS}


def test_two_faults_at_a_time_strike_different_parts() -> None:
    steps = list(islice(plan(3, FAULTS, overlapping=True), 100))
    assert any(len(step.faults) > 1 for step in steps)
    assert all(len({fault.part for fault in step.faults}) == len(step.faults) for step in steps)


@pytest.mark.parametrize("seed", [3, 6, 9])
def test_a_fault_that_comes_alone_comes_alone(seed: int) -> None:
    steps = list(islice(plan(seed, FAULTS, overlapping=True), 200))
    alone = [step for step in steps if any(fault.alone for fault in step.faults)]
    assert alone
    assert all(len(step.faults) == 1 for step in alone)


def test_clocks_are_left_out_where_they_can_t_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = {fault.name for fault in FAULTS if fault.clock}
    monkeypatch.setattr(run, "LIBRARIES", [Path("libfaketime.so.1")])
    assert left_out() == []
    assert moving <= {fault.name for fault in faults_for("no", ())}
    monkeypatch.setattr(run, "LIBRARIES", [])
    assert set(left_out()) == moving
    assert {fault.name for fault in faults_for("no", ())}.isdisjoint(moving)
    with pytest.raises(AssertionError, match="none of the faults"):
        faults_for("no", sorted(moving))


def test_the_model_of_an_account() -> None:
    account = opening("hot-0")
    after, told = applied(account, "DebitSeconds", -2 * MICROS)
    assert (after.credit - account.credit, after.seconds - account.seconds) == (2 * SECOND_PRICE, 2 * MICROS)
    assert told == after.seconds
    after, told = applied(account, "AddRecievedCallSeconds", 2 * THRESHOLD + 5)
    assert (after.received, told) == (5, 5)
    assert (after.credit - account.credit, after.sms - account.sms) == (6 * MICROS, 4 * MICROS)
