"""What a rater counts about its work. Pure: it is told the time.

The work loop counts whole batches, some hundredths of a microsecond a request. `rater.metrics` makes
Prometheus' text of it in a thread of its own, which only reads, and `about` what balancers are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from common.about import MAX_TENANTS, About, StoreHealth, own_version
from common.histogram import SIZE_BUCKETS, Histogram, size_index
from common.methods import Method
from common.outcomes import OTHER
from rater.work.jobs import Job, Outcome, Undecided


class RaterTelemetry:
    def __init__(self, now_us: int) -> None:
        self.busy_us = 0
        """How long there was something to do so far."""
        self.batches = Histogram()
        """How long they took, from the first request's beginning to the last one's answer."""
        self.sizes = [0] * len(SIZE_BUCKETS)
        self.requests = 0
        self.outcomes: dict[tuple[str, int], int] = {}
        """By method and code; 0 is a result."""
        self.replays = 0
        self.undecided = 0
        """Times that a request had to be processed again: the store was away, or there was no time left."""
        self._told_us = now_us
        self._told_busy_us = 0

    def batch(self, jobs: Sequence[Job], outcomes: Sequence[Outcome | Undecided], took_us: int) -> None:
        """Count a batch that was processed."""
        size = len(jobs)
        if not size:
            return
        self.batches.add(took_us)
        self.sizes[size_index(size)] += 1
        self.requests += size
        self.answered(jobs, outcomes)

    def answered(self, jobs: Sequence[Job], outcomes: Sequence[Outcome | Undecided]) -> None:
        counts = self.outcomes
        method: Method | None = None
        key = (OTHER, 0)
        results = 0  # of that method, in a row: nearly all are like the one before
        for job, outcome in zip(jobs, outcomes, strict=True):
            if type(outcome) is not Outcome:
                self.undecided += 1
                continue
            if job.method is not method:
                if results:
                    counts[key] = counts.get(key, 0) + results
                method, results = job.method, 0
                key = (method.name if method else OTHER, 0)
            if outcome.code:
                failure = (key[0], outcome.code)
                counts[failure] = counts.get(failure, 0) + 1
            else:
                results += 1
            if outcome.replayed:
                self.replays += 1
        if results:
            counts[key] = counts.get(key, 0) + results

    def about(self, now_us: int, versions: Mapping[str, int], store: StoreHealth) -> About:
        """What balancers are told, about once a second."""
        passed_us = max(1, now_us - self._told_us)
        busy = min(1.0, (self.busy_us - self._told_busy_us) / passed_us)
        self._told_us, self._told_busy_us = now_us, self.busy_us
        tariffs = dict(islice(sorted(versions.items()), MAX_TENANTS))
        return About(own_version(), busy, tariffs, store)
