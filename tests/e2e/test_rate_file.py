"""`ratel rate` by a cluster: the very figures of the tariff files."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

from common.money import to_micros
from rater.bulk.raters import Cluster as ByCluster
from rater.bulk.raters import Offline
from rater.bulk.run import files_for, run
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster
from tests.integration.test_bulk_rating import many


def test_a_cluster_and_the_files_rate_alike(tmp_path: Path, sample_cluster: Cluster) -> None:
    calls = many(tmp_path / "calls.csv", 3_000)
    here = files_for(calls, tmp_path / "here", tmp_path / "here.rejects")
    there = files_for(calls, tmp_path / "there", tmp_path / "there.rejects")
    expected = run(here, Offline([SAMPLE_TARIFF], "", 31 * 86_400 * 10**6), "x")
    with sample_cluster.client() as client:
        found = run(there, ByCluster(client), "x")
    assert found.calls == expected.calls == 2_700
    assert found.rejected == expected.rejected == {"no_rate": 300}
    assert here.rated.read_bytes() == there.rated.read_bytes()
    assert here.rejects.read_bytes() == there.rejects.read_bytes()
    with there.rated.open(newline="") as file:
        costs = [to_micros(Decimal(row["RatedCost"])) for row in csv.DictReader(file)]
    assert sum(costs) == sum(each.cost_micros for each in found.totals.values())
