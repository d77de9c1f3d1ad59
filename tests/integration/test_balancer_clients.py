"""Clients that speak ZeroMQ: what a balancer process does with theirs, in order, late, too much or wrong."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import zmq

from balancer.peers import BalancerPeers, RouterPeers
from common.addresses import Address
from common.clock import monotonic_us
from common.errors import (
    DeadlineExceeded,
    InvalidParams,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    encode_error,
)
from common.wire import (
    MAX_FRAME_BYTES,
    MAX_ID_CHARS,
    MAX_KEY_CHARS,
    MAX_METHOD_CHARS,
    MAX_PARAMS_BYTES,
    PROBE,
    Kind,
    Reply,
    WorkItem,
    decode,
    encode_beat,
    encode_done,
    encode_goodbye,
    encode_join,
    encode_state,
    encode_work,
)
from common.zmq_client import ZmqClient
from tests.faults.nodes import RATEL, free_address
from tests.faults.proxy import Proxy
from tests.integration.balancer_process import PATIENCE_S, BalancerProcess, RpcConnection, message
from tests.integration.fake_rater import FakeRater, echo, hold

CREDIT = 100
SECOND_US = 1_000_000
LIFE = "0123456789abcdef"


class Client:
    """A DEALER that says what the test says, in one life."""

    def __init__(self, port: int, life: str = LIFE) -> None:
        self.life = life
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, f"client-{life}".encode()[:200])
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def ask(self, *items: WorkItem, now_us: int | None = None) -> None:
        self.send(encode_work(self.life, monotonic_us() if now_us is None else now_us, list(items)))

    def wait_for(self, *wanted: Kind) -> list[Any]:
        """The fields of the next message of these kinds, what else comes is dropped. The client beats."""
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            if self._socket.poll(200):
                kind, fields = decode(self._socket.recv())
                if kind in wanted:
                    return [kind, *fields]
            self.send(encode_join(self.life))
        raise AssertionError(f"no {wanted}")

    def join(self) -> None:
        self.send(encode_join(self.life))
        while not self.wait_for(Kind.STATE)[3]:
            pass

    def answers(self, count: int) -> dict[int, tuple[int, bytes]]:
        found: dict[int, tuple[int, bytes]] = {}
        while len(found) < count:
            for seq, code, body, _ in self.wait_for(Kind.DONE)[2]:
                found[seq] = (code, body)
        return found


@pytest.fixture
def balancer() -> Iterator[BalancerProcess]:
    with BalancerProcess(f"--max-queued={CREDIT}") as process:
        yield process


@pytest.fixture
def rater(balancer: BalancerProcess) -> Iterator[FakeRater]:
    with FakeRater(balancer.router_port, echo) as fake:
        fake.wait_for(lambda fake: fake.joined)
        yield fake


@pytest.fixture
def client(balancer: BalancerProcess, rater: FakeRater) -> Iterator[Client]:
    one = Client(balancer.router_port)
    try:
        yield one
    finally:
        one.close()


def item(seq: int, method: str = "DebitBalance", params: bytes = b"{}", key: str = "") -> WorkItem:
    return WorkItem(seq, method, params, key, monotonic_us() + 5 * SECOND_US)


def test_changes_get_tokens_by_the_client_and_reads_none(client: Client, rater: FakeRater) -> None:
    client.join()
    client.ask(
        item(1), item(2, "GetCost"), item(3, "OfLaterVersions"), item(4, key="c:mine"), item(5, key="g:x-1")
    )
    client.answers(5)
    assert [each.key for each in rater.received] == [
        f"g:{LIFE}-1",
        "",
        f"g:{LIFE}-3",
        "c:mine",
        "g:x-1",
    ]


@pytest.mark.parametrize("kind", [Kind.WORK, Kind.BEAT])
def test_who_has_not_joined_is_told_so_and_asks_again(client: Client, kind: Kind) -> None:
    """As after a restart of the balancer that the client has not noticed."""
    if kind is Kind.WORK:
        client.ask(item(1))
    else:
        client.send(encode_beat(client.life, monotonic_us()))
    assert client.wait_for(Kind.GOODBYE, Kind.DONE) == [Kind.GOODBYE]
    client.join()
    client.ask(item(1))
    assert client.answers(1) == {1: (0, b"{}")}


def test_another_life_under_the_same_address_has_to_join(client: Client, rater: FakeRater) -> None:
    client.join()
    client.life = "fedcba9876543210"
    client.ask(item(1))
    assert client.wait_for(Kind.GOODBYE, Kind.DONE) == [Kind.GOODBYE]
    assert rater.received == []


def test_deadlines_out_of_all_bounds_harm_nobody(client: Client, rater: FakeRater) -> None:
    client.join()
    now_us = monotonic_us()
    ends = (now_us + 3600 * SECOND_US, 2**63 - 1, 2**64 - 1, -(2**63), 0)
    client.ask(*[WorkItem(seq, "GetCost", b"{}", "", end) for seq, end in enumerate(ends)], now_us=now_us)
    client.ask(WorkItem(9, "GetCost", b"{}", "", 2**64 - 1), now_us=0)
    assert client.answers(6).keys() == {0, 1, 2, 3, 4, 9}
    assert all(each.deadline_us <= monotonic_us() + 5 * SECOND_US for each in rater.received)


def test_requests_that_would_not_fit_into_a_message_are_refused_by_themselves(client: Client) -> None:
    client.join()
    client.ask(
        item(1, "m" * (MAX_METHOD_CHARS + 1)),
        item(2, params=b" " * (MAX_PARAMS_BYTES + 1)),
        item(3, key="c:" + "k" * MAX_KEY_CHARS),
        item(4, key="k"),
        item(5),
    )
    codes = {seq: code for seq, (code, _) in client.answers(5).items()}
    assert codes == {
        1: MethodNotFound.code,
        2: MessageTooLarge.code,
        3: InvalidParams.code,
        4: InvalidParams.code,
        5: 0,
    }


@pytest.mark.parametrize("life", ["", "x" * (MAX_ID_CHARS + 1)])
def test_an_id_that_makes_no_token_does_not_join(
    balancer: BalancerProcess, client: Client, life: str
) -> None:
    client.life = life
    client.send(encode_join(life))
    balancer.wait_for_line(f"an id of {len(life)} characters")
    client.ask(item(1))
    assert client.wait_for(Kind.GOODBYE, Kind.STATE, Kind.DONE) == [Kind.GOODBYE]


def test_more_requests_at_once_than_the_credit_are_not_looked_at(
    balancer: BalancerProcess, client: Client, rater: FakeRater
) -> None:
    client.join()
    client.ask(*[item(seq) for seq in range(CREDIT + 1)])
    balancer.wait_for_line(f"{CREDIT + 1} requests at once")
    client.ask(*[item(seq) for seq in range(CREDIT)])
    assert client.answers(CREDIT).keys() == set(range(CREDIT))
    assert len(rater.received) == CREDIT


def test_a_gateway_whose_connection_breaks_asks_again(balancer: BalancerProcess, rater: FakeRater) -> None:
    """The answer is lost with the connection, and the gateway has had nothing to send meanwhile."""
    with Proxy(Address("127.0.0.1", balancer.router_port)) as proxy:
        jsonrpc = free_address()
        gateway = subprocess.Popen(
            [
                *RATEL,
                "gateway",
                "--balancer",
                str(proxy.address),
                "--jsonrpc",
                str(jsonrpc),
                "--http",
                "none",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert gateway.stderr is not None
            assert any("joins" in line for line in gateway.stderr)
            with RpcConnection(jsonrpc.port) as connection:
                for number in range(1, 4):
                    rater.respond = hold
                    known = len(rater.received)
                    connection.send([message(number, "DebitBalance")])
                    first = rater.wait_for_items(known + 1)[-1]
                    proxy.break_connections()
                    rater.release()
                    [reply] = connection.replies(1)
                    assert (reply["id"], reply["error"]) == (number, None)
                    again = rater.received[known:]
                    assert {(each.key, each.params) for each in again} == {(first.key, first.params)}
        finally:
            gateway.kill()
            gateway.communicate()


def test_two_names_of_one_balancer_are_two_connections() -> None:
    async def identities() -> set[bytes]:
        peers = RouterPeers()
        with closing(peers):
            port = peers.bind(Address("127.0.0.1", 0)).port
            names = [Address("127.0.0.1", port), Address("localhost", port)]
            with closing(BalancerPeers(names, LIFE)) as balancers:
                found: set[bytes] = set()
                give_up_s = time.monotonic() + PATIENCE_S
                while len(found) < len(names) and time.monotonic() < give_up_s:
                    for balancer in balancers.asked:
                        with suppress(zmq.ZMQError):
                            balancers.send(balancer, encode_join(LIFE))
                    await asyncio.sleep(0.01)
                    while peers.has_input():
                        found.add(peers.receive().peer)
                return found

    assert len(asyncio.run(identities())) == 2


# --- the client library ------------------------------------------------------------------------------


def test_calls_that_fill_more_than_one_message_all_get_their_answers() -> None:
    """On a busy machine so much takes seconds, in which the client may ask again: there is room for that."""
    descriptor = {"CstmId": "x" * (MAX_FRAME_BYTES // 40)}
    with (
        BalancerProcess("--deadline=60000", "--max-wait=30000") as balancer,
        FakeRater(
            balancer.router_port, lambda item: Reply(item.seq, 0, b"%d" % len(item.params), False)
        ) as rater,
        ZmqClient(f"127.0.0.1:{balancer.router_port}", timeout_s=PATIENCE_S) as client,
    ):
        rater.wait_for(lambda rater: rater.joined)
        results = client.call_many([("DebitBalance", descriptor)] * 90)
        assert set(results) == {len('{"CstmId":""}') + MAX_FRAME_BYTES // 40}
        [large, small] = client.call_many([("GetCost", {"a": "x" * MAX_PARAMS_BYTES}), ("GetCost", {})])
        assert (type(large), small) == (MessageTooLarge, 2)


def test_a_client_that_knows_a_balancer_by_two_names(balancer: BalancerProcess, rater: FakeRater) -> None:
    port = balancer.router_port
    with ZmqClient([f"127.0.0.1:{port}", f"localhost:{port}"], timeout_s=PATIENCE_S) as client:
        for _ in range(15):
            client.call_many([("GetCost", {})] * 2 * CREDIT)
            time.sleep(0.1)
    assert not any("is gone" in line for line in balancer.lines)


def test_a_refusal_of_what_was_asked_before_leaves_the_outcome_open() -> None:
    """The balancer takes a change, is gone, and comes back with too much to do."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    balancer = context.socket(zmq.ROUTER)
    port = balancer.bind_to_random_port("tcp://127.0.0.1")
    refusal = encode_error(Overloaded(detail="too many"))

    def serve() -> None:
        asked = 0
        while asked < 3:
            peer, frame = balancer.recv_multipart()
            if frame == PROBE:
                continue
            kind, fields = decode(frame)
            if kind is Kind.JOIN:
                balancer.send_multipart([peer, encode_state("fake", 10, 1)])
            elif kind is Kind.WORK:
                asked += 1
                if asked == 1:
                    balancer.send_multipart([peer, encode_goodbye()])
                else:
                    rows = [(row[0], Overloaded.code, refusal, False) for row in fields[2]]
                    balancer.send_multipart([peer, encode_done(fields[0], rows)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ZmqClient(f"127.0.0.1:{port}", timeout_s=PATIENCE_S) as client:
            [first] = client.call_many([("DebitBalance", {})])
            assert isinstance(first, DeadlineExceeded)
            assert "unknown" in first.message
            [second] = client.call_many([("DebitBalance", {})])
            assert isinstance(second, Overloaded)
    finally:
        thread.join(PATIENCE_S)
        balancer.close(0)
        context.term()
