"""/metrics of a real front and a real rater; what the dashboard and the alerts name is really there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster import RATEL, Cluster
from tests.integration.balancer_process import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
NAME = re.compile(r"\b(?:ratel|process)_[a-z_]+\b")
CALL = {"cstmid": "vdf", "subj": "rif", "dest": "0256"}


def scrape(url: str) -> str:
    with urlopen(url, timeout=PATIENCE_S) as response:
        assert response.headers["content-type"].startswith("text/plain; version=")
        return str(response.read().decode())


@pytest.fixture(scope="module")
def scrapes(sample_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of the front and of one rater more, after some requests."""
    log = tmp_path_factory.mktemp("rater") / "stderr"
    words = ["rater", "--metrics", "127.0.0.1:0", "--balancer", sample_cluster.router]
    words += ["--store", sample_cluster.store_url, "--name", "watched", "--jsonrpc", "127.0.0.1:0"]
    with log.open("wb") as stderr:
        rater = subprocess.Popen([*RATEL, *words], stderr=stderr, stdout=subprocess.PIPE, text=True)
    try:
        assert rater.stdout is not None
        line = rater.stdout.readline()
        port = int(line.rpartition(":")[2])
        with urlopen(f"{sample_cluster.http}/events", timeout=PATIENCE_S) as events:
            for event in events:
                if b'"watched"' in event and b'"working"' in event:
                    break
        from common.client import JSONClient

        with JSONClient(("127.0.0.1", port)) as client:
            params = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}
            hour = {"TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}
            client.call("Responder.GetCost", params | hour)
        assert sample_cluster.get("/getcost", **CALL)[0] == 200
        assert sample_cluster.get("/getcost", **CALL | {"cstmid": "nobody"})[0] == 404
        assert sample_cluster.get("/nothing")[0] == 404
        found = re.search(r"metrics=(http://\S+)", log.read_text())
        assert found, log.read_text()
        yield scrape(f"{sample_cluster.http}/metrics"), scrape(found[1])
    finally:
        rater.terminate()
        rater.communicate(timeout=PATIENCE_S)


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def value(text: str, name: str, **labels: str) -> float:
    [found] = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_a_front_tells_of_its_answers(scrapes: tuple[str, str]) -> None:
    front, _ = scrapes
    assert value(front, "ratel_front_requests_total", method="GetCost", outcome="unknown_tenant") >= 1
    answered = value(front, "ratel_front_requests_total", method="GetCost", outcome="ok")
    assert answered >= 1
    timed = value(front, "ratel_front_request_duration_seconds_count", method="GetCost")
    assert timed >= answered
    assert value(front, "ratel_front_request_duration_seconds_bucket", method="GetCost", le="+Inf") == timed
    assert value(front, "ratel_front_request_duration_seconds_sum", method="GetCost") > 0
    assert value(front, "ratel_front_work_batch_size_count") >= 2
    assert value(front, "ratel_front_refused_total", reason="not_found") >= 1
    assert value(front, "ratel_front_raters", state="working") == 3
    assert value(front, "ratel_front_rater_store_up", rater="watched") == 1
    assert value(front, "ratel_front_tariff_version", tenant="vdf") >= 1


def test_a_rater_tells_of_its_work(scrapes: tuple[str, str]) -> None:
    _, rater = scrapes
    assert value(rater, "ratel_rater_requests_total", method="GetCost", outcome="ok") >= 1
    assert value(rater, "ratel_rater_batch_size_count") >= 1
    assert value(rater, "ratel_rater_batch_duration_seconds_count") >= 1
    assert value(rater, "ratel_rater_store_round_trip_seconds_count") >= 1
    assert value(rater, "ratel_rater_store_up") == 1
    assert value(rater, "ratel_rater_store_failures_total", kind="timeout") == 0
    assert value(rater, "ratel_rater_tariff_version", tenant="vdf") >= 1
    assert value(rater, "ratel_rater_busy_seconds_total") > 0


def test_both_tell_of_their_process(scrapes: tuple[str, str]) -> None:
    for text in scrapes:
        assert value(text, "process_resident_memory_bytes") > 1_000_000
        assert value(text, "process_cpu_seconds_total") > 0


def test_nothing_names_a_subscriber(scrapes: tuple[str, str]) -> None:
    for text in scrapes:
        labels = {
            label
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            for label in sample.labels.values()
        }
        assert not labels & {"rif", "0256", "nobody"}


@pytest.mark.parametrize("file", ["ratel.rules.yml", "grafana.json"])
def test_whatever_dashboard_and_alerts_name_is_there(scrapes: tuple[str, str], file: str) -> None:
    named = set(NAME.findall((MONITORING / file).read_text()))
    assert len(named) >= 10
    told = names(scrapes[0]) | names(scrapes[1])
    # This store is no cluster: those have a value for each node, see tests/integration/test_cluster_looks.py.
    told |= set(re.findall(r"^# TYPE (ratel_rater_store_node_\w+)", scrapes[1], re.MULTILINE))
    assert named - {"ratel_version"} <= told


def test_the_table_in_the_docs_is_what_is_scraped(scrapes: tuple[str, str]) -> None:
    table = (ROOT / "docs" / "monitoring.md").read_text()
    documented = set(re.findall(r"^\| `(ratel_\w+)", table, re.MULTILINE))
    families = {family.name for text in scrapes for family in text_string_to_metric_families(text)}
    scraped = {name for name in families if name.startswith("ratel_")}
    counters = {name[: -len("_total")] if name.endswith("_total") else name for name in documented}
    assert counters == scraped


def test_the_dashboard_is_one() -> None:
    board = json.loads((MONITORING / "grafana.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 10
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        places = panel["gridPos"]
        assert places["x"] + places["w"] <= 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing (Debian: prometheus)"
)


@needs_promtool
def test_prometheus_itself_takes_the_scrapes_and_the_rules(scrapes: tuple[str, str]) -> None:
    for text in scrapes:
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    for words in (["rules", "ratel.rules.yml"], ["config", "prometheus.yml"]):
        checked = subprocess.run(
            ["promtool", "check", words[0], words[1]],
            capture_output=True,
            text=True,
            cwd=MONITORING,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    checked = subprocess.run(
        ["promtool", "test", "rules", "ratel.rules.test.yml"],
        capture_output=True,
        text=True,
        cwd=MONITORING,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
