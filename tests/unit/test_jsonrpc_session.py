"""The session: two dialects, batches, notifications, ids, and an answer for every mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InternalError, NoRate, Overloaded, encode_error
from common.methods import BY_RPC_NAME
from common.rpc.jsonrpc import MAX_BAD_IN_A_ROW, MAX_EVENTS, Limits, Session
from common.rpc.jsonrpc_framer import SHARE_BYTES

CD = {"TOR": 0, "CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0256"}
NO_RATE = encode_error(NoRate(tenant="vdf", subject='ri"f', destination="é"))


def feed(*messages: Any, limits: Limits | None = None) -> tuple[Session, list[Any]]:
    """A session after these messages (text, or values to be dumped), and its calls."""
    session = Session(limits or Limits())
    calls = []
    for message in messages:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        calls += session.feed(text + b"\n")
    return session, calls


def only_reply(session: Session) -> Any:
    output = session.take_output()
    assert output.count(b"\n") == 1
    assert output.endswith(b"\n")
    return json.loads(output)


# --- 1.0 --------------------------------------------------------------------------------------


def test_a_1_0_call_is_answered_in_1_0_with_its_result_spliced_in_unchanged() -> None:
    session, calls = feed({"id": 1, "method": "Responder.GetCost", "params": [CD]})
    assert (calls[0].method.name, json.loads(calls[0].params)) == ("GetCost", CD)
    assert session.take_output() == b""
    session.answer(calls[0].slot, b'{ "Cost":540.10 }')
    assert session.take_output() == b'{"id":1,"result":{ "Cost":540.10 },"error":null}\n'
    assert session.take_output() == b""


def test_a_1_0_error_is_a_string_of_name_and_message() -> None:
    session, calls = feed({"id": "x", "method": "Responder.GetCost", "params": [CD]})
    session.fail(calls[0].slot, NO_RATE)
    reply = only_reply(session)
    assert (reply["id"], reply["result"]) == ("x", None)
    assert reply["error"].startswith("no_rate: tenant 'vdf' has no rate")


@pytest.mark.parametrize("message", [{"id": None}, {}])
def test_a_1_0_message_without_an_id_is_answered_with_id_null(message: dict[str, Any]) -> None:
    session, calls = feed(message | {"method": "Responder.GetCost", "params": [CD]})
    session.answer(calls[0].slot, b"1")
    assert only_reply(session) == {"id": None, "result": 1, "error": None}


# --- 2.0 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [CD, [CD]])
def test_a_2_0_call_with_named_or_positional_params(params: Any) -> None:
    session, calls = feed({"jsonrpc": "2.0", "id": 1, "method": "Responder.DebitSMS", "params": params})
    assert (calls[0].method.name, json.loads(calls[0].params)) == ("DebitSMS", CD)
    session.answer(calls[0].slot, b"99.5")
    assert session.take_output() == b'{"jsonrpc":"2.0","id":1,"result":99.5}\n'


def test_a_2_0_error_is_an_object_with_code_message_and_the_fields_beside_the_name() -> None:
    session, calls = feed({"jsonrpc": "2.0", "id": 1, "method": "Responder.GetCost", "params": CD})
    session.fail(calls[0].slot, NO_RATE)
    reply = only_reply(session)
    assert set(reply) == {"jsonrpc", "id", "error"}
    assert reply["error"]["code"] == NoRate.code
    assert reply["error"]["data"] == {
        "name": "no_rate",
        "tenant": "vdf",
        "subject": 'ri"f',
        "destination": "é",
    }


@pytest.mark.parametrize("fails", [False, True])
def test_a_notification_is_carried_out_and_not_answered(fails: bool) -> None:
    session, calls = feed({"jsonrpc": "2.0", "method": "Responder.DebitSMS", "params": CD})
    assert session.in_flight == 1
    if fails:
        session.fail(calls[0].slot, NO_RATE)
    else:
        session.answer(calls[0].slot, b"1")
    assert (session.take_output(), session.in_flight) == (b"", 0)


def test_a_notification_that_is_wrong_is_not_answered_either_unless_it_is_no_request() -> None:
    session, calls = feed(
        {"jsonrpc": "2.0", "method": "Responder.Nonsense"},
        {"jsonrpc": "2.0", "method": "Responder.GetCost", "params": "?"},
    )
    assert (calls, session.take_output()) == ([], b"")
    session.feed(b'{"jsonrpc":"2.0","method":1,"params":"bar"}\n')
    assert only_reply(session)["error"]["code"] == -32600


def test_an_id_of_null_in_2_0_is_an_id() -> None:
    session, calls = feed({"jsonrpc": "2.0", "id": None, "method": "Responder.GetCost"})
    session.answer(calls[0].slot, b"1")
    assert only_reply(session) == {"jsonrpc": "2.0", "id": None, "result": 1}


def test_dialects_mix_on_one_connection() -> None:
    session, calls = feed(
        {"id": 1, "method": "Responder.GetCost"},
        {"jsonrpc": "2.0", "id": 1, "method": "Responder.GetCost"},
    )
    for call in calls:
        session.answer(call.slot, b"0")
    assert session.take_output() == b'{"id":1,"result":0,"error":null}\n{"jsonrpc":"2.0","id":1,"result":0}\n'


# --- batches ----------------------------------------------------------------------------------


def request(number: int, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "Responder.GetCost", "params": CD} | more


def test_a_batch_is_answered_by_one_list_in_its_order_once_all_are_answered() -> None:
    session, calls = feed([request(1), request(2), request(3)])
    for call in reversed(calls):
        assert session.take_output() == b""
        session.answer(call.slot, b"%d" % call.slot)
    assert [(reply["id"], reply["result"]) for reply in only_reply(session)] == [(1, 0), (2, 1), (3, 2)]


def test_each_bad_member_of_a_batch_gets_its_own_error_and_the_others_are_called() -> None:
    session, calls = feed(
        [
            1,
            request(1, method="Nonsense"),
            request(2),
            {"id": 3, "method": "Responder.GetCost", "params": [CD]},
            {"jsonrpc": "2.0", "id": 4},
            request(5, params=[]),
            [],
            {"jsonrpc": "2.0", "method": "Responder.GetCost"},
        ]
    )
    assert len(calls) == 3
    session.answer(calls[0].slot, b"10")
    session.fail(calls[1].slot, NO_RATE)
    # The notification is still in flight: the others don't wait for it.
    replies = only_reply(session)
    assert [reply["id"] for reply in replies] == [None, 1, 2, 3, 4, 5, None]
    assert replies[2]["result"] == 10
    assert replies[3]["error"].startswith("no_rate: ")
    assert [reply["error"]["code"] for reply in (*replies[:2], *replies[4:])] == [
        -32600,
        -32601,
        -32600,
        -32602,
        -32600,
    ]
    assert session.in_flight == 1


def test_a_batch_of_errors_alone_is_answered_at_once() -> None:
    session, calls = feed([1, 2])
    assert calls == []
    assert [reply["error"]["code"] for reply in only_reply(session)] == [-32600, -32600]


def test_a_batch_of_notifications_is_not_answered() -> None:
    session, calls = feed([{"jsonrpc": "2.0", "method": "Responder.GetCost"}] * 2)
    for call in calls:
        session.answer(call.slot, b"1")
    assert session.take_output() == b""


@pytest.mark.parametrize(("batch", "detail"), [([], "an empty batch"), ([1] * 4, "4 calls, the limit is 3")])
def test_an_empty_or_too_long_batch_is_one_invalid_request(batch: list[Any], detail: str) -> None:
    session, calls = feed(batch, limits=Limits(max_batch=3))
    reply = only_reply(session)
    assert (calls, reply["id"], reply["error"]["code"]) == ([], None, -32600)
    assert detail in reply["error"]["message"]


def test_a_batch_that_is_not_json_is_one_parse_error_and_calls_nothing() -> None:
    good = json.dumps(request(1)).encode()
    session, calls = feed(b"[" + good + b"," + good + b",]")
    assert (calls, only_reply(session)["error"]["code"]) == ([], -32700)


# --- what is wrong is said --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "detail"),
    [
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.Nope"}', -32601, "'Responder.Nope'"),
        (b'{"jsonrpc":"2.0","id":9,"method":"responder.getcost"}', -32601, "'responder.getcost'"),
        (b'{"jsonrpc":"2.0","id":9,"method":"GetCost"}', -32601, "'GetCost'"),
        (b'{"jsonrpc":"2.0","id":9}', -32600, "method is missing"),
        (b'{"jsonrpc":"2.0","id":9,"method":null}', -32600, "method must be a string"),
        (b'{"jsonrpc":"1.0","id":9,"method":"Responder.GetCost"}', -32600, 'jsonrpc must be "2.0"'),
        (b'{"jsonrpc":null,"id":9,"method":"Responder.GetCost"}', -32600, 'jsonrpc must be "2.0"'),
        (b'{"jsonrpc":2.0,"id":9,"method":"Responder.GetCost"}', -32600, 'jsonrpc must be "2.0"'),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":5}', -32602, "expected an object"),
        (
            b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":"{}"}',
            -32602,
            "expected an object",
        ),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":[5]}', -32602, "expected an object"),
        (
            b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":["{}"]}',
            -32602,
            "expected an object",
        ),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":[]}', -32602, "not 0 values"),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":[{},{}]}', -32602, "not 2 values"),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":[{},1]}', -32602, "not 2 values"),
        (b'{"jsonrpc":"2.0","id":9,"method":"Responder.GetCost","params":[1,{}]}', -32602, "not 2 values"),
    ],
)
def test_a_wrong_request_is_answered_with_its_id_and_what_is_wrong(
    message: bytes, code: int, detail: str
) -> None:
    session, calls = feed(message)
    reply = only_reply(session)
    assert (calls, reply["id"], reply["error"]["code"]) == ([], 9, code)
    assert detail in reply["error"]["message"]
    if b'"2.0",' in message:
        session, _ = feed(message.replace(b'"jsonrpc":"2.0",', b""))
        reply = only_reply(session)
        assert reply["id"] == 9
        assert detail in reply["error"]


@pytest.mark.parametrize(
    "message",
    [
        b'{"id":1,"method":"Responder.GetCost","params":[{}],}',
        b'{"id":tru,"method":"Responder.GetCost"}',
        b'{"id":01,"method":"Responder.GetCost"}',
        b'{"id":NaN,"method":"Responder.GetCost"}',
        b'{"id":"\xff","method":"Responder.GetCost"}',
        b'{"id":"\xed\xa0\x80","method":"Responder.GetCost"}',
        b'{"id":1,"method":"Responder.GetCost","params":[{"Subject":"\xc0\x80"}]}',
        b'{"id":1,"method":"\xff"}',
        b'{"id":1,"method":5,"params":{]}',
        b'{"id":"\\ud800","method":"Responder.GetCost"}',
        b'{"id":"\x00","method":"Responder.GetCost"}',
        b'{"id":"\\x","method":"Responder.GetCost"}',
        b"nonsense",
        b'"a string"',
    ],
)
def test_what_is_not_json_is_a_parse_error_with_id_null(message: bytes) -> None:
    session, calls = feed(message)
    reply = only_reply(session)
    assert (calls, reply["id"], reply["error"]["code"]) == ([], None, -32700)
    assert reply["error"]["data"]["detail"]


@pytest.mark.parametrize("params", [b"", b',"params":null', b',"params":{}', b',"params":[{}]'])
def test_params_that_are_null_or_missing_are_an_empty_descriptor(params: bytes) -> None:
    _, calls = feed(b'{"id":1,"method":"Responder.GetCost"' + params + b"}")
    assert calls[0].params == b"{}"


@pytest.mark.parametrize(
    "descriptor",
    [b'{"a":{"b":1}}', b'{"a":"}"}', b'{"a":"}]"}', b'{ "a" : [ {} ] }', b"{}", b'{"a":[{},{}]}'],
)
@pytest.mark.parametrize("around", [b"[%b]", b"[ %b ]", b"%b", b"[\t%b\r\n]"])
def test_the_descriptor_comes_as_it_was_written(descriptor: bytes, around: bytes) -> None:
    _, calls = feed(b'{"id":1,"method":"Responder.GetCost","params":' + around % descriptor + b"}")
    assert [call.params for call in calls] == [descriptor]


def test_unknown_members_are_ignored_and_the_last_of_equal_members_counts() -> None:
    session, calls = feed(b'{"id":1,"x":[{"id":5}],"id":2,"method":"Responder.GetCost","y":"\\""}')
    session.answer(calls[0].slot, b"0")
    assert only_reply(session)["id"] == 2


@pytest.mark.parametrize("name", sorted(BY_RPC_NAME))
def test_every_name_in_the_table_of_methods_is_known(name: str) -> None:
    _, calls = feed({"id": 1, "method": name})
    assert calls[0].method is BY_RPC_NAME[name]


# --- answers ----------------------------------------------------------------------------------

IDS = [
    b"0",
    b"-0",
    b"1.0",
    b"1e400",
    b"9" * 4000,
    b'""',
    b'"a\\u0000\\/"',
    '"é😀"'.encode(),
    b"null",
    b"true",
]
IDS += [b"[1, 2]", b'{"a" : "}{"}', b'"\\ud83d\\ude00"', b'" {\\"id\\":1}"']


@pytest.mark.parametrize("text", IDS)
@pytest.mark.parametrize("dialect", [b"", b'"jsonrpc":"2.0",'])
def test_an_id_comes_back_byte_for_byte(text: bytes, dialect: bytes) -> None:
    session, calls = feed(b"{" + dialect + b'"id" : ' + text + b' ,"method":"Responder.GetCost"}')
    session.answer(calls[0].slot, b"1")
    assert b'"id":' + text + b',"result":1' in session.take_output()
    session, _ = feed(b"{" + dialect + b'"id" : ' + text + b' ,"method":"Nonsense"}')
    assert b'"id":' + text + b"," in session.take_output()


@settings(deadline=None)
@given(st.permutations(range(6)), st.lists(st.sampled_from(["single", "batch"]), min_size=3, max_size=3))
def test_answers_may_come_in_any_order_and_ids_may_repeat(order: list[int], kinds: list[str]) -> None:
    session = Session()
    calls = []
    for kind in kinds:
        pair = [request(1), request(1)]
        calls += session.feed(json.dumps(pair if kind == "batch" else pair[0]).encode())
        if kind == "single":
            calls += session.feed(json.dumps(pair[1]).encode())
    for place in order:
        session.answer(calls[place].slot, b"%d" % place)
    assert session.in_flight == 0
    results = []
    for line in session.take_output().splitlines():
        reply = json.loads(line)
        results += [one["result"] for one in reply] if isinstance(reply, list) else [reply["result"]]
    assert sorted(results) == list(range(6))


def test_a_slot_is_answered_once() -> None:
    session, calls = feed({"id": 1, "method": "Responder.GetCost"})
    session.answer(calls[0].slot, b"1")
    with pytest.raises(KeyError):
        session.answer(calls[0].slot, b"1")
    with pytest.raises(KeyError):
        session.fail(calls[0].slot, encode_error(Overloaded(detail="full")))


@pytest.mark.parametrize("size", [1, 100, 10**9])
def test_one_feed_handles_a_bounded_number_and_the_rest_follows_unchanged(size: int) -> None:
    stream = b"".join(
        b'{"id":%d,"method":"Responder.%b"}\n' % (i, b"Get" if i % 3 else b"X") for i in range(1000)
    )
    session, ids = Session(), 0
    for start in range(0, len(stream), size):
        calls = session.feed(stream[start : start + size])
        while True:
            assert len(calls) <= MAX_EVENTS
            ids += len(calls)
            if not session.more:
                break
            calls = session.feed(b"")
    assert (ids, session.found) == (666, 1000)
    assert not session.unfinished
    assert session.take_output().count(b"method_not_found") == 334


def test_what_is_fed_before_the_rest_was_handled_comes_after_it() -> None:
    session = Session()
    stream = b"".join(b'{"id":%d,"method":"Responder.Get"}' % i for i in range(600))
    slots = []
    for half in (stream[:10_000], stream[10_000:], b""):
        slots += [call.slot for call in session.feed(half)]
    assert slots == list(range(600))
    assert not session.more


def test_a_batch_ends_the_share_of_one_feed() -> None:
    session = Session()
    batch = json.dumps([{"method": "Responder.Get"}] * 400).encode()
    assert len(batch) < SHARE_BYTES
    assert len(session.feed(batch * 3)) == 400
    assert session.more
    calls = []
    while session.more:
        calls.append(len(session.feed(b"")))
    assert set(calls) <= {0, 400}
    assert sum(calls) == 800


def test_short_batches_share_one_feed() -> None:
    session = Session()
    calls = session.feed(json.dumps([{"method": "Responder.Get"}] * 2).encode() * 100)
    assert (len(calls), session.more) == (200, False)


def test_a_long_message_is_read_in_shares_and_comes_whole() -> None:
    session = Session()
    message = b'{"id":1,"method":"Responder.Get",\n"other":[' + b"[]," * 50_000 + b"1]\n}"
    calls = session.feed(message)
    feeds = 1
    while session.more:
        calls += session.feed(b"")
        feeds += 1
    assert len(calls) == 1
    assert feeds >= len(message) // SHARE_BYTES


def test_the_end_of_the_stream_comes_after_the_rest() -> None:
    session = Session()
    session.feed(b'{"id":1,"method":"Responder.X"}' * (MAX_EVENTS + 1) + b"{")
    session.feed_eof()
    assert session.more
    assert b"the input ends" not in session.take_output()
    session.feed(b"")
    assert not session.more
    assert session.take_output().count(b"parse_error") == 1


def test_a_message_is_unfinished_from_its_beginning_to_its_end() -> None:
    session = Session()
    for text, unfinished in ((b" ", False), (b'{"id"', True), (b":1,", True), (b'"method":1}', False)):
        session.feed(text)
        assert session.unfinished == unfinished, text
    session.feed(b"nonsense {} [")
    assert session.unfinished
    session.feed(b"]")
    session.feed(b"nonsense without an end")
    assert not session.unfinished


@pytest.mark.parametrize("bad", [b"{}", b"x\n", b"[]", b'{"id":1\n', b"[" * 65 + b"]" * 65, b'{"a":"\xff"}'])
@pytest.mark.parametrize("size", [1000, 10**9])
def test_a_thousand_bad_messages_in_a_row_end_the_stream(bad: bytes, size: int) -> None:
    good = b'{"id":1,"method":"Responder.Get"}\n'
    almost = (bad * (MAX_BAD_IN_A_ROW - 1) + b"\n" + good) * 2
    stream = almost + bad * (MAX_BAD_IN_A_ROW + 500) + b"\n" + good
    session, calls = Session(), []
    for start in range(0, len(stream), size):
        calls += session.feed(stream[start : start + size])
        while session.more:
            calls += session.feed(b"")
    replies = [json.loads(line) for line in session.take_output().splitlines()]
    assert len(calls) == 2
    assert len(replies) == 3 * MAX_BAD_IN_A_ROW - 2 + 1
    assert session.closing
    assert "1000 messages in a row" in replies[-1]["error"]["message"]
    assert sum("in a row" in str(reply["error"]) for reply in replies) == 1
    session.feed_eof()
    assert session.take_output() == b""


def test_a_method_that_does_not_exist_is_no_bad_message() -> None:
    session = Session()
    for _ in range(3 * MAX_BAD_IN_A_ROW):
        session.feed(b'{"id":1,"method":"Responder.Nothing"}')
    assert not session.closing


@pytest.mark.parametrize("escape", [r"\ud800", r"\ud800x", r"\ud800\n", r"\udc00", r"\ud800\ud800"])
@pytest.mark.parametrize("place", ["id", "method", "Subject", "other"])
def test_half_of_a_surrogate_pair_is_named_as_what_it_is(escape: str, place: str) -> None:
    message = {"id": 1, "method": "Responder.Get", "params": {"Subject": 1}, "other": 1}
    (message["params"] if place == "Subject" else message)[place] = "HERE"
    session, calls = feed(json.dumps(message).replace("HERE", escape).encode())
    assert calls == []
    assert b"half of a surrogate pair" in session.take_output()


def test_in_the_form_of_1_0_no_error_says_its_name_twice() -> None:
    for error in (Overloaded(detail="full"), InternalError(detail="KeyError")):
        session, calls = feed({"id": 1, "method": "Responder.Get"})
        session.fail(calls[0].slot, encode_error(error))
        text = json.loads(session.take_output())["error"]
        name, _, message = text.partition(": ")
        assert name == error.name
        assert not message.replace(" ", "_").startswith(name)


def test_errors_that_repeat_are_told_in_the_form_and_with_the_id_of_each_call() -> None:
    bodies = [encode_error(Overloaded(detail=detail)) for detail in ("full", "x" * 2000)]
    for body in (*bodies, *bodies):
        session, calls = feed(
            {"id": 1, "method": "Responder.Get"}, {"jsonrpc": "2.0", "id": 2, "method": "Responder.Get"}
        )
        for call in calls:
            session.fail(call.slot, body)
        first, second = (json.loads(line) for line in session.take_output().splitlines())
        message = json.loads(body)["message"]
        assert first == {"id": 1, "result": None, "error": f"overloaded: {message}"}
        assert (second["id"], second["error"]["message"]) == (2, message)
        assert second["error"]["data"]["name"] == "overloaded"
