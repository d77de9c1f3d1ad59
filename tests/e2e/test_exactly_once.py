"""Many clients on one account, requests sent twice, raters killed under load: no cent lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from common.storage.store import StoreConnection
from rater.store.keys import account_keys
from tests.e2e.cluster import Cluster, StartCluster
from tests.stored import account_fields, line_fields

TENANT = "shop"
CONNECTIONS = 32
DEBITS_EACH = 150
OPENING_CENTS = 1_000_000


@pytest.fixture
def cluster(start_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Its journals keep all lines, however long a test takes."""
    monkeypatch.setenv("RATEL_RATER_JOURNAL_LINES", "10000000")
    budgets = tmp_path / "user_budgets.json"
    budgets.write_text(f'[{{"Id": "hot", "Credit": {OPENING_CENTS}, "SmsCredit": 0}}]')
    rates = tmp_path / "activation_periods.json"
    rates.write_text(
        '[{"CstmId": "shop", "Subject": "*any", "DestinationPrefix": "0", "ActivationPeriods":'
        ' [{"ActivationTime": "2012-01-01T00:00:00Z", "Intervals": [{"Price": 1, "BillingUnit": 60}]}]}]'
    )
    return start_cluster("--raters", "3", "--load", str(rates), "--load", str(budgets))


def _debit(request_id: str, amount: int) -> dict[str, Any]:
    return {"CstmId": TENANT, "Subject": "hot", "Amount": amount, "RequestId": request_id}


def _amount(connection: int, number: int) -> int:
    """Different for different requests, so that a mix-up of two shows in the sum."""
    return 1 + (connection * 7 + number * 3) % 11


def _send_all(cluster: Cluster, connection: int) -> list[Any]:
    calls = [
        ("DebitBalance", _debit(f"{connection}/{number}", _amount(connection, number)))
        for number in range(DEBITS_EACH)
    ]
    with cluster.client(timeout_s=60.0) as client:
        return client.call_many(calls)


TOTAL = sum(_amount(connection, number) for connection in range(CONNECTIONS) for number in range(DEBITS_EACH))


def _journal(cluster: Cluster) -> list[dict[str, str]]:
    with StoreConnection(cluster.store_url) as store:
        lines = store.execute([("XRANGE", account_keys(TENANT, "hot").journal, "-", "+")])[0]
    return [
        {name: text.decode() for name, text in line_fields(fields).items() if name != "buckets"}
        for _, fields in lines
    ]


def _check_journal(cluster: Cluster, debits: int, total: int) -> None:
    """The journal is a chain from the opening to the live balance, with every debit in it once."""
    opening, *lines = _journal(cluster)
    assert opening["op"] == "Open"
    assert len(lines) == debits
    assert len({line["token"] for line in lines}) == debits
    credit = int(opening["credit"])
    for seq, line in enumerate(lines, int(opening["seq"]) + 1):
        credit -= int(line["amount"])
        assert (int(line["seq"]), int(line["credit"])) == (seq, credit)
    assert credit == (OPENING_CENTS - total) * 1_000_000
    with StoreConnection(cluster.store_url) as store:
        live = store.execute([("GET", account_keys(TENANT, "hot").account)])[0]
    assert int(account_fields(live)["credit"]) == credit


def test_concurrent_debits_of_one_account_add_up_and_replays_change_nothing(cluster: Cluster) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        first = list(pool.map(lambda n: _send_all(cluster, n), range(CONNECTIONS)))
        assert [left for answers in first for left in answers if not isinstance(left, int)] == []
        # All results differ: each debit saw the balance that its predecessor left.
        assert len({left for answers in first for left in answers}) == CONNECTIONS * DEBITS_EACH
        _check_journal(cluster, CONNECTIONS * DEBITS_EACH, TOTAL)

        again = list(pool.map(lambda n: _send_all(cluster, n), range(CONNECTIONS)))
    assert [left for answers in again for left in answers if not isinstance(left, int)] == []
    assert again == first
    _check_journal(cluster, CONNECTIONS * DEBITS_EACH, TOTAL)


def _steady_debits(cluster: Cluster, stop: threading.Event, connection: int) -> Iterator[int]:
    """Amounts of acknowledged debits; an error of any kind ends the test."""
    with cluster.client(timeout_s=60.0) as client:
        for number in count():
            if stop.is_set():
                return
            amount = _amount(connection, number)
            client.call("DebitBalance", _debit(f"{connection}/{number}", amount))
            yield amount


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("common.cli rater", signal.SIGKILL),
        ("common.cli rater", signal.SIGTERM),
        ("common.cli balancer", signal.SIGKILL),
        ("common.cli balancer", signal.SIGTERM),
        ("-server", signal.SIGKILL),
    ],
)
def test_parts_that_end_under_load_cost_no_client_an_error_and_no_debit(
    cluster: Cluster, part: str, how: signal.Signals
) -> None:
    """A rater, the balancer, the store: four of each, killed or told to stop."""
    stop = threading.Event()
    progress = threading.Semaphore(0)

    def work(connection: int) -> list[int]:
        amounts = []
        for amount in _steady_debits(cluster, stop, connection):
            amounts.append(amount)
            progress.release()
        return amounts

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(work, connection) for connection in range(8)]
        try:
            for _ in range(4):
                _await_debits(progress, 200)
                _await_raters(cluster, 3)
                struck = _running(cluster, part)
                os.kill(struck, how)
                while struck in cluster.processes(part) or not cluster.processes(part):
                    time.sleep(0.02)
            _await_debits(progress, 400)
        finally:
            stop.set()
        amounts = [amount for future in futures for amount in future.result()]
    _check_journal(cluster, len(amounts), sum(amounts))


def _running(cluster: Cluster, part: str) -> int:
    """The process id of one process of that part, once there is one."""
    while not (pids := cluster.processes(part)):
        pass
    return pids[0]


def _await_raters(cluster: Cluster, count: int) -> None:
    """Until so many are at work: a request on which two die is given up, rightly (`quarantined`).

    A killed one is counted until the balancer knows, which takes less than starting the next one.
    """
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s:
        if len(cluster.processes("common.cli rater")) < count:
            time.sleep(0.02)
            continue
        with contextlib.suppress(OSError):
            status, body = cluster.get("/readyz")
            if status == 200 and body["raters"] == count:
                return
        time.sleep(0.02)
    raise AssertionError(f"there are not {count} raters")


def _await_debits(progress: threading.Semaphore, debits: int) -> None:
    for _ in range(debits):
        assert progress.acquire(timeout=30)
