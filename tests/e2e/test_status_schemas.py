"""What a running front tells of itself has the schemas that its OpenAPI document gives it, and no more."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import urlopen

import jsonschema_rs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster import Cluster

CALL = {"cstmid": "vdf", "subj": "rif", "dest": "0256"}
WAIT_EVENTS = 3


@pytest.fixture(scope="module")
def document(sample_cluster: Cluster) -> Any:
    for _ in range(3):
        assert sample_cluster.get("/getcost", **CALL)[0] == 200
    assert sample_cluster.get("/getcost", **CALL | {"cstmid": "nobody"})[0] == 404
    return sample_cluster.get("/openapi.json")[1]


def responses(document: Any, path: str) -> Any:
    return document["paths"][path]["get"]["responses"]


def check(document: Any, schema: Any, value: Any) -> None:
    """In what a front tells of itself `additionalProperties` is false: nothing else may be there."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    whole["components"] = document["components"]
    errors = [
        f"{error.instance_path}: {error.message}"
        for error in jsonschema_rs.validator_for(whole).iter_errors(value)
    ]
    assert errors == []


def content(document: Any, path: str, kind: str = "application/json", status: str = "200") -> Any:
    return responses(document, path)[status]["content"][kind]["schema"]


def events(cluster: Cluster) -> list[Any]:
    found: list[Any] = []
    with urlopen(f"{cluster.http}/events", timeout=30) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        for line in stream:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
            elif line.startswith(b"event: "):
                assert line == b"event: status\n"
            if len(found) == WAIT_EVENTS:
                return found
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("path", ["/status.json", "/whoami", "/healthz", "/readyz", "/openrpc.json"])
def test_an_answer_has_its_schema(sample_cluster: Cluster, document: Any, path: str) -> None:
    status, body = sample_cluster.get(path)
    assert status == 200
    check(document, content(document, path), body)


def test_events_and_history_have_their_schemas(sample_cluster: Cluster, document: Any) -> None:
    event_schema = content(document, "/events", "text/event-stream")["properties"]["data"]["contentSchema"]
    assert event_schema == {"$ref": "#/components/schemas/StatusEvent"}
    for event in events(sample_cluster):
        check(document, event_schema, event)
        assert event["raters"]
        assert event["methods"]["GetCost"]["outcomes"]["unknown_tenant"] >= 1
    assert event["second"]["all"]  # by then a second has passed
    _, with_history = sample_cluster.get("/status.json", history=1)
    check(document, content(document, "/status.json"), with_history)
    assert with_history["history"]


@pytest.mark.parametrize("query", ["history=2", "history=", "history=1&history=1"])
def test_a_history_that_is_none_is_refused(sample_cluster: Cluster, query: str) -> None:
    status, body = sample_cluster.get(f"/status.json?{query}")
    assert (status, body["error"]["message"]) == (400, "history: expected 1, once, or not at all")


def test_whatever_the_schemas_name_is_told(sample_cluster: Cluster, document: Any) -> None:
    """All that is required is there; so it is enough that a schema can't be fulfilled by less."""
    _, status = sample_cluster.get("/status.json")
    for name in document["components"]["schemas"]["Status"]["required"]:
        less = {key: value for key, value in status.items() if key != name}
        with pytest.raises(AssertionError):
            check(document, content(document, "/status.json"), less)
    with pytest.raises(AssertionError):
        check(document, content(document, "/status.json"), status | {"more": 1})


def test_metrics_are_the_text_that_they_are_said_to_be(sample_cluster: Cluster, document: Any) -> None:
    [kind] = responses(document, "/metrics")["200"]["content"]
    with urlopen(f"{sample_cluster.http}/metrics", timeout=30) as response:
        assert response.headers.get_content_type() == kind
        assert list(text_string_to_metric_families(response.read().decode()))
