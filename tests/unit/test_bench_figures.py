"""How the benchmark's runs become figures, tables and pictures."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from loadtests.bench.cluster import disagreement
from loadtests.bench.figures import (
    BARE,
    ECHO,
    RATE,
    SCRIPT,
    SCRIPTS,
    THRIFT,
    TRIP,
    TRIPS,
    Sample,
    Spread,
    cpu_s,
    quantile,
    ratios,
    rss_mib,
    summarise,
)
from loadtests.bench.plan import Plan, Shape, comparable, parse_shape
from loadtests.bench.report import document, memory_table, number, table
from loadtests.bench.tariff import World


def sample(
    workload: str = "DebitBalance hot", load: str = "8x16", *, wire: str = "rpc", per_s: float = 1000.0,
    store_us: float = 10.0, p50: float = 1.0, errors: int = 0,
) -> Sample:  # fmt: skip
    latency = dict.fromkeys(("p50", "p90", "p99", "p99.9"), p50)
    cpu = {"store": store_us, "rater 1": 20.0, "rater 2": 22.0, "client": 2.0}
    return Sample(workload, wire, load, 0, per_s, latency, errors, 0, 500, 5, cpu, {"store": per_s / 100})


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (0.0, 1.0), (1.0, 100.0)]
)
def test_a_quantile_is_a_value_that_occurred(share: float, expected: float) -> None:
    assert quantile([float(value) for value in range(1, 101)], share) == expected


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile([], 0.5) == 0.0


def test_rows_are_medians_with_their_spread_and_faults_are_added_up() -> None:
    rates = (900.0, 1000.0, 2000.0)
    [row] = summarise(sample(per_s=per_s, store_us=per_s / 100, errors=1) for per_s in rates)
    assert row.per_s == Spread(1000.0, 900.0, 2000.0)
    assert row.cpu_us["store"] == Spread(10.0, 9.0, 20.0)
    assert row.servers_us == Spread(52.0, 51.0, 62.0)
    assert (row.rounds, row.errors, row.answered, row.rss_mib["store"]) == (3, 3, 1500, 20.0)


def test_rows_are_compared_with_the_limits_of_the_same_load() -> None:
    rows = summarise(
        [
            sample(ECHO, store_us=1.0),  # 43 µs with its raters
            sample(SCRIPT, "1x64", wire="store", store_us=0.0),  # 42 µs
            sample(TRIP, "1x1", wire="store", p50=0.05),
            sample(per_s=30_848.0, store_us=44.0),
            sample(load="1x1", p50=0.2),
            sample("GetCost", load="32x32", per_s=18_504.0),
        ]
    )
    by_key = {row.key: row for row in rows}
    busy, alone, cost = (ratios(row, by_key) for row in rows[3:])
    assert busy == pytest.approx({BARE: 86 / 43, SCRIPTS: 86 / 42, RATE: 2.0, THRIFT: 94 / 86})
    assert alone[TRIPS] == pytest.approx(4.0)
    assert BARE not in alone, "there was no echo with that load"
    assert cost == pytest.approx({RATE: 2.0, THRIFT: 163 / 52})
    assert not ratios(rows[0], by_key), "a limit is not compared with limits"


@pytest.mark.parametrize(
    ("value", "text"), [(123456.7, "123,457"), (999.6, "1000"), (12.34, "12.3"), (0.123, "0.12")]
)
def test_figures_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_table_has_a_cell_for_every_column() -> None:
    lines = table(summarise([sample(), sample(ECHO), sample("mix", "80%")])).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert len(set(map(len, lines))) == 1
    assert "20.0 + 22.0" in lines[2]
    memory = memory_table(summarise([sample(load="1x1", per_s=900.0), sample(per_s=700.0)]))
    assert memory.splitlines()[2].replace(" ", "") == "|DebitBalancehot|9.00|"


def test_the_document_can_be_written_and_read() -> None:
    samples = [sample(per_s=1.0), sample(per_s=3.0)]
    read = json.loads(json.dumps(document({"rounds": 2}, summarise(samples), samples)))
    assert read["rows"][0]["per_s"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert read["rows"][0]["cpu_us"]["store"]["median"] == 10.0
    assert [run["per_s"] for run in read["samples"]] == [1.0, 3.0]
    assert read["machine"]["cores"] >= 1


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_it_can_be_drawn(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    from loadtests.bench.plot import draw

    path = tmp_path / f"bench.{kind}"
    draw(summarise([sample(), sample(ECHO), sample("mix", "80%")]), path)
    assert path.read_bytes().startswith(b"<?xml" if kind == "svg" else b"\x89PNG")


def test_work_shows_in_the_cpu_time_of_a_process() -> None:
    pid = os.getpid()
    before_s, own_s = cpu_s(pid), time.process_time()
    while time.process_time() < own_s + 0.02:
        pass
    assert 0.02 <= cpu_s(pid) - before_s <= time.process_time() - own_s + 0.02
    assert rss_mib(pid) > 1


def test_shapes() -> None:
    assert parse_shape("8x16") == Shape(8, 16)
    assert parse_shape("64") == Shape(64, 1)
    assert str(Shape(8, 16)) == "8x16"
    for wrong in ("", "0x1", "axb", "8x0"):
        with pytest.raises(ValueError, match=r".+"):
            parse_shape(wrong)


def test_rates_of_open_loops_go_by_closed_ones_that_are_no_fuller_than_those_can_be() -> None:
    small, large, larger = Shape(8, 16), Shape(32, 32), Shape(64, 64)
    assert comparable((Shape(64, 1), small, large)) == [Shape(64, 1), small]
    assert comparable((larger, large)) == [large]  # nothing else was measured


def test_a_plan_knows_how_many_runs_it_has() -> None:
    plan = Plan(("GetCost", "mix"), (Shape(1, 1), Shape(8, 1)), (), (0.5,), 3, 1.0, 10, False, World(1, 1))
    assert list(plan.wires()) == [("rpc", plan.shapes)]
    assert plan.runs == 3 * (2 + 2 + 2 * (2 + 1))


def test_balances_have_to_agree_with_what_was_acknowledged() -> None:
    done, uncertain = Counter(DebitSMS=10, GetCost=99), Counter(DebitSMS=2)
    for taken in (10, 11, 12):
        assert not disagreement(Counter(DebitSMS=taken), done, uncertain)
    for taken in (9, 13):
        [text] = disagreement(Counter(DebitSMS=taken), done, uncertain)
        assert text.startswith("DebitSMS: 10 were acknowledged")
