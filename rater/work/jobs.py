"""What the work loop has to do and what becomes of it: jobs, where their answers go, outcomes."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from common.errors import RatelError, encode_error
from common.methods import Method


class Origin(Protocol):
    """Where a job comes from, and its answer goes."""

    life: str
    """Names this origin among all that there ever were: with a job's number it names the job."""

    def reply(self, seq: int, outcome: Outcome) -> None: ...


class Job(msgspec.Struct, eq=False):
    """A request as the work loop has it."""

    origin: Origin
    seq: int
    method: Method | None
    """None for one that this version does not know."""
    params: bytes
    """JSON text of the call descriptor."""
    key: str
    """As in `common.wire`; "" where the token is made of its origin and number."""
    deadline_us: int
    """On this process's monotonic clock."""
    attempted: bool = False
    """Whether a command for it may have reached the store before."""
    tenants: frozenset[str] | None = None
    """Whom it may be done for, by the client's API key (`common.security.scopes`); None for anybody."""

    @property
    def token(self) -> str:
        """Names this request among all, for retries by the balancer or by this rater."""
        return f"{self.origin.life}-{self.seq}"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    code: int
    """0, or a code of `common.errors`."""
    body: bytes
    """JSON text: the result or the error object."""
    replayed: bool = False


class Undecided(Enum):
    NOT_BEGUN = "not begun"
    """There was no time left; nothing was changed for it."""
    UNKNOWN = "unknown"
    """The store was out of reach: whether its command was carried out is not known."""
    APART = "apart"
    """The same, of the part of the store that has its account; the other parts are well."""


def failed(error: RatelError, replayed: bool = False) -> Outcome:
    return Outcome(error.code, encode_error(error), replayed)
