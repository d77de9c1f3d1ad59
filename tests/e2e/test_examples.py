"""The examples in other languages, run as they are against a cluster; each says the same figures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import ROOT, Cluster

EXAMPLES = ROOT / "docs" / "examples"
SAID = [
    "may talk, seconds: 3600",
    "cost, cents: 540",
    "repeated, the same credit is left: true",
    "refused: unknown_subject",
]


def run(words: list[str], environment: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=180, env=os.environ | (environment or {}), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program} ({package})")
    return found


def assert_said(lines: list[str]) -> None:
    for line in SAID:
        assert any(each.lower().startswith(line) for each in lines), lines


def jsonrpc(cluster: Cluster) -> str:
    host, port = cluster.jsonrpc
    return f"{host}:{port}"


@pytest.mark.parametrize("name", ["client.py", "async_client.py"])
def test_python(sample_cluster: Cluster, name: str) -> None:
    lines = run([sys.executable, str(EXAMPLES / name), jsonrpc(sample_cluster)], {"PYTHONPATH": str(ROOT)})
    assert_said(lines)
    assert "100 at once, cents: 54000" in lines


def test_go(sample_cluster: Cluster, tmp_path: Path) -> None:
    """Go's own `net/rpc/jsonrpc`, for which the API was made."""
    go = need("go", "Debian: golang-go")
    environment = {
        "GOFLAGS": "-mod=mod",
        "GO111MODULE": "off",
        "GOCACHE": str(tmp_path),
        "HOME": str(tmp_path),
    }
    lines = run([go, "run", str(EXAMPLES / "client.go"), jsonrpc(sample_cluster)], environment)
    assert_said(lines)
    assert "100 at once, cents: 54000" in lines


def test_node(sample_cluster: Cluster) -> None:
    lines = run([need("node", "Debian: nodejs"), str(EXAMPLES / "client.js"), jsonrpc(sample_cluster)])
    assert_said(lines)
    assert "100 at once, cents: 54000" in lines


def test_php(sample_cluster: Cluster) -> None:
    assert_said(run([need("php", "Debian: php-cli"), str(EXAMPLES / "client.php"), sample_cluster.http]))


def test_curl(sample_cluster: Cluster) -> None:
    need("curl", "Debian: curl")
    assert_said(run(["sh", str(EXAMPLES / "calls.sh"), sample_cluster.http]))
