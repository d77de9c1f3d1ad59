"""The Python client and `ratel call` against a real server: replies, pipelining, lost connections."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from common import client_link, client_parts
from common.client import JSONClient
from common.client_parts import Redial
from common.commands import call_command, client_options
from common.errors import (
    BelowFloor,
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    MessageTooLarge,
    MethodNotFound,
    NoRate,
    RatelError,
    ShuttingDown,
)
from common.methods import BY_NAME
from tests.integration.rpc_server import DROP, HOLD, Fate, RpcServer

CD = {"TOR": 0, "CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}
CALL_COST = {
    "TOR": 0,
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "Cost": 540,
    "ConnectFee": 0,
    "Timespans": [
        {
            "TimeStart": "2012-02-02T17:30:00Z",
            "TimeEnd": "2012-02-02T18:00:00.5Z",
            "Cost": 360.1,
            "ActivationPeriod": {"ActivationTime": "2012-01-01T00:00:00Z"},
            "Interval": {"Price": 0.2, "BillingUnit": 1},
            "MinuteInfo": None,
        },
        {
            "TimeStart": "2012-02-02T18:00:00.5Z",
            "TimeEnd": "2012-02-02T18:10:00.5Z",
            "Cost": 0,
            "Interval": None,
            "MinuteInfo": {"DestinationId": "[nationale]", "Quantity": 600, "Price": 0},
        },
        {"TimeStart": "2012-02-02T18:10:00.5Z", "TimeEnd": "2012-02-02T18:30:00Z", "Cost": 0},
    ],
}


as_json = msgspec.json.Encoder(decimal_format="number").encode


def answer(method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
    if cd.get("Subject") == "nobody":
        return NoRate(tenant="vdf", subject="nobody", destination="0256")
    if method == "GetCost":
        return json.dumps(CALL_COST).encode()
    return as_json(cd.get("Amount", 0))


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


def test_an_error_is_raised_as_its_class_with_its_fields(client: JSONClient) -> None:
    with pytest.raises(NoRate, match="no rate for subject 'nobody'") as caught:
        client.call("GetCost", CD | {"Subject": "nobody"})
    assert caught.value.data == {"tenant": "vdf", "subject": "nobody", "destination": "0256"}
    with pytest.raises(MethodNotFound, match=r"Responder\.Nope"):
        client.call("Nope", CD)


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


def test_many_calls_are_in_flight_on_one_connection_and_replies_may_come_in_any_order(
    server: RpcServer, client: JSONClient
) -> None:
    server.handler = lambda _, cd: HOLD if cd["Amount"] == 0 else json.dumps(cd["Amount"]).encode()
    pending = [client.submit("GetMaxSessionTime", CD | {"Amount": amount}) for amount in range(10)]
    assert [one.result() for one in pending[1:]] == list(range(1, 10))
    assert not pending[0].done
    server.release(b"77")
    assert [pending[0].result(), pending[0].result()] == [77, 77]
    assert server.connections == 1


def test_call_many_keeps_the_order_and_puts_errors_in_their_places(
    server: RpcServer, client: JSONClient
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("DebitSMS", CD | {"Amount": amount} | ({"Subject": "nobody"} if amount % 7 == 0 else {}))
        for amount in range(500)
    ]
    calls[3] = ("DebitSMS", {"Amount": float("inf")})
    outcomes = client.call_many(calls, window=16)
    for amount, outcome in enumerate(outcomes):
        if amount == 3:
            assert isinstance(outcome, InvalidParams)
        elif amount % 7 == 0:
            assert isinstance(outcome, NoRate)
        else:
            assert outcome == amount
    assert len(outcomes) == 500
    assert server.connections == 1


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


def test_a_server_that_waits_for_its_replies_to_be_read_does_not_block_a_client_that_sends(
    server: RpcServer, client: JSONClient
) -> None:
    big = json.dumps("x" * 100_000).encode()
    server.handler = lambda _, cd: big
    pending = [client.submit("GetCost", CD | {"Padding": "y" * 100_000}) for _ in range(200)]
    assert all(len(one.result()) == 100_000 for one in pending)


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


def test_a_timeout_leaves_the_connection_usable_and_the_late_reply_is_dropped(
    server: RpcServer, client: JSONClient
) -> None:
    server.handler = lambda _, cd: HOLD if cd["Amount"] == 1 else json.dumps(cd["Amount"]).encode()
    with pytest.raises(DeadlineExceeded, match="may or may not") as caught:
        client.call("DebitBalance", CD | {"Amount": 1}, timeout_s=0.05)
    server.wait_for_calls(1)
    assert caught.value.data["request_id"] == server.seen[0][1]["RequestId"]
    server.release(b"1")
    assert client.call("DebitBalance", CD | {"Amount": 2}) == 2
    assert server.connections == 1


def test_a_server_that_does_not_read_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = deaf.getsockname()
        with JSONClient(address, timeout_s=0.05) as client:
            calls = [("GetCost", {"Subject": "x" * 900_000})] * 30  # more than the system's buffers take
            outcomes = client.call_many(calls, window=30)
    assert {type(outcome) for outcome in outcomes} <= {DeadlineExceeded, ConnectionLost}


# --- lost connections -------------------------------------------------------------------------


def test_the_next_call_connects_anew_even_if_it_must_not_be_repeated(server: RpcServer) -> None:
    with JSONClient(server.address, auto_request_id=False) as client:
        assert client.call("DebitSMS", CD | {"Amount": 1}) == 1
        server.stop()
        with RpcServer(answer, server.address[1]) as again:
            assert client.call("DebitSMS", CD | {"Amount": 2}) == 2
            assert len(again.seen) == 1


def test_calls_in_flight_are_sent_again_under_the_same_request_id(
    server: RpcServer, client: JSONClient
) -> None:
    def drop_first(method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
        return DROP if len(server.seen) == 3 else HOLD if len(server.seen) < 3 else answer(method, cd)

    server.handler = drop_first
    pending = [
        client.submit(name, CD | {"Amount": 5}) for name in ("GetMaxSessionTime", "DebitSMS", "DebitSMS")
    ]
    assert [one.result() for one in pending] == [5, 5, 5]
    assert server.seen[:3] == server.seen[3:]
    ids = [cd.get("RequestId") for _, cd in server.seen[:3]]
    assert ids[0] is None
    assert ids[1:] == [pending[1].request_id, pending[2].request_id]
    assert len(set(ids)) == 3


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


def test_a_mutation_without_a_request_id_is_not_sent_again(server: RpcServer) -> None:
    server.handler = lambda _, cd: DROP
    with JSONClient(server.address, auto_request_id=False) as client:
        with pytest.raises(ConnectionLost, match="closed by the server"):
            client.call("DebitSMS", CD | {"Amount": 5})
        assert len(server.seen) == 1


@pytest.mark.parametrize("method", ["GetMaxSessionTime", "DebitSMS"])
def test_a_server_that_drops_several_connections_before_it_serves_is_no_error(
    server: RpcServer, client: JSONClient, method: str
) -> None:
    server.turn_away = 3
    server.handler = lambda method, cd: DROP if len(server.seen) <= 3 else answer(method, cd)
    assert client.call(method, CD | {"Amount": 5}, timeout_s=60) == 5
    assert server.connections == 7
    assert all(seen == server.seen[0] for seen in server.seen)


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


@pytest.mark.parametrize("request_ids", [True, False])
def test_calls_that_a_server_sends_back_because_it_shuts_down_go_to_the_next_connection(
    request_ids: bool,
) -> None:
    fates = iter([ShuttingDown(), b"1", DROP])

    def handler(method: str, descriptor: dict[str, Any]) -> bytes | RatelError | Fate:
        return next(fates, b"7")

    with RpcServer(handler) as server, JSONClient(server.address, auto_request_id=request_ids) as client:
        sent_back = client.submit("DebitSMS", CD)
        assert client.call("GetCost", CD) == 1  # by now the other's answer is there, too
        assert not sent_back.done
        cut = client.submit("GetCost", CD)
        assert (sent_back.result(), cut.result()) == (7, 7)


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


def test_no_call_waits_for_ever_for_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with (
        JSONClient(address, connect_timeout_s=0.2) as client,
        pytest.raises(ConnectionLost, match="can't connect"),
    ):
        client.call("GetCost", CD, timeout_s=60)
    with JSONClient(address, connect_timeout_s=60) as client, pytest.raises(DeadlineExceeded):
        client.call("GetCost", CD, timeout_s=0.2)


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


@pytest.mark.parametrize("babble", [b"HTTP/1.1 400 Bad Request\r\n", b'{"id":"?"}', b'{"result":1}', b"[]\n"])
def test_a_server_that_speaks_something_else_is_left_with_a_clear_error(babble: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(babble)
                connection.recv(65536)

        speaker = threading.Thread(target=speak)
        speaker.start()
        with JSONClient(listener.getsockname()) as client, pytest.raises(ConnectionLost):
            client.call("GetCost", CD)
        speaker.join()


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


# --- ratel call -------------------------------------------------------------------------------


def ratel_call(server: RpcServer, *arguments: str) -> Result:
    environment = {"RATEL_ADDRESS": f"127.0.0.1:{server.address[1]}"}
    return CliRunner().invoke(call_command.call, list(arguments), env=environment)


def test_call_prints_json_in_a_pipe(server: RpcServer) -> None:
    result = ratel_call(server, "GetCost", "CstmId=vdf", "Subject=rif", "DestinationPrefix=0256")
    assert (result.exit_code, json.loads(result.stdout)) == (0, CALL_COST)
    assert server.seen == [("GetCost", {"CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"})]


def test_call_takes_names_in_any_case_and_as_http_has_them(server: RpcServer) -> None:
    names = ["cstmid=vdf", "subj=a=b", "dest=0256", "AMOUNT=0.10", "tor=2", "start=2012-02-02T17:30:00Z"]
    for method in ("getmaxsessiontime", "GETMAXSESSIONTIME", "responder.GetMaxSessionTime"):
        result = ratel_call(server, method, *names)
        assert (result.exit_code, result.stdout) == (0, "0.10\n")
    assert server.seen[0] == (
        "GetMaxSessionTime",
        {
            "CstmId": "vdf",
            "Subject": "a=b",
            "DestinationPrefix": "0256",
            "Amount": Decimal("0.1"),
            "TOR": 2,
            "TimeStart": "2012-02-02T17:30:00Z",
        },
    )


def test_call_keeps_amounts_exact(server: RpcServer) -> None:
    result = ratel_call(server, "DebitBalance", "Amount=-9007199254.740991")
    assert result.stdout == "-9007199254.740991\n"
    assert server.seen[0][1]["Amount"] == Decimal("-9007199254.740991")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GetCots"], "did you mean 'GetCost'?"),
        (["GetCost", "Subjekt=rif"], "did you mean 'Subject'? Known are CstmId, Subject,"),
        (["GetCost", "zzzzz=rif"], "there is no field 'zzzzz'; Known are CstmId"),
        (["GetCost", "Subject"], "expected NAME=VALUE"),
        (["GetCost", "subj=a", "Subject=b"], "given twice"),
        (["DebitSMS", "Amount=ten"], "Amount: expected a number"),
        (["DebitSMS", "Amount=NaN"], "Amount: expected a number"),
        (["DebitSMS", "Amount=1_000"], "Amount: expected a number"),
        (["DebitSMS", "TOR=1.5"], "TOR: expected a whole number"),
        (["GetCost", "start=yesterday"], "TimeStart: expected an RFC 3339 time"),
        (["GetCost", "--address", "nowhere"], "expected HOST:PORT"),
        (["GetCost", "--timeout", "0"], "range"),
    ],
)
def test_call_says_what_is_wrong_with_its_arguments(
    server: RpcServer, arguments: list[str], message: str
) -> None:
    result = ratel_call(server, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.seen == []


def test_call_ends_with_1_when_refused(server: RpcServer) -> None:
    result = ratel_call(server, "GetCost", "subj=nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: tenant 'vdf' has no rate")
    server.handler = lambda _, cd: BelowFloor(amount=5, credit=1, min_credit=0)
    assert ratel_call(server, "DebitBalance", "Amount=5").exit_code == 1


def test_call_ends_with_3_when_the_service_fails(server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.handler = lambda _, cd: HOLD
    result = ratel_call(server, "GetCost", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (3, "")
    server.stop()
    monkeypatch.setattr(client_options, "CONNECT_TIMEOUT_S", 0.1)
    result = ratel_call(server, "GetCost")
    assert result.exit_code == 3
    assert "can't connect" in result.stderr


def test_call_tells_how_to_have_it_done_once_when_nobody_knows_whether_it_was(server: RpcServer) -> None:
    server.handler = lambda _, cd: HOLD
    result = ratel_call(server, "DebitBalance", "Amount=5", "--timeout", "0.05")
    assert result.exit_code == 3
    again = result.stderr.rpartition("repeat it with ")[2].strip()
    [(_, descriptor)] = server.seen
    assert again == f"RequestId={descriptor['RequestId']}"
    server.handler = lambda _, cd: b"7"
    assert ratel_call(server, "DebitBalance", "Amount=5", again).stdout == "7\n"
    assert server.seen[1] == server.seen[0]


def shown(method: str, result: Any) -> str:
    out = StringIO()
    call_command.show(Console(file=out, width=140, highlight=False), BY_NAME[method], result)
    return out.getvalue()


def test_call_shows_a_call_cost_as_a_table_of_spans(server: RpcServer) -> None:
    with JSONClient(server.address) as client:
        text = shown("GetCost", client.call("GetCost", CD))
    assert "vdf: rif to 0256" in text
    for row in (
        ["2012-02-02T17:30:00Z", "1800.5", "360.1", "0.2 per 1 s"],
        ["2012-02-02T18:00:00.5Z", "600", "bucket [nationale]: 600 s at 0 a second"],
        ["2012-02-02T18:10:00.5Z", "1199.5", "no price is in effect"],
    ):
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {row[0]}")]
        assert all(cell in line for cell in row)
    assert text.endswith("Cost 540 cents, connect fee 0 cents\n")


@pytest.mark.parametrize(
    ("method", "result", "text"),
    [
        ("DebitBalance", Decimal("12.50"), "DebitBalance: credit left 12.50 cents\n"),
        ("DebitSMS", 88, "DebitSMS: SMS left 88\n"),
        ("GetMaxSessionTime", 1080, "GetMaxSessionTime: 1080 seconds\n"),
        ("AddRecievedCallSeconds", 3, "AddRecievedCallSeconds: the counter 3 seconds\n"),
        ("ResetUserBudget", 0, "ResetUserBudget: done\n"),
    ],
)
def test_call_shows_a_number_with_what_it_is(method: str, result: Any, text: str) -> None:
    assert shown(method, result) == text


def test_call_is_readable_on_a_terminal_and_json_on_demand(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RATEL_ADDRESS", f"127.0.0.1:{server.address[1]}")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for arguments, expected in (
        (["DebitSMS", "amount=88"], "DebitSMS: SMS left 88\n"),
        (["DebitSMS", "amount=88", "--json"], "88\n"),
    ):
        call_command.call.main(arguments, standalone_mode=False)
        out = capsys.readouterr().out
        assert re.sub(r"\x1b\[\d*m", "", out) == expected
