"""Every reference figure, through each door: JSON-RPC and HTTP of the balancer, JSON-RPC of a rater."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from common.client import JSONClient
from common.errors import RatelError
from common.storage.store import StoreConnection
from rater.accounts.mutations import parse_account, read_command
from rater.store.keys import account_keys
from tests.e2e.cluster import Cluster, Process, address
from tests.e2e.figures import ARITHMETIC, COSTS, DOORS, SESSION_TIMES, TENANT, Row, write_tariff

Ask = Callable[[str, dict[str, Any]], Any]
"""Method and call descriptor in, the result out; None when it is refused."""


class Figures(NamedTuple):
    cluster: Cluster
    doors: dict[str, Ask]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Figures]:
    folder = tmp_path_factory.mktemp("figures")
    tariff = write_tariff(folder / "tariff")
    cluster = Cluster(folder / "data", "--load", str(tariff))
    rater = None
    try:
        cluster.wait_ready()
        rater = Process("rater", "--store", cluster.store_url, "--jsonrpc", "127.0.0.1:0")
        direct = address(rater.wait_for_line("listening jsonrpc=").partition("=")[2])
        with cluster.client() as tcp_client, JSONClient(direct) as direct_client:
            doors = {
                "tcp": _over_tcp(tcp_client),
                "http": _over_http(cluster),
                "direct": _over_tcp(direct_client),
            }
            yield Figures(cluster, doors)
        assert rater.terminate() == 0
        rater = None
    finally:
        if rater is not None:
            rater.kill()
        cluster.stop()


def _over_tcp(client: JSONClient) -> Ask:
    def ask(method: str, cd: dict[str, Any]) -> Any:
        try:
            return client.call(f"Responder.{method}", cd)
        except RatelError as error:
            if error.name not in ("insufficient_seconds", "insufficient_credit", "insufficient_sms"):
                raise
            return None

    return ask


def _over_http(cluster: Cluster) -> Ask:
    names = {
        "Subject": "subj",
        "DestinationPrefix": "dest",
        "CstmId": "cstmid",
        "Amount": "amount",
        "TimeStart": "start",
        "TimeEnd": "end",
    }

    def ask(method: str, cd: dict[str, Any]) -> Any:
        query = "&".join(f"{names[field]}={quote(str(value))}" for field, value in cd.items())
        status, body = cluster.get(f"/{method.lower()}?{query}")
        assert status in (200, 402), body
        return body if status == 200 else None

    return ask


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("subject", "number", "start", "end", "cost", "prefix"), COSTS)
def test_the_cost_of_a_call(
    figures: Figures, door: str, subject: str, number: str, start: str, end: str, cost: float, prefix: str
) -> None:
    cd = {
        "CstmId": TENANT,
        "Subject": subject,
        "DestinationPrefix": number,
        "TimeStart": start,
        "TimeEnd": end,
    }
    result = figures.doors[door]("GetCost", cd)
    assert Decimal(str(result["Cost"])) == Decimal(str(cost))
    assert result["DestinationPrefix"] == prefix
    assert result["Timespans"][0]["TimeStart"] == start
    assert result["Timespans"][-1]["TimeEnd"] == end


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("subject", "asked", "granted"), SESSION_TIMES)
def test_the_longest_session(figures: Figures, door: str, subject: str, asked: int, granted: int) -> None:
    cd = {"CstmId": TENANT, "Subject": subject, "DestinationPrefix": "0723", "Amount": asked}
    assert figures.doors[door]("GetMaxSessionTime", cd) == granted


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("row", ARITHMETIC, ids=lambda row: row.name)
def test_budget_arithmetic(figures: Figures, door: str, row: Row) -> None:
    subject = f"{row.name}@{door}"
    cd = {"CstmId": TENANT, "Subject": subject, "DestinationPrefix": "0723", "Amount": row.amount}
    assert figures.doors[door](row.method, cd) == row.result
    assert row.left.items() <= _account(figures.cluster, subject).items()


def _account(cluster: Cluster, subject: str) -> dict[str, int]:
    """Whole units of an account as the store has it."""
    with StoreConnection(cluster.store_url) as store:
        [[value]] = store.execute([read_command([account_keys(TENANT, subject).account])])
    account = parse_account(subject, value)
    assert account is not None
    micros = {
        "credit": account.credit_micros,
        "sms": account.sms_micros,
        "received": account.received_us,
    } | {bucket.destination: bucket.seconds_us for bucket in account.buckets}
    assert not any(value % 1_000_000 for value in micros.values())
    return {name: value // 1_000_000 for name, value in micros.items()}
