"""From query strings and bodies to call descriptors, and what is said about wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.http.query import Params, _parse_encoded, descriptor_of, parse_body, parse_query
from common.errors import CallerError, InvalidParams, InvalidRequest, NestedTooDeep, ParseError
from common.methods import BY_NAME
from common.times import parse_rfc3339

NOW_US = parse_rfc3339("2012-02-02T17:30:00Z")
FORM = "application/x-www-form-urlencoded"
BASE = b"cstmid=vdf&subj=rif&dest=0257"


def descriptor(method: str, query: bytes) -> dict[str, Any]:
    parsed = json.loads(descriptor_of(BY_NAME[method], parse_query(query), NOW_US), parse_float=str)
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("separator", [b"@", b"&"])
def test_both_spellings_of_the_documents_examples_mean_the_same(separator: bytes) -> None:
    assert descriptor("DebitSMS", BASE + separator + b"amount=100") == {
        "TOR": 0,
        "CstmId": "vdf",
        "Subject": "rif",
        "DestinationPrefix": "0257",
        "Amount": 100,
    }


def test_get_cost_without_times_is_one_minute_from_now() -> None:
    got = descriptor("GetCost", BASE)
    assert (got["TimeStart"], got["TimeEnd"]) == ("2012-02-02T17:30:00Z", "2012-02-02T17:31:00Z")


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [
        (b"duration=90", "2012-02-02T17:30:00Z", "2012-02-02T17:31:30Z"),
        (b"duration=0.5", "2012-02-02T17:30:00Z", "2012-02-02T17:30:00.5Z"),
        (b"duration=1e2", "2012-02-02T17:30:00Z", "2012-02-02T17:31:40Z"),
        (b"start=2012-02-08T23:50:00Z", "2012-02-08T23:50:00Z", "2012-02-08T23:51:00Z"),
        (b"start=2012-02-08T23:50:00Z&duration=30", "2012-02-08T23:50:00Z", "2012-02-08T23:50:30Z"),
        (
            b"start=2012-02-08T23:50:00Z@end=2012-02-08T23:50:10Z",
            "2012-02-08T23:50:00Z",
            "2012-02-08T23:50:10Z",
        ),
        (b"start=2012-02-08T23:50:00+02:00", "2012-02-08T23:50:00+02:00", "2012-02-08T21:51:00Z"),
        (b"start=2012-02-08T23:50:00.25%2B02:00", "2012-02-08T23:50:00.25+02:00", "2012-02-08T21:51:00.25Z"),
        (b"start=2012-02-08+23:50:00+02:00", "2012-02-08 23:50:00+02:00", "2012-02-08T21:51:00Z"),
    ],
)
def test_times_of_get_cost(times: bytes, start: str, end: str) -> None:
    got = descriptor("GetCost", BASE + b"&" + times)
    assert (got["TimeStart"], got["TimeEnd"]) == (start, end)


def test_names_match_in_any_case_and_by_the_descriptors_own_names() -> None:
    query = b"CSTMID=vdf&Subject=rif&destination%50refix=0257&Amount=1&Tor=3"
    got = descriptor("DebitBalance", query)
    assert got == {"TOR": 3, "CstmId": "vdf", "Subject": "rif", "DestinationPrefix": "0257", "Amount": 1}


@pytest.mark.parametrize("number", ["100", "-15", "0.1", "1e3", "1E+2", "-0.000001", "9007199254.740991"])
def test_numbers_pass_through_digit_by_digit(number: str) -> None:
    text = descriptor_of(BY_NAME["DebitBalance"], parse_query(BASE + b"&amount=" + quote(number).encode()), 0)
    assert f'"Amount":{number}' in text.decode()


@given(st.text(min_size=1, max_size=20).filter(str.strip), st.booleans())
def test_any_text_arrives_as_it_was_sent(text: str, plus: bool) -> None:
    try:
        encoded = (quote_plus(text) if plus else quote(text, safe="")).encode()
    except UnicodeEncodeError:
        return
    if encoded.startswith(b"+"):
        text = "+" + text[1:]
    assert descriptor("ResetUserBudget", b"cstmid=vdf&dest=1&subj=" + encoded)["Subject"] == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"+40256", "+40256"),
        (b"%2B40256", "+40256"),
        (b"%2b40256", "+40256"),
        (b"%2040256", " 40256"),
        (b"+", "+"),
        (b"40+256", "40 256"),
        (b"++40", "+ 40"),
    ],
)
@pytest.mark.parametrize(
    ("name", "field"), [(b"subj", "Subject"), (b"DestinationPrefix", "DestinationPrefix")]
)
def test_a_plus_that_begins_a_number_is_itself(value: bytes, text: str, name: bytes, field: str) -> None:
    others = b"cstmid=vdf&dest=1" if name == b"subj" else b"cstmid=vdf&subj=rif"
    assert descriptor("ResetUserBudget", others + b"&" + name + b"=" + value)[field] == text


def test_a_plus_anywhere_else_is_a_space() -> None:
    assert descriptor("ResetUserBudget", b"cstmid=+v+f&subj=1&dest=1")["CstmId"] == " v f"


@given(st.binary(max_size=60), st.sampled_from(["query", "", "application/json"]))
def test_no_bytes_are_worse_than_refused(raw: bytes, kind: str) -> None:
    with suppress(CallerError):
        params = parse_query(raw) if kind == "query" else parse_body(raw, kind)
        descriptor_of(BY_NAME["GetCost"], params, NOW_US)


@pytest.mark.parametrize(
    ("method", "query", "field", "says"),
    [
        ("GetCost", b"subj=rif&dest=0257", "cstmid", "missing"),
        ("GetCost", b"cstmid=vdf&dest=0257", "subj", "missing"),
        ("GetCost", b"cstmid=vdf&subj=rif", "dest", "missing"),
        ("ResetUserBudget", b"cstmid=vdf&subj=rif", "dest", "missing"),
        ("GetCost", b"cstmid=vdf&subj=&dest=1", "subj", "empty"),
        ("DebitSMS", BASE, "amount", "missing"),
        ("DebitSMS", BASE + b"&amount=", "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=ten", "amount", "expected a number, not 'ten'"),
        ("DebitSMS", BASE + b"&amount=NaN", "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=Infinity", "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=+5", "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=05", "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=1_000", "amount", "expected a number"),
        ("DebitSMS", BASE + "&amount=١".encode(), "amount", "expected a number"),
        ("DebitSMS", BASE + b"&amount=1e999", "amount", "out of range"),
        ("DebitSMS", BASE + b"&amount=" + b"1" * 65, "amount", "more than 64"),
        ("GetCost", BASE + b"&tor=x", "tor", "expected a number"),
        ("GetCost", BASE + b"&duration=long", "duration", "expected a number"),
        ("GetCost", BASE + b"&duration=-1", "duration", "negative"),
        ("GetCost", BASE + b"&duration=1e300", "duration", "outside"),
        ("GetCost", BASE + b"&start=9999-12-31T23:59:59Z&duration=1", "duration", "9999"),
        ("GetCost", BASE + b"&duration=1e-99999999999999999999", "duration", "decimals"),
        ("GetCost", BASE + b"&duration=0.0000001", "duration", "more than 6 decimals"),
        ("GetCost", BASE + b"&start=yesterday", "start", "RFC 3339"),
        ("GetCost", BASE + b"&end=2012-02-08T23:50:00Z", "end", "without start"),
        (
            "GetCost",
            BASE + b"&start=2012-02-08T23:50:00Z&end=2012-02-08T23:50:00Z&duration=1",
            "duration",
            "end",
        ),
        ("GetCost", BASE + b"&dest=1", "dest", "twice"),
        ("GetCost", BASE + b"&DEST=1", "dest", "twice"),
        ("GetCost", BASE + b"@subject=1", "subj", "twice"),
        ("GetCost", b"cstmid=vdf&subj=%ff&dest=1", "subj", "UTF-8"),
        ("GetCost", b"cstmid=vdf&subj=\xff&dest=1", "subj", "UTF-8"),
        ("GetCost", b"cstmid=vdf&subj=%ed%a0%80&dest=1", "subj", "UTF-8"),
        ("GetCost", b"cstmid=vdf&subj=100%&dest=1", "subj", "hexadecimal"),
    ],
)
def test_what_is_wrong_is_named(method: str, query: bytes, field: str, says: str) -> None:
    with pytest.raises(InvalidParams, match=says) as caught:
        descriptor(method, query)
    assert caught.value.data["field"] == field


PLAIN = st.lists(
    st.tuples(
        st.sampled_from(["cstmid", "CstmId", "subj", "Subject", "dest", "AMOUNT", "start", "other", "@", ""]),
        st.sampled_from(["=", "=", "=", "", "=="]),
        st.text(st.characters(codec="ascii", exclude_characters="%+"), max_size=5),
        st.sampled_from(["&", "&", "@", "@dest=", "@Amount=1", "&&"]),
    ).map("".join),
    max_size=6,
).map(lambda pairs: "".join(pairs).encode())


@given(PLAIN)
def test_the_short_way_through_a_query_leads_where_the_long_one_does(raw: bytes) -> None:
    def outcome(parse: Callable[[bytes], Params]) -> Params | str:
        try:
            return parse(raw)
        except InvalidParams as error:
            return str(error)

    assert outcome(parse_query) == outcome(_parse_encoded)


@given(st.from_regex(r"[0-9]{0,3}[0-9٠-٩.eE+-]{0,4}", fullmatch=True))
def test_exactly_the_numbers_of_json_are_numbers(text: str) -> None:
    query = BASE + b"&amount=" + quote(text).encode()
    try:
        json.loads(text, parse_constant=None)
        is_number = text.isascii()
    except ValueError:
        is_number = False
    if is_number:
        assert f'"Amount":{text}' in descriptor_of(BY_NAME["DebitBalance"], parse_query(query), 0).decode()
    else:
        with pytest.raises(InvalidParams, match="expected a number"):
            descriptor("DebitBalance", query)


def test_unknown_parameters_are_ignored_whatever_they_are() -> None:
    assert descriptor("ResetUserBudget", BASE + b"&x=%zz&&=&%ff=1&y=1&y=2")["Subject"] == "rif"


def test_an_escaped_at_sign_is_part_of_the_value() -> None:
    assert descriptor("ResetUserBudget", b"cstmid=vdf&dest=1&subj=a%40amount=1")["Subject"] == "a@amount=1"
    assert (
        descriptor("ResetUserBudget", b"cstmid=vdf&dest=1&subj=rif@host.example")["Subject"]
        == "rif@host.example"
    )


@pytest.mark.parametrize("content_type", ["", FORM, FORM + "; charset=utf-8"])
def test_a_form_is_read_as_a_query_is(content_type: str) -> None:
    assert parse_body(BASE + b"@amount=100\r\n", content_type) == parse_query(BASE + b"&amount=100")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", FORM, "text/plain"]
)
def test_an_object_is_json_by_either_set_of_names(content_type: str) -> None:
    body = b' {"CstmId":"vdf","subj":"r\\u0069f","DestinationPrefix":"0257","Amount":1.50,"TOR":null,"x":[1]}'
    assert parse_body(body, content_type) == {
        "cstmid": "vdf",
        "subj": "rif",
        "dest": "0257",
        "amount": "1.50",
    }


def test_an_empty_body_has_no_parameters() -> None:
    assert parse_body(b" \r\n", "application/json") == {}


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b'{"amount":NaN}', ParseError, "NaN"),
        (b'{"amount":-Infinity}', ParseError, "Infinity"),
        (b'{"amount":', ParseError, "Expecting"),
        (b'{"subj":"\xff"}', InvalidParams, "subj: is no text"),
        (b'{"TimeStart":"\\ud800"}', InvalidParams, "start: is no text"),
        (b'{"x":"\xff"}', ParseError, "invalid UTF-8"),
        (b'{"\xff":1}', ParseError, "invalid UTF-8"),
        (b'{"a":' * 100_000, NestedTooDeep, "64"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", NestedTooDeep, "64"),
        (b'{"b":1,"a":' + b'{"a":' * 64 + b"1" + b"}" * 65, NestedTooDeep, "64"),
        (b"[" * 65 + b"]" * 65, NestedTooDeep, "64"),
        (b"[]", InvalidRequest, "object"),
        (b"7", InvalidRequest, "object"),
        (b'{"amount":"100"}', InvalidParams, "amount: must be a number"),
        (b'{"amount":true}', InvalidParams, "amount: must be a number"),
        (b'{"amount":{}}', InvalidParams, "amount: must be a number"),
        (b'{"dest":257}', InvalidParams, "dest: must be a string"),
        (b'{"dest":["257"]}', InvalidParams, "dest: must be a string"),
        (b'{"dest":"1","dest":"2"}', InvalidParams, "dest: is given twice"),
        (b'{"dest":"1","DestinationPrefix":"2"}', InvalidParams, "dest: is given twice"),
    ],
)
def test_wrong_json_bodies_are_refused_with_the_reason(
    body: bytes, error: type[CallerError], says: str
) -> None:
    with pytest.raises(error, match=says):
        parse_body(body, "application/json")


def test_json_within_the_limit_of_depth_is_taken_however_many_brackets_it_has() -> None:
    nested = b"[" * 63 + b"[]," * 100 + b"[]" + b"]" * 62
    assert parse_body(b'{"x":' + nested[1:] + b',"dest":"1"}', "") == {"dest": "1"}


def test_other_kinds_of_bodies_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="text/xml"):
        parse_body(b"<dest/>", "text/xml")


def test_a_request_id_of_a_json_body_is_passed_on() -> None:
    params = parse_body(b'{"cstmid":"vdf","subj":"rif","dest":"1","RequestId":"k\\"1"}', "application/json")
    assert json.loads(descriptor_of(BY_NAME["ResetUserBudget"], params, 0))["RequestId"] == 'k"1'
