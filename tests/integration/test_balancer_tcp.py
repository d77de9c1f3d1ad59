"""JSON-RPC over TCP through a real balancer process: streams, bounds, ends of connections."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from common.errors import UnknownTenant, encode_error
from common.rpc.jsonrpc import MAX_BAD_IN_A_ROW
from common.wire import Reply, WorkItem
from tests.integration.balancer_process import PATIENCE_S, BalancerProcess, message
from tests.integration.fake_rater import FakeRater, echo, hold


@pytest.fixture(scope="module")
def balancer() -> Iterator[BalancerProcess]:
    with BalancerProcess() as process:
        yield process


@pytest.fixture
def rater(balancer: BalancerProcess) -> Iterator[FakeRater]:
    with FakeRater(balancer.router_port, echo) as rater:
        rater.wait_for(lambda rater: rater.joined)
        yield rater
        rater.goodbye()


def test_thousands_of_pipelined_calls_get_each_its_own_reply(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    with balancer.connect() as connection:
        for first in range(0, 5000, 500):
            connection.send(message(number, Amount=number) for number in range(first, first + 500))
        replies = connection.replies(5000)
    assert sorted(reply["id"] for reply in replies) == list(range(5000))
    assert all(reply["result"] == {"Amount": reply["id"]} and reply["error"] is None for reply in replies)
    assert max(rater.frame_sizes) > 1, "no batching"


def test_both_dialects_and_any_split_of_the_stream(balancer: BalancerProcess, rater: FakeRater) -> None:
    new = {"jsonrpc": "2.0", "id": "two", "method": "Responder.GetCost", "params": {"Subject": "}{"}}
    stream = message(1, Subject='"') + json.dumps([new, new]).encode() + json.dumps(new).encode()
    with balancer.connect() as connection:
        for place in range(len(stream)):
            connection.socket.sendall(stream[place : place + 1])
        replies = connection.replies(3)
    single = {"jsonrpc": "2.0", "id": "two", "result": {"Subject": "}{"}}
    for expected in ({"id": 1, "result": {"Subject": '"'}, "error": None}, single, [single, single]):
        assert expected in replies


def test_an_error_of_the_rater_comes_back_in_the_dialect_of_the_call(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    error = UnknownTenant(tenant="x")

    def refuse(item: WorkItem) -> Reply | None:
        return Reply(item.seq, error.code, encode_error(error), False)

    rater.respond = refuse
    with balancer.connect() as connection:
        assert connection.call(1)["error"] == "unknown_tenant: there is no tenant 'x'"
        connection.send([b'{"jsonrpc":"2.0","id":2,"method":"Responder.Get"}'])
        assert connection.reply()["error"]["code"] == error.code


def test_bad_messages_are_answered_and_harm_no_neighbour(balancer: BalancerProcess, rater: FakeRater) -> None:
    bad = b'{"id":2,"method":"Responder.Nothing"} nonsense\n{"id":3,"method":5}'
    with balancer.connect() as connection:
        connection.send([message(1), bad, message(4)])
        replies = connection.replies(5)
    assert sum(reply["error"] is None for reply in replies if "jsonrpc" not in reply) == 2
    assert "method_not_found" in str(replies)
    assert "parse_error" in str(replies)
    assert "invalid_request" in str(replies)


@pytest.mark.parametrize("bad", [b"{}", b"x\n", b'{"id":1\n'])
def test_a_flood_of_bad_messages_ends_its_connection_and_holds_nobody_up(
    balancer: BalancerProcess, rater: FakeRater, bad: bytes
) -> None:
    with balancer.connect() as flood, balancer.connect() as neighbour:
        flood.send([bad * (1_048_576 // len(bad))])
        assert neighbour.call(1, Subject="n")["result"] == {"Subject": "n"}
        replies = flood.rest()
    assert len(replies) == MAX_BAD_IN_A_ROW + 1
    assert "1000 messages in a row" in replies[-1]["error"]["message"]


def test_a_client_of_calls_that_are_refused_at_once_takes_turns_with_its_neighbours(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    count = 20_000
    with balancer.connect() as greedy, balancer.connect() as neighbour:
        sender = threading.Thread(
            target=greedy.send, args=([b'{"id":1,"method":"Responder.X"}' * count + message(2)],)
        )
        sender.start()
        assert neighbour.call(1, Subject="n")["result"] == {"Subject": "n"}
        replies = greedy.replies(count + 1)
        sender.join()
    assert replies[-1]["result"] == {}


def test_a_message_beyond_the_limit_is_answered_and_ends_the_connection(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    with balancer.connect() as connection:
        connection.send([message(1), b'{"id":"', b"x" * 3_000_000])
        replies = connection.rest()
    assert "message_too_large" in str(replies)
    assert len(replies) == 2


def test_a_client_that_ends_its_stream_gets_what_it_is_owed_and_then_the_end(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    rater.respond = hold
    with balancer.connect() as connection:
        connection.send(message(number) for number in range(100))
        connection.send([b'{"id":'])
        connection.socket.shutdown(socket.SHUT_WR)
        rater.wait_for_items(100)
        rater.release()
        replies = connection.rest()
    assert sum(reply.get("result") == 1 for reply in replies) == 100
    assert "the input ends within a message" in str(replies)
    assert len(replies) == 101


def test_a_client_that_goes_away_with_calls_in_flight_harms_nobody(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    rater.respond = hold
    with balancer.connect() as leaver:
        leaver.send(message(number) for number in range(50))
        rater.wait_for_items(50)
    with balancer.connect() as connection:
        connection.send([message(1)])
        rater.wait_for_items(51)
        rater.release()
        assert connection.reply()["result"] == 1


def test_a_client_that_does_not_read_is_no_longer_read_and_loses_nothing(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    request = message(7, Subject="s" * 4000)
    rss_before = _rss_bytes(balancer)
    with balancer.connect() as greedy, balancer.connect() as neighbour:
        greedy.socket.setblocking(False)
        sent = 0
        while True:  # until the balancer has read nothing for a second: its bounds are reached
            try:
                sent += greedy.socket.send(request[sent % len(request) :])
            except BlockingIOError:
                if not select.select([], [greedy.socket], [], 1.0)[1]:
                    break
        assert neighbour.call(1, Subject="n")["result"] == {"Subject": "n"}
        assert sent < 100_000_000, "the balancer went on reading"
        assert _rss_bytes(balancer) - rss_before < 150_000_000
        greedy.socket.settimeout(PATIENCE_S)
        # What is still to be sent fits once replies are taken out on the other side.
        replies = greedy.replies(sent // len(request))
        greedy.socket.sendall(request[sent % len(request) :])
        replies.append(greedy.reply())
    assert {reply["id"] for reply in replies} == {7}


def _rss_bytes(balancer: BalancerProcess) -> int:
    with open(f"/proc/{balancer.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_many_connections_are_served_side_by_side(balancer: BalancerProcess, rater: FakeRater) -> None:
    connections = [balancer.connect() for _ in range(200)]
    try:
        for number, connection in enumerate(connections):
            connection.send([message(number, Amount=number)])
        assert [connection.reply()["result"]["Amount"] for connection in connections] == list(range(200))
    finally:
        for connection in connections:
            connection.__exit__()
