"""Bad input gets an error that names what is wrong, changes nothing, and harms no neighbour."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import quote

import pytest

from common.client import JSONClient
from common.errors import RatelError
from tests.e2e.cluster import Cluster

GOOD: dict[str, Any] = {
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}


def talk(cluster: Cluster, data: bytes, replies: int) -> list[Any]:
    """Send bytes, and read that many replies."""
    with socket.create_connection(cluster.jsonrpc, timeout=30) as sock:
        sock.sendall(data)
        with sock.makefile("rb") as lines:
            return [json.loads(lines.readline()) for _ in range(replies)]


def good(id_: int) -> bytes:
    return json.dumps({"id": id_, "method": "Responder.GetCost", "params": [GOOD]}).encode()


BAD_MESSAGES = {
    "not JSON at all": (b"hello\n", "parse_error"),
    "balanced but not JSON": (b"{nope}", "parse_error"),
    "a string": (b'"hello"\n', None),
    "a number": (b"17\n", None),
    "an empty list": (b"[]", "invalid_request"),
    "no method": (b'{"id":5}', "invalid_request"),
    "a method that is a number": (b'{"id":5,"method":1,"params":[]}', None),
    "an unknown method": (b'{"id":5,"method":"Responder.Nope","params":[{}]}', "method_not_found"),
    "no params": (b'{"id":5,"method":"Responder.GetCost"}', "invalid_params"),
    "two params": (b'{"id":5,"method":"Responder.GetCost","params":[{},{}]}', "invalid_params"),
    "NaN": (
        b'{"id":5,"method":"Responder.DebitSMS","params":[{"CstmId":"vdf","Subject":"rif","Amount":NaN}]}',
        None,
    ),
    "a nesting bomb": (
        b'{"id":5,"method":"Responder.GetCost","params":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "nested",
    ),
    "a raw line break in a string": (b'{"id":5,"method":"Respon\n', "parse_error"),
}


@pytest.mark.parametrize("what", BAD_MESSAGES)
def test_a_bad_message_is_answered_and_its_neighbours_are_served(sample_cluster: Cluster, what: str) -> None:
    bad, name = BAD_MESSAGES[what]
    replies = talk(sample_cluster, good(1) + bad + good(2), 3)
    by_id = {reply["id"]: reply for reply in replies}
    assert by_id[1]["result"]["Cost"] == by_id[2]["result"]["Cost"] == 540
    error = next(reply["error"] for reply in replies if reply["id"] not in (1, 2))
    text = error if isinstance(error, str) else json.dumps(error)
    assert text
    if name is not None:
        assert name in text


def test_a_message_over_the_limit_is_answered_and_ends_the_connection(sample_cluster: Cluster) -> None:
    with socket.create_connection(sample_cluster.jsonrpc, timeout=30) as sock:
        sock.sendall(good(1) + b'{"id":2,"method":"' + b"x" * (1024 * 1024))
        with sock.makefile("rb") as stream:
            replies = [json.loads(line) for line in stream]
    texts = [json.dumps(reply["error"]) for reply in replies if reply["error"]]
    assert len(replies) == 2
    assert "message_too_large" in texts[0]


FIELD_ERRORS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("GetCost", {"CstmId": None}, "CstmId"),
    ("GetCost", {"Subject": 7}, "Subject"),
    ("GetCost", {"DestinationPrefix": ["0256"]}, "DestinationPrefix"),
    ("GetCost", {"TOR": "0"}, "TOR"),
    ("GetCost", {"TimeStart": None}, "TimeStart"),
    ("GetCost", {"TimeStart": "yesterday"}, "TimeStart"),
    ("GetCost", {"TimeStart": "2012-02-30T00:00:00Z"}, "TimeStart"),
    ("GetCost", {"TimeEnd": "2012-02-02T17:29:59Z"}, "TimeEnd"),
    ("DebitBalance", {}, "Amount"),
    ("DebitBalance", {"Amount": "100"}, "Amount"),
    ("DebitBalance", {"Amount": True}, "Amount"),
    ("DebitBalance", {"Amount": 0.0000001}, "Amount"),
    ("DebitBalance", {"Amount": 9007199254740992}, "Amount"),
    ("DebitBalance", {"Amount": 1, "RequestId": 5}, "RequestId"),
    ("DebitBalance", {"Amount": 1, "RequestId": "x" * 257}, "RequestId"),
)


@pytest.mark.parametrize(("method", "change", "field"), FIELD_ERRORS)
def test_a_wrong_field_is_named(
    sample_cluster: Cluster, method: str, change: dict[str, Any], field: str
) -> None:
    cd = GOOD | change
    message = {"jsonrpc": "2.0", "id": 1, "method": f"Responder.{method}", "params": cd}
    (reply,) = talk(sample_cluster, json.dumps(message).encode(), 1)
    assert reply["error"]["code"] == -32602
    assert reply["error"]["data"]["field"] == field
    assert field in reply["error"]["message"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "1e999999999"])
def test_numbers_beyond_the_range_change_nothing(sample_cluster: Cluster, number: str) -> None:
    with sample_cluster.client() as client:
        before = client.call("DebitBalance", GOOD | {"Amount": 0})
        text = json.dumps({"id": 1, "method": "Responder.DebitBalance", "params": [GOOD | {"Amount": 0}]})
        (reply,) = talk(sample_cluster, text.replace('"Amount": 0', f'"Amount": {number}').encode(), 1)
        assert "Amount" in reply["error"]
        assert client.call("DebitBalance", GOOD | {"Amount": 0}) == before


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"CstmId": "nobody"}, "unknown_tenant"),
        ({"Subject": "nobody", "DestinationPrefix": "99"}, "no_rate"),
        ({"DestinationPrefix": "x"}, "no_rate"),
        ({"TimeStart": "1999-01-01T00:00:00Z", "TimeEnd": "1999-01-01T00:01:00Z"}, "not_active"),
        ({"TimeEnd": "2013-02-02T17:30:00Z"}, "call_too_long"),
    ],
)
def test_a_call_that_has_no_price_is_refused_with_the_reason(
    sample_cluster: Cluster, change: dict[str, Any], name: str
) -> None:
    with sample_cluster.client() as client, pytest.raises(RatelError) as caught:
        client.call("GetCost", GOOD | change)
    assert caught.value.name == name


def test_unknown_subjects_are_errors_in_mutations_only(sample_cluster: Cluster) -> None:
    with sample_cluster.client() as client:
        with pytest.raises(RatelError) as caught:
            client.call("DebitBalance", GOOD | {"Subject": "nobody", "Amount": 1})
        assert caught.value.name == "unknown_subject"
        assert client.call("GetMaxSessionTime", GOOD | {"Subject": "nobody", "Amount": 77}) == 77


HTTP_ERRORS: tuple[tuple[str, int, str], ...] = (
    ("/getcost?cstmid=vdf&subj=rif", 400, "dest"),
    ("/debitbalance?cstmid=vdf&subj=rif&amount=1", 400, "dest"),
    ("/getcost?subj=rif&dest=0256", 400, "cstmid"),
    ("/debitbalance?cstmid=vdf&subj=rif&dest=0256", 400, "amount"),
    ("/debitbalance?cstmid=vdf&subj=rif&dest=0256@amount=lots", 400, "amount"),
    ("/debitbalance?cstmid=vdf&subj=rif&dest=0256&amount=NaN", 400, "amount"),
    ("/debitbalance?cstmid=vdf&subj=rif&dest=0256&amount=1e999", 400, "amount"),
    ("/debitbalance?cstmid=vdf&subj=rif&dest=0256&amount=1&amount=2", 400, "amount"),
    (
        "/getcost?cstmid=vdf&subj=rif&dest=0256&start=2012-02-02T18:30:00Z&end=2012-02-02T17:30:00Z",
        400,
        "TimeEnd",
    ),
    ("/getcost?cstmid=nobody&subj=rif&dest=0256", 404, "nobody"),
    ("/getcost?cstmid=vdf&subj=rif&dest=xx", 404, "xx"),
    ("/debitsms?cstmid=vdf&subj=nobody&dest=0256&amount=1", 404, "nobody"),
    ("/debitsms?cstmid=vdf&subj=rif&dest=0256&amount=999999999", 402, "999999999"),
    ("/nothing", 404, "/nothing"),
)


@pytest.mark.parametrize(("target", "status", "names"), HTTP_ERRORS)
def test_http_errors_have_a_fitting_status_and_name_what_is_wrong(
    sample_cluster: Cluster, target: str, status: int, names: str
) -> None:
    got, body = sample_cluster.get(target)
    assert got == status
    assert names in body["error"]["message"]


def test_post_jsonrpc_answers_each_member_of_a_batch(sample_cluster: Cluster) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "Responder.GetCost", "params": GOOD},
        {"jsonrpc": "2.0", "id": 2, "method": "Responder.GetCost", "params": {}},
        17,
        {"jsonrpc": "2.0", "id": 4, "method": "Responder.GetCost", "params": [GOOD]},
    ]
    status, replies = sample_cluster.request("POST", "/jsonrpc", json.dumps(batch).encode())
    assert status == 200
    by_id = {reply["id"]: reply for reply in replies}
    assert by_id[1]["result"]["Cost"] == by_id[4]["result"]["Cost"] == 540
    assert by_id[2]["error"]["code"] == -32602
    assert by_id[None]["error"]["code"] == -32600


def test_thousands_of_requests_of_a_client_that_does_not_read_harm_nobody(sample_cluster: Cluster) -> None:
    with socket.create_connection(sample_cluster.jsonrpc) as greedy:
        greedy.setblocking(False)
        request = good(1) + b"\n"
        sent = 0
        try:
            for _ in range(20_000):
                sent += greedy.send(request)
        except BlockingIOError:
            pass  # the balancer has stopped reading it
        assert sent > len(request)
        with sample_cluster.client(timeout_s=30.0) as neighbour:
            for _ in range(20):
                assert neighbour.call("GetCost", GOOD)["Cost"] == 540


ODD_NAMES = (
    "a:b",
    "a{b",
    "a}b",
    "{}",
    "line\nbreak",
    'quo"te',
    "back\\slash",
    "\U0001f4de",
    "per%3Acent",
    "a:b}{c",
)


def test_odd_names_are_stored_and_matched_exactly(sample_cluster: Cluster, tmp_path: Any) -> None:
    from tests.e2e.cluster import Process

    budgets = [{"Id": name, "CstmId": "vdf", "Credit": 1000 + place} for place, name in enumerate(ODD_NAMES)]
    path = tmp_path / "user_budgets.json"
    path.write_text(json.dumps(budgets))
    load = Process("load", "--store", sample_cluster.store_url, str(path))
    assert load.wait() == 0
    with JSONClient(sample_cluster.jsonrpc) as client:
        for place, name in enumerate(ODD_NAMES):
            cd = {"CstmId": "vdf", "Subject": name, "Amount": 1, "RequestId": name}
            assert client.call("DebitBalance", cd) == 1000 + place - 1
            assert client.call("DebitBalance", cd) == 1000 + place - 1
            target = f"/debitbalance?cstmid=vdf&subj={quote(name, safe='')}&dest=0&amount=1"
            assert sample_cluster.get(target) == (200, 1000 + place - 2)
