"""A real balancer with a file of API keys: who gets in by HTTP and TCP, how much, what changes meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.client import JSONClient
from common.commands.apikey_command import apikey
from common.errors import Forbidden, TooManyRequests, Unauthorized
from common.security.api_keys import KeyFile, decode_keys
from tests.integration.balancer_process import COMMAND, PATIENCE_S, BalancerProcess, message
from tests.integration.fake_rater import FakeRater, echo, hold

GET = "/getmaxsessiontime?cstmid=vdf&subj=rif&dest=02&amount=1"
DEBIT = "/debitsms?cstmid=vdf&subj=rif&dest=02&amount=1"


class Keys:
    """The file, changed as an operator does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *args: str, code: int = 0) -> str:
        result = CliRunner().invoke(apikey, [args[0], "--api-keys", str(self.path), *args[1:]])
        assert result.exit_code == code, result.output
        return result.stdout.strip() if not code else result.output.strip()

    def create(self, *args: str, tenant: str = "vdf") -> str:
        whose = ("--tenant", tenant) if tenant else ("--all-tenants",)
        return self.run("create", "--name", "x", *whose, *(args or ("--allow", "read")))

    def read(self) -> KeyFile:
        return decode_keys(self.path.read_bytes())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


@pytest.fixture
def key(keys: Keys) -> str:
    return keys.create("--allow", "read")


@pytest.fixture
def balancer(keys: Keys, key: str) -> Iterator[BalancerProcess]:
    with BalancerProcess("--api-keys", str(keys.path)) as balancer:
        yield balancer


@pytest.fixture
def rater(balancer: BalancerProcess) -> Iterator[FakeRater]:
    with FakeRater(balancer.router_port, echo) as rater:
        rater.wait_for(lambda rater: rater.joined)
        wait_until(lambda: balancer.get("/readyz").status == 200)
        yield rater


def wait_until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- over HTTP ------------------------------------------------------------------------------------


def test_http_lets_in_by_the_header_and_binds_the_method(
    balancer: BalancerProcess, rater: FakeRater, key: str
) -> None:
    for headers in (bearer(key), {"X-API-Key": key}, {"authorization": f"bearer  {key} "}):
        assert balancer.request("GET", GET, headers=headers).status == 200
    assert {item.method for item in rater.received} == {'GetMaxSessionTime ["vdf"]'}
    refused = balancer.request("GET", DEBIT, headers=bearer(key))
    assert (refused.status, refused.body["error"]["name"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer ratel_0123456789_" + "0" * 64},
        {"X-API-Key": ""},
        {"X-API-Key": "\u00e9"},
        {"X-API-Key": "x" * 20_000},
    ],
)
def test_http_without_a_valid_key_is_401_and_reaches_no_rater(
    balancer: BalancerProcess, rater: FakeRater, headers: dict[str, str]
) -> None:
    for verb, target, body in (("GET", GET, None), ("POST", "/jsonrpc", message(1)), ("PUT", GET, None)):
        reply = balancer.request(verb, target, body, headers)
        assert (reply.status, reply.body["error"]["name"]) == (401, "unauthorized"), reply
        assert reply.headers["www-authenticate"] == 'Bearer realm="ratel"'
    assert rater.received == []


def test_two_keys_in_one_request_are_refused(balancer: BalancerProcess, key: str) -> None:
    reply = balancer.request("GET", GET, headers=bearer(key) | {"X-API-Key": key})
    assert reply.body["error"]["message"] == "more than one API key"


def test_probes_and_the_document_need_no_key(balancer: BalancerProcess, rater: FakeRater) -> None:
    pages = ("/healthz", "/readyz", "/openapi.json", "/openrpc.json")
    assert [balancer.get(page).status for page in pages] == [200] * 4


def test_discover_needs_no_key_but_what_stands_beside_it_does(
    balancer: BalancerProcess, rater: FakeRater
) -> None:
    question = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}'
    document = balancer.get("/openrpc.json").body
    reply = balancer.request("POST", "/jsonrpc", question)
    assert (reply.status, reply.body["result"]) == (200, document)
    for more in (message(2), question[:-1], b"[" + question + b"," + message(2) + b"]", b" " * 300):
        assert balancer.request("POST", "/jsonrpc", question + more).status == 401
    with JSONClient(("127.0.0.1", balancer.jsonrpc_port)) as client:
        named = [method["name"] for method in client.call("rpc.discover")["methods"]]
    assert named == [method["name"] for method in document["methods"]]
    assert rater.received == []


def test_a_body_of_calls_is_sorted_out(balancer: BalancerProcess, rater: FakeRater, key: str) -> None:
    body = b"".join(
        message(n, method) for n, method in enumerate(("GetCost", "DebitSMS", "Authenticate", "GetCost"))
    )
    connection_reply = _raw_post(balancer, body, key)
    answers = {answer["id"]: answer for answer in connection_reply}
    assert answers[0]["error"] is answers[3]["error"] is None
    assert answers[1]["error"].startswith("forbidden")
    assert answers[2]["error"].startswith("invalid_request: not a request: over HTTP")
    assert [item.method for item in rater.received] == ['GetCost ["vdf"]'] * 2


def _raw_post(balancer: BalancerProcess, body: bytes, key: str) -> list[dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/jsonrpc", body, bearer(key))
        return [json.loads(line) for line in connection.getresponse().read().splitlines()]
    finally:
        connection.close()


# --- over TCP -------------------------------------------------------------------------------------


def test_tcp_lets_in_by_authenticate(balancer: BalancerProcess, rater: FakeRater, key: str) -> None:
    with balancer.connect() as connection:
        assert connection.call(1)["error"].startswith("unauthorized")
        assert connection.call(2, "Authenticate", ApiKey=key)["result"]["Tenants"] == ["vdf"]
        assert connection.call(3, CstmId="vdf")["result"] == {"CstmId": "vdf"}
        assert connection.call(4, "DebitSMS")["error"].startswith("forbidden")
    assert [item.method for item in rater.received] == ['GetCost ["vdf"]']


def test_the_python_client_says_its_key_on_every_connection(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys, key: str, tmp_path: Path
) -> None:
    where = ("127.0.0.1", balancer.jsonrpc_port)
    with JSONClient(where, api_key=key) as client:
        assert client.call("GetCost", {"CstmId": "vdf"}) == {"CstmId": "vdf"}
        with client._changed:
            assert client._link is not None
            client._lose(client._link, "as if the network had broken")
        assert client.call_many([("GetCost", {"CstmId": str(n)}) for n in range(200)]) == [
            {"CstmId": str(n)} for n in range(200)
        ]
        with pytest.raises(Forbidden):
            client.call("DebitSMS", {})
    for options in ({}, {"api_key": "ratel_x"}, {"api_key_file": tmp_path / "none"}):
        with JSONClient(where, **options) as client, pytest.raises(Unauthorized):
            client.call("GetCost", {})
    with pytest.raises(ValueError, match="not both"):
        JSONClient(where, api_key=key, api_key_file=tmp_path / "k")


def test_a_key_is_exchanged_without_a_refused_call(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys, key: str, tmp_path: Path
) -> None:
    """Both are valid for a while; the client finds the new one in its file when the old one ends."""
    file = tmp_path / "client.key"
    file.write_text(f"{key}\n")
    with JSONClient(("127.0.0.1", balancer.jsonrpc_port), api_key_file=file) as client:
        client.call("GetCost", {})
        new = keys.create("--allow", "read")
        wait_until(lambda: balancer.request("GET", GET, headers=bearer(new)).status == 200)
        assert balancer.request("GET", GET, headers=bearer(key)).status == 200
        file.write_text(new)
        keys.run("revoke", key.split("_")[1])
        wait_until(lambda: balancer.request("GET", GET, headers=bearer(key)).status == 401)
        assert client.call_many([("GetCost", {"Subject": str(n)}) for n in range(100)]) == [
            {"Subject": str(n)} for n in range(100)
        ]


def test_a_revoked_key_is_refused_within_a_second_on_open_connections(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys, key: str
) -> None:
    with balancer.connect() as connection:
        connection.call(1, "Authenticate", ApiKey=key)
        assert connection.call(2)["error"] is None
        keys.run("revoke", key.split("_")[1])
        wait_until(lambda: connection.call(3)["error"] == "unauthorized: the API key was revoked")
        balancer.wait_for_line("api keys=0")
        assert (
            balancer.request("GET", GET, headers=bearer(key)).body["error"]["message"]
            == "the API key was revoked"
        )


def test_a_stranger_is_let_go(keys: Keys, key: str) -> None:
    options = ("--api-keys", str(keys.path), "--read-timeout", "1")
    with BalancerProcess(*options) as balancer, balancer.connect() as known, balancer.connect() as stranger:
        known.call(1, "Authenticate", ApiKey=key)
        assert stranger.call(2)["error"].startswith("unauthorized")
        assert stranger.rest() == []
        balancer.wait_for_line("has no valid API key, closing")
        assert known.call(3, "DebitSMS")["error"].startswith("forbidden")


# --- limits ---------------------------------------------------------------------------------------


def test_more_than_the_rate_is_429_with_when_to_come_again(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys
) -> None:
    slow = keys.create("--allow", "read", "--rate", "0.01", "--burst", "3")
    wait_until(lambda: b"keys=2" in "".join(balancer.lines).encode())
    statuses = [balancer.request("GET", GET, headers=bearer(slow)) for _ in range(4)]
    assert [reply.status for reply in statuses] == [200, 200, 200, 429]
    error = statuses[3].body["error"]
    assert error["name"] == "too_many_requests"
    assert int(statuses[3].headers["retry-after"]) == -(-error["data"]["retry_after_ms"] // 1000) > 90
    with (
        JSONClient(("127.0.0.1", balancer.jsonrpc_port), api_key=slow) as client,
        pytest.raises(TooManyRequests),
    ):
        client.call("GetCost", {})


def test_a_tenants_requests_in_flight_are_bounded_over_all_its_connections(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys, key: str
) -> None:
    keys.run("limit", "vdf", "--in-flight", "3")
    other = keys.create("--allow", "read")
    balancer.wait_for_line("api keys=2")
    rater.respond = hold
    with balancer.connect() as first, balancer.connect() as second:
        first.call(0, "Authenticate", ApiKey=key)
        second.call(0, "Authenticate", ApiKey=other)
        first.send(message(n) for n in (1, 2))
        rater.wait_for_items(2)
        second.send(message(n) for n in (3, 4))
        assert second.reply()["error"] == "too_many_requests: tenant 'vdf' may have 3 requests in flight"
        assert balancer.request("GET", GET, headers=bearer(key)).status == 429
        rater.wait_for_items(3)
        rater.release()
        first.replies(2)
        second.reply()
        assert balancer.request("GET", GET, headers=bearer(key)).status == 200


def test_settings_of_a_connection_are_bounds(keys: Keys, key: str) -> None:
    options = (
        "--max-connections=2",
        "--max-in-flight=2",
        "--max-message=2000",
        "--read-timeout=1",
        "--keep-alive=1",
    )
    with BalancerProcess(*options) as balancer, FakeRater(balancer.router_port, hold) as rater:
        with balancer.connect() as first, balancer.connect() as second:
            with balancer.connect() as third:
                assert third.rest() == []
            first.send(message(n) for n in range(1, 4))
            rater.wait_for_items(3)
            first.send([message(4)])
            second.send([message(5, Subject="x" * 2000)])
            assert [error["error"]["data"]["limit_bytes"] for error in second.rest()] == [2000]
            assert len(rater.received) == 3, "it is not read while so many are in flight"
        too_long = balancer.request("POST", "/jsonrpc", b"x" * 2001)
        assert (too_long.status, too_long.body["error"]["data"]) == (413, {"limit_bytes": 2000})
        with balancer.connect_http() as slow, balancer.connect_http() as idle:
            slow.sendall(b"GET /healthz HTTP/1.1\r\n")
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_all(slow).startswith(b"HTTP/1.1 408 ")
            assert read_all(idle).startswith(b"HTTP/1.1 200 ")


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(4096):
        data += piece
    return data


# --- the file while it runs -----------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [b"{", b'{"version":1,"keys":[{"id":1}]}', None])
def test_a_file_that_cant_be_read_changes_nothing_and_is_said(
    balancer: BalancerProcess, rater: FakeRater, keys: Keys, key: str, spoil: bytes | None
) -> None:
    whole = keys.path.read_bytes()
    if spoil is None:
        keys.path.chmod(0o666)
    else:
        keys.path.write_bytes(spoil)
    balancer.wait_for_line("API keys not taken, the ones before stay valid")
    assert balancer.request("GET", GET, headers=bearer(key)).status == 200
    os.chmod(keys.path, 0o600)
    keys.path.write_bytes(whole.replace(b'"x"', b'"y"'))
    wait_until(lambda: sum("api keys=1" in line for line in balancer.lines) == 2)


# --- what it won't start with ---------------------------------------------------------------------


def refused(*args: str) -> str:
    ports = [f"--{name}=127.0.0.1:0" for name in ("jsonrpc", "http", "router")]
    done = subprocess.run(
        [*COMMAND, *ports, *args], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("option", ["--jsonrpc", "--http"])
def test_it_wont_listen_for_everybody_on_other_addresses(option: str) -> None:
    said = refused(f"{option}=0.0.0.0:0")
    assert said.startswith(
        f"ratel balancer: won't listen on 0.0.0.0:0 ({option}): others than this host reach it"
    )
    assert said.endswith(
        "give --api-keys FILE to let in only who has a key, or --allow-insecure to listen all the same"
    )


def test_it_listens_there_with_keys_or_when_it_is_told_to(keys: Keys, key: str) -> None:
    for option in (f"--api-keys={keys.path}", "--allow-insecure"):
        with BalancerProcess(option, "--http=0.0.0.0:0") as balancer:
            assert balancer.get("/healthz").status == 200


def test_it_wont_start_with_a_file_that_it_cant_trust(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert "can't read the API keys in" in refused(f"--api-keys={file}")
    file.write_bytes(b"{")
    file.chmod(0o600)
    assert f"the API keys in {file}: Input data was truncated" in refused(f"--api-keys={file}")
    for mode in (0o644, 0o660, 0o602):
        file.chmod(mode)
        assert f"(mode 0{mode:o}); chmod 600 or 640" in refused(f"--api-keys={file}")


@pytest.mark.parametrize("path", ["/status.json", "/metrics", "/events"])
def test_how_it_does_is_for_this_host_and_for_operators(
    balancer: BalancerProcess, keys: Keys, key: str, path: str
) -> None:
    operator = keys.create("--allow", "operator", tenant="")
    of_one = keys.create("--allow", "operator", tenant="vdf")
    deadline_s = time.monotonic() + PATIENCE_S

    def status(**headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=PATIENCE_S)
        try:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request("GET", path, headers=named)
            return connection.getresponse().status
        finally:
            connection.close()

    while status(x_forwarded_for="10.0.0.1", x_api_key=operator) != 200:  # until the file is read again
        assert time.monotonic() < deadline_s
    assert status() == 200
    for proxied in ({"x_forwarded_for": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"Via": "1.1 proxy"}):
        assert status(**proxied) == 401
        assert status(x_api_key=key, **proxied) == 403
        assert status(x_api_key=of_one, **proxied) == 403  # it would see the other tenants' names
