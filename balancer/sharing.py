"""How a batch is shared out: least loaded first, levelling the raters, never above a limit."""

from __future__ import annotations

from balancer.actions import Rater


def share_out(count: int, raters: list[Rater]) -> list[tuple[Rater, int]]:
    """How many of `count` requests each rater gets, raising its `in_flight` by that.

    Like water into vessels: the emptiest fill first, until all stand at one level or are full.
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
        filling = list(free)
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
