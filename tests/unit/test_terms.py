"""What SetTerms reads out of a request: each term, each mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from balancer.http.query import descriptor_of, parse_body, parse_query
from common.errors import InvalidParams, ParseError
from common.methods import BY_NAME, TERMS
from common.money import LIMIT
from rater.accounts.terms import Terms, fingerprint, parse_terms
from rater.descriptor_reader import parse_descriptor

WHO = {"CstmId": "vdf", "Subject": "anna"}
SET_TERMS = BY_NAME["SetTerms"]

RIGHT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"Blocked": True}, {"blocked": True}),
    ({"Blocked": False}, {"blocked": False}),
    ({"Type": "prepaid"}, {"postpaid": False}),
    ({"Type": "postpaid"}, {"postpaid": True}),
    ({"MinCredit": -50.25}, {"min_credit_micros": -50_250_000}),
    ({"MinCredit": 0}, {"min_credit_micros": 0}),
    ({"NoMinCredit": True}, {"min_credit_micros": None}),
    ({"NoMinCredit": False, "MinCredit": 1}, {"min_credit_micros": 1_000_000}),
    ({"TariffPlanId": "zi și noapte"}, {"plan": "zi și noapte"}),
    ({"NoTariffPlan": True}, {"plan": ""}),
    ({"ResetDayOfTheMonth": 31}, {"reset_day": 31}),
    ({"Blocked": True, "Type": None, "ResetDayOfTheMonth": 0}, {"blocked": True, "reset_day": 0}),
]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "terms: none is given: expected one of Blocked, Type, "),
    ({"Blocked": None}, "terms: none is given"),
    ({"NoMinCredit": False, "NoTariffPlan": False}, "terms: none is given"),
    ({"Blocked": "true"}, "Blocked: expected true or false, not a string"),
    ({"Blocked": 1}, "Blocked: expected true or false, not a number"),
    ({"Type": "free"}, "Type: expected prepaid or postpaid, not 'free'"),
    ({"Type": True}, "Type: expected a string, not a boolean"),
    ({"MinCredit": "5"}, "MinCredit: expected a number, not a string"),
    ({"MinCredit": 0.1234567}, "MinCredit: more than 6 decimals"),
    ({"MinCredit": LIMIT}, "MinCredit: outside"),
    ({"MinCredit": 5, "NoMinCredit": True}, "NoMinCredit: is given beside MinCredit"),
    ({"TariffPlanId": ""}, "TariffPlanId: is empty"),
    ({"TariffPlanId": "x" * 257}, "TariffPlanId: is longer than 256 characters"),
    ({"TariffPlanId": "x", "NoTariffPlan": True}, "NoTariffPlan: is given beside TariffPlanId"),
    ({"ResetDayOfTheMonth": 32}, "ResetDayOfTheMonth: expected a whole number, 0 to 31"),
    ({"ResetDayOfTheMonth": 1.5}, "ResetDayOfTheMonth: expected a whole number, 0 to 31"),
    ({"ResetDayOfTheMonth": True}, "ResetDayOfTheMonth: expected a whole number, 0 to 31"),
]


@pytest.mark.parametrize(("given", "expected"), RIGHT)
def test_each_term_is_read_in_any_case(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse_terms(json.dumps(WHO | given).encode()) == Terms(**expected)
    assert parse_terms(json.dumps({name.upper(): value for name, value in given.items()}).encode()) == Terms(
        **expected
    )


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_each_mistake_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParams) as error:
        parse_terms(json.dumps(WHO | given).encode())
    assert str(error.value).startswith(message)


def test_what_is_no_text_and_what_is_given_twice() -> None:
    with pytest.raises((InvalidParams, ParseError)):
        parse_terms(b'{"TariffPlanId":"\\ud800"}')
    with pytest.raises(InvalidParams, match="Blocked: is given twice"):
        parse_terms(b'{"Blocked":true,"BLOCKED":false}')


@pytest.mark.parametrize(("given", "expected"), RIGHT)
def test_over_http_it_is_the_same(given: dict[str, Any], expected: dict[str, Any]) -> None:
    there = {name: value for name, value in given.items() if value is not None}
    texts = {name.lower(): json.dumps(value).strip('"') for name, value in there.items()}
    texts |= {"tariffplanid": there["TariffPlanId"]} if "TariffPlanId" in there else {}
    query = parse_query("&".join(f"{name}={value}" for name, value in texts.items()).encode())
    for params in (query, parse_body(json.dumps(given).encode(), "application/json")):
        body = descriptor_of(SET_TERMS, {"cstmid": "vdf", "subj": "anna"} | params, 0)
        assert parse_terms(body) == Terms(**expected)
        assert parse_descriptor(body, SET_TERMS).subject == "anna"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("blocked", "yes", "blocked: expected true or false, not 'yes'"),
        ("blocked", "", "blocked: expected true or false, not ''"),
        ("mincredit", "much", "mincredit: expected a number, not 'much'"),
        ("resetdayofthemonth", "01", "resetdayofthemonth: expected a number, not '01'"),
    ],
)
def test_over_http_mistakes_are_named_by_the_parameter(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidParams) as error:
        descriptor_of(SET_TERMS, {"cstmid": "vdf", "subj": "anna", name: text}, 0)
    assert str(error.value) == message


@pytest.mark.parametrize("name", [name.lower() for name, kind in TERMS.items() if kind is not str])
def test_over_http_a_json_body_has_truths_and_numbers(name: str) -> None:
    with pytest.raises(InvalidParams, match=f"{name}: must be (true or false|a number)"):
        parse_body(json.dumps({name: "1"}).encode(), "application/json")


def test_other_methods_do_not_read_terms() -> None:
    params = {"cstmid": "vdf", "subj": "anna", "dest": "1", "amount": "1", "blocked": "what"}
    assert b"Blocked" not in descriptor_of(BY_NAME["DebitSMS"], params, 0)


def test_no_two_terms_have_one_fingerprint() -> None:
    terms = [
        *(expected for _, expected in RIGHT),
        {"plan": "x"},
        {"plan": "x 1"},
        {"plan": "x", "blocked": True},
        {"plan": "none"},
        {"min_credit_micros": 1, "reset_day": 1},
    ]
    wanted = {Terms(**each) for each in terms}
    assert len({fingerprint(each) for each in wanted}) == len(wanted)
