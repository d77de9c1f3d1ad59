"""Exact quantities: what is read is what is written, and what can't be held is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.money import (
    LIMIT,
    MICRO,
    NANO,
    NotExact,
    divide_half_up,
    format_micros,
    format_nanos,
    parse_decimal,
    price_of,
    to_micros,
    to_nanos,
)

scaled = st.integers(-LIMIT, LIMIT)


@given(scaled)
def test_a_quantity_survives_writing_and_reading(micros: int) -> None:
    text = format_micros(micros)
    assert to_micros(parse_decimal(text)) == micros
    assert Decimal(text) * MICRO == micros
    assert text == text.strip("+ ") and ("." not in text or text[-1] not in "0.")  # noqa: PT018
    assert type(json.loads(text)) is (float if "." in text else int)


@given(scaled)
def test_a_price_survives_writing_and_reading(nanos: int) -> None:
    assert to_nanos(parse_decimal(format_nanos(nanos))) == nanos


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (540_000_000, "540"),
        (500_000, "0.5"),
        (-500_000, "-0.5"),
        (-1_000_000, "-1"),
        (-1_000_001, "-1.000001"),
        (0, "0"),
        (1, "0.000001"),
        (10_100_000, "10.1"),
        (LIMIT, "9007199254.740991"),
    ],
)
def test_quantities_are_written_as_short_as_they_can_be(micros: int, text: str) -> None:
    assert format_micros(micros) == text


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1", MICRO),
        ("-0", 0),
        ("0e999", 0),
        ("1.0000000000000000", MICRO),
        ("1e3", 1000 * MICRO),
        ("1E-6", 1),
        ("25000000e-7", 2_500_000),
        ("9007199254.740991", LIMIT),
        ("-9007199254.740991", -LIMIT),
    ],
)
def test_numbers_that_fit_are_read_exactly(text: str, micros: int) -> None:
    assert to_micros(parse_decimal(text)) == micros


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9007199254.740992", "outside"),
        ("-9007199254.740992", "outside"),
        ("1e17", "outside"),
        ("1e999", "outside"),
        ("1e999999999", "outside"),
        ("0.0000001", "more than 6 decimals"),
        ("1e-999999", "more than 6 decimals"),
        ("1.00000000000000000000000000000000001", "more than 6 decimals"),
        ("0.10000000000000000000000000000000001", "more than 6 decimals"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(text: str, why: str) -> None:
    with pytest.raises(NotExact, match=why):
        to_micros(parse_decimal(text))


@pytest.mark.parametrize("number", [10**10, -(10**10), 10**400])
def test_integers_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(NotExact, match="outside"):
        to_micros(number)
    with pytest.raises(NotExact, match="outside"):
        to_nanos(number)


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "NaN", "sNaN", "Infinity", "-inf", "1_000", " 1", "1\n", "١", "1,5", "0x10", "1" * 65],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NotExact, match="number"):
        parse_decimal(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**10), max_value=10**10, places=12))
def test_a_decimal_is_taken_exactly_or_not_at_all(value: Decimal) -> None:
    exact = Fraction(value) * MICRO
    if exact.denominator == 1 and abs(exact) <= LIMIT:
        assert to_micros(value) == exact
    else:
        with pytest.raises(NotExact):
            to_micros(value)


@given(st.integers(), st.integers(min_value=1))
def test_halves_are_rounded_upwards(numerator: int, denominator: int) -> None:
    error = divide_half_up(numerator, denominator) - Fraction(numerator, denominator)
    assert Fraction(-1, 2) < error <= Fraction(1, 2)


@given(
    st.integers(0, 31 * 86_400 * MICRO),
    st.integers(0, LIMIT),
    st.integers(1, 86_400 * MICRO),
    st.one_of(st.just(0), st.integers(0, 100 * MICRO)),
)
def test_a_price_is_exact_and_rounded_once(duration: int, price: int, unit: int, discount: int) -> None:
    exact = Fraction(duration, unit) * Fraction(price, NANO) * MICRO * (1 - Fraction(discount, 100 * MICRO))
    found = price_of(duration, price, unit, discount)
    assert type(found) is int
    assert Fraction(-1, 2) < found - exact <= Fraction(1, 2)


def test_prices_of_the_field() -> None:
    assert price_of(1800 * MICRO, 200_000_000, MICRO) == 360 * MICRO
    assert price_of(30 * MICRO, NANO, 60 * MICRO) == 500_000
    assert price_of(3600 * MICRO, NANO, 60 * MICRO, 10 * MICRO) == 54 * MICRO
    assert price_of(1, 500, MICRO) == 0
    assert price_of(1_000_000, 500, MICRO) == 1  # half a micro
    assert price_of(999_999, 500, MICRO) == 0
