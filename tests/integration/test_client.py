"""The Python client that waits, against a real server: replies, threads, lost connections, forks.

What it has in common with the client of asyncio is in `test_both_clients.py`.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from common import client_link, client_parts
from common.client import JSONClient
from common.client_parts import Redial
from common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    MessageTooLarge,
    RatelError,
)
from tests.integration.call_answers import CALL_COST, answer, as_json
from tests.integration.rpc_server import DROP, HOLD, Fate, RpcServer

CD = {"TOR": 0, "CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer(answer) as running:
        yield running


@pytest.fixture
def client(server: RpcServer) -> Iterator[JSONClient]:
    with JSONClient(server.address) as connected:
        yield connected


# --- calls ------------------------------------------------------------------------------------


def test_the_smallest_client_there_is_works_as_printed(server: RpcServer) -> None:
    cd = {
        "Tor": 0,
        "CstmId": "vdf",
        "Subject": "rif",
        "DestinationPrefix": "0256",
        "TimeStart": "2012-02-02T17:30:00Z",
        "TimeEnd": "2012-02-02T18:30:00Z",
    }
    with socket.create_connection(server.address) as s:
        s.sendall(json.dumps({"id": 1, "method": "Responder.Get", "params": [cd]}).encode())
        reply = s.recv(4096)
    assert json.loads(reply) == {"id": 1, "result": CALL_COST, "error": None}
    assert server.seen == [("GetCost", cd)]


@pytest.mark.parametrize("method", ["GetCost", "Responder.GetCost", "Responder.Get", "Get"])
def test_a_method_is_called_by_its_plain_or_its_full_name(client: JSONClient, method: str) -> None:
    assert client.call(method, CD)["Cost"] == 540


def test_an_address_may_be_text(server: RpcServer) -> None:
    with JSONClient(f"127.0.0.1:{server.address[1]}") as client:
        assert client.call("GetCost", CD)["Cost"] == 540
    with pytest.raises(ValueError, match="HOST:PORT"):
        JSONClient("localhost")


def test_numbers_are_exact_both_ways(server: RpcServer, client: JSONClient) -> None:
    server.handler = lambda _, cd: b"[1,0.1,9007199254.740991,-1e2]"
    result = client.call("DebitBalance", CD | {"Amount": Decimal("9007199254.740991")})
    assert result == [1, Decimal("0.1"), Decimal("9007199254.740991"), Decimal(-100)]
    assert [type(number) for number in result] == [int, Decimal, Decimal, Decimal]
    server.handler = answer
    exact = Decimal("123456789.123456")
    assert client.call("DebitBalance", CD | {"Amount": exact}) == exact


@pytest.mark.parametrize(
    ("field", "value"),
    [("Amount", float("nan")), ("Amount", Decimal("Infinity")), ("Subject", "\ud800"), ("Subject", object())],
)
def test_what_json_cannot_hold_is_refused_before_it_is_sent(
    server: RpcServer, client: JSONClient, field: str, value: Any
) -> None:
    with pytest.raises(InvalidParams):
        client.call("DebitBalance", CD | {field: value})
    with pytest.raises(MessageTooLarge):
        client.call("DebitBalance", CD | {"Subject": "x" * 2**20})
    assert client.call("DebitBalance", CD | {"Amount": 1}) == 1
    assert len(server.seen) == 1


# --- pipelining -------------------------------------------------------------------------------


def test_call_many_never_has_more_in_flight_than_its_window(server: RpcServer, client: JSONClient) -> None:
    server.handler = lambda _, cd: HOLD
    outcomes: list[Any] = []
    thread = threading.Thread(
        target=lambda: outcomes.extend(client.call_many([("GetMaxSessionTime", CD)] * 10, window=4))
    )
    thread.start()
    most = 0
    while thread.is_alive():
        most = max(most, len(client._waiting))
        server.release(b"1")
        thread.join(0.001)
    assert outcomes == [1] * 10
    assert most <= 4


def test_threads_share_one_client(server: RpcServer, client: JSONClient) -> None:
    outcomes: dict[int, list[Any]] = {}

    def work(thread: int) -> None:
        outcomes[thread] = [
            client.call("DebitBalance", CD | {"Amount": thread * 1000 + turn}) for turn in range(100)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert outcomes[number] == [number * 1000 + turn for turn in range(100)]
    assert server.connections == 1


def test_a_thread_that_gives_up_leaves_reading_to_the_others(server: RpcServer, client: JSONClient) -> None:
    server.handler = lambda _, cd: HOLD
    patient, impatient = client.submit("GetCost", CD), client.submit("GetCost", CD)
    got: list[Any] = []
    failed = threading.Event()

    def wait_in_vain() -> None:
        with pytest.raises(DeadlineExceeded):
            impatient.result(0.05)
        failed.set()

    threads = [
        threading.Thread(target=wait_in_vain),
        threading.Thread(target=lambda: got.append(patient.result())),
    ]
    for thread in threads:
        thread.start()
    assert failed.wait(60)
    server.wait_for_calls(2)
    server.release(b"5")
    for thread in threads:
        thread.join()
    assert got == [5]


# --- time -------------------------------------------------------------------------------------


# --- lost connections -------------------------------------------------------------------------


def test_threads_whose_connection_is_cut_again_and_again_all_get_an_answer(
    server: RpcServer, client: JSONClient
) -> None:
    outcomes: list[Any] = []

    def work() -> None:
        outcomes.extend(
            client.call_many([("DebitSMS", CD | {"Amount": turn}) for turn in range(200)], window=8)
        )

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for count in range(100, 601, 100):
        server.wait_for_calls(count)
        server.cut()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(list(range(200)) * 6)
    assert server.connections > 1
    requests = {json.dumps(cd, default=str) for _, cd in server.seen}
    assert len(requests) == len({cd["RequestId"] for _, cd in server.seen})


def test_a_server_once_reached_is_waited_for_until_the_time_of_the_call_is_up(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    returned: list[RpcServer] = []
    connect = socket.create_connection

    def back_after_five_attempts(address: tuple[str, int], timeout: float) -> socket.socket:
        nonlocal refused
        try:
            return connect(address, timeout)
        except ConnectionRefusedError:
            refused += 1
            if refused == 5:
                returned.append(RpcServer(answer, server.address[1]))
            raise

    monkeypatch.setattr(socket, "create_connection", back_after_five_attempts)
    server.handler = lambda _, cd: HOLD
    with JSONClient(server.address, timeout_s=60, connect_timeout_s=0.2) as client:
        pending = [client.submit("DebitSMS", CD | {"Amount": amount}) for amount in range(3)]
        server.wait_for_calls(3)
        server.stop()
        assert client.call("DebitSMS", CD | {"Amount": 3}) == 3
        assert [one.result() for one in pending] == [0, 1, 2]
    assert returned[0].seen[:3] == server.seen
    returned[0].stop()


def test_a_call_whose_time_is_up_while_connections_are_dropped_says_its_request_id(
    server: RpcServer, client: JSONClient
) -> None:
    server.handler = lambda _, cd: DROP
    with pytest.raises(DeadlineExceeded, match="may or may not have") as caught:
        client.call("DebitSMS", CD | {"Amount": 5}, timeout_s=1)
    server.wait_for_calls(1)
    assert {cd["RequestId"] for _, cd in server.seen} == {caught.value.data["request_id"]}
    assert server.connections <= 5  # after 0, 50, 150, 350 and 750 ms at the earliest


def test_a_call_whose_time_is_up_while_the_server_is_away_says_so_and_its_request_id(
    server: RpcServer, client: JSONClient
) -> None:
    client.call("GetCost", CD)
    server.stop()
    with pytest.raises(DeadlineExceeded, match=r"did not get it \(can't connect:") as caught:
        client.call("DebitSMS", CD | {"RequestId": "mine"}, timeout_s=1)
    assert caught.value.data["request_id"] == "mine"


def test_pauses_between_connections_double_until_the_server_answers() -> None:
    redial = Redial()
    assert redial.at < 0
    pauses = []
    for now in range(6):
        redial.failed(now)
        pauses.append(redial.at - now)
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])
    redial.worked()
    redial.failed(10)
    assert redial.at == 10 + client_parts.FIRST_BACKOFF_S


def test_call_many_keeps_its_order_and_window_through_reconnects(
    server: RpcServer, client: JSONClient
) -> None:
    most = 0

    def drop_every_100th(method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
        nonlocal most
        most = max(most, len(client._waiting))
        return DROP if len(server.seen) % 100 == 0 else answer(method, cd)

    server.handler = drop_every_100th
    calls = [("DebitSMS", CD | {"Amount": amount}) for amount in range(500)]
    assert client.call_many(calls, window=16) == list(range(500))
    assert server.connections > 5
    assert most <= 16


def test_a_window_of_calls_without_answers_is_over_as_soon_as_one_of_them(
    server: RpcServer, client: JSONClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.handler = lambda _, cd: HOLD
    monkeypatch.setattr(client, "_timeout_s", 0.1)
    waits: list[float] = []
    wait = client_link.Link.wait
    monkeypatch.setattr(
        client_link.Link, "wait", lambda link, events, s: (waits.append(s), wait(link, events, s))
    )
    outcomes = client.call_many([("GetCost", CD)] * 20)
    assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
    assert sum(waits) < 10 * 0.1


def test_a_reply_that_is_there_is_taken_however_late_it_is_asked_for(
    server: RpcServer, client: JSONClient
) -> None:
    pending = client.submit("DebitSMS", CD | {"Amount": 5})
    assert client._link is not None
    client._link.wait(select.POLLIN, 60)
    assert pending.result(0) == 5


@pytest.mark.parametrize("name", ["RequestId", "requestid", "REQUESTID"])
def test_a_request_id_of_the_caller_is_kept_under_any_spelling(
    server: RpcServer, client: JSONClient, name: str
) -> None:
    pending = client.submit("DebitSMS", CD | {"Amount": 1, name: "mine"})
    pending.result()
    assert server.seen[0][1] == CD | {"Amount": 1, name: "mine"}
    assert pending.request_id == "mine"


def test_a_server_that_is_back_soon_is_waited_for(server: RpcServer, client: JSONClient) -> None:
    server.handler = lambda _, cd: HOLD
    pending = client.submit("GetCost", CD)
    server.stop()
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(pending.result()))
    waiter.start()
    with RpcServer(answer, server.address[1]):
        waiter.join()
    assert got == [CALL_COST | {"Timespans": got[0]["Timespans"]}]


def test_closing_fails_what_is_in_flight_and_wakes_who_waits(server: RpcServer, client: JSONClient) -> None:
    server.handler = lambda _, cd: HOLD
    pending = client.submit("GetCost", CD)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            pending.result()
        except RatelError as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    client.close()
    waiter.join()
    assert isinstance(caught[0], ConnectionLost)
    with pytest.raises(ConnectionLost, match="the client was closed"):
        client.call("GetCost", CD)


# --- forks -------------------------------------------------------------------------------------

FORKING = """
import json, os, sys, threading
from common.client import JSONClient
from common.errors import ConnectionLost

cd = {"TOR": 0, "CstmId": "vdf", "Subject": "rif", "Amount": 1}
client, unused, *others = [JSONClient(sys.argv[1], timeout_s=60) for _ in range(20)]
client.call("DebitBalance", cd)
held = client.submit("GetMaxSessionTime", cd)
replies = []
waiter = threading.Thread(target=lambda: replies.append(held.result()))
waiter.start()
pipes = []
for _ in range(4):
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            held.result()
        except ConnectionLost:
            for one in client, unused:
                calls = [one.submit("DebitBalance", cd) for _ in range(50)]
                mine = [call.result() == call.request_id for call in calls]
                os.write(writing, json.dumps(mine).encode())
            client.close()
        finally:
            os._exit(0)
    os.close(writing)
    pipes.append(reading)
for reading in pipes:
    with open(reading) as lines:
        print(lines.read().count("true"), flush=True)
client.submit("GetCost", cd).result()
waiter.join()
print(replies)
"""


def test_children_of_a_fork_have_ids_and_connections_of_their_own(server: RpcServer) -> None:
    def held_until_the_end(method: str, cd: dict[str, Any]) -> bytes | Fate:
        if method == "GetCost":
            server.release(b"7")
        return HOLD if method == "GetMaxSessionTime" else as_json(cd.get("RequestId"))

    server.handler = held_until_the_end
    address = f"127.0.0.1:{server.address[1]}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, address],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("100\n" * 4 + "[7]\n", "")
    ids = [cd["RequestId"] for name, cd in server.seen if name == "DebitBalance"]
    assert len(set(ids)) == len(ids) == 1 + 4 * 100
    assert server.connections == 1 + 4 * 2
