"""Instants: RFC 3339 in and out, to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.times import DAY_US, MAX_INSTANT_US, MIN_INSTANT_US, SECOND_US, format_rfc3339, parse_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(MIN_INSTANT_US, MAX_INSTANT_US))
def test_an_instant_survives_writing_and_reading(instant_us: int) -> None:
    assert parse_rfc3339(format_rfc3339(instant_us)) == instant_us


@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
    st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_any_offset_is_read_as_datetime_does(moment: datetime, offset: timezone) -> None:
    here = moment.replace(tzinfo=offset)
    expected_us = (here - EPOCH) // timedelta(microseconds=1)
    assert parse_rfc3339(here.isoformat()) == expected_us
    assert format_rfc3339(expected_us).rstrip("Z").split(".")[0] == here.astimezone(UTC).strftime(
        "%Y-%m-%dT%H:%M:%S"
    ).rjust(19, "0")


@pytest.mark.parametrize(
    ("text", "instant_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-02t00:00:00z", DAY_US),
        ("1970-01-01 00:00:01.5Z", 1_500_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T23:59:59.999999-00:00", -1),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("2012-02-29T00:00:00Z", 1_330_473_600 * SECOND_US),
        ("0001-01-01T00:00:00Z", MIN_INSTANT_US),
        ("9999-12-31T23:59:59.999999Z", MAX_INSTANT_US),
    ],
)
def test_times_are_read_to_the_microsecond(text: str, instant_us: int) -> None:
    assert parse_rfc3339(text) == instant_us


@pytest.mark.parametrize(
    ("instant_us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (500_000, "1970-01-01T00:00:00.5Z"),
        (DAY_US - SECOND_US, "1970-01-01T23:59:59Z"),
        (MIN_INSTANT_US, "0001-01-01T00:00:00Z"),
        (MAX_INSTANT_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_written_with_the_decimals_that_they_need(instant_us: int, text: str) -> None:
    assert format_rfc3339(instant_us) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2012-02-02",
        "2012-02-02T17:30:00",
        "2012-02-02T17:30Z",
        "2012-02-02T24:00:00Z",
        "2012-2-2T17:30:00Z",
        "12-02-02T17:30:00Z",
        "2012-02-02T17:30:00.Z",
        "2012-02-02T17:30:00.1234567890Z",
        "2012-02-02T17:30:00+0200",
        "2012-02-02T17:30:00+24:00",
        "2012-02-02T17:30:00+02:60",
        "2012-02-02T17:30:00Z\n",
        "٢٠١٢-02-02T17:30:00Z",
        "1" * 100_000,
    ],
)
def test_what_is_no_rfc_3339_time_is_refused_briefly(text: str) -> None:
    with pytest.raises(ValueError, match="expected an RFC 3339 time") as refused:
        parse_rfc3339(text)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "2012-02-30T00:00:00Z",
        "2012-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2012-01-01T00:00:60Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_times_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no such time"):
        parse_rfc3339(text)
