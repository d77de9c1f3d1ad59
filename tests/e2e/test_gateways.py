"""Gateways as processes of their own, and ZeroMQ clients: one API, and once is once, whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.addresses import Address
from common.client import JSONClient
from common.errors import InsufficientSms, MethodNotFound, RatelError, UnknownSubject
from common.zmq_client import ZmqClient
from rater.store.keys import account_keys
from tests.e2e.cluster import SAMPLE_TARIFF, Cluster
from tests.faults.nodes import RATEL, TENANT, Node, Site, free_address, wait_until
from tests.stored import account_fields, line_fields

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000}
COST = {
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`ratel up` with two gateways that share the ports."""
    cluster = Cluster(
        tmp_path_factory.mktemp("gateways") / "data",
        "--gateways",
        "2",
        "--load",
        str(SAMPLE_TARIFF),
        "--tenant",
        "vdf",
    )
    try:
        cluster.wait_ready()
        yield cluster
        cluster.stop()
    finally:
        cluster.kill_everything()


def test_up_runs_gateways_that_share_the_ports_and_a_balancer_without(shared: Cluster) -> None:
    assert len(shared.processes("common.cli gateway")) == 2
    assert len(shared.processes("common.cli balancer --jsonrpc none --http none")) == 1
    for _ in range(20):  # new connections each: the kernel shares them out
        with shared.client() as client:
            assert client.call("Responder.GetCost", COST)["Cost"] == 540
        assert shared.get("/getmaxsessiontime", cstmid="vdf", subj="rif", dest="0257", amount=100) == (
            200,
            100,
        )


def test_replays_and_refusals_pass_through_a_gateway(shared: Cluster) -> None:
    query = {"cstmid": "vdf", "subj": "rif", "dest": "0257"}
    first = shared.get("/debitbalance", {"Idempotency-Key": "k1"}, **query, amount=1)
    again = shared.get("/debitbalance", {"Idempotency-Key": "k1"}, **query, amount=1)
    assert first == again
    assert first[0] == 200
    status, body = shared.get("/debitbalance", {"Idempotency-Key": "k1"}, **query, amount=2)
    assert (status, body["error"]["name"]) == (422, "key_reused")
    status, body = shared.get("/debitbalance", **query | {"subj": "nobody"}, amount=1)
    assert (status, body["error"]["name"]) == (404, "unknown_subject")


def test_a_zeromq_client_gets_results_and_errors_in_their_places(shared: Cluster) -> None:
    account = {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257"}
    with ZmqClient(shared.router) as client:
        assert client.call("GetCost", COST)["Cost"] == 540
        with pytest.raises(UnknownSubject):
            client.call("DebitBalance", account | {"Subject": "nobody", "Amount": 1})
        debit = ("DebitBalance", account | {"Amount": 1})
        before = client.call("DebitBalance", account | {"Amount": 0})
        results = client.call_many(
            [debit] * 300
            + [("DebitSMS", account | {"Amount": 10**9}), ("NoSuchMethod", {}), ("Responder.GetCost", COST)]
        )
        assert sorted(results[:300], reverse=True) == [before - n for n in range(1, 301)]
        assert isinstance(results[300], InsufficientSms)
        assert isinstance(results[301], MethodNotFound)
        assert results[302]["Cost"] == 540


class Fleet:
    """Two balancers of a site, each with a life of its own, and gateways that ask both."""

    def __init__(self, site: Site, folder: Path, gateways: int) -> None:
        self.site = site
        routers = [word for balancer in site.balancers for word in ("--balancer", str(balancer.router))]
        self.addresses: list[tuple[Address, Address]] = [
            (free_address(), free_address()) for _ in range(gateways)
        ]
        self.nodes = [
            Node(
                f"gateway-{place}",
                [*RATEL, "gateway", *routers, "--jsonrpc", str(jsonrpc), "--http", str(http)],
                folder / f"gateway-{place}.log",
            )
            for place, (jsonrpc, http) in enumerate(self.addresses)
        ]
        for node in self.nodes:
            node.start()
            wait_until(lambda node=node: node.says("listening"), "a gateway listens")  # type: ignore[misc]

    def client(self, **options: Any) -> JSONClient:
        return JSONClient([str(jsonrpc) for jsonrpc, _ in self.addresses], **options)

    def end(self) -> None:
        for node in self.nodes:
            if node.alive:
                node.kill()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    options = ["--journal-lines", "1000000"]
    with Site(tmp_path / "site", raters=2, balancers=2, rater_options=options) as site:
        site.start(ACCOUNTS)
        fleet = Fleet(site, tmp_path, gateways=2)
        try:
            yield fleet
        finally:
            fleet.end()


def debits(call: Any, done: list[int], stop: threading.Event, failures: list[RatelError]) -> None:
    while not stop.is_set():
        try:
            call()
        except RatelError as error:
            failures.append(error)
        else:
            done.append(1)


@pytest.mark.parametrize("victim", ["balancer", "gateway"])
def test_debits_through_gateways_are_done_once_when_one_of_two_is_killed(fleet: Fleet, victim: str) -> None:
    """Each client gets on between two deaths: a request on which two balancers die is given up, rightly."""
    failures: list[RatelError] = []
    stop = threading.Event()
    debit = {"CstmId": TENANT, "Subject": "one", "Amount": 1}
    clients: list[Any] = [fleet.client(timeout_s=30) for _ in range(4)]
    routers = ",".join(str(balancer.router) for balancer in fleet.site.balancers)
    clients += [ZmqClient(routers, timeout_s=30) for _ in range(2)]
    each_done: list[list[int]] = [[] for _ in clients]
    threads = [
        threading.Thread(
            target=debits, args=(lambda c=client: c.call("DebitBalance", debit), done, stop, failures)
        )
        for client, done in zip(clients, each_done, strict=True)
    ]

    def await_debits_of_all() -> None:
        counts = [len(done) for done in each_done]
        wait_until(
            lambda: all(len(done) > count + 8 for done, count in zip(each_done, counts, strict=True)),
            "each client's debits are done",
        )

    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            for node in fleet.site.balancers if victim == "balancer" else fleet.nodes:
                await_debits_of_all()
                os.kill(node.pid, signal.SIGKILL)
                node.wait()
                await_debits_of_all()
                node.start()
                wait_until(lambda node=node: node.says("listening"), "it is back")  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
    assert not failures
    assert fleet.site.store
    with fleet.site.store.connect() as store:
        keys = account_keys(TENANT, "one")
        value, lines = store.execute([("GET", keys.account), ("XRANGE", keys.journal, "-", "+")])
    tokens = [line_fields(fields)["token"] for _, fields in lines][1:]
    acknowledged = sum(map(len, each_done))
    assert len(tokens) == len(set(tokens)) == acknowledged
    assert account_fields(value)["credit"] == str((ACCOUNTS["one"] - acknowledged) * 1_000_000)
