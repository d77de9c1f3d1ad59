"""The benchmark itself, as small as it gets, and that it would notice a cluster that answers wrongly."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.bench.client import Load, RpcConnection, WrongReply
from loadtests.bench.figures import BARE, RATE, SCRIPTS, TRIPS
from loadtests.bench.plan import Parts, Shape
from loadtests.bench.requests import Pool, Request, encode_rpc, place_of
from loadtests.scaling.measure import Case, measure
from tests.e2e.cluster import ROOT

SMALL = (
    "--workloads=DebitBalance hot,mix --shapes=1x1,4x4 --http=2 --open=0.5 --rounds=1 --seconds=0.1 "
    "--accounts=30 --requests=2000 --prefixes=20 --raters=2 --keys"
)


def test_a_whole_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    words = [*SMALL.replace(" --", "\n--").splitlines(), f"--json={file}"]
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {(row["workload"], row["wire"], row["load"]): row for row in json.loads(file.read_text())["rows"]}
    loads = [("rpc", "1x1"), ("rpc", "4x4"), ("rpc", "50%"), ("http", "2x1"), ("http", "50%")]
    for workload in ("DebitBalance hot", "mix"):
        for wire, load in loads:
            row = rows[workload, wire, load]
            assert row["answered"] > 0, row
            assert row["errors"] == row["unanswered"] == 0, row
            assert row["latency_ms"]["p50"]["median"] > 0, row
            assert set(row["cpu_us"]) == {"store", "balancer", "rater 1", "rater 2", "up", "client"}
            assert row["cpu_us"]["balancer"]["median"] > 0, row
            assert f"| {workload}" in done.stdout
    assert sum(row["checked"] for row in rows.values()) > 0
    assert {BARE, SCRIPTS, TRIPS, RATE} <= set(rows["DebitBalance hot", "rpc", "1x1"]["ratios"])


@pytest.mark.parametrize(("gateways", "balancers"), [(2, 1), (0, 2), (2, 2)])
def test_clusters_of_other_parts(gateways: int, balancers: int) -> None:
    parts = Parts(1, gateways, balancers)
    busy, idle = (Case(parts, "DebitBalance spread", Shape(8, 4), count) for count in (0, 20))
    runs = measure([busy, idle], rounds=1, seconds=0.1, tell=lambda _: None)
    for case in (busy, idle):
        cpu_us = runs[case].cpu_us
        kinds = {"store", "balancer", "rater", "client"}
        kinds |= ({"gateway"} if gateways else set()) | ({"up"} if balancers == 1 else set())
        assert set(cpu_us) == kinds
        assert min(cpu_us[kind] for kind in kinds - {"up"}) > 0
        assert runs[case].per_s > 0


@contextmanager
def server(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, int]]:
    """Answers the lines of one connection."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                try:
                    connection.sendall(answer(line))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[:2]
        thread.join(60)


def load(address: tuple[str, int]) -> Load:
    requests = [Request("GetMaxSessionTime", {}, place * 1000) for place in range(100)]
    return Load(RpcConnection, address, 1, Pool(requests, encode_rpc))


def reply(line: bytes, *, result: int | None = None, error: str = "null") -> bytes:
    number = json.loads(line)["id"]
    right = place_of(str(number).encode())
    return b'{"id":%d,"result":%d,"error":%b}\n' % (
        number,
        right if result is None else result,
        error.encode(),
    )


def test_right_replies_are_counted() -> None:
    with server(reply) as address, load(address) as client:
        outcome = client.closed_loop(3, 0.05)
        assert outcome.sent == len(outcome.latencies_s) >= outcome.in_time > 0
        assert outcome.checked
        assert not outcome.failed
        opened = client.open_loop(200.0, 0.1)
        assert opened.sent == len(opened.latencies_s) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        lambda line: reply(line, result=12_345),
        lambda line: reply(line) * 2,
        lambda line: reply(line.replace(b'"id":1', b'"id":2')),
    ],
    ids=["result", "twice", "id"],
)
def test_wrong_replies_are_noticed(wrong: Callable[[bytes], bytes]) -> None:
    with server(wrong) as address, load(address) as client, pytest.raises(WrongReply):
        client.closed_loop(1, 5.0)


def test_errors_are_counted_and_kept() -> None:
    with server(lambda line: reply(line, error='"overloaded: busy"')) as address, load(address) as client:
        outcome = client.closed_loop(1, 0.05)
    assert len(outcome.failed) == outcome.sent > 0
    assert outcome.in_time == 0
    assert "overloaded" in outcome.failures[0]
