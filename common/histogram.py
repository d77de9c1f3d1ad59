"""Counting durations cheaply: one list of counters, four to each doubling, and what they say.

A duration falls into the counter that `index_of` names: some tenths of a microsecond in Python, no lock, no
objects. Percentiles and Prometheus' buckets are read off the counters, right to within a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SLOTS: Final = 4 * 40
"""Up to 2**40 µs, twelve days: longer than anything here may take."""

BUCKETS_US: Final = tuple(
    2**power for power in range(6, 26)
)
"""The upper bounds that Prometheus is told, 64 µs to 34 s: each a doubling."""


def index_of(duration_us: int) -> int:
    """The counter of a duration; negative ones count as 0."""
    if duration_us < 4:
        return max(0, duration_us)
    length = duration_us.bit_length()
    return min(length * 4 + (duration_us >> length - 3 & 3), SLOTS - 1)


def upper_bound_us(index: int) -> int:
    """The longest duration that falls into a counter, and one more."""
    if index < 4:
        return index + 1
    length, quarter = divmod(index, 4)
    return (quarter + 5) << max(0, length - 3)


class Histogram:
    """Durations in microseconds. `counts[index_of(duration_us)] += 1` counts one; `sum_us` is for the caller to raise."""

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * SLOTS
        self.sum_us = 0

    def add(self, duration_us: int) -> None:
        self.counts[index_of(duration_us)] += 1
        self.sum_us += duration_us

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[int, int]]:
        """(upper bound, how many are at most so long) for each of `BUCKETS_US`."""
        found = []
        passed = 0
        index = 0
        for bound_us in BUCKETS_US:
            while index < SLOTS and upper_bound_us(index) <= bound_us:
                passed += self.counts[index]
                index += 1
            found.append((bound_us, passed))
        return found


def percentiles_us(counts: Sequence[int], shares: Sequence[float]) -> list[int]:
    """For each share (0.5, 0.99; ascending) the duration that it stays below; zeros when nothing was counted."""
    total = sum(counts)
    if not total:
        return [0] * len(shares)
    found: list[int] = []
    passed = 0
    index = -1
    for share in shares:
        while passed < share * total and index < len(counts) - 1:
            index += 1
            passed += counts[index]
        found.append(upper_bound_us(max(index, 0)))
    return found
