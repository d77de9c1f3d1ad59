"""`ratel up` from start to stop: what survives, what is restarted, what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.storage.store import StoreConnection
from rater.store.keys import RATERS
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF, Cluster, Process, StartCluster

LOAD_SAMPLE = ("--load", str(SAMPLE_TARIFF), "--tenant", "vdf")
FREE_PORTS = tuple(word for door in ("jsonrpc", "http", "router") for word in (f"--{door}", "127.0.0.1:0"))


def eventually(check: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something that another process does."""
    give_up_s = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.02)


def debit(cluster: Cluster, amount: int) -> Any:
    with cluster.client(timeout_s=30.0) as client:
        return client.call(
            "DebitBalance", {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257", "Amount": amount}
        )


def test_balances_survive_a_restart_and_a_kill_of_every_process(start_cluster: StartCluster) -> None:
    cluster = start_cluster(*LOAD_SAMPLE)
    left = debit(cluster, 7)
    cluster.stop()

    cluster = start_cluster(*LOAD_SAMPLE)  # loads again: the live balance stays
    assert debit(cluster, 1) == left - 1
    cluster.kill_everything()

    cluster = start_cluster()  # the tariff is still there, too
    assert debit(cluster, 1) == left - 2


def test_children_that_die_come_back_at_the_same_place(start_cluster: StartCluster) -> None:
    cluster = start_cluster(*LOAD_SAMPLE)
    left = debit(cluster, 1)
    for part in ("common.cli rater", "common.cli balancer", "valkey-server", "redis-server"):
        for pid in cluster.processes(part):
            os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return debit(cluster, 0) == left
        except Exception:
            return False

    eventually(answers)
    assert len(cluster.rater_pids()) == 2


def test_a_new_tariff_is_picked_up_and_live_balances_stay(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = start_cluster(*LOAD_SAMPLE)
    left = debit(cluster, 3)
    objects = json.loads((SAMPLE_TARIFF / "activation_periods.json").read_text())
    for rate in objects:
        for period in rate["ActivationPeriods"]:
            for interval in period["Intervals"]:
                interval["Price"] = interval["Price"] * 2
    changed = tmp_path / "activation_periods.json"
    changed.write_text(json.dumps(objects))
    with StoreConnection(cluster.store_url) as store:
        eventually(lambda: store.execute([("HLEN", RATERS)]) == [2])
    call = ("/getcost", {"cstmid": "vdf", "subj": "rif", "dest": "0256", "start": "2012-02-02T17:30:00Z"})
    _, before = cluster.get(call[0], **call[1])
    loaded = subprocess.run(
        [*RATEL, "load", "--store", cluster.store_url, str(changed)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "picked up by 2 raters" in loaded.stdout
    _, after = cluster.get(call[0], **call[1])
    assert after["Cost"] == 2 * before["Cost"] > 0
    assert debit(cluster, 0) == left


def test_requests_that_arrive_before_any_tariff_wait_for_it(
    start_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATEL_DEADLINE", "30000")  # to load one takes seconds on a busy machine
    cluster = Cluster(tmp_path / "data")
    try:
        hint = cluster.up.wait_for_line("waiting for a tariff")
        assert "ratel load --store" in hint
        cluster.store_url = cluster.up.wait_for_line("store").split()[1]
        cluster.http = cluster.up.wait_for_line("http ").split()[1]
        assert cluster.get("/healthz")[0] == 200
        assert cluster.get("/readyz")[0] == 503
        answers: list[tuple[int, Any]] = []
        target = "/getcost?cstmid=vdf&subj=rif&dest=0256"
        waiting = threading.Thread(target=lambda: answers.append(cluster.get(target)))
        waiting.start()
        subprocess.run(
            [*RATEL, "load", "--store", cluster.store_url, "--tenant", "vdf", str(SAMPLE_TARIFF)],
            check=True,
            capture_output=True,
        )
        waiting.join()
        assert answers[0][0] == 200
        cluster.wait_ready()
        assert cluster.get("/readyz")[0] == 200
    finally:
        cluster.stop()


def test_stopping_answers_what_is_in_flight_and_exits_with_0(start_cluster: StartCluster) -> None:
    cluster = start_cluster(*LOAD_SAMPLE)
    pids = cluster.processes()
    assert len(pids) == 4
    cluster.up.process.send_signal(signal.SIGINT)
    assert cluster.up.wait() == 0
    assert cluster.up.lines[-1] == "stopped"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*RATEL, "up", "--data", str(tmp_path / "data"), *FREE_PORTS, "--http", where],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"can't listen on {where}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_folder_serves_one_cluster_at_a_time(start_cluster: StartCluster, tmp_path: Path) -> None:
    start_cluster(*LOAD_SAMPLE)
    second = Process("up", "--data", str(tmp_path / "data"), *FREE_PORTS)
    assert second.wait() == 1


def test_a_tariff_with_errors_stops_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "destinations.json"
    broken.write_text('[{"Id": "x", "Prefixes": []')
    up = Process("up", "--data", str(tmp_path / "data"), *FREE_PORTS, "--load", str(broken))
    assert up.wait() == 1


def test_the_store_can_be_told_to_force_every_change_to_the_disk(start_cluster: StartCluster) -> None:
    cluster = start_cluster(*LOAD_SAMPLE, "--durability", "always")
    with StoreConnection(cluster.store_url) as store:
        assert store.execute([("CONFIG", "GET", "appendfsync")]) == [[b"appendfsync", b"always"]]
    assert debit(cluster, 1) == debit(cluster, 0)


def test_a_store_that_runs_elsewhere_is_used_instead(start_cluster: StartCluster, tmp_path: Path) -> None:
    first = start_cluster(*LOAD_SAMPLE)
    left = debit(first, 1)
    second = start_cluster("--store", first.store_url, data=tmp_path / "unused")
    assert debit(second, 1) == left - 1
    assert not (tmp_path / "unused").exists()
    assert len(second.processes()) == 3
    second.stop()
