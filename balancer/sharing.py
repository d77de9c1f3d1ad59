"""How work is shared out: batches by load, and second copies by what may be spent on them."""

from __future__ import annotations

from typing import Final

from balancer.actions import Rater

MIN_SHARE: Final = 16
"""Requests that are worth a message of their own: a rater's turn costs it as much as some ten requests, so
where fewer wait for each, fewer raters get them, and a request costs hardly more with many raters."""

COPY_PARTS: Final = 10
"""The budget counts in tenths of a copy, one for each request: at most 10 % more load."""
COPIES_PER_S: Final = 10
"""Lets a balancer with little traffic repeat at all; nothing for a rater to notice."""
MAX_COPIES: Final = 500
"""What may be saved up: about one rater's batch, for when one gets stuck with it."""


def share_out(count: int, raters: list[Rater]) -> list[tuple[Rater, int]]:
    """How many of `count` requests each rater gets, raising its `in_flight` by that.

    Like water into vessels: the emptiest fill first, until all stand at one level or are full. So many
    vessels are open that there is a MIN_SHARE for each, about.
    Raters of equal load take turns. What is left over when all are full is not assigned.
    """
    free = [rater for rater in raters if rater.in_flight < rater.limit]
    if not free:
        return []
    if count == 1 or len(free) == 1:
        rater = min(free, key=load)
        share = min(count, rater.limit - rater.in_flight)
        rater.in_flight += share
        return [(rater, share)]
    before = {rater: rater.in_flight for rater in free}
    while count and free:
        free.sort(key=load)
        filling = free[: max(1, count // MIN_SHARE)]
        total = count + sum(rater.in_flight for rater in filling)
        while filling[-1].in_flight * len(filling) > total:  # stands above the level: gets nothing
            total -= filling.pop().in_flight
        level, extra = divmod(total, len(filling))
        for place, rater in enumerate(filling):
            share = min(level + (place < extra), rater.limit) - rater.in_flight
            rater.in_flight += share
            count -= share
        free = [rater for rater in free if rater.in_flight < rater.limit]
    return [(rater, rater.in_flight - was) for rater, was in before.items() if rater.in_flight > was]


def load(rater: Rater) -> tuple[int, int]:
    """Sorts raters: the least loaded first, of those the one whose last turn is longest ago."""
    return rater.in_flight, rater.turn


class CopyBudget:
    """What may be spent on second copies: each request earns a part of one, time a few."""

    def __init__(self) -> None:
        self._parts = COPY_PARTS * COPIES_PER_S
        self._last_seq = 0

    def earn(self, last_seq: int, passed_us: int) -> None:
        """`last_seq` is the number of requests that there ever were."""
        earned = last_seq - self._last_seq + COPY_PARTS * COPIES_PER_S * passed_us // 1_000_000
        self._parts = min(self._parts + earned, COPY_PARTS * MAX_COPIES)
        self._last_seq = last_seq

    def is_spent(self) -> bool:
        return self._parts < COPY_PARTS

    def spend(self) -> None:
        self._parts -= COPY_PARTS
