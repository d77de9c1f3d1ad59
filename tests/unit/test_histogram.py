"""Counted durations against the durations themselves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from common.histogram import (
    BUCKETS_US,
    SLOTS,
    Histogram,
    buckets,
    index_of,
    lower_bound_us,
    percentiles_us,
)

durations = st.one_of(st.integers(0, 300), st.integers(0, 10**6), st.integers(0, 2**39))


@given(durations)
def test_a_counter_holds_what_lies_between_its_bounds(duration_us: int) -> None:
    index = index_of(duration_us)
    assert lower_bound_us(index) <= duration_us < lower_bound_us(index + 1)
    assert lower_bound_us(index + 1) - lower_bound_us(index) <= max(1, lower_bound_us(index) // 4)


def test_counters_are_in_order_without_gaps() -> None:
    bounds = [lower_bound_us(index) for index in range(SLOTS + 1)]
    assert bounds == sorted(set(bounds))
    assert [index_of(bound) for bound in bounds[:-1]] == list(range(SLOTS))


def test_what_can_not_be_is_counted_at_the_ends() -> None:
    assert index_of(-5) == 0
    assert index_of(2**60) == SLOTS - 1


@given(st.lists(durations, min_size=1), st.lists(st.floats(0.01, 1), min_size=1, max_size=4))
def test_percentiles_are_those_of_the_sorted_durations_to_an_eighth(
    values_us: list[int], shares: list[float]
) -> None:
    histogram = Histogram()
    for value_us in values_us:
        histogram.add(value_us)
    shares.sort()
    ordered = sorted(values_us)
    for share, found_us in zip(shares, percentiles_us(histogram.counts, shares), strict=True):
        exact_us = ordered[math.ceil(share * len(ordered)) - 1]
        assert abs(found_us - exact_us) <= exact_us / 8 + 1


def test_nothing_has_no_percentiles() -> None:
    assert percentiles_us(Histogram().counts, (0.5, 0.99)) == [0, 0]


@given(st.lists(durations))
def test_buckets_count_what_is_shorter(values_us: list[int]) -> None:
    histogram = Histogram()
    for value_us in values_us:
        histogram.add(value_us)
    assert histogram.sum_us == sum(values_us)
    assert buckets(histogram.counts) == [
        (bound_us, sum(value_us < bound_us for value_us in values_us)) for bound_us in BUCKETS_US
    ]
