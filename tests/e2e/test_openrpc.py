"""A running cluster answers `rpc.discover`, and what follows from the document: its examples succeed."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

import jsonschema_rs
import pytest

from common.api.openrpc import document
from common.client import JSONClient
from common.methods import BY_RPC_NAME
from tests.e2e.cluster import Cluster

DOCUMENT = document()


def test_discover_is_answered_over_tcp_and_http(sample_cluster: Cluster) -> None:
    question = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover","params":[]}'
    with socket.create_connection(sample_cluster.jsonrpc) as connection, connection.makefile("rb") as lines:
        connection.sendall(question)
        assert json.loads(lines.readline())["result"] == DOCUMENT
    with urllib.request.urlopen(f"{sample_cluster.http}/jsonrpc", question, timeout=60) as response:
        assert json.load(response)["result"] == DOCUMENT
    with urllib.request.urlopen(f"{sample_cluster.http}/openrpc.json", timeout=60) as response:
        assert json.load(response) == DOCUMENT


@pytest.mark.parametrize("name", [*BY_RPC_NAME, "rpc.discover"])
def test_the_examples_succeed_with_results_of_their_schemas(sample_cluster: Cluster, name: str) -> None:
    (method,) = [each for each in DOCUMENT["methods"] if each["name"] == name]
    (example,) = method["examples"]
    params = {each["name"]: each["value"] for each in example["params"]}
    call = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
    with socket.create_connection(sample_cluster.jsonrpc) as connection, connection.makefile("rb") as lines:
        connection.sendall(json.dumps(call).encode())
        reply: dict[str, Any] = json.loads(lines.readline())
    assert "error" not in reply, reply
    schema = method["result"]["schema"] | {"components": DOCUMENT["components"]}
    assert not [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(reply["result"])]


def test_an_error_is_one_of_those_that_the_method_names(sample_cluster: Cluster) -> None:
    call = {"CstmId": "vdf", "Subject": "nobody", "DestinationPrefix": "0257", "Amount": 1}
    with JSONClient(sample_cluster.jsonrpc) as client:
        outcomes = client.call_many([(name, call) for name in BY_RPC_NAME])
    components = DOCUMENT["components"]["errors"]
    for name, outcome in zip(BY_RPC_NAME, outcomes, strict=True):
        (method,) = [each for each in DOCUMENT["methods"] if each["name"] == name]
        codes = {components[ref["$ref"].rpartition("/")[2]]["code"] for ref in method["errors"]}
        assert not isinstance(outcome, Exception) or outcome.code in codes, (name, outcome)
