"""Who calls on a JSON-RPC connection: Authenticate, and what comes before, behind and after it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.rpc.jsonrpc import Session
from common.security import visitor as visitor_module
from common.security.api_keys import KeyFile, KeyRecord, Limits, hash_key, id_of, new_key
from common.security.keyring import Keyring
from common.security.visitor import LOGIN_S, Visitor, refuse_here

KEY = new_key(set())[1]


def record(key: str = KEY, **fields: Any) -> KeyRecord:
    values: dict[str, Any] = {"tenants": ("vdf",), "allow": ("read",), "created": "2026-01-01T00:00:00Z"}
    return KeyRecord(id=id_of(key) or "", name="x", sha256=hash_key(key), **(values | fields))


def message(number: int, method: str = "GetCost", **params: Any) -> bytes:
    return json.dumps({"id": number, "method": f"Responder.{method}", "params": [params]}).encode()


class Door:
    def __init__(self, keyring: Keyring | None) -> None:
        self.session = Session()
        self.visitor = Visitor(self.session, keyring)

    def say(self, *messages: bytes) -> tuple[list[str], list[Any]]:
        """The names of the methods that are let through, and the answers to the others."""
        calls = self.visitor.admit(self.session.feed(b"".join(messages)))
        self.admitted = [call.slot for call in calls]
        return [call.method.name for call in calls], self.read()

    def read(self) -> list[Any]:
        return [json.loads(line) for line in self.session.take_output().splitlines()]


@pytest.fixture
def door() -> Door:
    return Door(Keyring(KeyFile(keys=(record(),))))


def test_a_stranger_is_told_to_say_who_it_is(door: Door) -> None:
    admitted, [answer] = door.say(message(1))
    assert not admitted
    assert answer["error"] == "unauthorized: an API key is needed: call Responder.Authenticate first"


def test_calls_behind_authenticate_need_not_wait_for_its_answer(door: Door) -> None:
    admitted, answers = door.say(
        message(1), message(2, "Authenticate", ApiKey=KEY), message(3), message(4, "DebitSMS")
    )
    assert admitted == ['GetCost ["vdf"]']
    assert [answer["id"] for answer in answers] == [1, 2, 4]
    assert answers[1]["result"] == {
        "Id": id_of(KEY),
        "Tenants": ["vdf"],
        "Methods": ["GetCost", "GetMaxSessionTime", "Explain"],
    }
    assert answers[2]["error"] == "forbidden: the API key is not for the method DebitSMS"


def test_who_names_a_wrong_key_is_nobody_any_more(door: Door) -> None:
    door.say(message(1, "Authenticate", ApiKey=KEY))
    admitted, answers = door.say(message(2, "Authenticate", ApiKey=KEY[:-1] + "x"), message(3))
    assert not admitted
    assert [answer["error"].partition(":")[0] for answer in answers] == ["unauthorized"] * 2


@pytest.mark.parametrize("params", [{}, {"ApiKey": 7}, {"ApiKey": None}, {"apikey": KEY}])
def test_authenticate_without_a_key_says_what_is_missing(door: Door, params: dict[str, Any]) -> None:
    _, [answer] = door.say(message(1, "Authenticate", **params))
    assert answer["error"] == "invalid_params: ApiKey: expected a string, the API key"


def test_in_a_batch_it_is_the_same_in_order(door: Door) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "Responder.Authenticate", "params": {"ApiKey": KEY}},
        {"jsonrpc": "2.0", "id": 2, "method": "Responder.GetCost", "params": {}},
        {"jsonrpc": "2.0", "method": "Responder.ResetUserBudget", "params": {}},
    ]
    admitted, answers = door.say(json.dumps(batch).encode())
    assert admitted == ['GetCost ["vdf"]']
    assert answers == []
    door.session.answer(door.admitted[0], b"1")
    assert [answer["id"] for answer in door.read()[0]] == [1, 2]


def test_without_keys_everybody_is_let_through_and_authenticate_changes_nothing() -> None:
    door = Door(None)
    admitted, answers = door.say(message(1), message(2, "Authenticate", ApiKey="whatever"), message(3))
    assert admitted == ["GetCost", "GetCost"]
    assert [answer["result"]["Tenants"] for answer in answers] == [["*"]]


def test_a_revoked_key_is_refused_on_the_connection_that_it_opened() -> None:
    keyring = Keyring(KeyFile(keys=(record(),)))
    door = Door(keyring)
    door.say(message(1, "Authenticate", ApiKey=KEY))
    keyring.replace(KeyFile(keys=(record(revoked="2026-01-01T00:00:00Z"),)))
    admitted, [answer] = door.say(message(2))
    assert not admitted
    assert answer["error"] == "unauthorized: the API key was revoked"


def test_an_expired_key_is_refused_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now_s = 1_893_455_000.0

        def time(self) -> float:
            return self.now_s

        def monotonic(self) -> float:
            return 0.0

    clock = Clock()
    monkeypatch.setattr(visitor_module, "time", clock)
    door = Door(Keyring(KeyFile(keys=(record(expires="2030-01-01T00:00:00Z"),))))
    door.say(message(1, "Authenticate", ApiKey=KEY))
    assert door.say(message(2))[0]
    clock.now_s += 1000
    assert door.say(message(3))[1][0]["error"] == "unauthorized: the API key has expired"


def test_room_in_flight_is_given_back_with_the_answers() -> None:
    door = Door(Keyring(KeyFile(keys=(record(limits=Limits(in_flight=2)),))))
    door.say(message(1, "Authenticate", ApiKey=KEY))
    admitted, [answer] = door.say(message(2), message(3), message(4))
    assert len(admitted) == 2
    assert answer["error"].startswith("too_many_requests: key ")
    for slot in door.admitted:
        door.session.answer(slot, b"1")
        door.visitor.answered(slot)
        door.visitor.answered(slot)
    assert len(door.say(message(5), message(6), message(7))[0]) == 2


def test_a_stranger_gets_some_seconds_to_say_who_it_is(door: Door) -> None:
    assert not door.visitor.is_stranger(100.0)
    assert not door.visitor.is_stranger(100.0 + LOGIN_S - 0.1)
    assert door.visitor.is_stranger(100.0 + LOGIN_S)
    door.say(message(1, "Authenticate", ApiKey=KEY))
    assert not door.visitor.is_stranger(1000.0)


def test_over_http_authenticate_is_answered_with_where_the_key_goes() -> None:
    session = Session()
    calls = refuse_here(session, session.feed(message(1, "Authenticate", ApiKey=KEY) + message(2)))
    assert [call.method.name for call in calls] == ["GetCost"]
    assert b"Authorization: Bearer" in session.take_output()
