"""The JSON of a call cost: every field, in order, with exact numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rater.model import Account, ActivationPeriod, Bucket, Destination, Interval, Rate, Tariff
from rater.rating.call_cost import encode_call_cost
from rater.rating.snapshot import compile_tariff
from rater.rating.spans import Call, rate_call
from tests.unit.rating_oracle import (
    DAY,
    MAX_CALL,
    MINUTOSU,
    SECOND,
    TARIFF_2012,
    TURNING_POINTS,
    at,
    interval,
    rates,
)


def encoded(tariff: Tariff, call: Call, account: Account | None = None) -> str:
    return encode_call_cost(rate_call(compile_tariff(tariff, MAX_CALL), call, account)).decode()


def test_a_call_over_two_intervals_is_written_field_by_field() -> None:
    call = Call(0, "vdf", "rif", "0256", at("2012-02-02T17:30"), at("2012-02-02T18:30"))
    assert encoded(TARIFF_2012, call) == (
        '{"TOR":0,"CstmId":"vdf","Subject":"rif","DestinationPrefix":"0256","Cost":540,"ConnectFee":0,'
        '"Timespans":['
        '{"TimeStart":"2012-02-02T17:30:00Z","TimeEnd":"2012-02-02T18:00:00Z","Cost":360,'
        '"ActivationPeriod":{"ActivationTime":"2012-01-01T00:00:00Z"},'
        '"Interval":{"Month":0,"MonthDay":0,"WeekDays":[1,2,3,4,5],"StartTime":"","EndTime":"18:00:00",'
        '"Ponder":0,"ConnectFee":0,"Price":0.2,"BillingUnit":1},"MinuteInfo":null},'
        '{"TimeStart":"2012-02-02T18:00:00Z","TimeEnd":"2012-02-02T18:30:00Z","Cost":180,'
        '"ActivationPeriod":{"ActivationTime":"2012-01-01T00:00:00Z"},'
        '"Interval":{"Month":0,"MonthDay":0,"WeekDays":[1,2,3,4,5],"StartTime":"18:00:00","EndTime":"",'
        '"Ponder":0,"ConnectFee":0,"Price":0.1,"BillingUnit":1},"MinuteInfo":null}]}'
    )


def test_bucket_spans_tell_the_bucket_and_no_interval() -> None:
    call = Call(7, "vdf", "minutosu", "0723045326", at("2012-02-08T22:50"), at("2012-02-08T22:51:45.5"))
    spans = json.loads(encoded(TARIFF_2012, call, MINUTOSU), parse_float=Decimal)["Timespans"]
    assert spans == [
        {
            "TimeStart": "2012-02-08T22:50:00Z",
            "TimeEnd": "2012-02-08T22:51:40Z",
            "Cost": 0,
            "ActivationPeriod": {"ActivationTime": "2012-01-01T00:00:00Z"},
            "Interval": None,
            "MinuteInfo": {"DestinationId": "retea", "Quantity": 100, "Price": 0},
        },
        {
            "TimeStart": "2012-02-08T22:51:40Z",
            "TimeEnd": "2012-02-08T22:51:45.5Z",
            "Cost": Decimal("0.055"),
            "ActivationPeriod": {"ActivationTime": "2012-01-01T00:00:00Z"},
            "Interval": None,
            "MinuteInfo": {
                "DestinationId": "nationale",
                "Quantity": Decimal("5.5"),
                "Price": Decimal("0.01"),
            },
        },
    ]


def test_every_field_of_an_interval_is_written_as_it_was_loaded() -> None:
    full = Interval(12, 25, (), 61, 86_399, -1_500_000, 250_000, 1, SECOND // 2, 1_500_000)
    tariff = Tariff("t", (Rate(0, "s", "1", "UTC", (ActivationPeriod(at("2012-01-01"), (full,)),)),))
    call = Call(0, "t", "s", "1", at("2012-12-25T12:00"), at("2012-12-25T12:00:01"))
    assert (
        '"Interval":{"Month":12,"MonthDay":25,"WeekDays":[],"StartTime":"00:01:01","EndTime":"23:59:59",'
        '"Ponder":-1.5,"ConnectFee":0.25,"Price":0.000000001,"BillingUnit":0.5,"RateIncrement":1.5}'
    ) in encoded(tariff, call)
    assert '"ConnectFee":0.25,"Timespans"' in encoded(tariff, call)


def test_an_empty_call_has_an_empty_list_of_spans() -> None:
    call = Call(3, "vdf", "rif", "0256", at("2012-02-02"), at("2012-02-02"))
    assert encoded(TARIFF_2012, call) == (
        '{"TOR":3,"CstmId":"vdf","Subject":"rif","DestinationPrefix":"0256","Cost":0,"ConnectFee":0,"Timespans":[]}'
    )


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb\x00\x1f", "{a:b}", "</script>", "Zürich 🦡"])
def test_any_text_survives_as_it_is(text: str) -> None:
    destinations = (Destination(text, (text,)),)
    rated = Rate(0, text, text, "UTC", (ActivationPeriod(0, (interval("1"),)),))
    account = Account(text, buckets=(Bucket(text, SECOND, 0, 0),))
    cost = json.loads(
        encoded(Tariff(text, (rated,), destinations), Call(0, text, text, text, 0, SECOND), account)
    )
    assert (cost["CstmId"], cost["Subject"], cost["DestinationPrefix"]) == (text, text, text)
    assert cost["Timespans"][0]["MinuteInfo"]["DestinationId"] == text


@given(st.data(), st.sampled_from(TURNING_POINTS))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_numbers_as_sent_add_up_to_the_cost_as_sent(data: st.DataObject, around: int) -> None:
    rated = data.draw(rates(grid_s=1, increments=True, around=around))
    end_us = around + data.draw(st.integers(0, 2 * DAY))
    text = encoded(Tariff("vdf", (rated,)), Call(0, "vdf", "rif", "0723", around, end_us))

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    cost: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_constant=refuse)
    spans = cost["Timespans"]
    assert sum(span["Cost"] for span in spans) == cost["Cost"]
    assert all(left["TimeEnd"] == right["TimeStart"] for left, right in pairwise(spans))
    assert text == text.replace(" ", "").replace(".0,", ",").replace(".0}", "}")
