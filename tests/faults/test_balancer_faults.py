"""A balancer that dies, stalls and is left by its clients: nothing that it had is done twice or lost."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.addresses import Address
from common.client import JSONClient
from tests.faults.load import Load
from tests.faults.nodes import TENANT, Site, wait_until

ACCOUNTS = {"one": 1_000_000, "two": 1_000_000, "three": 1_000_000}
PROMISE_S = 2.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", raters=2) as site:
        site.start(ACCOUNTS)
        yield site


@pytest.mark.parametrize("point", ["before_write", "after_write"])
def test_a_balancer_killed_with_requests_in_flight(site: Site, point: str) -> None:
    [balancer] = site.balancers
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        for _ in range(2):
            load.wait(100)
            load.start_measuring()
            holding = site.strike(point, "stop")  # so that there surely are some in flight
            balancer.kill()
            holding.resume()
            balancer.start()
            load.wait(100)
            site.wait_ready()
            load.recovered(f"balancer killed and started again, raters {point}", PROMISE_S)
    load.check(site)


def test_a_balancer_that_is_told_to_end_costs_no_client_an_error(site: Site) -> None:
    [balancer] = site.balancers
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        for _ in range(2):
            load.wait(100)
            load.start_measuring()
            assert balancer.terminate() == 0
            balancer.start()
            load.wait(100)
            site.wait_ready()
            load.recovered("balancer told to end (SIGTERM), started again", PROMISE_S)
    load.check(site)


def test_a_balancer_that_stalls_and_wakes(site: Site) -> None:
    [balancer] = site.balancers
    with Load(lambda _: site.client(), ACCOUNTS) as load:
        load.wait(100)
        load.start_measuring()
        balancer.pause()
        stalled_s = time.monotonic()
        wait_until(lambda: time.monotonic() > stalled_s + 2.0, "time passes")
        balancer.resume()
        lasted_s = time.monotonic() - stalled_s
        load.wait(100)
        load.recovered("balancer stalled for 2 s", PROMISE_S, lasted_s=lasted_s)
    load.check(site)


@pytest.mark.parametrize("farewell", ["close", "reset"])
def test_what_a_client_sent_before_it_went_is_done_once_or_never(site: Site, farewell: str) -> None:
    load = Load(lambda _: site.client(), ACCOUNTS)
    ledger, subjects = load.ledger, list(ACCOUNTS)
    keys = {f"gone/{number}": subjects[number % len(subjects)] for number in range(300)}
    for key, subject in keys.items():
        ledger.intend(key, subject, 7)
    for start in range(0, len(keys), 10):
        send_and_go(site.balancers[0].jsonrpc, dict(list(keys.items())[start : start + 10]), farewell)
    assert site.store is not None
    with site.store.connect() as store:
        # What the balancer has read is done by now or while the keys are asked for: either is right.
        done = sum(store.execute([("XLEN", f"ratel:{{{TENANT}:{subject}}}:journal") for subject in subjects]))
        print(f"{farewell}: {done - len(subjects)} of {len(keys)} done before anybody asked again")
    with site.client() as client:
        for key, subject in keys.items():
            ledger.acknowledge(key, ask(client, key, subject))
        for key, subject in keys.items():
            ledger.acknowledge(key, ask(client, key, subject))
    load.check(site)


def send_and_go(address: Address, keys: dict[str, str], farewell: str) -> None:
    """One connection with these debits on it, closed (FIN) or reset (RST) before any answer is read."""
    calls = [
        {"id": number, "method": "Responder.DebitBalance", "params": [descriptor(key, subject)]}
        for number, (key, subject) in enumerate(keys.items())
    ]
    with socket.create_connection(address) as connection:
        connection.sendall("".join(map(json.dumps, calls)).encode())
        if farewell == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def ask(client: JSONClient, key: str, subject: str) -> int:
    left = client.call("DebitBalance", descriptor(key, subject))
    assert isinstance(left, int)
    return left


def descriptor(key: str, subject: str) -> dict[str, str | int]:
    return {"CstmId": TENANT, "Subject": subject, "Amount": 7, "RequestId": key}
