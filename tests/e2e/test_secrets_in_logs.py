"""Subscribers' numbers, parameters and secrets are in no log, at any level, whatever goes wrong.

Every process logs at debug and inherits this one's stderr, where the marks are looked for at the end.
"""

from __future__ import annotations

import http.client
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from common.errors import RatelError
from common.wire import encode_join
from common.zmq_client import ZmqClient
from tests.e2e.cluster import Process
from tests.e2e.keyed import RED, KeyedCluster, Line, authenticate, message

NUMBER, DIALLED, REQUEST_ID = "40712345678", "40799887766", "rid-5566778899"
WRONG_KEY = "ratel_0badc0ffee_" + "5ec7e7" * 10 + "abcd"
PASSWORD = "pa55w0rd-of-the-store"
MARKS = (NUMBER, DIALLED, "5ec7e7", PASSWORD)
"""Not the request's own id, by which a request is found from the log to the journal."""

CALL = (
    f'{{"CstmId":"{RED}","Subject":"{NUMBER}","DestinationPrefix":"{DIALLED}","Amount":1,"RequestId":"{REQUEST_ID}",'
    '"TimeStart":"2026-02-02T17:30:00Z","TimeEnd":"2026-02-02T18:30:00Z"}'
)
METHODS = (
    "GetCost",
    "DebitBalance",
    "DebitSMS",
    "DebitSeconds",
    "ResetUserBudget",
    "GetMaxSessionTime",
    "Explain",
    "No",
)


def talk_rpc(where: tuple[str, int], key: str | None) -> None:
    with Line(where, key) as line:
        line.ask([message(f"Responder.{method}", CALL) for method in METHODS])
        line.ask([message("Responder.GetCost", CALL[:-1]), CALL.encode(), authenticate(WRONG_KEY)])
        line.ask([message("Responder.DebitBalance", CALL.replace('"Amount":1', f'"Amount":"{NUMBER}"'))])
    with Line(where, key) as line, suppress(OSError):  # until it is given up
        line.socket.sendall(f"[{NUMBER}\n".encode() * 2000 + b"\xff" + NUMBER.encode())
    with Line(where, key) as line, suppress(OSError):
        line.socket.sendall(b'{"id":"' + NUMBER.encode() * 200_000)


def talk_http(cluster: KeyedCluster, key: str) -> None:
    target = f"?cstmid={RED}&subj={NUMBER}&dest={DIALLED}&amount=1&requestid={REQUEST_ID}"
    for given in (key, WRONG_KEY):
        for verb, path, body in (
            ("GET", f"/debitbalance{target}", b""),
            ("GET", f"/getcost{target}", b""),
            ("POST", "/debitsms", CALL.encode()),
            ("POST", "/debitsms", CALL.encode()[:-1]),
            ("POST", "/jsonrpc", message("Responder.DebitBalance", CALL)),
            ("GET", f"/{NUMBER}", b""),
            ("BREW", f"/getcost{target}", b""),
        ):
            connection = http.client.HTTPConnection(cluster.http.removeprefix("http://"), timeout=30)
            connection.request(verb, path, body, {"Authorization": f"Bearer {given}"})
            connection.getresponse().read()
            connection.close()


def talk_zeromq(cluster: KeyedCluster) -> None:
    """As a program of the cluster's own, and as one that speaks nonsense."""
    with ZmqClient(cluster.router, timeout_s=5) as client:
        for method in METHODS[:-1]:
            with suppress(RatelError):
                client.call(
                    method, {"CstmId": RED, "Subject": NUMBER, "DestinationPrefix": DIALLED, "Amount": 1}
                )
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://{cluster.router}")
        for frame in (NUMBER.encode(), b"\x95\x01" + NUMBER.encode(), encode_join("x" * 65)):
            dealer.send(frame)
        dealer.send_multipart([CALL.encode(), NUMBER.encode()])
        dealer.poll(200)


def test_no_number_no_parameter_and_no_secret_is_in_any_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = KeyedCluster(tmp_path, "--log-level", "debug")
    outside = Process(
        *("rater", "--store", f"redis://u:{PASSWORD}@127.0.0.1:1/0", "--balancer", "127.0.0.1:1"),
        *("--log-level", "debug"),
    )
    try:
        cluster.wait_ready()
        for where in (cluster.jsonrpc, cluster.direct):
            talk_rpc(where, cluster.red)
            talk_rpc(where, None)
        talk_http(cluster, cluster.red)
        talk_zeromq(cluster)
        with Line(cluster.jsonrpc, cluster.red) as line, Line(cluster.direct, cluster.red) as direct:
            [store] = cluster.processes("valkey")
            os.kill(store, signal.SIGKILL)
            for each in (line, direct):
                each.ask([message("Responder.DebitBalance", CALL)] * 3)
            os.kill(cluster.rater_pids()[0], signal.SIGKILL)
            line.ask([message("Responder.DebitBalance", CALL)] * 3)
    finally:
        cluster.stop()
        outside.terminate()
    printed = "".join(capfd.readouterr())
    for part in (
        "balancer.router rater=",
        "undecided=",
        "child=rater-1 ended",
        "common.security.key_file api keys=2",
    ):
        assert part in printed, "what is looked at is not what the processes wrote"
    assert "level=debug" in printed
    for mark in (*MARKS, cluster.red.rpartition("_")[2], cluster.blue.rpartition("_")[2]):
        found = [line for line in printed.splitlines() if mark in line]
        assert not found, mark
