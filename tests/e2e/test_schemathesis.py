"""The HTTP API does what its OpenAPI document says, whatever it is sent: schemathesis tries it all.

schemathesis runs in a process of its own, as its pytest plugin would slow all other tests. A longer run
against a cluster of one's own, from this folder:

    st --config-file schemathesis.toml run http://127.0.0.1:8000/openapi.json --checks all --max-examples 2000
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.http.openapi import document
from tests.e2e.cluster import SAMPLE_TARIFF, Process, StartCluster

pytest.importorskip("schemathesis")

HERE = Path(__file__).parent
EXAMPLES = 10
"""Random ones an operation, beside the some 100 that follow from its schema."""

SEEN = {
    "invalid_params",
    "invalid_request",
    "key_reused",
    "method_not_allowed",
    "no_rate",
    "parse_error",
    "unknown_subject",
    "unknown_tenant",
}
"""Errors that a run with the sample tariff can't but provoke."""


def interactions(report: Path) -> Iterator[tuple[str, Any]]:
    """Each operation with a response that it gave."""
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for interaction in recorder.get("interactions", {}).values():
            yield recorder["label"], interaction["response"]


def error_name(response: Any) -> str:
    if response["status_code"] < 400:  # not all results are JSON
        return ""
    body = json.loads(base64.b64decode((response["content"] or {}).get("$base64", "")) or "null")
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("name", "") if isinstance(error, dict) else ""


@pytest.mark.timeout(900)
def test_every_operation_does_what_the_document_says(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster("--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
    report = tmp_path / "report.ndjson"
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
    ]
    command += [f"{cluster.http}/openapi.json", "--checks=all", f"--max-examples={EXAMPLES}", "--seed=1"]
    command += ["--continue-on-failure", "--generation-database=none", f"--report-ndjson-path={report}"]
    environment = os.environ | {
        "PYTHONPATH": str(HERE)
    }  # for its hooks; what it leaves behind goes elsewhere
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr

    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    names = set()
    replayed = 0
    for operation, response in interactions(report):
        assert response is not None, operation
        statuses[operation][response["status_code"]] += 1
        names.add(error_name(response))
        replayed += "idempotency-replayed" in response["headers"]
    assert max(max(seen) for seen in statuses.values()) < 500
    operations = {f"{verb.upper()} {path}" for path, verbs in document()["paths"].items() for verb in verbs}
    operations.remove("GET /openapi.json")  # that is where it has the document from
    assert set(statuses) == operations
    assert not [operation for operation in operations if not statuses[operation][200]]
    assert names >= SEEN
    assert any(seen[402] for seen in statuses.values())
    assert replayed

    audit = Process("audit", "--store", cluster.store_url)
    assert audit.wait() == 0, audit.lines
