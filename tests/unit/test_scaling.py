"""The model of where the cluster grows: known answers, and what has to hold for any costs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench.plan import Parts, Shape
from loadtests.scaling import __main__ as command
from loadtests.scaling import check, costs, tables
from loadtests.scaling.measure import Case, Run
from loadtests.scaling.model import (
    CORES,
    STATIONS,
    Cost,
    Costs,
    Layout,
    Traffic,
    best,
    capacity,
    costs_us,
    messages,
)
from loadtests.scaling.simulate import Simulation, latency

PLAIN: Costs = {
    "store": Cost(10, 0),
    "rater": Cost(20, 0),
    "balancer": Cost(5, 0),
    "gateway": Cost(4, 0),
    "behind": Cost(3, 0),
}
TRAFFIC = Traffic(128, 16)
some_costs = st.fixed_dictionaries(
    {name: st.builds(Cost, st.floats(0.1, 50), st.floats(0, 200)) for name in STATIONS}
)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "cores", "per_s", "limit"),
    [
        (Layout(1, 1, 1, 0), 1, 1e6 / 35, CORES),
        (Layout(1, 1, 1, 0), 16, 50_000, "rater"),
        (Layout(1, 4, 1, 0), 16, 100_000, "store"),
        (Layout(3, 9, 1, 0), 16, 200_000, "balancer"),
        (Layout(3, 9, 1, 1), 64, 250_000, "gateway"),
        (Layout(4, 9, 1, 2), 64, 1e6 / 3, "behind"),
    ],
)
def test_the_least_of_the_bounds_is_the_capacity(
    layout: Layout, cores: int, per_s: float, limit: str
) -> None:
    found = capacity(PLAIN, layout, cores, TRAFFIC)
    assert (found.per_s, found.limit) == (pytest.approx(per_s), limit)
    assert found.utilisation[limit] == pytest.approx(1)
    assert max(found.utilisation.values()) == pytest.approx(1)


def test_a_client_on_the_same_cores_takes_its_share_of_them() -> None:
    found = capacity(PLAIN, Layout(1, 2, 1, 0), 2, TRAFFIC, client_us=5)
    assert found.per_s == pytest.approx(2e6 / 40)
    assert found.utilisation["store"] == pytest.approx(0.5)


def test_more_processes_for_the_same_traffic_make_more_messages_and_more_traffic_makes_up_for_it() -> None:
    few, many = Layout(1, 2, 1, 0), Layout(1, 16, 1, 0)
    assert messages(few, TRAFFIC)["rater"] < messages(many, TRAFFIC)["rater"]
    assert messages(many, Traffic(8 * 128, 16)) == messages(few, TRAFFIC)
    alone = Traffic(1, 1)
    assert messages(few, alone)["store"] == 1, "no request is more than one message to the store"
    assert Layout(2, 2, 1, 0).with_one_more("store") == Layout(3, 3, 1, 0), "each store has raters of its own"


@given(some_costs, st.integers(1, 12), st.integers(1, 3))
def test_no_split_that_is_near_is_better_than_the_best(of: Costs, cores: int, shards: int) -> None:
    traffic = Traffic(64 * cores, 16)
    layout, found = best(of, cores, traffic, shards)
    for other in itertools.product(range(1, shards + 1), *[(1, 2, 3)] * 2, (0, 1, 2)):
        split = Layout(*other)
        if split.raters < split.shards:
            continue  # a store without a rater
        reached = capacity(of, split, cores, traffic)
        assert reached.per_s <= found.per_s * 1.05, (split, layout)


@given(some_costs)
def test_more_cores_and_more_stores_are_never_less(of: Costs) -> None:
    by_cores = [best(of, cores, TRAFFIC, 1)[1].per_s for cores in (2, 4, 16, 64)]
    assert by_cores == sorted(by_cores)
    assert best(of, 64, TRAFFIC, 8)[1].per_s >= by_cores[-1]


# --- costs ----------------------------------------------------------------------------------------


@given(some_costs)
def test_costs_are_found_again_from_what_they_make(of: Costs) -> None:
    seen = [
        costs.Observation(layout, traffic, costs_us(of, layout, traffic))
        for layout in (Layout(1, 2, 1, 0), Layout(1, 2, 1, 1))
        for traffic in (Traffic(16, 2), Traffic(64, 1), Traffic(128, 16), Traffic(1024, 32))
    ]
    found = costs.fit(seen, {})
    for name in STATIONS:
        assert found[name] == pytest.approx(of[name], abs=1e-3)


def test_one_load_alone_scales_what_is_known() -> None:
    known = dict(PLAIN) | {"store": Cost(6, 320)}
    seen = costs.Observation(Layout(1, 2, 1, 0), TRAFFIC, {"store": 32.0})
    found = costs.fit([seen], known)
    assert found["store"] == pytest.approx((12, 640))
    assert found["rater"] == PLAIN["rater"]


@pytest.mark.parametrize(
    "points", [[(0.1, 9.0), (0.5, 5.0), (1.0, 3.0)], [(0.1, 1.0), (0.5, 9.0), (1.0, 30.0)]]
)
def test_no_cost_is_below_nothing(points: list[tuple[float, float]]) -> None:
    assert min(costs.line(points)) >= 0


def test_processes_become_stations() -> None:
    cpu_us = {"store": 1.0, "balancer": 2.0, "rater 1": 3.0, "rater 2": 4.0, "up": 0.1, "client": 5.0}
    assert costs.by_station(cpu_us) == {"store": 1.0, "balancer": 2.0, "rater": 7.0}
    shared = cpu_us | {"gateway 1": 6.0, "gateway 2": 6.0}
    assert costs.by_station(shared) == {"store": 1.0, "behind": 2.0, "rater": 7.0, "gateway": 12.0}


def bench_document(cpu_us: dict[str, float]) -> dict[str, object]:
    def row(load: str, ratio: float) -> dict[str, object]:
        spreads = {name: {"median": us * ratio, "least": 0, "most": 0} for name, us in cpu_us.items()}
        return {"workload": "GetCost", "wire": "rpc", "load": load, "cpu_us": spreads}

    return {"options": {"raters": 2}, "rows": [row("1x1", 50), row("8x16", 1), row("80%", 70)]}


def test_a_benchmark_is_read_at_the_loads_that_fill_messages() -> None:
    found = costs.read(bench_document({"store": 3.0, "balancer": 9.0, "rater 1": 9.0}), costs.DEFAULTS)
    us = costs.predicted_us(found["GetCost"], Parts(2), Shape(8, 16))
    assert us == pytest.approx({"store": 3.0, "balancer": 9.0, "rater": 9.0})
    assert found["mix"] == costs.DEFAULTS["mix"]
    assert found["GetCost"]["gateway"] == costs.DEFAULTS["GetCost"]["gateway"]


# --- simulation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_process_without_batches_waits_as_the_formula_of_pollaczek_and_khinchine_has_it(
    busy: float,
) -> None:
    simulation = Simulation({"store": Cost(10, 0)}, {"store": 1}, 1, Random(1), max_batch=1)
    seen = simulation.run(busy * 1e5, 100_000)
    assert seen.mean_us == pytest.approx(10 + 10 * busy / (2 * (1 - busy)), rel=0.05)
    assert seen.utilisation["store"] == pytest.approx(busy, rel=0.02)


def test_a_request_alone_takes_the_sum_of_its_costs() -> None:
    of = {name: Cost(cost.request_us, 7) for name, cost in PLAIN.items()}
    seen = latency(of, Layout(1, 2, 1, 1), 8, 1, 1_000, seed=1)
    assert seen.p50_us == pytest.approx(10 + 20 + 4 + 3 + 4 * 7)


def test_a_batch_pays_for_its_message_once() -> None:
    simulation = Simulation({"store": Cost(1, 99)}, {"store": 1}, 1, Random(1))
    seen = simulation.run(100_000, 50_000)
    assert seen.per_s == pytest.approx(100_000, rel=0.02), "one at a time it would do 10,000"
    assert 100 < seen.p50_us < 400


@pytest.mark.parametrize(("cores", "per_s"), [(1, 1e6 / 35), (2, 2e6 / 35), (8, 1e6 / 10)])
def test_no_more_is_done_than_the_bounds_allow_and_hardly_less(cores: int, per_s: float) -> None:
    layout = Layout(1, 4, 1, 0)
    seen = latency(PLAIN, layout, cores, 3 * per_s, 20_000, seed=3)
    assert 0.9 * per_s < seen.per_s <= per_s * (1 + 1e-6)
    assert capacity(PLAIN, layout, cores, TRAFFIC).per_s == pytest.approx(per_s)


def test_the_same_seed_gives_the_same_latencies() -> None:
    layout = Layout(2, 4, 2, 2)
    first, again, other = (latency(PLAIN, layout, 8, 50_000, 2_000, seed) for seed in (1, 1, 2))
    assert first == again != other


# --- the command ----------------------------------------------------------------------------------


def test_the_command_has_a_row_for_every_workload_and_number_of_cores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(bench_document({"store": 100.0, "balancer": 9.0, "rater 1": 9.0})))
    assert command.main(["--costs", str(file), "--cores", "2,64", "--requests", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for workload in costs.DEFAULTS:
        assert sum(row[0] == workload for row in rows) == 1 + 2 * 2
    [one, many] = [row for row in rows if row[:2] == ["GetCost", "64"]]
    assert (one[2], one[7], one[-1]) == ("1", "store", "a store")
    assert float(one[6].replace(",", "")) < 20_000, "a store that takes 100 µs at 8x16"
    assert int(many[2]) > 10
    assert many[7] == "cores"


@pytest.mark.parametrize(
    "words", [["--cores", "0"], ["--requests", "5"], ["--rounds", "0"], ["--in-flight", "0"]]
)
def test_options_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse_options(words)


def test_measured_and_predicted_stand_beside_each_other() -> None:
    case = Case(Parts(2), "GetCost", check.LOAD)
    cpu_us = {"store": 20.0, "balancer": 5.0, "rater": 20.0, "client": 5.0}
    cells = check.compared(case, Run(1000.0, cpu_us), PLAIN)
    assert cells[:7] == ["GetCost", "2", "0", "1", "35.0", "45.0", "1.29"]
    assert cells[-1] == "store 2.00, rater 1.00, balancer 1.00"
    table = check.steady_table([case], {case: Run(1000.0, cpu_us)}, "raters")
    assert " 1.00 |" in table
    assert "client" not in table


def test_what_to_add_is_a_store_or_what_twice_the_cores_need() -> None:
    options = command.parse_options([])
    for shards, expected in ((1, "a store"), (tables.MANY_SHARDS, "cores: +")):
        layout, found = best(PLAIN, 64, Traffic(64 * 64, 16), shards)
        assert tables.then_add(PLAIN, layout, found, options).startswith(expected)
