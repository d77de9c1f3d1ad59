"""Explanations: of the very price that rating gives, with the reasons that hold."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.api.schemas import SCHEMAS
from common.api.schemas_explain import REASONS
from common.errors import CallTooLong, InvalidParams
from common.money import format_micros
from rater.model import Account, Bucket, Destination, Plan, Rate, Tariff, Threshold
from rater.rating.contest import MAX_INTERVALS
from rater.rating.explain import explain
from rater.rating.explain_spans import MAX_SPANS
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, compile_tariff
from rater.rating.spans import Call, consume_buckets, rate_call
from tests.unit.rating_oracle import (
    DAY,
    HOUR,
    MAX_CALL,
    MINUTOSU,
    SECOND,
    TARIFF_2012,
    TURNING_POINTS,
    at,
    interval,
    rate,
    rates,
)

TARIFF = compile_tariff(TARIFF_2012, MAX_CALL)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def explained(
    tariff: CompiledTariff,
    start: str,
    end: str,
    *,
    subject: str = "rif",
    dialled: str = "0256",
    account: Account | None = None,
    asked_us: int = 60 * SECOND,
) -> bytes:
    call = Call(0, "vdf", subject, dialled, at(start), at(end))
    return msgspec.json.encode(explain(tariff, call, account, asked_us))


def told(tariff: CompiledTariff, start: str, end: str, **question: Any) -> Any:
    """An explanation as a client reads it."""
    return json.loads(explained(tariff, start, end, **question), parse_float=Decimal)


def compiled(*listed: Rate, **parts: Any) -> CompiledTariff:
    return compile_tariff(Tariff("vdf", listed, **parts), MAX_CALL)


def test_a_call_of_two_prices() -> None:
    answer = told(TARIFF, "2012-02-02T17:30", "2012-02-02T18:30", dialled="0256308200")
    assert (answer["Verdict"], answer["Cost"], answer["ConnectFee"]) == ("ok", 540, 0)
    assert answer["Rate"]["Prefix"] == "0256"
    own, fallback = answer["Rate"]["Lookups"]
    assert own["Tried"] == [
        "0256308200",
        "025630820",
        "02563082",
        "0256308",
        "025630",
        "02563",
        "0256",
    ]
    assert (own["Used"], fallback["Used"], fallback["Matched"]) == (True, False, None)
    first, second = answer["Timespans"]
    assert first["Arithmetic"] == "1800 s × 0.2 ÷ 1 s = 360"
    assert second["Arithmetic"] == "1800 s × 0.1 ÷ 1 s = 180"
    assert first["Rivals"][0]["Reason"] == "other_time"
    assert "no account" in answer["Message"]


def test_a_bucket_then_a_price() -> None:
    answer = told(
        TARIFF,
        "2012-02-08T22:50",
        "2012-02-08T22:51:50",
        subject="minutosu",
        dialled="0723",
        account=MINUTOSU,
        asked_us=5400 * SECOND,
    )
    assert answer["Cost"] == Decimal("0.1")
    used = [bucket for bucket in answer["Buckets"] if bucket["Used"]]
    assert [(each["Used"], each["Price"], each["Text"]) for each in used] == [
        (100, 0, "used up"),
        (10, Decimal("0.01"), "used up"),
    ]
    assert [span["Arithmetic"] for span in answer["Timespans"]] == [
        "100 s × 0 a second = 0",
        "10 s × 0.01 a second = 0.1",
    ]
    session = answer["MaxSessionTime"]
    assert session["Granted"] == 1080
    assert [each["Affordable"] for each in session["Candidates"]] == [False] * 8 + [True] * 2
    assert [each["Seconds"] for each in session["Candidates"]][8] == 1080


def test_why_each_interval_lost() -> None:
    tariff = compiled(
        rate(
            interval("3", ponder=10),
            interval("2", ponder=10),
            interval("2", ponder=10),
            interval("1", ponder=5),
            interval("9", ponder=50, month=5),
            interval("9", ponder=50, month_day=7),
            interval("9", ponder=50, days=(0, 6)),
            interval("9", ponder=50, start_s=64_800, end_s=68_400),
        )
    )
    [span] = told(tariff, "2012-02-02T17:30", "2012-02-02T17:31")["Timespans"]
    assert span["Interval"]["Price"] == 2
    reasons = {(each["Reason"], each["Interval"]["Price"]) for each in span["Rivals"]}
    assert reasons == {
        ("listed_later", 2),
        ("dearer", 3),
        ("lower_ponder", 1),
        ("other_month", 9),
        ("other_month_day", 9),
        ("other_week_day", 9),
        ("other_time", 9),
    }
    applying = [each for each in span["Rivals"] if each["AppliesFrom"]]
    assert {each["Reason"] for each in applying} == {"listed_later", "dearer", "lower_ponder"}
    assert span["Rivals"][: len(applying)] == applying
    week_day = next(each for each in span["Rivals"] if each["Reason"] == "other_week_day")
    assert week_day["Text"] == "it holds on Sunday, Saturday, this is Thursday"


def test_a_rival_that_begins_within_the_span_says_when() -> None:
    tariff = compiled(rate(interval("1", ponder=10), interval("2", ponder=5, start_s=64_800)))
    [span] = told(tariff, "2012-02-02T17:30", "2012-02-02T18:30")["Timespans"]
    assert span["Rivals"][0]["AppliesFrom"] == "2012-02-02T18:00:00Z"


def test_no_rate_and_not_active_are_told_apart() -> None:
    nothing = told(TARIFF, "2012-02-02T17:30", "2012-02-02T18:30", dialled="999")
    assert (nothing["Verdict"], nothing["Cost"], nothing["Timespans"]) == ("no_rate", None, [])
    assert nothing["Rate"]["Lookups"][0]["Tried"] == ["999", "99", "9"]
    early = told(TARIFF, "1999-01-01T00:00", "1999-01-01T00:01")
    assert early["Verdict"] == "not_active"
    assert not any(period["InEffectAtStart"] for period in early["Rate"]["ActivationPeriods"])


def test_the_fallback_and_shorter_prefixes_are_shown() -> None:
    tariff = compiled(
        rate(interval("1"), subject="*any", prefix="0256"),
        rate(interval("2"), subject="*any", prefix="02"),
        rate(interval("3"), subject="rif", prefix="07"),
    )
    own, fallback = told(tariff, "2012-02-02T17:30", "2012-02-02T18:30")["Rate"]["Lookups"]
    assert (own["Matched"], own["Used"]) == (None, False)
    assert (fallback["Matched"], fallback["Used"], fallback["ShorterMatches"]) == ("0256", True, ["02"])


def test_credit_that_is_not_there() -> None:
    poor = Account("rif", credit_micros=10_000_000)
    answer = told(TARIFF, "2012-02-02T17:30", "2012-02-02T18:30", account=poor)
    assert answer["Verdict"] == "no_credit"
    assert answer["Message"] == "the call costs 540 with its connect fee, and the account can spend 10"
    rich = told(TARIFF, "2012-02-02T17:30", "2012-02-02T18:30", account=Account("rif", postpaid=True))
    assert (rich["Verdict"], rich["Account"]["Spendable"]) == ("ok", None)
    assert "postpaid" in rich["MaxSessionTime"]["Text"]


def test_why_each_bucket_was_or_was_not_used() -> None:
    second = Bucket("set", 10 * SECOND, 0, 0)
    account = Account(
        "rif",
        credit_micros=2_000_000,
        buckets=(
            Bucket("elsewhere", 10 * SECOND, 90, 0),
            Bucket("set", 0, 80, 0),
            Bucket("set", 10 * SECOND, 70, 0),
            Bucket("set", 10 * SECOND, 60, 1_000_000_000),
            Bucket("set", 10 * SECOND, 50, 2_000_000_000),
            Bucket("set", 90 * SECOND, 40, 0),
            second,
        ),
    )
    tariff = compiled(
        rate(interval("1")),
        destinations=(Destination("set", ("02",)), Destination("elsewhere", ("07",))),
    )
    answer = told(tariff, "2012-02-02T00:00:00", "2012-02-02T00:01:00", account=account)
    texts = {bucket["Priority"]: bucket["Text"] for bucket in answer["Buckets"]}
    assert texts == {
        90: "not used: no prefix of 0256 is in destination elsewhere",
        80: "not used: it is empty",
        70: "used up",
        60: "used as far as the credit pays for it",
        50: "not used: the credit pays for none of it",
        40: "used for the rest of the call",
        0: "not used: the buckets before it cover the call",
    }
    assert answer["Buckets"][0]["MatchedPrefix"] == "02"


def test_the_discount_that_was_reached() -> None:
    plan = Plan("gold", thresholds=(Threshold(100 * SECOND, 10_000_000), Threshold(500 * SECOND, 20_000_000)))
    tariff = compiled(rate(interval("0.0166")), plans=(plan,))
    account = Account("rif", credit_micros=10**9, volume_discount_us=105 * SECOND, plan="gold")
    answer = told(tariff, "2012-02-02T17:30", "2012-02-02T17:31", account=account)
    assert [each["Reached"] for each in answer["Discount"]["Thresholds"]] == [True, False]
    assert answer["Timespans"][0]["Arithmetic"] == "60 s × 0.0166 ÷ 1 s − 10 % = 0.8964"


def test_an_increment_that_takes_time_from_the_next() -> None:
    tariff = compiled(rate(interval("1", ponder=1, increment_s=60), interval("2", ponder=9, start_s=64_800)))
    first, _ = told(tariff, "2012-02-02T17:59:30", "2012-02-02T18:01")["Timespans"]
    assert first["Rivals"][0]["Reason"] == "increment"
    [short] = told(tariff, "2012-02-02T17:30:00", "2012-02-02T17:30:07")["Timespans"]
    assert short["Arithmetic"] == "60 s (7 s in whole increments of 60 s) × 1 ÷ 1 s = 60"


def test_local_times_show_the_offset_that_holds() -> None:
    tariff = compiled(rate(interval("1"), zone="Europe/Bucharest"))
    [span] = told(tariff, "2012-03-25T00:30", "2012-03-25T01:30")["Timespans"]
    assert (span["LocalStart"], span["LocalEnd"]) == (
        "2012-03-25T02:30:00+02:00",
        "2012-03-25T04:30:00+03:00",
    )


def test_what_is_too_much_is_counted_not_shown() -> None:
    many = [interval("1", ponder=each, start_s=each % 24 * 3600) for each in range(80)]
    tariff = compiled(rate(*many))
    answer = told(tariff, "2012-02-02T00:30", "2012-02-27T00:30")
    assert len(answer["Timespans"]) == MAX_SPANS
    assert answer["MoreTimespans"] > 0
    span = answer["Timespans"][0]
    assert len(span["Rivals"]) + span["MoreRivals"] + (span["Interval"] is not None) >= 80
    assert len(many) > MAX_INTERVALS


def test_a_call_that_can_not_be_rated_is_an_error() -> None:
    with pytest.raises(CallTooLong):
        told(TARIFF, "2012-01-01T00:00", "2013-01-01T00:00")
    with pytest.raises(CallTooLong):
        told(TARIFF, "2012-01-01T00:00", "2012-01-01T00:01", asked_us=MAX_CALL + 1)
    with pytest.raises(InvalidParams):
        told(TARIFF, "2012-01-01T00:01", "2012-01-01T00:00")


def test_it_keeps_to_its_schema() -> None:
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    document = {"$ref": "#/components/schemas/Explanation", "components": {"schemas": SCHEMAS}}
    validator = jsonschema_rs.Draft202012Validator(document)
    hour = ("2012-02-02T17:30", "2012-02-02T18:30")
    for answer in (
        explained(TARIFF, *hour),
        explained(TARIFF, *hour, dialled="999"),
        explained(TARIFF, *hour, subject="minutosu", dialled="0723", account=MINUTOSU),
    ):
        validator.validate(json.loads(answer))
        broken = json.loads(answer) | {"Timespans": [{}], "Verdict": "perhaps"}
        assert not validator.is_valid(broken)


accounts = st.builds(
    Account,
    subject=st.just("rif"),
    credit_micros=st.integers(0, 500_000_000),
    volume_discount_us=st.integers(0, 200).map(lambda seconds: seconds * SECOND),
    plan=st.sampled_from(["", "gold"]),
    postpaid=st.booleans(),
    min_credit_micros=st.none() | st.integers(-100_000_000, 100_000_000),
    buckets=st.lists(
        st.builds(
            Bucket,
            destination=st.sampled_from(["set", "finer", "elsewhere"]),
            seconds_us=st.integers(0, 900).map(lambda seconds: seconds * SECOND),
            priority=st.integers(0, 2),
            price_nanos=st.sampled_from([0, 0, 100_000_000, 7]),
        ),
        max_size=5,
        unique_by=lambda bucket: (bucket.destination, bucket.priority, bucket.price_nanos),
    ).map(tuple),
)


@given(st.data(), st.sampled_from(TURNING_POINTS), accounts)
@patient
def test_an_explanation_is_of_the_price_that_rating_gives(
    data: st.DataObject, around: int, account: Account
) -> None:
    rated = data.draw(rates(grid_s=60, increments=data.draw(st.booleans()), around=around))
    tariff = compiled(
        rated,
        destinations=(
            Destination("set", ("02",)),
            Destination("finer", ("0256",)),
            Destination("elsewhere", ("9",)),
        ),
        plans=(Plan("gold", thresholds=(Threshold(100 * SECOND, 10_000_000),)),),
    )
    start_us = around + data.draw(st.integers(-2 * DAY, 2 * DAY))
    end_us = start_us + data.draw(st.integers(0, 6 * HOUR))
    asked_us = data.draw(st.integers(0, 6 * HOUR))
    call = Call(0, "vdf", "rif", "0256", start_us, end_us)
    answer = json.loads(msgspec.json.encode(explain(tariff, call, account, asked_us)), parse_float=Decimal)

    cost = rate_call(tariff, call, account)
    assert str(answer["Cost"]) == format_micros(cost.cost_micros)
    spans = answer["Timespans"]
    assert answer["MoreTimespans"] == max(0, len(cost.spans) - MAX_SPANS)
    for span, expected in zip(spans, cost.spans[:MAX_SPANS], strict=True):
        assert str(span["Cost"]) == format_micros(expected.cost_micros)
        assert span["Arithmetic"].endswith(f" = {span['Cost']}")
        for each in span["Rivals"]:
            assert each["Reason"] in REASONS
            assert (each["AppliesFrom"] is None) == each["Reason"].startswith("other_")
    uses = consume_buckets(tariff, "0256", account, end_us - start_us)
    assert [(each["DestinationId"], str(each["Used"])) for each in answer["Buckets"] if each["Used"]] == [
        (use.destination, format_micros(use.quantity_us)) for use in uses
    ]
    session = answer["MaxSessionTime"]
    granted_us = max_session_us(tariff, call, start_us, asked_us, account)
    assert str(session["Granted"]) == format_micros(granted_us)
    if session["Candidates"]:
        affordable = [each["Seconds"] for each in session["Candidates"] if each["Affordable"]]
        assert (affordable[0] if affordable else 0) == session["Granted"]
