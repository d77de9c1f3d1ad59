"""Jobs that wait for one part of the store, while the others are served.

In a cluster a node may be away, or the keys of a slot on their way to another one. What is for them is
tried again after a moment, under the same tokens, until its deadline, and does not hold up the rest:
neither by pausing the loop, nor by taking all the credit. So only so many wait; who comes then is told at
once.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from common.errors import StoreUnavailable
from rater.work.jobs import Job, failed

AGAIN_US: Final = 10_000
AGAIN_US_FOR_EACH: Final = 200
"""Pause before another attempt, and by how much each one that waits makes it longer: a slot is on its way
for a few milliseconds, and many that wait for a node that is away take no more than a twentieth of the
time."""

MAX_JOBS: Final = 512
"""Half of the credit that a balancer is given by default: the other half goes on working."""

REFUSED: Final = failed(
    StoreUnavailable(
        detail="the part of the store that has this account; whether the request was carried out is unknown"
    )
)


class Apart:
    def __init__(self) -> None:
        self._jobs: deque[tuple[int, Job]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now_us: int) -> None:
        """Keep it for later, or answer it when too many wait."""
        job.attempted = True
        if len(self._jobs) >= MAX_JOBS:
            job.origin.reply(job.seq, REFUSED)
        else:
            pause_us = AGAIN_US + AGAIN_US_FOR_EACH * len(self._jobs)
            self._jobs.append((now_us + pause_us, job))

    def due(self, now_us: int) -> list[Job]:
        """Those to be tried again now, the oldest first."""
        jobs = []
        while self._jobs and self._jobs[0][0] <= now_us:
            jobs.append(self._jobs.popleft()[1])
        return jobs

    @property
    def due_us(self) -> int | None:
        """When the next one is."""
        return self._jobs[0][0] if self._jobs else None
