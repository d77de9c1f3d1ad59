"""Exact quantities: integers only, from the JSON that comes in to the JSON that goes out.

A *quantity* (cents, SMS, seconds, traffic) is an integer number of millionths, its "micros",
with |micros| < 2**53, so that a Lua number holds it exactly. A *price* is an integer number of
billionths, its "nanos". Source: docs/rating.md, "Exact money".

A time of one second is 1,000,000 micros, so a duration in microseconds and a quantity of seconds
in micros are the same number.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

MICRO: Final = 1_000_000
NANO: Final = 1_000_000_000
LIMIT: Final = 2**53 - 1
"""The largest magnitude of any stored integer."""

NANOS_PER_MICRO: Final = NANO // MICRO
_WHOLE_MICROS: Final = 100 * MICRO
"""100 %."""

MAX_NUMBER_CHARS: Final = 64
"""No number that fits needs more text; it keeps hostile input from costing time."""

Number = int | Decimal


_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?[eE][+-]?\d+", re.ASCII)


class NotExact(ValueError):
    """The number can't be held exactly; the text says why."""


def parse_decimal(text: str) -> Decimal:
    """A JSON number's text as an exact decimal. Raises NotExact."""
    if len(text) > MAX_NUMBER_CHARS:
        raise NotExact(f"a number of more than {MAX_NUMBER_CHARS} characters")
    if not text.isascii() or "_" in text or text.strip() != text:  # what Decimal would let pass
        raise NotExact(f"not a number: {text!r}")
    try:
        value = Decimal(text)
    except InvalidOperation:
        if _NUMBER.fullmatch(text):  # its exponent is beyond even what Decimal holds
            raise NotExact(f"outside ±{_format(LIMIT, MICRO)}, or more decimals than are held") from None
        raise NotExact(f"not a number: {text!r}") from None
    if not value.is_finite():
        raise NotExact(f"not a finite number: {text!r}")
    return value


def _scale(value: Number, digits: int, unit: int) -> int:
    if type(value) is int:
        scaled: int = value * unit
        if -LIMIT <= scaled <= LIMIT:
            return scaled
        raise NotExact(f"outside ±{_format(LIMIT, unit)}")
    decimal = Decimal(value)
    if not decimal:
        return 0
    # On the digits themselves: Decimal's own methods round to the context's precision.
    sign, figures, exponent = decimal.as_tuple()
    if not isinstance(exponent, int) or decimal.adjusted() > 16:  # 1e999999999 must cost nothing
        raise NotExact(f"outside ±{_format(LIMIT, unit)}")
    coefficient = "".join(map(str, figures))
    shift = exponent + digits
    if shift < 0:
        kept, dropped = coefficient[:shift], coefficient[shift:]
        if decimal.adjusted() < -digits or dropped.strip("0"):
            raise NotExact(f"more than {digits} decimals")
        coefficient, shift = kept, 0
    scaled = int(coefficient) * int(10**shift)
    if scaled > LIMIT:
        raise NotExact(f"outside ±{_format(LIMIT, unit)}")
    return -scaled if sign else scaled


def to_micros(value: Number) -> int:
    """A quantity in millionths. Raises NotExact for more than 6 decimals or |micros| ≥ 2**53."""
    return _scale(value, 6, MICRO)


def to_nanos(value: Number) -> int:
    """A price in billionths. Raises NotExact for more than 9 decimals or |nanos| ≥ 2**53."""
    return _scale(value, 9, NANO)


def _format(scaled: int, unit: int) -> str:
    whole, part = divmod(scaled, unit)
    if not part:
        return str(whole)
    if scaled < 0:
        return "-" + _format(-scaled, unit)
    # The decimals, with their leading zeros, are those of a number that begins with 1.
    return f"{whole}.{str(unit + part)[1:].rstrip('0')}"


_THREE_DIGITS: Final = tuple(f"{number:03d}" for number in range(1000))
_LAST_DIGITS: Final = tuple(digits.rstrip("0") for digits in _THREE_DIGITS)
"""As the end of a decimal fraction: 120 millionths are 0.00012."""


def format_micros(micros: int) -> str:
    """The shortest JSON number for a quantity: `540`, `0.5`, `-1`."""
    whole = micros // MICRO
    part = micros - whole * MICRO
    if not part:
        return str(whole)
    if micros < 0:
        return "-" + format_micros(-micros)
    thousandths = part // 1000
    millionths = part - thousandths * 1000
    if not millionths:
        return f"{whole}.{_LAST_DIGITS[thousandths]}"
    return f"{whole}.{_THREE_DIGITS[thousandths]}{_LAST_DIGITS[millionths]}"


def format_nanos(nanos: int) -> str:
    """The shortest JSON number for a price."""
    micros = nanos // NANOS_PER_MICRO
    if micros * NANOS_PER_MICRO == nanos:
        return format_micros(micros)
    return _format(nanos, NANO)


def divide_half_up(numerator: int, denominator: int) -> int:
    """numerator ÷ denominator (> 0), rounded to the nearest integer, halves upwards."""
    return (2 * numerator + denominator) // (2 * denominator)


def price_of(duration_us: int, price_nanos: int, unit_us: int, discount_micros: int = 0) -> int:
    """Micro-cents for a duration at a price per billing unit, less a discount; rounded once, half up.

    `unit_us` is the billing unit in microseconds, `discount_micros` millionths of a per cent.
    Source: docs/rating.md, "Exact money".
    """
    denominator = NANOS_PER_MICRO * unit_us
    if not discount_micros:  # the same in smaller numbers, and without the call
        return (2 * duration_us * price_nanos + denominator) // (2 * denominator)
    paid_micros = _WHOLE_MICROS - discount_micros
    return divide_half_up(duration_us * price_nanos * paid_micros, denominator * _WHOLE_MICROS)
