"""HTTP through a real balancer process and a fake rater that echoes what it was given."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, cast

import pytest

from balancer.http.app import HttpApp
from balancer.http.jsonrpc import MAX_CALLS, MAX_IN_FLIGHT
from balancer.http.message import Request
from balancer.router import Router
from common.errors import StoreUnavailable, encode_error, with_log_id
from common.methods import BY_HTTP_NAME, BY_NAME
from common.wire import Reply, WorkItem, encode_done
from tests.integration.balancer_process import PATIENCE_S, BalancerProcess, message
from tests.integration.fake_rater import FakeRater, echo, hold

QUERY = "cstmid=vdf&subj=rif&dest=0257"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


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


@pytest.mark.parametrize("path", sorted(BY_HTTP_NAME))
@pytest.mark.parametrize("separator", "@&")
def test_every_method_by_get_in_the_documents_spelling(
    balancer: BalancerProcess, rater: FakeRater, path: str, separator: str
) -> None:
    reply = balancer.get(f"/{path}?{QUERY}{separator}amount=100")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"  # else a proxy may answer the next debit
    assert reply.body.items() >= {"DestinationPrefix": "0257", "Amount": 100}.items()
    assert rater.received[-1].method == BY_HTTP_NAME[path].name


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (f"{QUERY}&amount=1.5".encode(), FORM),
        (b'{"cstmid":"vdf","Subject":"rif","dest":"0257","Amount":1.5}', JSON),
        (b'{"cstmid":"vdf","Subject":"rif","dest":"0257","Amount":1.5}', FORM),
    ],
)
def test_a_post_takes_its_parameters_from_the_body(
    balancer: BalancerProcess, rater: FakeRater, body: bytes, headers: dict[str, str]
) -> None:
    reply = balancer.request("POST", "/debitbalance", body, headers)
    assert reply.status == 200
    assert reply.body == {
        "TOR": 0,
        "CstmId": "vdf",
        "Subject": "rif",
        "DestinationPrefix": "0257",
        "Amount": 1.5,
    }


def test_a_post_takes_parameters_from_query_and_body_but_none_twice(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    assert balancer.request("POST", f"/debitbalance?{QUERY}", b"amount=1", FORM).status == 200
    reply = balancer.request("POST", f"/debitbalance?{QUERY}&amount=1", b"amount=1", FORM)
    assert (reply.status, reply.body["error"]["data"]["field"]) == (400, "amount")


@pytest.mark.parametrize(
    ("given", "key"), [("k-1", "k-1"), ('"k-1"', "k-1"), ("x" * 256, "x" * 256), ('"', '"')]
)
def test_an_idempotency_key_travels_with_a_mutation_and_a_replay_is_marked(
    balancer: BalancerProcess, rater: FakeRater, given: str, key: str
) -> None:
    reply = balancer.get(f"/debitbalance?{QUERY}&amount=1", Idempotency_Key=given)
    assert rater.received[-1].key == f"c:{key}"
    assert reply.headers["idempotency-replayed"] == "true"  # `echo` replays whatever has a key
    assert "idempotency-replayed" not in balancer.get(f"/debitbalance?{QUERY}&amount=1").headers
    assert balancer.get(f"/getcost?{QUERY}", Idempotency_Key=given).status == 200
    assert rater.received[-1].key == ""


@pytest.mark.parametrize("key", ["", '""', "x" * 257, "caf\xe9"])
def test_a_bad_idempotency_key_is_refused(balancer: BalancerProcess, key: str) -> None:
    reply = balancer.get(f"/debitbalance?{QUERY}&amount=1", Idempotency_Key=key)
    assert (reply.status, reply.body["error"]["data"]["field"]) == (400, "Idempotency-Key")


def test_a_header_and_a_body_that_name_different_requests_are_refused(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    body = b'{"cstmid":"vdf","subj":"rif","dest":"1","amount":1,"RequestId":"a"}'
    assert balancer.request("POST", "/debitsms", body, JSON | {"Idempotency-Key": "a"}).status == 200
    reply = balancer.request("POST", "/debitsms", body, JSON | {"Idempotency-Key": "b"})
    assert (reply.status, reply.body["error"]["data"]["field"]) == (400, "requestid")


@pytest.mark.parametrize(
    ("verb", "target", "status", "name"),
    [
        ("GET", "/getcost?cstmid=vdf&subj=rif", 400, "invalid_params"),
        ("GET", f"/debitsms?{QUERY}@amount=lots", 400, "invalid_params"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/nothing/", 404, "not_found"),
        ("PUT", "/getcost", 405, "method_not_allowed"),
        ("GET", "/jsonrpc", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_what_cannot_be_served_gets_its_status_and_a_json_body(
    balancer: BalancerProcess, verb: str, target: str, status: int, name: str
) -> None:
    reply = balancer.request(verb, target)
    assert (reply.status, reply.body["error"]["name"]) == (status, name)
    assert set(reply.body["error"]) == {"code", "name", "message", "data"}
    assert ("allow" in reply.headers) == (status == 405)


def test_an_error_of_the_rater_has_the_status_of_its_class(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    error = StoreUnavailable(detail="down")

    def refuse(item: WorkItem) -> Reply | None:
        return Reply(item.seq, error.code, encode_error(error), False)

    rater.respond = refuse
    reply = balancer.get(f"/getcost?{QUERY}")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.headers["cache-control"] == "no-store"
    named = with_log_id(encode_error(error), reply.headers["x-request-id"])
    assert reply.body == {"error": json.loads(named)}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(balancer: BalancerProcess, chunked: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/jsonrpc")
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(17):
            connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    else:
        connection.putheader("Content-Length", str(1024 * 1024 + 1))
        connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["name"] == "message_too_large"
    connection.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", 400),
        (b"GET /healthz?" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"Name: value\r\n" * 5_000 + b"\r\n", 431),
    ],
)
def test_what_is_not_http_or_too_large_is_refused_in_json(
    balancer: BalancerProcess, raw: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
        sock.sendall(raw)
        reply = b""
        while b"}}" not in reply:
            part = sock.recv(65536)
            assert part
            reply += part
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]


def rpc(balancer: BalancerProcess, value: Any) -> tuple[int, Any]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    reply = balancer.request("POST", "/jsonrpc", body, JSON)
    return reply.status, reply.body


def test_post_jsonrpc_serves_both_dialects_batches_and_notifications(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    params = {"Subject": "rif"}
    old = {"id": 1, "method": "Responder.GetCost", "params": [params]}
    new = {"jsonrpc": "2.0", "id": 2, "method": "Responder.DebitSMS", "params": params}
    silent = {"jsonrpc": "2.0", "method": "Responder.DebitSMS", "params": params}
    answer = {"jsonrpc": "2.0", "id": 2, "result": params}
    assert rpc(balancer, old) == (200, {"id": 1, "result": params, "error": None})
    assert rpc(balancer, new) == (200, answer)
    assert rpc(balancer, [new, silent, new]) == (200, [answer, answer])
    assert rpc(balancer, silent) == (204, None)
    assert rpc(balancer, [silent, silent]) == (204, None)
    assert len(rater.received) == 8


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"hello", 400, -32700),
        (b"[]", 400, -32600),
        (b"[" * 1000, 400, -32700),
        (b'{"jsonrpc":"2.0","id":1}', 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"Responder.Nothing"}', 200, -32601),
    ],
)
def test_post_jsonrpc_with_what_is_no_request_is_answered_in_json_rpc(
    balancer: BalancerProcess, body: bytes, status: int, code: int
) -> None:
    got, answer = rpc(balancer, body)
    assert (got, answer["error"]["code"]) == (status, code)


def test_post_jsonrpc_without_a_body_is_refused(balancer: BalancerProcess) -> None:
    assert rpc(balancer, b" ")[0] == 400


CALL = {"jsonrpc": "2.0", "id": 1, "method": "Responder.DebitSMS", "params": {"Subject": "rif"}}
READ = CALL | {"method": "Responder.GetCost"}


@pytest.mark.parametrize(
    "body",
    [
        b"{}" * (512 * 1024),
        b"]\n" * (512 * 1024),
        b"[]" * (512 * 1024),
        message(1) * (MAX_CALLS + 1),
        message(1) * 10_000,
        json.dumps([CALL] * MAX_CALLS).encode() + message(1),
        json.dumps([CALL] * MAX_CALLS).encode() * 2,
    ],
    ids=["objects", "nonsense", "lists", "one_too_many", "many", "batch_and_call", "batches"],
)
def test_a_body_of_too_many_messages_is_refused_and_none_of_it_carried_out(
    balancer: BalancerProcess, rater: FakeRater, body: bytes
) -> None:
    status, answer = rpc(balancer, body)
    assert (status, answer["error"]["name"]) == (400, "invalid_request")
    assert str(MAX_CALLS) in answer["error"]["message"]
    assert balancer.get(f"/getcost?{QUERY}").status == 200
    assert [item.method for item in rater.received] == ["GetCost"]


def test_a_body_of_as_many_messages_as_may_be_is_answered(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
    connection.request("POST", "/jsonrpc", b"".join(message(number) for number in range(MAX_CALLS)))
    answers = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    assert sorted(answer["id"] for answer in answers) == list(range(MAX_CALLS))
    assert len(rpc(balancer, [CALL] * MAX_CALLS)[1]) == MAX_CALLS
    connection.request("POST", "/jsonrpc", json.dumps([CALL]).encode() * MAX_CALLS)
    assert len(connection.getresponse().read().splitlines()) == MAX_CALLS
    connection.close()


def test_the_calls_of_a_body_leave_room_for_others(balancer: BalancerProcess, rater: FakeRater) -> None:
    rater.respond = hold
    with ThreadPoolExecutor() as pool, balancer.connect() as other:
        many = pool.submit(rpc, balancer, [CALL] * 500)
        rater.wait_for_items(MAX_IN_FLIGHT)
        other.send([message(7, Subject="other")])
        assert b"other" in rater.wait_for_items(MAX_IN_FLIGHT + 1)[MAX_IN_FLIGHT].params
        rater.release()
        assert other.reply()["result"] == 1
        assert [answer["result"] for answer in many.result(PATIENCE_S)[1]] == [1] * 500


def test_a_body_whose_calls_are_not_carried_out_is_answered_at_one_deadline() -> None:
    with BalancerProcess("--deadline=100") as balancer:
        _, answers = rpc(balancer, [CALL] * 300)
        assert {answer["error"]["data"]["name"] for answer in answers} == {"deadline_exceeded"}
        details = [answer["error"]["data"]["detail"] for answer in answers]
        assert sum("calls before it" in detail for detail in details) == 300 - MAX_IN_FLIGHT


def test_an_idempotency_key_is_that_of_the_one_call_of_a_body(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    def post(value: Any, key: str) -> tuple[int, Any, bool]:
        headers = JSON | {"Idempotency-Key": key}
        reply = balancer.request("POST", "/jsonrpc", json.dumps(value).encode(), headers)
        return reply.status, reply.body, "idempotency-replayed" in reply.headers

    for value in (
        CALL,
        [CALL],
        CALL | {"params": [{"requestID": "k"}]},
        CALL | {"params": {"RequestId": ""}},
    ):
        status, _, replayed = post(value, "k")
        assert (status, replayed, rater.received[-1].key) == (200, True, "c:k")
    assert post(READ, "k")[0] == 200
    assert rater.received[-1].key == ""
    carried_out = len(rater.received)
    for value, key, field in (
        (CALL | {"params": {"requestid": "other"}}, "k", "RequestId"),
        ([CALL, CALL], "k", "Idempotency-Key"),
        ([CALL, READ], "k", "Idempotency-Key"),
        (CALL, "x" * 257, "Idempotency-Key"),
    ):
        status, body, _ = post(value, key)
        assert (status, body["error"]["data"]["field"]) == (400, field)
    assert len(rater.received) == carried_out


GET = f"GET /debitsms?{QUERY}&amount=%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST_HEAD = b"POST /debitsms HTTP/1.1\r\nHost: x\r\n"


def exchange(
    balancer: BalancerProcess, rater: FakeRater, raw: bytes, *, carried_out: int, half_close: bool
) -> list[tuple[int, Any]]:
    """What comes back up to the end; the rater answers the first request once all that was sent is there."""
    rater.respond = hold if carried_out else echo
    with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
        sock.sendall(raw)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        if carried_out:
            rater.wait_for_items(1)
            balancer.get("/healthz")  # by now the balancer has seen the end as well
            rater.respond = echo
            answers = [Reply(item.seq, 0, item.params, False) for item in rater.held]
            rater.send_raw(encode_done(rater._balancer_id, answers))
        text = b""
        while part := sock.recv(65536):
            text += part
    assert len(rater.received) == carried_out
    replies = []
    while text:
        head, _, rest = text.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        replies.append((int(head.split()[1]), json.loads(rest[:length])))
        text = rest[length:]
    return replies


@pytest.mark.parametrize(
    "bad",
    [
        b"BAD\r\n\r\n",
        b"GET /x HTTP/1.1\r\nBad Header\r\n\r\n",
        POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["line", "header", "chunk"],
)
@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("half_close", [False, True])
def test_nonsense_is_refused_after_the_responses_to_the_requests_before_it(
    balancer: BalancerProcess, rater: FakeRater, good: int, bad: bytes, half_close: bool
) -> None:
    raw = b"".join((GET % number).encode() for number in range(good)) + bad
    replies = exchange(balancer, rater, raw, carried_out=good, half_close=half_close)
    assert [status for status, _ in replies] == [200] * good + [400]
    assert replies[-1][1]["error"]["name"] == "bad_http"


@pytest.mark.parametrize("good", [1, 3])
@pytest.mark.parametrize(
    "rest",
    [b"", b"GET /debitsms?am", POST_HEAD + b"Content-Length: 9\r\n\r\n{"],
    ids=["whole", "half_a_head", "half_a_body"],
)
def test_a_client_that_ends_its_sending_gets_all_responses(
    balancer: BalancerProcess, rater: FakeRater, good: int, rest: bytes
) -> None:
    raw = b"".join((GET % number).encode() for number in range(good)) + rest
    replies = exchange(balancer, rater, raw, carried_out=good, half_close=True)
    assert [(status, body["Amount"]) for status, body in replies] == [(200, n) for n in range(good)]


@pytest.mark.parametrize("target", ["/healthz", f"/debitsms?{QUERY}&amount=1"], ids=["healthz", "debitsms"])
def test_responses_of_one_turn_leave_together(
    balancer: BalancerProcess, rater: FakeRater, target: str
) -> None:
    """Counted in segments: one for each write, as the gateway's are sent at once (TCP_NODELAY)."""
    count = 20
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    bad = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
        sock.sendall(request + bad * (count - 1))
        text = b""
        while text.count(b"HTTP/1.1 ") < count or not text.endswith(b"}"):
            part = sock.recv(65536)
            assert part
            text += part
        # `tcpi_data_segs_in` of struct tcp_info (linux/tcp.h)
        segments = int.from_bytes(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)[152:156], sys.byteorder
        )
    assert text.count(b"HTTP/1.1 404") == count - 1
    assert 1 <= segments <= 2


def test_head_is_answered_without_the_body_that_it_describes(balancer: BalancerProcess) -> None:
    for path, status in (("/healthz", 200), ("/openapi.json", 200), ("/getcost", 405), ("/nothing", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        assert int(response.headers["content-length"]) > 0
        connection.request("GET", "/healthz")  # the connection is in step
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://any.host:8000/getcost?{}", 200),
        ("/get%63ost?{}#fragment&amount=1", 200),
        ("/getcost?{}#fragment", 200),
        ("//getcost?{}", 404),
        ("/getcost/?{}", 404),
        ("http://any.host/nothing", 404),
        ("*", 404),
        ("/%ff", 404),
    ],
)
def test_every_form_of_a_target_is_understood(
    balancer: BalancerProcess, rater: FakeRater, target: str, status: int
) -> None:
    reply = balancer.get(target.format(QUERY))
    assert reply.status == status
    if status == 200:
        assert json.loads(rater.received[-1].params).keys() >= {"CstmId", "Subject", "DestinationPrefix"}
        assert "Amount" not in json.loads(rater.received[-1].params)


def test_a_connect_is_refused(balancer: BalancerProcess) -> None:
    with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 404 ")


def test_without_room_requests_are_refused_unread(rater_less: BalancerProcess) -> None:
    balancer = rater_less
    with balancer.connect() as first:
        first.send([message(1)])
        while True:  # until the first one is here
            reply = balancer.get("/getcost?no=sense")
            if reply.status != 400:
                break
        assert (reply.status, reply.headers["retry-after"]) == (503, "3")
        assert reply.body["error"]["name"] == "overloaded"
        assert reply.body["error"]["data"]["retry_after_ms"] == 2500
        post = balancer.request("POST", "/debitsms", b"{", JSON | {"Idempotency-Key": "k"})
        assert (post.status, post.body) == (503, reply.body)
        assert balancer.request("PUT", "/debitsms").status == 405
        assert balancer.get("/healthz").status == 200


@pytest.fixture
def rater_less() -> Iterator[BalancerProcess]:
    with BalancerProcess("--max-queued=1", "--max-wait=2500", "--deadline=20000") as balancer:
        yield balancer


@pytest.mark.parametrize("count", [1, 20, 3000])
def test_a_long_pipeline_is_answered_to_its_end_after_the_end_of_the_sending(
    balancer: BalancerProcess, count: int
) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
        sock.sendall(request * count)
        sock.shutdown(socket.SHUT_WR)
        text = b""
        while part := sock.recv(65536):
            text += part
    assert text.count(b"HTTP/1.1 200 OK\r\n") == text.count(b'{"status":"up"}') == count


def test_a_refusal_is_not_lost_however_much_was_still_to_be_sent(balancer: BalancerProcess) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", balancer.http_port), timeout=PATIENCE_S) as sock:
            sock.sendall(b"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
            sock.sendall(b"x" * 2_000_000)
            text = b""
            while part := sock.recv(65536):
                text += part
        assert text.startswith(b"HTTP/1.1 413 ")
        assert json.loads(text.partition(b"\r\n\r\n")[2])["error"]["name"] == "message_too_large"


@pytest.mark.parametrize("head", [POST_HEAD, (GET % 1).encode()[:-2]], ids=["POST", "GET"])
def test_a_request_that_is_cut_short_is_not_carried_out(
    balancer: BalancerProcess, rater: FakeRater, head: bytes
) -> None:
    raw = head + b"Content-Length: 9\r\n\r\n{"
    assert exchange(balancer, rater, raw, carried_out=0, half_close=True) == []


class Sent(list[tuple[int, bytes]]):
    def respond(self, request: Request, status: int, body: bytes, more: bytes) -> None:
        self.append((status, body))


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_a_defect_is_logged_and_answered_as_an_error(caplog: pytest.LogCaptureFixture, verb: str) -> None:
    class Broken:
        refused: ClassVar = Counter[str]()

        def turn_away(self, _method: object) -> None:
            return None

        def submit(self, *_: object) -> None:
            raise ZeroDivisionError

    sent = Sent()

    async def run() -> None:
        app = HttpApp(cast(Router, Broken()))
        if verb == "GET":
            app.serve(Request(sent, b"GET", f"/getcost?{QUERY}".encode(), []))
        else:
            app.serve(Request(sent, b"POST", b"/jsonrpc", [], body=message(1)))
            while not sent:
                await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    [(status, body)] = sent
    assert status == 500
    assert json.loads(body)["error"]["name"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text


def test_readyz_is_200_only_while_a_rater_with_a_tariff_is_there() -> None:
    with BalancerProcess() as balancer:
        reply = balancer.get("/readyz")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.body == {"status": "no rater with a tariff is there", "raters": 0, "tariff_epoch": 0}
        with FakeRater(balancer.router_port, epoch=0) as rater:
            rater.wait_for(lambda rater: rater.joined)
            assert balancer.get("/readyz").status == 503
            rater.epoch = 3
            _wait_for_status(balancer, 200)
            assert balancer.get("/readyz").body == {"status": "ready", "raters": 1, "tariff_epoch": 3}
            assert balancer.request("HEAD", "/readyz").status == 200
            rater.leave()
            _wait_for_status(balancer, 503)
        assert balancer.get("/healthz").body == {"status": "up"}


def _wait_for_status(balancer: BalancerProcess, status: int) -> None:
    while balancer.get("/readyz").status != status:  # ends by the test's own timeout at the latest
        pass


def test_one_connection_serves_many_requests(balancer: BalancerProcess, rater: FakeRater) -> None:
    assert "getcost" in BY_HTTP_NAME
    assert BY_NAME["Get"].name == "GetCost"
    connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
    for number in range(50):
        connection.request("GET", f"/debitsms?{QUERY}&amount={number}")
        assert json.loads(connection.getresponse().read())["Amount"] == number
    connection.close()
