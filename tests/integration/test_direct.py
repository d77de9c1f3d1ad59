"""JSON-RPC straight to a rater: tokens, bounds, fairness and the ends of connections.

Some through a real rater process, some through a `DirectServer` on real sockets with the clock and
the turns of the test's own.
"""

from __future__ import annotations

import errno
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from common.rpc.jsonrpc import MAX_EVENTS
from common.storage.embedded_store import EmbeddedStore
from common.storage.store import StoreConnection
from rater import direct
from rater.direct import LINGER_US, STUCK_US, DirectServer
from rater.direct_connection import MAX_IN_FLIGHT
from rater.model import Account, Tariff
from rater.tariffs.store import publish
from rater.work.jobs import Job, Outcome
from tests.integration.balancer_process import PATIENCE_S, RpcConnection, message

DEBIT = {"CstmId": "vdf", "Subject": "rif", "Amount": 1}


class RaterProcess:
    """A real rater that serves JSON-RPC on a free port and joins no balancer."""

    def __init__(self, store_url: str, *args: str, files: int = 0) -> None:
        command = [sys.executable, "-m", "common.cli", "rater", "--jsonrpc", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--store", store_url, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
            if files
            else None,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"listening jsonrpc=\S+:(\d+)", line)
        assert found, line
        self.port = int(found[1])
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log += self.process.stderr

    def __enter__(self) -> RaterProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        assert not any("traceback" in line.lower() for line in self.log), self.log

    def connect(self) -> RpcConnection:
        return RpcConnection(self.port)


@pytest.fixture
def store_with_tariff(store: StoreConnection) -> StoreConnection:
    publish(store, [Tariff("vdf")], {}, {})
    return store


def test_two_lives_of_a_rater_of_one_name_lose_no_debit(
    store_server: EmbeddedStore, store_with_tariff: StoreConnection, accounts: Any
) -> None:
    accounts.open(Account("rif", credit_micros=10_000_000))
    for _life in range(2):
        with RaterProcess(store_server.url, "--name", "fixed") as rater, rater.connect() as connection:
            for number in range(3):
                assert connection.call(number, "DebitBalance", **DEBIT)["error"] is None
            rater.process.terminate()
            assert rater.process.wait(PATIENCE_S) == 0
    assert accounts.read("rif").credit_micros == 4_000_000


def test_a_rater_of_few_files_refuses_what_is_too_much_and_serves_who_comes_later(
    store_server: EmbeddedStore, store_with_tariff: StoreConnection, accounts: Any
) -> None:
    accounts.open(Account("rif", credit_micros=10_000_000))
    with RaterProcess(store_server.url, files=direct.RESERVED_FILES + 16) as rater:
        connections = [rater.connect() for _ in range(16)]
        for connection in connections:
            assert connection.call(1, "DebitBalance", **DEBIT | {"Amount": 0})["error"] is None
        with rater.connect() as refused:
            assert refused.rest() == []
        for connection in connections:
            connection.__exit__()
        for _ in range(64):  # their ends are seen before the next is accepted
            with rater.connect() as connection:
                assert connection.call(1, "DebitBalance", **DEBIT | {"Amount": 0})["error"] is None


def test_a_flood_of_bad_messages_ends_its_connection_and_harms_no_neighbour(
    store_server: EmbeddedStore, store_with_tariff: StoreConnection, accounts: Any
) -> None:
    accounts.open(Account("rif", credit_micros=10_000_000))
    with RaterProcess(store_server.url) as rater, rater.connect() as flood, rater.connect() as neighbour:
        flood.send([b"{}" * 524_288])
        assert neighbour.call(1, "DebitBalance", **DEBIT)["error"] is None
        replies = flood.rest()
        assert "1000 messages in a row" in replies[-1]["error"]["message"]
        assert len(replies) == 1001


def test_a_rater_that_leaves_answers_the_whole_pipeline_that_it_has_read(
    store_server: EmbeddedStore, store_with_tariff: StoreConnection, accounts: Any
) -> None:
    accounts.open(Account("rif", credit_micros=10_000_000))
    with RaterProcess(store_server.url) as rater, rater.connect() as connection:
        connection.send(message(number, "DebitBalance", **DEBIT | {"Amount": 0}) for number in range(300))
        connection.reply()
        rater.process.terminate()
        replies = connection.rest()  # and not a reset
        assert len(replies) <= 299
        assert rater.process.wait(PATIENCE_S) == 0


# --- with turns of the test's own ---------------------------------------------------------------------


class World:
    """A server, the poller of its work loop, and a clock."""

    def __init__(self) -> None:
        self.server = DirectServer("127.0.0.1", 0, "name", 5000)
        self.poller = zmq.Poller()
        self.server.open(self.poller)
        self.now_us = 1_000_000_000
        self.clients: list[RpcConnection] = []

    def connect(self) -> RpcConnection:
        client = RpcConnection(self.server.port)
        self.clients.append(client)
        self.turn()
        return client

    def turn(self, wait_ms: int = 20_000) -> list[Job]:
        """One turn of the work loop; what is taken is not answered."""
        ready: dict[object, int] = dict(self.poller.poll(0 if self.server.busy else wait_ms))
        jobs = self.server.handle(ready, self.now_us)
        self.server.flush(self.now_us)
        return jobs

    def pass_time(self, microseconds: int) -> None:
        self.now_us += microseconds
        self.server.handle({}, self.now_us)
        self.server.flush(self.now_us)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.server.close()
    for client in world.clients:
        client.__exit__()


def answer(jobs: list[Job]) -> None:
    for job in jobs:
        job.origin.reply(job.seq, Outcome(0, b"1", False))


def call(number: int) -> bytes:
    return b'{"id":%d,"method":"Responder.Get"}\n' % number


def test_tokens_of_two_lives_differ_and_within_one_life_too(world: World) -> None:
    tokens = []
    other = World()
    for each in (world, world, other):
        each.connect().send([call(1), call(2)])
        tokens += [job.token for job in each.turn()]
    other.server.close()
    for client in other.clients:
        client.__exit__()
    assert len(set(tokens)) == 6


def test_a_read_of_many_messages_is_taken_in_shares_of_which_busy_tells(world: World) -> None:
    client, neighbour = world.connect(), world.connect()
    client.send([b'{"id":1,"method":"Responder.X"}' * 1500])
    world.turn()
    assert world.server.busy
    neighbour.send([call(7)])
    jobs = world.turn()
    while not jobs:
        jobs = world.turn()
    assert world.server.busy, "the neighbour waited for the whole read"
    while world.server.busy:
        world.turn()
    assert len(client.replies(1500)) == 1500


def test_a_greedy_connection_has_a_bounded_number_of_calls_and_loses_none(world: World) -> None:
    client = world.connect()
    client.send(call(number) for number in range(1000))
    held = world.turn()
    while world.server.busy:
        held += world.turn()
    assert MAX_IN_FLIGHT <= len(held) < MAX_IN_FLIGHT + MAX_EVENTS
    assert not world.server.busy, "busy although nothing may be taken"
    done = 0
    while held:
        done += len(held)
        answer(held)
        world.server.flush(world.now_us)
        held = world.turn() if done < 1000 else []
    assert [reply["id"] for reply in client.replies(1000)] == list(range(1000))


def test_one_turn_is_bounded_and_who_waited_longest_comes_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "MESSAGES_PER_TURN", 1)
    clients = [world.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.send([call(number), call(number)])
    served = []
    for _ in range(3):
        jobs = world.turn()
        assert len(jobs) == 2
        served.append(jobs[0].origin)
        clients[0].send([call(9)] * 2)
    assert len(set(map(id, served))) == 3


def test_half_a_message_is_an_error_in_the_end_also_after_good_ones(world: World) -> None:
    client = world.connect()
    client.send([call(1), b'{"id":'])
    answer(world.turn())
    world.pass_time(STUCK_US - 1)
    client.send([b'2,"method":"Responder.Get"}', b"{"])
    answer(world.turn())
    world.pass_time(STUCK_US - 1)
    assert world.server.idle
    world.pass_time(1)
    replies = client.rest()
    assert [reply["id"] for reply in replies] == [1, 2, None]
    assert "the input ends within a message" in replies[-1]["error"]["message"]
    world.pass_time(LINGER_US)
    assert not world.server._connections


def test_a_client_between_messages_may_stay(world: World) -> None:
    client = world.connect()
    client.send([b"nonsense\n", b"{}", b" \n"])
    world.turn()
    world.pass_time(100 * STUCK_US)
    client.send([call(1)])
    answer(world.turn())
    world.server.flush(world.now_us)
    assert [reply["id"] for reply in client.replies(3)] == [None, None, 1]


def test_the_last_answers_arrive_although_input_is_unread(world: World) -> None:
    client = world.connect()
    client.send([call(1)])
    jobs = world.turn()
    client.send([call(2)])
    world.server.stop_accepting()
    assert not world.server.idle
    answer(jobs)
    world.server.flush(world.now_us)
    assert [reply["id"] for reply in client.rest()] == [1]
    assert not world.server.idle, "it would close with unread input"
    client.send([call(3)])
    client.socket.shutdown(socket.SHUT_WR)
    while not world.server.idle:
        world.turn()
    assert not world.server._connections


def test_a_lingering_connection_is_closed_in_the_end(world: World) -> None:
    client = world.connect()
    client.send([b'{"id":"' + b"x" * 1_100_000])
    while not any(c.linger_until_us for c in world.server._connections.values()):
        world.turn()
    assert "message_too_large" in str(client.rest())
    world.pass_time(LINGER_US)
    assert not world.server._connections


class NoFiles:
    """A listener for whose connections no file is left."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.exhausted = True

    def accept(self) -> Any:
        if self.exhausted:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listener, name)


def test_without_a_file_left_the_listener_is_not_polled_until_it_may_be_better(world: World) -> None:
    first = world.connect()
    listener = NoFiles(world.server._listener)  # type: ignore[arg-type]
    world.server._listener = listener  # type: ignore[assignment]
    second = RpcConnection(world.server.port)
    world.clients.append(second)
    world.turn()
    assert world.poller.poll(0) == [], "the loop would spin"
    world.pass_time(direct.ACCEPT_AGAIN_US)
    world.turn()
    assert world.poller.poll(0) == []
    first.socket.shutdown(socket.SHUT_WR)
    world.turn()
    listener.exhausted = False
    world.turn()
    second.send([call(1)])
    assert len(world.turn()) == 1


def test_connections_that_have_ended_do_not_count(world: World) -> None:
    world.server._max_connections = 3
    for _ in range(5):
        for client in [world.connect() for _ in range(3)]:
            client.socket.shutdown(socket.SHUT_WR)
        newcomer = RpcConnection(world.server.port)
        world.clients.append(newcomer)
        world.turn()
        newcomer.send([call(1)])
        answer(world.turn())
        world.server.flush(world.now_us)
        assert newcomer.reply()["id"] == 1
        newcomer.socket.shutdown(socket.SHUT_WR)
        world.turn()
        assert not world.server._connections


def test_connections_are_kept_alive(world: World) -> None:
    world.connect()
    [connection] = world.server._connections.values()
    assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
