"""Keys, what the file says of them, names bound to tenants, meters, and the ring of those that are valid."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.actions import OnAnswer
from balancer.http.jsonrpc import MAX_IN_FLIGHT, answer_body
from balancer.http.message import Request
from common.errors import Forbidden, TooManyRequests, Unauthorized, decode_error
from common.methods import AUTHENTICATE, BY_NAME, METHODS, Group
from common.rpc.jsonrpc import Call
from common.security import api_keys
from common.security.api_keys import (
    BadKeyFile,
    KeyFile,
    KeyRecord,
    Limits,
    decode_keys,
    encode_keys,
    hash_key,
    id_of,
    is_key,
    new_key,
)
from common.security.keyring import Keyring
from common.security.meters import Meter, take
from common.security.scopes import bind, unbind
from common.wire import MAX_METHOD_CHARS

NOW_S = 1_800_000_000.0


def record(key: str = "", **fields: Any) -> KeyRecord:
    key_id, made = new_key(set())
    key = key or made
    values: dict[str, Any] = {
        "id": id_of(key) or key_id,
        "name": "a switch",
        "sha256": hash_key(key),
        "tenants": ("vdf",),
        "allow": ("read",),
        "created": "2026-01-01T00:00:00Z",
    }
    return KeyRecord(**(values | fields))


def ring(*records: KeyRecord, **limits: Limits) -> Keyring:
    return Keyring(KeyFile(keys=records, limits=limits))


def calls(*names: str) -> list[Call]:
    return [Call(slot, BY_NAME[name], b"{}") for slot, name in enumerate(names)]


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_an_id_and_256_random_bits_and_no_two_are_alike() -> None:
    key_id, key = new_key(set())
    assert re.fullmatch(rf"ratel_{key_id}_[0-9a-f]{{64}}", key)
    assert id_of(key) == key_id
    assert len({new_key(set())[1] for _ in range(100)}) == 100


def test_an_id_that_is_taken_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aa" * 5, "bb" * 5, "cc" * 32])
    monkeypatch.setattr(api_keys.secrets, "token_hex", lambda _bytes: next(ids))
    assert new_key({"aa" * 5})[0] == "bb" * 5


@pytest.mark.parametrize(
    "wrong", ["", "ratel_", "x" * 82, "ratel_0123456789_" + "G" * 64, "ratel_" + "0" * 1_000_000]
)
def test_what_is_no_key_has_no_id(wrong: str) -> None:
    assert id_of(wrong) is None


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one function for it, whether there is a hash to compare with or not."""
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(api_keys.hmac, "compare_digest", compare)
    assert is_key("k", hash_key("k"))
    assert not is_key("k", hash_key("l"))
    assert not is_key("k", None)
    assert [len(one) == len(other) == 64 for one, other in compared] == [True] * 3


# --- the file -------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written() -> None:
    file = KeyFile(
        keys=(
            record(
                allow=("debit", "GetCost"), expires="2030-01-01T00:00:00Z", limits=Limits(rate=1.5, burst=3)
            ),
            record(tenants=("*",), revoked="2026-02-01T00:00:00Z"),
        ),
        limits={"vdf": Limits(in_flight=5)},
    )
    assert decode_keys(encode_keys(file)) == file


def test_an_empty_file_has_no_keys() -> None:
    assert decode_keys(b"\n") == KeyFile()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": "x"}, "id: expected 10 hexadecimal digits"),
        ({"sha256": "0" * 63}, "sha256: expected 64 hexadecimal digits"),
        ({"name": ""}, "name: expected 1 to 100 printable"),
        ({"name": "a\nb"}, "name: expected 1 to 100 printable"),
        ({"tenants": ()}, "tenants: expected names"),
        ({"tenants": ("*", "a")}, "stands alone"),
        ({"tenants": ("",)}, "1 to 256 characters"),
        (
            {"tenants": tuple(f"tenant-{n:03}" for n in range(200))},
            "make several keys, or one for all tenants",
        ),
        ({"allow": ()}, "allow: expected groups or methods"),
        ({"allow": ("write",)}, "there is no 'write'; known are the groups read, debit, operator"),
        ({"expires": "soon"}, "expires: expected an RFC 3339 time"),
        ({"limits": {"rate": 0}}, "rate: expected a number above 0"),
        ({"limits": {"in_flight": -1}}, "in_flight: expected a number above 0"),
        ({"limits": {"burst": 3}}, "burst: goes with a rate"),
        ({"limits": {"speed": 3}}, "unknown field `speed`"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"tenants": "vdf"}, "Expected `array`"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(fields: dict[str, Any], text: str) -> None:
    fields = json.loads(encode_keys(KeyFile(keys=(record(),))))["keys"][0] | fields
    with pytest.raises(BadKeyFile, match=re.escape(text)):
        decode_keys(json.dumps({"version": 1, "keys": [fields]}).encode())


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"version":2}', b"\xff", b'{"limits":{"a":{"rate":"x"}}}'])
def test_what_is_no_file_of_keys_is_refused(text: bytes) -> None:
    with pytest.raises(BadKeyFile):
        decode_keys(text)


def test_two_keys_of_one_id_are_refused() -> None:
    one = record()
    with pytest.raises(BadKeyFile, match="two keys have the id"):
        decode_keys(encode_keys(KeyFile(keys=(one, one))))


def test_a_group_is_its_methods_and_every_method_is_in_one() -> None:
    assert record(allow=("read",)).methods == ("GetCost", "GetMaxSessionTime", "Explain")
    assert record(allow=("operator", "Get")).methods == (
        "GetCost",
        "ResetVolumeDiscountSeconds",
        "ResetUserBudget",
        "Account",
        "History",
        "SetTerms",
    )
    assert len(record(allow=tuple(group.value for group in Group)).methods) == len(METHODS)
    readers = {method.name for method in METHODS if method.group is Group.READ}
    assert readers == {method.name for method in METHODS if not method.mutates} - {"Account", "History"}


# --- names bound to tenants -----------------------------------------------------------------------


@given(st.sampled_from(sorted(BY_NAME)), st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_a_bound_name_is_taken_apart_as_it_was_made(name: str, tenants: list[str]) -> None:
    bound = bind(name, tenants)
    assert bound.isascii()
    assert len(bound) <= MAX_METHOD_CHARS
    assert unbind(bound) == (BY_NAME[name], frozenset(tenants))


@given(
    st.text()
    | st.sampled_from(['GetCost "a"', 'GetCost ["a"', "GetCost [1]", "GetCost {}", "GetCost ", 'Get["a"]'])
)
def test_what_is_not_understood_is_no_method(text: str) -> None:
    """Never one for everybody."""
    if text not in BY_NAME:
        method, tenants = unbind(text)
        assert method is None or tenants is not None


def test_a_name_is_for_everybody() -> None:
    assert unbind("GetCost") == (BY_NAME["GetCost"], None)


# --- meters ---------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    meter = Meter("key x", Limits(rate=10, burst=20))
    assert take([meter], 30, 100.0)[0] == 20
    assert take([meter], 1, 100.05)[0] == 0
    assert take([meter], 5, 100.2)[0] == 2
    assert take([meter], 100, 1000.0)[0] == 20, "no more than a burst is saved up"


def test_a_refusal_says_when_there_is_room_again() -> None:
    meter = Meter("key x", Limits(rate=4, burst=1))
    assert take([meter], 1, 100.0)[0] == 1
    _, error = take([meter], 1, 100.1)
    refusal = decode_error(error)
    assert isinstance(refusal, TooManyRequests)
    pause_ms = refusal.data["retry_after_ms"]
    assert refusal.message == "key x may ask 4 requests a second, 1 at once"
    assert take([meter], 1, 100.1 + pause_ms / 1000 - 0.01)[0] == 0
    assert take([meter], 1, 100.1 + pause_ms / 1000)[0] == 1


def test_what_is_in_flight_is_bounded_until_it_is_answered() -> None:
    meter = Meter("tenant 'a'", Limits(in_flight=3))
    assert take([meter], 5, 0.0)[0] == 3
    assert take([meter], 1, 9.0)[0] == 0
    meter.give_back(2)
    assert take([meter], 5, 9.0)[0] == 2
    assert decode_error(take([meter], 1, 9.0)[1]).message == "tenant 'a' may have 3 requests in flight"


@given(
    limits=st.builds(
        Limits, rate=st.floats(0.1, 100), burst=st.integers(1, 50), in_flight=st.integers(1, 20)
    ),
    steps=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 2), st.integers(0, 10)), max_size=50),
)
def test_no_more_than_the_bucket_holds_is_ever_let_through(
    limits: Limits, steps: list[tuple[int, float, int]]
) -> None:
    meter, now_s, taken = Meter("x", limits), 0.0, 0
    for wanted, passed_s, answered in steps:
        now_s += passed_s
        taken += take([meter], wanted, now_s)[0]
        assert taken <= limits.burst + limits.rate * now_s + 0.001
        assert 0 <= meter.in_flight <= limits.in_flight
        meter.give_back(min(answered, meter.in_flight))


def test_of_two_meters_the_tighter_one_counts_for_both() -> None:
    key, tenant = Meter("key", Limits(in_flight=5)), Meter("tenant", Limits(in_flight=2))
    admitted, error = take([key, tenant], 4, 0.0)
    assert (admitted, key.in_flight, tenant.in_flight) == (2, 2, 2)
    assert "tenant may have 2" in decode_error(error).message


# --- the ring -------------------------------------------------------------------------------------


def test_a_key_is_good_for_its_tenants_and_methods() -> None:
    key = new_key(set())[1]
    grant = ring(record(key, allow=("debit",))).verify(key, NOW_S)
    assert grant.method(BY_NAME["DebitSMS"]).name == 'DebitSMS ["vdf"]'
    with pytest.raises(Forbidden, match="not for the method GetCost"):
        grant.method(BY_NAME["GetCost"])


def test_a_key_for_all_tenants_binds_no_name() -> None:
    key = new_key(set())[1]
    grant = ring(record(key, tenants=("*",))).verify(key, NOW_S)
    assert grant.method(BY_NAME["GetCost"]) is BY_NAME["GetCost"]


def test_what_is_not_valid_is_refused_and_why_is_told_only_to_who_has_the_key() -> None:
    old, gone, good = (new_key(set())[1] for _ in range(3))
    keys = ring(
        record(old, expires="2026-01-01T00:00:00Z"),
        record(gone, revoked="2026-01-01T00:00:00Z"),
        record(good, expires="2030-01-01T00:00:00Z"),
    )
    assert keys.verify(good, NOW_S).id == id_of(good)
    for key, text in (
        (old, "has expired"),
        (gone, "was revoked"),
        (new_key(set())[1], "not known"),
        (good[:-1] + ("0" if good[-1] != "0" else "1"), "not known"),
        (gone[:-1] + ("0" if gone[-1] != "0" else "1"), "not known"),
        ("", "not known"),
        ("ratel_é", "not known"),
    ):
        with pytest.raises(Unauthorized, match=text):
            keys.verify(key, NOW_S)
    assert keys.valid(NOW_S) == 1


def test_a_grant_ends_at_its_time() -> None:
    key = new_key(set())[1]
    grant = ring(record(key, expires="2030-01-01T00:00:00Z")).verify(key, NOW_S)
    grant.check(1_893_455_999.9)
    with pytest.raises(Unauthorized, match="expired"):
        grant.check(1_893_456_000.0)


def test_a_new_file_changes_the_grants_that_are_held() -> None:
    first, second, third = (new_key(set())[1] for _ in range(3))
    keys = ring(record(first), record(second), record(third))
    grants = [keys.verify(key, NOW_S) for key in (first, second, third)]
    keys.replace(
        KeyFile(
            keys=(
                record(first, allow=("debit",), tenants=("other",)),
                record(second, revoked="2026-01-01T00:00:00Z"),
            )
        )
    )
    assert grants[0].method(BY_NAME["DebitSMS"]).name == 'DebitSMS ["other"]'
    with pytest.raises(Forbidden):
        grants[0].method(BY_NAME["GetCost"])
    for grant in grants[1:]:
        with pytest.raises(Unauthorized, match="revoked"):
            grant.check(NOW_S)


def test_another_secret_under_the_same_id_ends_what_came_in_by_the_first() -> None:
    key = new_key(set())[1]
    keys = ring(record(key))
    grant = keys.verify(key, NOW_S)
    keys.replace(KeyFile(keys=(record(key, sha256="0" * 64),)))
    with pytest.raises(Unauthorized):
        grant.check(NOW_S)
    with pytest.raises(Unauthorized):
        keys.verify(key, NOW_S)


def test_a_tenants_limit_is_for_all_its_keys_and_outlives_a_new_file() -> None:
    first, second, both = (new_key(set())[1] for _ in range(3))
    file = KeyFile(
        keys=(record(first), record(second), record(both, tenants=("vdf", "x"))),
        limits={"vdf": Limits(in_flight=2)},
    )
    keys = Keyring(file)
    one, other = keys.verify(first, NOW_S), keys.verify(second, NOW_S)
    assert len(one.sort_out(calls("GetCost"), 0.0)[0]) == 1
    keys.replace(file)
    allowed, refused = other.sort_out(calls("GetCost", "GetCost"), 0.0)
    assert [call.slot for call in allowed] == [0]
    assert [(slot, decode_error(body).name) for slot, body in refused] == [(1, "too_many_requests")]
    assert keys.verify(both, NOW_S).meters == (), "which tenant it asks for, nobody knows here"


def test_a_star_limits_each_tenant_that_is_not_named() -> None:
    named, other, another = (new_key(set())[1] for _ in range(3))
    limits = {"vdf": Limits(in_flight=9), "*": Limits(in_flight=1)}
    keys = Keyring(
        KeyFile(
            keys=(record(named), record(other, tenants=("b",)), record(another, tenants=("c",))),
            limits=limits,
        )
    )
    grants = [keys.verify(key, NOW_S) for key in (named, other, another)]
    assert [grant.meters[0].limits.in_flight for grant in grants] == [9, 1, 1]
    assert grants[1].meters[0] is not grants[2].meters[0]


def test_calls_are_sorted_out_by_method_and_keep_their_slots() -> None:
    key = new_key(set())[1]
    grant = ring(record(key, allow=("read",))).verify(key, NOW_S)
    allowed, refused = grant.sort_out(calls("DebitSMS", "GetCost", "ResetUserBudget", "Get"), 0.0)
    assert [(call.slot, call.method.name) for call in allowed] == [
        (1, 'GetCost ["vdf"]'),
        (3, 'GetCost ["vdf"]'),
    ]
    assert [slot for slot, _ in refused] == [0, 2]
    assert decode_error(refused[1][1]).data == {"what": "the method ResetUserBudget"}
    assert not grant.sort_out([Call(0, AUTHENTICATE, b"{}")], 0.0)[0]


class HeldRouter:
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[OnAnswer] = []
        self.refused: Counter[str] = Counter()

    def submit(self, method: object, params: bytes, key: str, callback: OnAnswer) -> int:
        self.callbacks.append(callback)
        return len(self.callbacks)


def test_a_limit_that_comes_while_a_body_is_carried_out_is_kept_to_afterwards() -> None:
    """What was admitted without it is not given back to it."""
    key, router = new_key(set())[1], HeldRouter()
    keyring = ring(record(key))
    grant = keyring.verify(key, NOW_S)
    call = b'{"jsonrpc":"2.0","id":1,"method":"Responder.GetCost","params":{}}'
    count = MAX_IN_FLIGHT + 5
    body = b"[" + b",".join([call] * count) + b"]"
    request = Request(cast(Any, None), b"POST", b"/jsonrpc", [], body=body)

    async def story() -> None:
        answering = asyncio.create_task(answer_body(cast(Any, router), request, lambda _: "", grant))
        while len(router.callbacks) < MAX_IN_FLIGHT:
            await asyncio.sleep(0)
        keyring.replace(KeyFile(keys=(record(key, limits=Limits(in_flight=2)),)))
        for place in range(count):
            while len(router.callbacks) <= place:
                await asyncio.sleep(0)
            router.callbacks[place](0, b"1", False)
        await answering

    asyncio.run(story())
    [meter] = grant.meters
    assert meter.in_flight == 0
