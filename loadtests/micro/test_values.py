"""Money and times, read and written."""

from __future__ import annotations

from random import Random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from common.money import format_micros, parse_decimal, price_of, to_micros
from common.times import format_rfc3339, parse_rfc3339
from loadtests.micro.samples import DAY_S, ROUND, SECOND, for_each

_chance = Random(1)
SECONDS = [1_700_000_000 + _chance.randrange(700 * DAY_S) for _ in range(ROUND)]
CENTS = [_chance.randrange(10**6) for _ in range(ROUND)]


@pytest.mark.parametrize("decimals", [0, 3, 6])
def test_format_micros(benchmark: BenchmarkFixture, decimals: int) -> None:
    unit = 10 ** (6 - decimals)
    benchmark(for_each(format_micros, [cents * unit for cents in CENTS]))


def test_amount_with_decimals(benchmark: BenchmarkFixture) -> None:
    texts = [f"{cents}.{cents % 90 + 10}" for cents in CENTS]
    benchmark(for_each(lambda text: to_micros(parse_decimal(text)), texts))


@pytest.mark.parametrize("discount_micros", [0, 12_500_000])
def test_price_of(benchmark: BenchmarkFixture, discount_micros: int) -> None:
    durations = [second % 4000 * SECOND for second in SECONDS]
    benchmark(for_each(lambda us: price_of(us, 120_000_000, 60 * SECOND, discount_micros), durations))


@pytest.mark.parametrize("part_us", [0, 250_000])
def test_format_time(benchmark: BenchmarkFixture, part_us: int) -> None:
    benchmark(for_each(format_rfc3339, [second * SECOND + part_us for second in SECONDS]))


@pytest.mark.parametrize("end", ["Z", ".25Z", "+02:00"])
def test_read_time(benchmark: BenchmarkFixture, end: str) -> None:
    texts = [format_rfc3339(second * SECOND).removesuffix("Z") + end for second in SECONDS]
    benchmark(for_each(parse_rfc3339, texts))
