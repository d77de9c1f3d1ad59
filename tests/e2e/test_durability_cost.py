"""The comparison of durability levels, as small as it gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from common.storage.durability import LEVELS
from tests.e2e.cluster import ROOT


def test_every_level_gets_its_turn_in_every_round(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    words = ["--rounds=2", "--seconds=0.1", "--accounts=10", "--raters=1", "--shape=2x2"]
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.durability_cost", f"--folder={tmp_path}", f"--json={file}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert file.exists(), done.stdout + done.stderr
    written = json.loads(file.read_text())
    assert written["disk"]["fsync_ms"] > 0
    assert len(written["rounds"]) == 2
    for runs in written["rounds"]:
        assert list(runs) == list(LEVELS)
        for level, run in runs.items():
            assert run["per_s"] > 0, level
            assert run["servers_us"] > 0, level
            assert f"| {level} |" in done.stdout
    # On a busy disk a write may take longer than a rater waits: that is told, not hidden.
    errors = sum(run["errors"] for runs in written["rounds"] for run in runs.values())
    assert done.returncode == (1 if errors else 0), done.stdout + done.stderr
    assert not [path for path in tmp_path.iterdir() if path != file], "nothing is left behind"
