"""The examples that users of this API know: both Python snippets and every URL, as they are printed.

They are run on the ports that they name when these are free, else with the ports replaced.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import Any
from urllib.request import urlopen

import pytest

from common.client import JSONClient
from tests.e2e.cluster import Cluster

CD = {
    "Tor": 0,
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}

URLS = {
    "http://127.0.0.1:8000/getcost?cstmid=vdf&subj=rif&dest=0257": dict,
    "http://127.0.0.1:8000/debitbalance?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/debitsms?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/debitseconds?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/getmaxsessiontime?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/addvolumediscountseconds?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/resetvolumediscountseconds?cstmid=vdf&subj=rif&dest=0257": int,
    "http://127.0.0.1:8000/addrecievedcallseconds?cstmid=vdf&subj=rif&dest=0257@amount=100": int,
    "http://127.0.0.1:8000/resetuserbudget?cstmid=vdf&subj=rif&dest=0257": int,
}


def test_the_smallest_snippet(sample_cluster: Cluster) -> None:
    cd = CD
    s = socket.create_connection(sample_cluster.jsonrpc)
    s.sendall(json.dumps({"id": 1, "method": "Responder.Get", "params": [cd]}).encode())
    reply = json.loads(s.recv(4096))
    s.close()

    assert reply["id"] == 1
    assert reply["error"] is None
    assert reply["result"]["Cost"] == 540
    assert reply["result"]["DestinationPrefix"] == "0256"
    assert [span["Cost"] for span in reply["result"]["Timespans"]] == [360, 180]


def test_the_snippet_with_the_client(sample_cluster: Cluster) -> None:
    cd = CD
    with JSONClient(sample_cluster.jsonrpc) as rpc:
        result = rpc.call("Responder.Get", cd)
    assert result["Cost"] == 540


def fetch(url: str) -> tuple[str, str]:
    """Status and body, with curl as in the examples where there is one."""
    if shutil.which("curl") is None:
        with urlopen(url, timeout=60) as response:
            return str(response.status), response.read().decode()
    command = ["curl", "-sS", "-w", "\n%{http_code}", url]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    body, _, status = done.stdout.decode().rpartition("\n")
    return status, body


@pytest.mark.parametrize("url", URLS)
def test_every_url_with_curl(sample_cluster: Cluster, url: str) -> None:
    status, body = fetch(url.replace("http://127.0.0.1:8000", sample_cluster.http))
    assert status == "200", body
    assert isinstance(json.loads(body), URLS[url])


def test_the_debiting_urls_change_the_account_by_their_amount(sample_cluster: Cluster) -> None:
    def ask(name: str, query: str = "dest=0257@amount=100") -> Any:
        status, body = sample_cluster.request("GET", f"/{name}?cstmid=vdf&subj=rif&{query}")
        assert status == 200, body
        return body

    for name in ("debitbalance", "debitsms", "debitseconds"):
        assert ask(name) - ask(name) == 100
    assert ask("resetvolumediscountseconds", "dest=0257") == 0
    assert ask("addvolumediscountseconds") == 100
    assert ask("addvolumediscountseconds") == 200
    assert ask("getmaxsessiontime") == 100
