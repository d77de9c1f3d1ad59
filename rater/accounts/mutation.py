"""One request to change an account, and what becomes of it. The commands and replies are in `mutations`."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from common.errors import RatelError
from rater.accounts.terms import Terms
from rater.model import Plan

JOURNAL_LINES: Final = 10_000
"""About how many lines an account's journal keeps: some 1 MB, years of a busy subscriber."""


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """One request to change an account."""

    method: str
    """Its plain name, as in `common.methods`, not an alias."""
    tenant: str
    subject: str
    token: str
    token_ttl_ms: int
    request_id: str = ""
    """What the client called its request, for the message of KeyReused."""
    amount_micros: int = 0
    destination: str = ""
    """As dialled; of SetTerms, which has none, the terms as text: it is a part of the fingerprint."""
    matches: tuple[tuple[str, int], ...] = ()
    """DebitSeconds: id and longest matching prefix length of each destination that matches, ids distinct."""
    plan_id: str = ""
    """AddRecievedCallSeconds, ResetUserBudget: the plan that the account is expected to have."""
    plan: Plan | None = None
    """That plan; None when there is none of that id."""
    terms: Terms | None = None
    """SetTerms."""
    deadline_us: int = 0
    """On the store's clock; 0 is none."""
    journal_lines: int = JOURNAL_LINES


class MutationResult(msgspec.Struct, frozen=True, gc=False):
    value_micros: int
    replayed: bool


class Refused(NamedTuple):
    error: RatelError
    replayed: bool


class PlanChanged(NamedTuple):
    """The account has another plan than the mutation expected: look it up and try again."""

    plan_id: str
