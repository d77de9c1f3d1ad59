"""The micro-benchmarks fit the code: each is run once, without measuring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_micro_benchmarks_run() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    run = subprocess.run(
        [*words, "loadtests/micro"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
