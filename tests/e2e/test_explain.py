"""Explain through each door, and `ratel explain`: the figures of GetCost, with their reasons."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from common.commands.call_command import encode_result
from common.errors import RatelError
from tests.e2e.cluster import RATEL, Cluster

HOUR = {"TimeStart": "2012-02-02T17:30:00Z", "TimeEnd": "2012-02-02T18:30:00Z"}
CALL = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256308200"}


def ratel(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    host, port = cluster.jsonrpc
    environment = os.environ | {"RATEL_ADDRESS": f"{host}:{port}"}
    return subprocess.run(
        [*RATEL, *words], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_both_gateways_say_the_same(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        answer: Any = client.call("Explain", CALL | HOUR)
        cost = client.call("GetCost", CALL | HOUR)
    status, over_http = sample_cluster.get(
        "/explain", cstmid="vdf", subj="rif", dest="0256308200", start=HOUR["TimeStart"], end=HOUR["TimeEnd"]
    )
    spans = json.loads(encode_result(answer["Timespans"]))
    assert (status, over_http["Cost"], over_http["Timespans"]) == (200, 540, spans)
    assert (answer["Verdict"], answer["Cost"]) == ("ok", cost["Cost"])
    assert [span["Cost"] for span in answer["Timespans"]] == [span["Cost"] for span in cost["Timespans"]]


def test_without_times_the_call_begins_now(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        plain, asked = client.call("Explain", CALL), client.call("Explain", CALL | {"Amount": 600})
    assert plain["MaxSessionTime"]["Asked"] == 60
    assert asked["MaxSessionTime"]["Asked"] == 600
    assert sum(span["Seconds"] for span in asked["Timespans"]) == 600  # a border of the day may lie in it


def test_what_is_wrong_with_the_question_is_an_error(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        for wrong, name in (
            ({"TimeStart": HOUR["TimeStart"]}, "invalid_params"),
            ({"TimeStart": "yesterday", "TimeEnd": "today"}, "invalid_params"),
            ({"CstmId": "nobody"}, "unknown_tenant"),
            (HOUR | {"TimeEnd": "2013-02-02T18:30:00Z"}, "call_too_long"),
            ({"Amount": 10**9}, "call_too_long"),
        ):
            with pytest.raises(RatelError) as raised:
                client.call("Explain", CALL | wrong)
            assert raised.value.name == name


def test_the_command(sample_cluster: Cluster) -> None:
    times = ("--start", HOUR["TimeStart"], "--end", HOUR["TimeEnd"])
    done = ratel(sample_cluster, "explain", "vdf", "rif", "0256308200", *times, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["Cost"] == 540
    nothing = ratel(sample_cluster, "explain", "vdf", "rif", "999")
    assert (nothing.returncode, json.loads(nothing.stdout)["Verdict"]) == (1, "no_rate")
    alone = ratel(sample_cluster, "explain", "vdf", "rif", "0256", "--start", HOUR["TimeStart"])
    answer = json.loads(alone.stdout)
    assert (alone.returncode, answer["TimeStart"], answer["TimeEnd"]) == (
        0,
        "2012-02-02T17:30:00Z",
        "2012-02-02T17:31:00Z",
    )
    alone = ratel(sample_cluster, "explain", "vdf", "rif", "0256", "--end", HOUR["TimeEnd"])
    assert (alone.returncode, "--end needs --start" in alone.stderr) == (2, True)
    wrong = ratel(sample_cluster, "explain", "vdf", "rif", "0256", "--seconds", "long")
    assert (wrong.returncode, "expected a number" in wrong.stderr) == (2, True)
