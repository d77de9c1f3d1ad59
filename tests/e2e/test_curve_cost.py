"""The comparison with and without CURVE, as small as it gets."""

from __future__ import annotations

import subprocess
import sys

from tests.faults.nodes import ROOT


def test_both_clusters_get_their_turns_and_are_shown() -> None:
    words = ["--rounds=1", "--seconds=0.1", "--workloads", "GetCost", "--shapes", "2x2"]
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.curve_cost", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.startswith("| GetCost 2x2 |")]
    plain_us, curve_us = map(float, row.split("|")[2:4])
    assert min(plain_us, curve_us) > 0
    assert row.endswith("| 0 |")
