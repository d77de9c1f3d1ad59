"""Call descriptors: what is accepted, what is refused and how it is named."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InvalidParams, ParseError, RatelError
from common.methods import BY_NAME, METHODS
from common.money import LIMIT, format_micros
from rater.descriptor import FIELDS, Descriptor
from rater.descriptor_reader import parse_descriptor

COST, DEBIT = BY_NAME["GetCost"], BY_NAME["DebitBalance"]
CALL: dict[str, Any] = {
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}
START_US = 1_328_203_800_000_000


def parse(fields: dict[str, Any], method: Any = COST) -> Descriptor:
    return parse_descriptor(json.dumps(fields).encode(), method)


def test_a_full_descriptor_in_documented_spelling() -> None:
    got = parse(CALL | {"TOR": 3, "RequestId": "r1", "Amount": 12.5})
    end_us = START_US + 3_600_000_000
    texts = CALL["TimeStart"], CALL["TimeEnd"]
    assert got == Descriptor(3, "vdf", "rif", "0256", START_US, end_us, 12_500_000, "r1", *texts)


@pytest.mark.parametrize(
    ("start", "kept"),
    [
        ("2012-02-02T17:30:00Z", "2012-02-02T17:30:00Z"),
        ("2012-02-02T17:30:00.5Z", "2012-02-02T17:30:00.5Z"),
        ("2012-02-02T17:30:00.50Z", ""),
        ("2012-02-02T17:30:00.5000001Z", ""),
        ("2012-02-02t17:30:00z", ""),
        ("2012-02-02 17:30:00Z", ""),
        ("2012-02-02T19:30:00+02:00", ""),
        ("2012-02-02T17:30:00-00:00", ""),
    ],
)
def test_a_time_is_kept_as_text_where_it_would_be_written_so(start: str, kept: str) -> None:
    got = parse(CALL | {"TimeStart": start})
    assert got.start_us // 1_000_000 == START_US // 1_000_000
    assert (got.start_text, got.end_text) == (kept, CALL["TimeEnd"])


_TEXTS = st.sampled_from(("", "vdf", "0256", 'a"b', "a\\b", "x" * 250, "x" * 257, "Zürich"))
_VALUES = {
    "TOR": st.sampled_from((0, 3, -1, 2**31, 1.5, "1")),
    "CstmId": st.just("vdf") | _TEXTS,
    "Subject": st.just("rif") | _TEXTS,
    "DestinationPrefix": st.just("0256") | _TEXTS,
    "TimeStart": st.sampled_from((CALL["TimeStart"], "", "2012-02-02T17:30:60Z", "2012-02-02T17:30:00.5Z")),
    "TimeEnd": st.sampled_from((CALL["TimeEnd"], CALL["TimeStart"], "2012-02-30T17:30:00Z", "now")),
    "Amount": st.sampled_from((0, 1, -15, 12.5, 10**10, True, [], [1], {}, {"a": 1}, "1")),
    "RequestId": st.just("r1") | _TEXTS,
}


@given(st.data(), st.sampled_from(METHODS))
@settings(max_examples=1000)
def test_the_reader_of_plain_requests_gives_what_the_general_one_gives(
    data: st.DataObject, method: Any
) -> None:
    needed = ["CstmId", "Subject"]
    needed += ["DestinationPrefix"] * method.needs_destination
    needed += ["TimeStart", "TimeEnd"] * method.needs_times + ["Amount"] * method.needs_amount
    names = needed + data.draw(st.lists(st.sampled_from(FIELDS), max_size=2))
    if data.draw(st.integers(0, 9)) == 0:
        names.remove(data.draw(st.sampled_from(names)))
    members = [
        (name, json.dumps(data.draw(st.none() | _VALUES[name] if names.count(name) > 1 else _VALUES[name])))
        for name in data.draw(st.permutations(names))
    ]
    # Names in lower case are for the general reader alone.
    outcomes: list[Descriptor | tuple[type[RatelError], str]] = []
    for plain in (True, False):
        text = ",".join(f'"{name if plain else name.lower()}":{value}' for name, value in members)
        try:
            outcomes.append(parse_descriptor(f"{{{text}}}".encode(), method))
        except RatelError as error:
            outcomes.append((type(error), error.message))
    assert outcomes[0] == outcomes[1]


@given(st.data())
def test_names_match_in_any_case_and_unknown_fields_are_ignored(data: st.DataObject) -> None:
    fields = CALL | {"TOR": 1, "Amount": 2, "RequestId": "x"}
    respelt = {
        "".join(c.upper() if data.draw(st.booleans()) else c.lower() for c in name): value
        for name, value in fields.items()
    }
    unknown = {"Colour": ["red", {"deep": None}], "Amountt": "x"} if data.draw(st.booleans()) else {}
    assert parse(respelt | unknown) == parse(fields)


def test_a_field_given_in_two_spellings_is_refused() -> None:
    with pytest.raises(InvalidParams, match="Subject: is given twice"):
        parse(CALL | {"subject": "other"})
    with pytest.raises(InvalidParams, match="TOR: is given twice"):
        parse(CALL | {"TOR": 1, "Tor": 2})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"CstmId":"vdf","Subject":"rif","Subject":"anna","Amount":1}', "Subject"),
        ('{"CstmId":"vdf","Subject":"rif","Amount":0,"Amount":1}', "Amount"),
        ('{"CstmId":"vdf","Subject":"rif","Amount":0,"TOR":0,"Tor":0}', "TOR"),
        ('{"CstmId":"vdf","Subject":"rif","Subj\\u0065ct":"rif","Amount":1}', "Subject"),
    ],
)
def test_equal_names_are_refused_whichever_is_meant(text: str, field: str) -> None:
    with pytest.raises(InvalidParams, match=f"{field}: is given twice"):
        parse_descriptor(text.encode(), DEBIT)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_any_text_arrives_as_it_was(subject: str, destination: str) -> None:
    got = parse({"CstmId": "t", "Subject": subject, "DestinationPrefix": destination, "Amount": 1}, DEBIT)
    assert (got.subject, got.destination) == (subject, destination)


def test_null_is_absent() -> None:
    assert parse(CALL | {"TOR": None, "Amount": None, "RequestId": None}) == parse(CALL)
    with pytest.raises(InvalidParams, match="Subject: is missing"):
        parse(CALL | {"Subject": None})


@pytest.mark.parametrize("field", ["CstmId", "Subject", "DestinationPrefix", "TimeStart", "TimeEnd"])
def test_what_the_method_needs_must_be_there(field: str) -> None:
    for absent in ({k: v for k, v in CALL.items() if k != field}, CALL | {field: ""}):
        with pytest.raises(InvalidParams, match=f"{field}: is missing"):
            parse(absent)


def test_the_table_of_methods_decides_what_is_needed() -> None:
    for method in METHODS:
        fields = {"CstmId": "t", "Subject": "s"}
        if method.needs_amount:
            fields["Amount"] = 1  # type: ignore[assignment]
        if method.needs_destination:
            fields["DestinationPrefix"] = "1"
        if method.needs_times:
            fields |= {"TimeStart": CALL["TimeStart"], "TimeEnd": CALL["TimeEnd"]}
        parse(fields, method)
        for name in fields:
            with pytest.raises(InvalidParams) as caught:
                parse({key: value for key, value in fields.items() if key != name}, method)
            assert caught.value.data["field"] == name


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [True, [], {}, [1], {"a": 1}])
def test_a_wrong_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse(CALL | {"Amount": 1} | {field: value}, DEBIT)
    assert caught.value.data["field"] == field


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"100"', "expected a number, not a string"),
        ("0.0000001", "more than 6 decimals"),
        ("1e999", "outside"),
        ("1e999999999", "outside"),
        ("-1e999999999", "outside"),
        ("1e-999999999", "more than 6 decimals"),
        ("9007199254.740992", "outside"),
        ("9" * 400, "outside"),
        ("1." + "0" * 70, "more than 64 characters"),
    ],
)
def test_amounts_that_cannot_be_held_exactly_are_refused(text: str, message: str) -> None:
    params = json.dumps(CALL | {"Amount": 0}).replace('"Amount": 0', f'"Amount": {text}').encode()
    with pytest.raises(InvalidParams) as caught:
        parse_descriptor(params, DEBIT)
    assert caught.value.data["field"] == "Amount"
    assert message in caught.value.message


@given(st.integers(-LIMIT, LIMIT))
def test_every_amount_in_range_is_read_exactly(micros: int) -> None:
    params = json.dumps(CALL | {"Amount": 0}).replace('"Amount": 0', f'"Amount": {format_micros(micros)}')
    assert parse_descriptor(params.encode(), DEBIT).amount_micros == micros


@pytest.mark.parametrize(
    "params",
    [
        b"",
        b"{",
        b"nope",
        b'{"Amount":NaN}',
        b'{"Amount":Infinity}',
        b'{"Amount":01}',
        b'{"CstmId":"\xff"}',
        b"{'a':1}",
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_a_parse_error(params: bytes) -> None:
    with pytest.raises(ParseError):
        parse_descriptor(params, DEBIT)


@pytest.mark.parametrize("params", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_what_is_not_an_object_is_invalid(params: bytes) -> None:
    with pytest.raises(InvalidParams, match="expected an object"):
        parse_descriptor(params, DEBIT)


def test_a_call_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidParams, match="TimeEnd: 2012-02-02T17:29:59Z is before TimeStart"):
        parse(CALL | {"TimeEnd": "2012-02-02T17:29:59Z"})
    assert parse(CALL | {"TimeEnd": CALL["TimeStart"]}).end_us == START_US


@pytest.mark.parametrize("field", ["CstmId", "Subject", "DestinationPrefix", "RequestId"])
def test_text_has_a_length_limit(field: str) -> None:
    parse(CALL | {field: "x" * 256})
    with pytest.raises(InvalidParams, match=f"{field}: is longer than 256 characters"):
        parse(CALL | {field: "x" * 257})


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_input_gives_a_descriptor_or_a_clear_error(params: bytes) -> None:
    for method in METHODS:
        with suppress(RatelError):
            assert isinstance(parse_descriptor(params, method), Descriptor)
