"""Locust against a cluster: a short day of calls with locust's own workers, and the reckoning behind it."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlencode

import pytest

from common.storage.store import StoreConnection
from loadtests.calls.__main__ import write
from loadtests.calls.books import EXIT_MONEY, Books
from loadtests.calls.plan import TENANT, subject
from rater.accounts.mutation import Mutation
from rater.accounts.mutations import mutation_command
from rater.store.keys import account_keys
from rater.store.scripts import execute
from tests.e2e.cluster import ROOT, Cluster

SUBSCRIBERS = 40


def locust(cluster: Cluster, *words: str) -> list[str]:
    host, port = cluster.jsonrpc
    return [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary", "--host", cluster.http),
        *("-f", f"{ROOT / 'loadtests' / 'locustfile.py'},{ROOT / 'loadtests' / 'busy_hours.py'}"),
        *("--address", f"{host}:{port}", "--subscribers", str(SUBSCRIBERS), "--channels", "5"),
        *("--day", "6", "--peak", "4", "--speed", "120"),
        *words,
    ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("calls")
    write(folder / "tariff", SUBSCRIBERS)
    cluster = Cluster(folder / "data", "--load", str(folder / "tariff"))
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()


def test_a_short_day_with_two_workers_agrees_to_the_cent(cluster: Cluster, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = subprocess.run(
        locust(cluster, "--processes", "2", "--html", str(report)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    charged = re.search(
        r"money: ([\d.]+) cents were charged, and the balances of 40 accounts agree", done.stdout
    )
    assert charged, done.stdout
    assert float(charged[1]) > 0
    calls = re.search(r"calls: (\d+) authorized, \d+ refused, (\d+) ended", done.stdout)
    assert calls
    assert int(calls[1]) >= int(calls[2]) > 0
    for name in ("JSON-RPC", "DebitBalance", "/debitbalance", "/getmaxsessiontime"):
        assert name in done.stderr  # locust's own table
        assert name in report.read_text()


def test_what_is_settled_is_the_very_debit_that_was_begun(cluster: Cluster) -> None:
    """Of the call that a billing system's end leaves open over HTTP, and a switch's over JSON-RPC."""
    debit = Books().begin(subject(1), "0256123", Decimal("4.50"))
    query = {"cstmid": TENANT, "subj": debit.subject, "dest": debit.number, "amount": debit.amount}
    request = urllib.request.Request(
        f"{cluster.http}/debitbalance?{urlencode(query)}", headers={"Idempotency-Key": debit.request_id}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        first = Decimal(response.read().decode())
    with cluster.client() as client:
        assert [client.call("DebitBalance", debit.fields) for _ in range(2)] == [first, first]


def test_a_cent_that_is_lost_fails_the_run(cluster: Cluster) -> None:
    """Somebody else takes a cent meanwhile: the balances then disagree with what was acknowledged."""
    process = subprocess.Popen(
        locust(cluster, "SwitchUser"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "accounts," in line:  # the opening balances are read
                break
        victim = subject(0)
        theft = Mutation(
            method="DebitBalance",
            tenant=TENANT,
            subject=victim,
            token="g:theft",
            token_ttl_ms=60_000,
            amount_micros=1,
        )
        with StoreConnection(cluster.store_url) as store:
            execute(store, [mutation_command(account_keys(TENANT, victim), theft)])
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == EXIT_MONEY, out
    assert f"money: {victim}: expected" in out
    assert "money: 1 disagreements" in out
