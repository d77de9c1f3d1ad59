"""One request, one name: in the response, the logs of front and rater, the journal. And levels of logs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from common.errors import NoBucket, ShuttingDown, UnknownSubject, encode_error, with_log_id
from common.storage.store import StoreConnection
from common.zmq_client import ZmqClient
from rater.store.keys import account_keys
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF
from tests.integration.balancer_process import PATIENCE_S

SUBJECT = "rif"
DEBIT = f"/debitbalance?cstmid=vdf&subj={SUBJECT}&dest=0257&amount=1"


class Logged:
    """`ratel up` whose lines on stderr, and those of its parts, are in a file."""

    jsonrpc: str
    http: str
    router: str

    def __init__(self, folder: Path, *args: str) -> None:
        self.log = folder / "log"
        self.data = folder / "data"
        ports = [word for name in ("jsonrpc", "http", "router") for word in (f"--{name}", "127.0.0.1:0")]
        words = ["up", "--data", str(self.data), "--raters", "1", *ports, *args]
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*RATEL, *words, "--load", str(SAMPLE_TARIFF), "--tenant", "vdf"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, _, rest = line.strip().partition(" ")
            if name in ("http", "json-rpc", "router"):
                setattr(self, name.replace("-", ""), rest.split()[0].rstrip(","))
            if line.startswith("ready"):
                break

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE_S)

    def get(self, target: str, **headers: str) -> tuple[bytes, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with urlopen(Request(self.http + target, headers=named), timeout=PATIENCE_S) as response:
            return response.read(), response.headers["x-request-id"]

    def lines(self, part: str, count: int = 1) -> list[str]:
        """So many lines with that part, once they are there: logs are written a moment after the answer."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            found = [line for line in self.log.read_text().splitlines() if part in line]
            if len(found) >= count:
                return found
            assert time.monotonic() < until_s, f"{part!r} is in {found}"
            time.sleep(0.02)

    def journal_tokens(self) -> list[str]:
        with StoreConnection(f"embedded:{self.data}") as store:
            [entries] = store.execute([("XRANGE", account_keys("vdf", SUBJECT).journal, "-", "+")])
        text = repr(entries)
        return re.findall(r"[cg]:[\w.-]+", text)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    cluster = Logged(tmp_path_factory.mktemp("up"), "--log-level", "debug", "--log-format", "json")
    yield cluster
    cluster.stop()


def fields(lines: list[str], logger: str) -> Any:
    [found] = [json.loads(line) for line in lines if json.loads(line)["logger"] == logger]
    return found["fields"]


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "order-7"}], ids=["no key", "key"])
def test_a_debit_has_one_name_everywhere(cluster: Logged, headers: dict[str, str]) -> None:
    _, name = cluster.get(DEBIT, **headers)
    if headers:
        assert name == "c:order-7"
    else:
        assert re.fullmatch(r"g:[0-9a-f]{16}-\d+", name)
    lines = cluster.lines(f'"{name}"', 2)
    front = fields(lines, "balancer.router")
    assert front["id"] == name
    assert (front["method"], front["outcome"], front["attempts"]) == ("DebitBalance", "ok", 1)
    assert front["us"] > 0
    rater = fields(lines, "rater.outcome_log")
    assert rater["id"] == rater["token"] == name
    assert (rater["method"], rater["outcome"]) == ("DebitBalance", "ok")
    assert name in cluster.journal_tokens()


def test_an_id_that_only_the_parameters_hold_is_told_by_the_rater(cluster: Logged) -> None:
    cluster.get(f"{DEBIT}&requestid=param-1")
    rater = fields(cluster.lines('"c:param-1"'), "rater.outcome_log")
    assert rater["token"] == "c:param-1"
    assert rater["id"].startswith("g:")
    assert "c:param-1" in cluster.journal_tokens()


WRONG = {"CstmId": "vdf", "Subject": "nobody", "DestinationPrefix": "0257", "Amount": 1}


def over_tcp(cluster: Logged, params: dict[str, Any]) -> Any:
    call = {"jsonrpc": "2.0", "id": 1, "method": "Responder.DebitBalance", "params": params}
    host, _, port = cluster.jsonrpc.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.sendall(json.dumps(call).encode())
        return json.loads(line.makefile().readline())["error"]["data"]


def by_post(cluster: Logged, params: dict[str, Any]) -> Any:
    call = {"jsonrpc": "2.0", "id": 1, "method": "Responder.DebitBalance", "params": params}
    body = json.dumps(call).encode()
    with urlopen(Request(f"{cluster.http}/jsonrpc", body), timeout=PATIENCE_S) as response:
        return json.load(response)["error"]["data"]


def over_http(cluster: Logged, params: dict[str, Any]) -> Any:
    with pytest.raises(HTTPError) as error:
        cluster.get(DEBIT.replace(f"subj={SUBJECT}", "subj=nobody"))
    with error.value as response:
        data = json.load(response)["error"]["data"]
        assert response.headers["x-request-id"] == data["log_id"]
    return data


def over_zeromq(cluster: Logged, params: dict[str, Any]) -> Any:
    with ZmqClient(cluster.router) as client, pytest.raises(UnknownSubject) as error:
        client.call("DebitBalance", params)
    return error.value.data


@pytest.mark.parametrize("door", [over_tcp, by_post, over_http, over_zeromq], ids=lambda door: door.__name__)
def test_an_error_has_the_name_that_it_has_in_the_logs(
    cluster: Logged, door: Callable[[Logged, dict[str, Any]], Any]
) -> None:
    data = door(cluster, WRONG)
    assert (data["tenant"], data["subject"]) == ("vdf", "nobody")
    name = data["log_id"]
    assert re.fullmatch(r"g:[0-9a-f]{16}-\d+", name) or door is over_zeromq
    lines = cluster.lines(f'"{name}"', 2)
    assert fields(lines, "balancer.router")["outcome"] == "unknown_subject"
    assert fields(lines, "rater.outcome_log")["id"] == name


def test_an_error_of_what_never_became_a_request_has_none(cluster: Logged) -> None:
    host, _, port = cluster.jsonrpc.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.sendall(b'{"jsonrpc":"2.0","id":1,"method":"Responder.Nothing","params":{}}')
        assert "log_id" not in json.loads(line.makefile().readline())["error"]["data"]


def test_a_key_that_is_quoted_stays_one_text() -> None:
    once = with_log_id(encode_error(NoBucket(subject='"}},"log_id":"x', destination="1")), 'c:a "b"')
    again = with_log_id(once, "g:1-2")
    for body, name in ((once, 'c:a "b"'), (again, "g:1-2")):
        data = json.loads(body)["data"]
        assert data == {"subject": '"}},"log_id":"x', "destination": "1", "log_id": name}
        assert body.count(b'"log_id":') == 1
    alone = with_log_id(encode_error(ShuttingDown()), "g:1-1")
    assert json.loads(alone)["data"] == {"log_id": "g:1-1"}
    assert with_log_id(with_log_id(encode_error(ShuttingDown()), "c:x"), "g:1-1") == alone, "not twice"


def test_no_line_holds_a_subscriber_or_a_number(cluster: Logged) -> None:
    _, name = cluster.get("/getcost?cstmid=vdf&subj=rif&dest=0256308299")
    cluster.lines(name, 2)
    text = cluster.log.read_text()
    assert not re.search(rf"\b{SUBJECT}\b", text)
    assert "0256308299" not in text


def test_debug_is_switched_while_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["balancer", *(f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router"))]
    with log.open("wb") as stderr:
        process = subprocess.Popen([*RATEL, *words, "--log-level", "warning"], stderr=stderr)
    try:
        # Until the handler is there, the signal would end the process; its mask in /proc says when.
        status = Path(f"/proc/{process.pid}/status")
        until_s = time.monotonic() + PATIENCE_S
        while not int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) >> signal.SIGUSR1 - 1 & 1:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        for level in ("debug", "warning"):
            os.kill(process.pid, signal.SIGUSR1)
            while f"log_level={level}" not in log.read_text():
                assert time.monotonic() < until_s
                time.sleep(0.02)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
