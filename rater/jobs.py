"""What the work loop has to do and what becomes of it: jobs, where their answers go, outcomes."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from common.errors import RatelError, encode_error
from common.methods import Method


class Origin(Protocol):
    """Where the answer to a job goes."""

    def reply(self, seq: int, outcome: Outcome) -> None: ...


class Job(NamedTuple):
    """A request as the work loop has it."""

    origin: Origin
    seq: int
    method: Method | None
    """None for one that this version does not know."""
    params: bytes
    """JSON text of the call descriptor."""
    client_key: str
    """The Idempotency-Key of an HTTP request, else empty."""
    token: str
    """Names this request among all, for retries by the balancer or by this rater."""
    deadline_us: int
    """On this process's monotonic clock."""
    attempted: bool = False
    """Whether a command for it may have reached the store before."""


class Outcome(NamedTuple):
    code: int
    """0, or a code of `common.errors`."""
    body: bytes
    """JSON text: the result or the error object."""
    replayed: bool


class Undecided(Enum):
    NOT_BEGUN = "not begun"
    """There was no time left; nothing was changed for it."""
    UNKNOWN = "unknown"
    """The store was out of reach: whether its command was carried out is not known."""


def failed(error: RatelError, replayed: bool = False) -> Outcome:
    return Outcome(error.code, encode_error(error), replayed)
