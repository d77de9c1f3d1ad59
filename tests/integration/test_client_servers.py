"""The Python client with several servers: it leaves one that dies, ends or hangs, and no other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from common.addresses import Address
from common.client import JSONClient
from common.client_link import Link
from common.client_parts import FIRST_BACKOFF_S, Redial, parse_servers
from common.commands import call_command
from common.errors import ConnectionLost, DeadlineExceeded, RatelError, ShuttingDown
from tests.faults.nodes import wait_until
from tests.integration.rpc_server import CD, DROP, HOLD, Fate, RpcServer, amount

A, B, C = Address("10.0.0.1", 2001), Address("::1", 2002), Address("c", 3)


@pytest.fixture
def first(server: RpcServer) -> RpcServer:
    return server


@pytest.fixture
def client(first: RpcServer, second: RpcServer) -> Iterator[JSONClient]:
    """No silence makes it doubt a server."""
    with JSONClient([first.address, second.address], timeout_s=60, attempt_timeout_s=3600) as connected:
        yield connected


@pytest.fixture
def hung() -> Iterator[socket.socket]:
    """As a stopped process: the system takes connections and bytes, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (A, [A]),
        (("10.0.0.1", 2001), [A]),
        ("10.0.0.1:2001", [A]),
        ("10.0.0.1:2001,[::1]:2002, c:3", [A, B, C]),
        (["10.0.0.1:2001", ("::1", 2002), C], [A, B, C]),
        (("10.0.0.1:2001", "[::1]:2002"), [A, B]),
        ([("10.0.0.1", 2001), ("c", 3)], [A, C]),
        (["10.0.0.1:2001,c:3"], [A, C]),
    ],
)
def test_servers_are_given_as_text_pairs_or_lists_of_them(given: Any, expected: list[Address]) -> None:
    assert list(parse_servers(given)) == expected


@pytest.mark.parametrize("given", ["", "a:1,", [], ["a"], "a:1 b:2"])
def test_what_is_no_list_of_servers_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|brackets"):
        JSONClient(given)


def test_there_is_a_pause_only_before_a_server_that_failed_lately() -> None:
    redial = Redial(3)
    tries = []
    now = 0.0
    for _ in range(9):
        now = max(now, redial.at)
        tries.append((redial.turn, now))
        redial.failed(now)
    assert [turn for turn, _ in tries] == [0, 1, 2] * 3
    pauses = [0] * 3 + [FIRST_BACKOFF_S] * 3 + [3 * FIRST_BACKOFF_S] * 3
    assert [at for _, at in tries] == pytest.approx(pauses)
    redial.worked()
    redial.failed(100.0)
    assert (redial.turn, redial.at < 100) == (1, True)


# --- servers that die or end ---------------------------------------------------------------------


def test_all_calls_go_to_the_first_server_while_it_lives(
    client: JSONClient, first: RpcServer, second: RpcServer
) -> None:
    assert client.call_many([("DebitSMS", CD | {"Amount": n}) for n in range(100)]) == list(range(100))
    assert (first.connections, second.connections) == (1, 0)


def test_servers_that_all_refuse_are_given_up_as_one_is(refusing: tuple[str, int]) -> None:
    with (
        JSONClient([refusing, refusing], connect_timeout_s=0.2) as client,
        pytest.raises(ConnectionLost, match="can't connect"),
    ):
        client.call("GetCost", CD, timeout_s=60)


def test_a_server_that_takes_no_connection_leaves_time_for_the_next(
    second: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a host that is gone: nobody says no, so the attempt takes all the time that it is given."""
    connect, given_s = socket.create_connection, []

    def black_hole(address: tuple[str, int], timeout: float) -> socket.socket:
        given_s.append(timeout)
        if address[1] == 1:
            raise TimeoutError("timed out")
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", black_hole)
    with JSONClient(["10.255.255.1:1", second.address], connect_timeout_s=2, attempt_timeout_s=60) as client:
        assert client.call("DebitSMS", CD | {"Amount": 3}, timeout_s=60) == 3
    assert given_s[0] == pytest.approx(1, abs=0.01)


def test_a_server_that_shuts_down_may_answer_what_cannot_be_repeated(
    first: RpcServer, second: RpcServer
) -> None:
    fates: dict[int, bytes | RatelError | Fate] = {1: HOLD, 2: ShuttingDown(), 3: b"3"}
    first.handler = lambda _, cd: fates[cd["Amount"]]
    servers = [first.address, second.address]
    with JSONClient(servers, timeout_s=60, auto_request_id=False, attempt_timeout_s=3600) as client:
        held, sent_back = (client.submit("DebitSMS", CD | {"Amount": n}) for n in (1, 2))
        assert client.call("DebitSMS", CD | {"Amount": 3}) == 3  # by now the answer before it is here, too
        first.release(b"7")
        assert held.result() == 7
        first.stop()
        assert sent_back.result() == 2
    assert [cd["Amount"] for _, cd in second.seen] == [2]


def test_servers_that_all_shut_down_are_not_hammered(
    client: JSONClient, first: RpcServer, second: RpcServer
) -> None:
    first.handler = second.handler = lambda _, cd: ShuttingDown()
    with pytest.raises(DeadlineExceeded):
        client.call("DebitSMS", CD, timeout_s=1)
    assert first.connections <= 5  # after 0, 50, 150, 350 and 750 ms at the earliest


def test_what_cannot_be_repeated_fails_with_the_address_that_had_it(
    first: RpcServer, second: RpcServer
) -> None:
    first.handler = lambda _, cd: DROP
    with JSONClient([first.address, second.address], auto_request_id=False) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.call("DebitSMS", CD)
        assert caught.value.data["address"] == f"127.0.0.1:{first.address[1]}"
        assert client.call("DebitSMS", CD | {"Amount": 4}) == 4
    assert len(second.seen) == 1


def _next_to_serve(servers: Sequence[RpcServer], calls: int) -> RpcServer:
    """The first one that has handled so many calls more."""
    goals = [len(server.seen) + calls for server in servers]

    def reached() -> list[RpcServer]:
        return [server for server, goal in zip(servers, goals, strict=True) if len(server.seen) >= goal]

    wait_until(reached, "calls are handled")
    return reached()[0]


def test_threads_whose_servers_are_cut_in_turns_all_get_an_answer(
    client: JSONClient, first: RpcServer, second: RpcServer
) -> None:
    stop = threading.Event()
    outcomes: list[list[Any]] = []

    def work() -> None:
        while not stop.is_set():
            outcomes.append(client.call_many([("DebitSMS", CD | {"Amount": n}) for n in range(40)], window=8))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    cut: list[RpcServer] = []
    try:
        # A client that loses its connection while it waits for nothing goes back to the same server. So
        # whichever has served is cut, until each was, and four times at least.
        while len(cut) < 4 or not (first in cut and second in cut):
            cut.append(_next_to_serve((first, second), 100))
            cut[-1].cut()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(answers == list(range(40)) for answers in outcomes)
    assert first.connections + second.connections >= 4


# --- servers that hang ---------------------------------------------------------------------------


def test_a_slow_answer_is_no_reason_to_leave(
    first: RpcServer, second: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is there says so each time it is asked."""
    probe, probed = Link.probe, threading.Semaphore(0)

    def count(link: Link) -> bool:
        asked = probe(link)
        probed.release()
        return asked

    monkeypatch.setattr(Link, "probe", count)
    first.handler = lambda _, cd: HOLD
    got: list[Any] = []
    with JSONClient([first.address, second.address], timeout_s=60, attempt_timeout_s=0.5) as client:
        waiter = threading.Thread(target=lambda: got.append(client.call("DebitSMS", CD)))
        waiter.start()
        for _ in range(5):
            assert probed.acquire(timeout=60)
        first.release(b"8")
        waiter.join()
    assert got == [8]
    assert (first.connections, second.connections) == (1, 0)


def test_replies_of_others_are_signs_of_life_as_well(
    first: RpcServer, second: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.handler = lambda _, cd: HOLD if cd["Amount"] == 1 else amount("", cd)
    with JSONClient([first.address, second.address], timeout_s=60, attempt_timeout_s=3600) as client:
        held = client.submit("DebitSMS", CD | {"Amount": 1})
        link = client._link
        assert link is not None
        before = link.doubt_at(3600)
        client.call("DebitSMS", CD | {"Amount": 2})
        assert link.doubt_at(3600) > before
        first.release(b"1")
        assert held.result() == 1
        assert link.doubt_at(3600) == float("inf")  # nothing is owed


def test_a_server_that_hangs_is_left_by_calls_of_short_timeouts_too(
    hung: socket.socket, second: RpcServer
) -> None:
    with JSONClient([hung.getsockname(), second.address], attempt_timeout_s=0.3) as client:
        failures = 0
        while True:
            try:
                assert client.call("DebitSMS", CD | {"Amount": 6}, timeout_s=0.02) == 6
                break
            except DeadlineExceeded:
                failures += 1
    assert failures > 2


def test_a_reply_that_waited_unread_is_found_before_the_server_is_doubted(
    first: RpcServer, second: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JSONClient([first.address, second.address], timeout_s=60, attempt_timeout_s=1e-9) as client:
        pending = client.submit("DebitSMS", CD | {"Amount": 5})
        assert client._link is not None
        client._link.wait(1, 60)  # POLLIN
        assert pending.result() == 5
    assert (first.connections, second.connections) == (1, 0)


def test_the_only_server_is_never_doubted(hung: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with JSONClient(hung.getsockname(), attempt_timeout_s=1e-9) as client, pytest.raises(DeadlineExceeded):
        client.call("GetCost", CD, timeout_s=0.1)
    connection, _ = hung.accept()
    with connection, connection.makefile("rb") as lines:
        assert len(lines.readlines()) == 1


# --- ratel call ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["repeated", "commas", "environment"])
def test_call_takes_several_addresses(refusing: tuple[str, int], second: RpcServer, how: str) -> None:
    addresses = [f"127.0.0.1:{port}" for port in (refusing[1], second.address[1])]
    arguments = ["DebitSMS", "Amount=88"]
    environment = {}
    if how == "repeated":
        arguments += ["--address", addresses[0], "--address", addresses[1]]
    elif how == "commas":
        arguments += ["--address", ",".join(addresses)]
    else:
        environment["RATEL_ADDRESS"] = ",".join(addresses)
    result = CliRunner().invoke(call_command.call, arguments, env=environment)
    assert (result.exit_code, result.stdout) == (0, "88\n")
