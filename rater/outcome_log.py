"""What became of each request of a batch, at level debug: under the id that front and journal have."""

from __future__ import annotations

import logging

from common.clock import monotonic_us
from common.errors import RatelError
from common.outcomes import OTHER, outcome_name
from common.wire import CLIENT_KEY, TOKEN_KEY
from rater.descriptor_reader import parse_descriptor
from rater.work.jobs import Job, Undecided
from rater.work.service import Flight

log = logging.getLogger(__name__)


def log_outcomes(flight: Flight) -> None:
    took_us = monotonic_us() - flight.begun_us
    for job, outcome in zip(flight.jobs, flight.outcomes, strict=True):
        if isinstance(outcome, Undecided):
            became, replayed = outcome.value, False
        else:
            became, replayed = outcome_name(outcome.code), outcome.replayed
        log.debug(
            "id=%s token=%s method=%s outcome=%s us=%s batch=%s replayed=%s",
            job.key or f"{TOKEN_KEY}{job.token}",
            token_of(job),
            job.method.name if job.method else OTHER,
            became,
            took_us,
            len(flight.jobs),
            replayed,
        )


def token_of(job: Job) -> str:
    """As in the journal: the client's own RequestId comes first, and only parameters hold it."""
    if job.method is not None:
        try:
            request_id = parse_descriptor(job.params, job.method).request_id
        except RatelError:
            request_id = ""
        if request_id:
            return f"{CLIENT_KEY}{request_id}"
    return job.key or f"{TOKEN_KEY}{job.token}"
