"""Counting durations cheaply: one list of counters, four to each doubling, and what they say.

A duration falls into the counter that `index_of` names: some tenths of a microsecond in Python, no lock, no
objects. Percentiles and Prometheus' buckets are read off the counters; a percentile is right to within an
eighth, as a counter is a quarter of its lower end wide, and its middle is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SLOTS: Final = 4 * 39
"""Up to 2**40 µs, twelve days: longer than anything here may take."""

BUCKETS_US: Final = tuple(2**power for power in range(6, 26))
"""The upper bounds that Prometheus is told, 64 µs to 34 s: each a doubling."""

SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds for requests of a batch, up to `rater.worker.BATCH_JOBS`."""


def index_of(duration_us: int) -> int:
    """The counter of a duration; negative ones count as 0."""
    if duration_us < 4:
        return max(0, duration_us)
    length = duration_us.bit_length()
    return min((length - 2) * 4 + (duration_us >> length - 3 & 3), SLOTS - 1)


def lower_bound_us(index: int) -> int:
    """The shortest duration that falls into a counter; that of the next one is the longest, and one more."""
    if index < 4:
        return index
    doubling, quarter = divmod(index, 4)
    return (quarter + 4) << (doubling - 1)


def middle_us(index: int) -> int:
    return (lower_bound_us(index) + lower_bound_us(index + 1)) // 2


def size_index(size: int) -> int:
    """Which of `SIZE_BUCKETS` counts a batch; the largest takes all larger ones, too."""
    return min((size - 1).bit_length(), len(SIZE_BUCKETS) - 1)


class Histogram:
    """Durations in microseconds."""

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * SLOTS
        self.sum_us = 0

    def add(self, duration_us: int, times: int = 1) -> None:
        self.counts[index_of(duration_us)] += times
        self.sum_us += duration_us * times


def buckets(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(upper bound, how many are shorter) for each of `BUCKETS_US`."""
    found = []
    passed = index = 0
    for bound_us in BUCKETS_US:
        while lower_bound_us(index + 1) <= bound_us:
            passed += counts[index]
            index += 1
        found.append((bound_us, passed))
    return found


def percentiles_us(counts: Sequence[int], shares: Sequence[float]) -> list[int]:
    """For each share (0.5, 0.99; ascending) the duration that it stays below; zeros without any."""
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
        found.append(middle_us(max(index, 0)))
    return found
