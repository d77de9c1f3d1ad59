"""What the client that waits and that of asyncio have in common: names, and the outcome of each scenario."""

from __future__ import annotations

import inspect
import json
import socket
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import uvloop

from common.async_client import AsyncClient
from common.async_client import Pending as AsyncPending
from common.client import JSONClient, Pending
from common.client_parts import PROBE
from common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    InsufficientSms,
    InternalError,
    InvalidParams,
    MessageTooLarge,
    MethodNotFound,
    NoRate,
    NotDurable,
    Overloaded,
    Quarantined,
    RatelError,
    ShuttingDown,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
)
from common.tls import ClientTls, TlsError
from tests.certificates import HERE, Authority
from tests.integration.balancer_process import BalancerProcess
from tests.integration.fake_rater import FakeRater, answer_one, echo
from tests.integration.rpc_server import CD, DROP, HOLD, Fate, RpcServer, amount
from tests.integration.test_api_keys import Keys
from tests.integration.waiting_client import WaitingClient


class OnUvloop(WaitingClient):
    new_loop = staticmethod(uvloop.new_event_loop)


@pytest.fixture(params=[JSONClient, WaitingClient, OnUvloop], ids=["sync", "asyncio", "uvloop"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Which client it is."""
    return request.param


@pytest.fixture
def client(server: RpcServer, kind: Any) -> Iterator[Any]:
    with kind(server.address) as connected:
        yield connected


# --- names ----------------------------------------------------------------------------------------


def public(cls: type) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("waits", "awaits"), [(JSONClient, AsyncClient), (Pending, AsyncPending)])
def test_both_have_the_same_names_with_the_same_parameters(waits: type, awaits: type) -> None:
    assert public(waits).keys() == public(awaits).keys()
    assert inspect.signature(waits).parameters.keys() == inspect.signature(awaits).parameters.keys()
    for name, member in public(waits).items():
        other = public(awaits)[name]
        if callable(member):
            ours, theirs = inspect.signature(member), inspect.signature(other)
            assert ours.parameters == theirs.parameters, name
            assert str(ours.return_annotation) == str(theirs.return_annotation), name
            assert inspect.iscoroutinefunction(other), name


def test_settings_are_the_same() -> None:
    assert inspect.signature(JSONClient) == inspect.signature(AsyncClient)


# --- calls and pipelining -------------------------------------------------------------------------


def test_results_are_exact_and_errors_are_of_their_class(server: RpcServer, client: Any) -> None:
    server.handler = lambda _, cd: b"[1,0.1,9007199254.740991]"
    assert client.call("DebitBalance", CD) == [1, Decimal("0.1"), Decimal("9007199254.740991")]
    server.handler = amount
    with pytest.raises(NoRate, match="no rate for subject 'nobody'") as caught:
        client.call("GetCost", CD | {"Subject": "nobody"})
    assert caught.value.data == {"tenant": "vdf", "subject": "nobody", "destination": "0256"}
    with pytest.raises(MethodNotFound, match=r"Responder\.Nope"):
        client.call("Nope", CD)
    with pytest.raises(InvalidParams):
        client.call("DebitBalance", CD | {"Amount": float("nan")})
    with pytest.raises(MessageTooLarge):
        client.call("DebitBalance", CD | {"Subject": "x" * 2**20})
    assert server.connections == 1


def test_replies_may_come_in_any_order(server: RpcServer, client: Any) -> None:
    server.handler = lambda _, cd: HOLD if cd["Amount"] == 0 else json.dumps(cd["Amount"]).encode()
    pending = [client.submit("GetMaxSessionTime", CD | {"Amount": n}) for n in range(10)]
    assert [one.result() for one in pending[1:]] == list(range(1, 10))
    assert not pending[0].done
    server.release(b"77")
    assert [pending[0].result(), pending[0].result()] == [77, 77]
    assert server.connections == 1


def test_many_calls_keep_order_window_and_places_of_errors(server: RpcServer, client: Any) -> None:
    calls = [
        ("DebitSMS", CD | {"Amount": n} | ({"Subject": "nobody"} if n % 7 == 0 else {})) for n in range(200)
    ]
    calls[3] = ("DebitSMS", {"Amount": float("inf")})
    outcomes = client.call_many(calls, window=16)
    assert server.connections == 1
    assert isinstance(outcomes[3], InvalidParams)
    del outcomes[3]
    numbers = [n for n in range(200) if n != 3]
    assert all(
        isinstance(outcome, NoRate) if n % 7 == 0 else outcome == n
        for n, outcome in zip(numbers, outcomes, strict=True)
    )
    server.handler = lambda _, cd: HOLD
    thread = threading.Thread(target=lambda: client.call_many([("GetCost", CD)] * 10, window=4))
    before = len(server.seen)
    thread.start()
    server.wait_for_calls(before + 4)
    assert len(server.seen) == before + 4
    while thread.is_alive():
        server.release(b"1")
        thread.join(0.01)


def test_a_server_that_waits_for_its_replies_to_be_read_blocks_nobody(server: RpcServer, client: Any) -> None:
    big = json.dumps("x" * 100_000).encode()
    server.handler = lambda _, cd: big
    pending = [client.submit("GetCost", CD | {"Padding": "y" * 100_000}) for _ in range(200)]
    assert all(len(one.result()) == 100_000 for one in pending)


# --- time -----------------------------------------------------------------------------------------


def test_a_timeout_leaves_the_connection_and_the_late_reply_is_dropped(
    server: RpcServer, client: Any
) -> None:
    server.handler = lambda _, cd: HOLD if cd["Amount"] == 1 else json.dumps(cd["Amount"]).encode()
    with pytest.raises(DeadlineExceeded, match="may or may not") as caught:
        client.call("DebitBalance", CD | {"Amount": 1}, timeout_s=0.05)
    server.wait_for_calls(1)
    assert caught.value.data["request_id"] == server.seen[0][1]["RequestId"]
    server.release(b"1")
    assert client.call("DebitBalance", CD | {"Amount": 2}) == 2
    assert server.connections == 1


def test_a_result_is_waited_for_as_long_as_it_is_asked_for(server: RpcServer, client: Any) -> None:
    server.handler = lambda _, cd: HOLD
    pending = client.submit("GetCost", CD)
    with pytest.raises(DeadlineExceeded) as caught:
        pending.result(0.05)
    with pytest.raises(DeadlineExceeded) as again:
        pending.result()
    assert caught.value is again.value
    server.wait_for_calls(1)


def test_a_server_that_does_not_read_is_given_up(kind: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, kind(deaf.getsockname(), timeout_s=0.2) as client:
        calls = [("GetCost", {"Subject": "x" * 900_000})] * 30  # more than the system's buffers take
        outcomes = client.call_many(calls, window=30)
    assert {type(outcome) for outcome in outcomes} <= {DeadlineExceeded, ConnectionLost}


def test_a_server_that_is_not_there_is_said_so(kind: Any, refusing: tuple[str, int]) -> None:
    with kind(refusing, connect_timeout_s=0.2) as client:
        for _ in range(2):  # each time anew
            with pytest.raises(ConnectionLost, match="can't connect"):
                client.call("GetCost", CD, timeout_s=60)
    with kind(refusing, connect_timeout_s=60) as client, pytest.raises(DeadlineExceeded):
        client.call("GetCost", CD, timeout_s=0.2)


def test_the_time_for_a_first_connection_begins_with_the_call(kind: Any, refusing: tuple[str, int]) -> None:
    """And not with one that was over long ago."""
    with kind(refusing, connect_timeout_s=0.5) as client:
        with pytest.raises(DeadlineExceeded):
            client.call("GetCost", CD, timeout_s=0.2)
        threading.Event().wait(0.6)
        with RpcServer(amount, refusing[1]):
            assert client.call("DebitSMS", CD | {"Amount": 3}) == 3


def test_a_name_that_is_no_hosts_is_a_clear_error(kind: Any) -> None:
    with kind(("a" * 70, 1), connect_timeout_s=0.1) as client, pytest.raises(ConnectionLost, match="label"):
        client.call("GetCost", CD)


# --- lost connections -----------------------------------------------------------------------------


def test_calls_in_flight_are_sent_again_under_the_same_request_id(server: RpcServer, client: Any) -> None:
    def drop_first(method: str, cd: dict[str, Any]) -> bytes | RatelError | Fate:
        return DROP if len(server.seen) == 3 else HOLD if len(server.seen) < 3 else amount(method, cd)

    server.handler = drop_first
    names = ("GetMaxSessionTime", "DebitSMS", "DebitSMS")
    pending = [client.submit(name, CD | {"Amount": 5}) for name in names]
    assert [one.result() for one in pending] == [5, 5, 5]
    assert server.seen[:3] == server.seen[3:]
    ids = [cd.get("RequestId", "") for _, cd in server.seen[:3]]
    assert ids == [one.request_id for one in pending]
    assert ids[0] == ""
    assert len(set(ids)) == 3


def test_what_must_not_be_repeated_is_not_and_the_next_call_connects_anew(
    server: RpcServer, kind: Any
) -> None:
    server.handler = lambda _, cd: DROP
    with kind(server.address, auto_request_id=False) as client:
        with pytest.raises(ConnectionLost, match=r"closed by the server|reset"):
            client.call("DebitSMS", CD | {"Amount": 5})
        assert len(server.seen) == 1
        server.handler = amount
        assert client.call("DebitSMS", CD | {"Amount": 1}) == 1
        server.stop()
        with RpcServer(amount, server.address[1]) as again:
            assert client.call("DebitSMS", CD | {"Amount": 2}) == 2
            assert len(again.seen) == 1


NOT_THIS_TIME = (
    Overloaded(detail="too much"),
    TooManyRequests(detail="too many", retry_after_ms=5),
    Unauthorized(detail="the API key was revoked"),
    Forbidden(what="the method DebitSMS"),
)


@pytest.mark.parametrize("refusal", NOT_THIS_TIME, ids=lambda refusal: refusal.name)
def test_who_refuses_to_do_it_again_does_not_know_whether_it_was_done(
    server: RpcServer, client: Any, refusal: RatelError
) -> None:
    """The connection was lost with the answer; that the next attempt did nothing is not the outcome."""
    server.handler = lambda method, cd: DROP if cd["Amount"] and len(server.seen) == 1 else refusal
    with pytest.raises(ConnectionLost, match=f"{refusal.name}.*unknown") as raised:
        client.call("DebitSMS", CD | {"Amount": 5, "RequestId": "r"})
    assert raised.value.data["request_id"] == "r"
    assert [cd["RequestId"] for _, cd in server.seen] == ["r", "r"]
    with pytest.raises(type(refusal)):  # nothing was ever done for this one
        client.call("DebitSMS", CD | {"Amount": 0})


OPEN = (
    DeadlineExceeded(detail="after 5000 ms without an answer"),
    StoreUnavailable(detail="no answer in time"),
    NotDurable(confirmed=1, copies=2, timeout_ms=1000),
    Quarantined(raters=2),
    InternalError(detail="a defect"),
)


@pytest.mark.parametrize("error", OPEN, ids=lambda error: error.name)
def test_an_error_that_leaves_the_outcome_open_tells_the_request_id(
    server: RpcServer, client: Any, error: RatelError
) -> None:
    """The client made it: only the error can tell with what to ask again."""
    server.handler = lambda _, cd: error
    with pytest.raises(type(error)) as raised:
        client.call("DebitSMS", CD | {"Amount": 5})
    [(_, descriptor)] = server.seen
    assert raised.value.data == error.data | {"request_id": descriptor["RequestId"]}
    assert raised.value.message == error.message
    with pytest.raises(type(error)) as raised:
        client.call("GetCost", CD)
    assert "request_id" not in raised.value.data


def test_a_read_that_is_refused_when_it_is_asked_again_is_refused(server: RpcServer, client: Any) -> None:
    refusal = Overloaded(detail="too much")
    server.handler = lambda _, cd: DROP if len(server.seen) == 1 else refusal
    with pytest.raises(Overloaded):
        client.call("GetCost", CD)


def test_a_rule_decides_it_whenever_it_is_asked(server: RpcServer, client: Any) -> None:
    """Such an answer stands in the store under the key, or the key is not there."""
    refusal = InsufficientSms(amount="5", sms="1")
    server.handler = lambda _, cd: DROP if len(server.seen) == 1 else refusal
    with pytest.raises(InsufficientSms):
        client.call("DebitSMS", CD | {"Amount": 5})


@pytest.mark.parametrize("method", ["GetMaxSessionTime", "DebitSMS"])
def test_a_server_that_drops_connections_at_first_is_no_error(
    server: RpcServer, kind: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client_parts.FIRST_BACKOFF_S", 0.001)
    server.turn_away = 3
    server.handler = lambda method, cd: DROP if len(server.seen) <= 3 else amount(method, cd)
    with kind(server.address) as client:
        assert client.call(method, CD | {"Amount": 5}, timeout_s=60) == 5
    assert server.connections == 7
    assert all(seen == server.seen[0] for seen in server.seen)


def test_calls_through_cuts_all_get_an_answer(server: RpcServer, client: Any) -> None:
    server.handler = lambda method, cd: DROP if len(server.seen) % 50 == 0 else amount(method, cd)
    calls = [("DebitSMS", CD | {"Amount": n}) for n in range(300)]
    assert client.call_many(calls, window=16) == list(range(300))
    assert server.connections > 3
    requests = {json.dumps(cd) for _, cd in server.seen}
    assert len(requests) == len({cd["RequestId"] for _, cd in server.seen}) == 300


@pytest.mark.parametrize("babble", [b"HTTP/1.1 400 Bad Request\r\n", b'{"id":"?"}', b'{"result":1}', b"[]\n"])
def test_a_server_that_speaks_something_else_is_left(kind: Any, babble: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(babble)
                connection.recv(65536)

        speaker = threading.Thread(target=speak)
        speaker.start()
        with kind(listener.getsockname()) as client, pytest.raises(ConnectionLost):
            client.call("GetCost", CD)
        speaker.join()


def test_closing_fails_what_is_in_flight(server: RpcServer, client: Any) -> None:
    server.handler = lambda _, cd: HOLD
    pending = client.submit("GetCost", CD)
    client.close()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        pending.result()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        client.call("GetCost", CD)


# --- several servers ------------------------------------------------------------------------------


def test_what_was_in_flight_goes_to_the_next_server(
    kind: Any, server: RpcServer, second: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client_parts.FIRST_BACKOFF_S", 3600)
    server.handler = lambda _, cd: HOLD
    with kind([server.address, second.address], timeout_s=60, attempt_timeout_s=3600) as client:
        pending = [client.submit("DebitSMS", CD | {"Amount": n}) for n in range(20)]
        server.wait_for_calls(20)
        server.stop()
        assert [one.result() for one in pending] == list(range(20))
    assert second.seen == server.seen
    assert len({cd["RequestId"] for _, cd in second.seen}) == 20


def test_servers_that_refuse_are_passed_over(kind: Any, refusing: Any, second: RpcServer) -> None:
    with kind([refusing, refusing, second.address]) as client:
        assert client.call("DebitSMS", CD | {"Amount": 3}) == 3


def test_a_server_that_shuts_down_is_left_with_all_that_it_has(
    kind: Any, server: RpcServer, second: RpcServer
) -> None:
    server.handler = lambda _, cd: HOLD if cd["Amount"] == 1 else ShuttingDown()
    with kind([server.address, second.address], timeout_s=60, attempt_timeout_s=3600) as client:
        held, sent_back = (client.submit("DebitSMS", CD | {"Amount": n}) for n in (1, 2))
        assert (held.result(), sent_back.result()) == (1, 2)
        assert [cd["RequestId"] for _, cd in second.seen] == [held.request_id, sent_back.request_id]


@pytest.mark.parametrize("request_ids", [True, False])
def test_what_the_only_server_sends_back_goes_to_the_next_connection(kind: Any, request_ids: bool) -> None:
    fates = iter([ShuttingDown(), b"1", DROP])
    with (
        RpcServer(lambda method, cd: next(fates, b"7")) as server,
        kind(server.address, auto_request_id=request_ids) as client,
    ):
        sent_back = client.submit("DebitSMS", CD)
        assert client.call("GetCost", CD) == 1  # by now the other's answer is there, too
        assert not sent_back.done
        cut = client.submit("GetCost", CD)
        assert (sent_back.result(), cut.result()) == (7, 7)


def test_a_server_that_hangs_is_asked_whether_it_is_there_and_then_left(kind: Any, second: RpcServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        servers = [hung.getsockname(), second.address]
        with kind(servers, timeout_s=60, attempt_timeout_s=0.2) as client:
            pending = [client.submit("DebitSMS", CD | {"Amount": n}) for n in range(3)]
            assert [one.result() for one in pending] == [0, 1, 2]
        connection, _ = hung.accept()
        with connection, connection.makefile("rb") as lines:
            *calls, probe = lines.readlines()
    sent = [json.loads(line)["params"]["RequestId"] for line in calls]
    assert sent == [cd["RequestId"] for _, cd in second.seen]
    assert probe == PROBE


def test_a_slow_answer_moves_nobody(kind: Any, server: RpcServer, second: RpcServer) -> None:
    """Three times as long as a silence may last: a server that is there says so when it is asked."""
    server.handler = lambda _, cd: HOLD
    with kind([server.address, second.address], timeout_s=60, attempt_timeout_s=0.3) as client:
        pending = client.submit("DebitSMS", CD)
        timer = threading.Timer(1, server.release, (b"8",))
        timer.start()
        assert pending.result() == 8
        timer.join()
    assert (server.connections, second.connections) == (1, 0)


# --- API keys and TLS -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def key(keys: Keys) -> str:
    return keys.create("--allow", "read")


@pytest.fixture(scope="module")
def guarded(keys: Keys, key: str) -> Iterator[tuple[str, int]]:
    with (
        BalancerProcess("--api-keys", str(keys.path)) as balancer,
        FakeRater(balancer.router_port, echo) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        yield ("127.0.0.1", balancer.jsonrpc_port)


def test_a_key_is_said_on_every_connection(
    kind: Any, guarded: tuple[str, int], key: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(key + "\n")
    for options in ({"api_key": key}, {"api_key_file": file}):
        with kind(guarded, **options) as client:
            assert client.call("GetCost", {"CstmId": "vdf"}) == {"CstmId": "vdf"}
            with pytest.raises(Forbidden):
                client.call("DebitSMS", {})


def test_who_has_no_key_or_a_wrong_one_is_refused(
    kind: Any, guarded: tuple[str, int], key: str, tmp_path: Path
) -> None:
    for options in ({}, {"api_key": "ratel_x"}, {"api_key_file": tmp_path / "none"}):
        with kind(guarded, **options) as client, pytest.raises(Unauthorized):
            client.call("GetCost", {})


def test_who_is_not_let_in_again_does_not_know_whether_it_was_done(
    kind: Any, server: RpcServer, guarded: tuple[str, int]
) -> None:
    """The first server dies with the debit, the second one does not know the key."""
    server.handler = lambda method, cd: b"{}" if method == "Authenticate" else DROP
    with (
        kind([server.address, guarded], api_key="ratel_x") as client,
        pytest.raises(ConnectionLost, match=r"unauthorized.*unknown"),
    ):
        client.call("DebitSMS", CD | {"Amount": 5})
    assert [name for name, _ in server.seen].count("DebitSMS") == 1


def test_a_key_and_a_file_are_not_given_together(guarded: tuple[str, int], key: str, tmp_path: Path) -> None:
    for each in (JSONClient, AsyncClient):
        with pytest.raises(ValueError, match="not both"):
            each(guarded, api_key=key, api_key_file=tmp_path / "k")
        with pytest.raises(TlsError, match="the CA /nowhere"):
            each(guarded, tls=ClientTls("/nowhere"))


@pytest.fixture(scope="module")
def wrapped(authority: Authority) -> Iterator[tuple[str, int]]:
    """With TLS, and clients need certificates."""
    cert, private = authority.issue(*HERE)
    options = ("--tls-cert", str(cert), "--tls-key", str(private), "--tls-client-ca", str(authority.ca))
    with (
        BalancerProcess(*options) as balancer,
        FakeRater(balancer.router_port, answer_one) as rater,
    ):
        rater.wait_for(lambda rater: rater.joined)
        yield ("127.0.0.1", balancer.jsonrpc_port)


def test_tls_with_certificates_on_both_sides(
    kind: Any, wrapped: tuple[str, int], authority: Authority
) -> None:
    tls = ClientTls(authority.ca, *authority.issue("friend.example"))
    with kind(wrapped, tls=tls) as client:
        assert client.call_many([("GetCost", CD)] * 300) == [1] * 300


@pytest.mark.parametrize(
    ("certificate", "name", "reason"),
    [
        (False, "", "a client certificate is required"),
        (True, "rating.example", "the certificate is refused: Hostname mismatch"),
    ],
)
def test_what_tls_refuses_is_said(
    kind: Any,
    wrapped: tuple[str, int],
    authority: Authority,
    certificate: bool,
    name: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.client_parts.FIRST_BACKOFF_S", 3600)  # one attempt
    pair = authority.issue("friend.example") if certificate else (None, None)
    tls = ClientTls(authority.ca, *pair, server_name=name)
    with (
        kind(wrapped, tls=tls, connect_timeout_s=60, timeout_s=60) as client,
        pytest.raises(ConnectionLost, match=reason),
    ):
        client.call("GetCost", CD)
