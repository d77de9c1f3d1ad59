"""A model of the store: accounts, tokens and journal, changed by what the scripts promise to do.

A replica follows: what it does not have yet is lost in a failover, balance, journal and token together.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from common.errors import BelowFloor, DeadlineExceeded, KeyReused, encode_error

OPENING: Final = 1_000
"""Cents on an account before the first debit: few enough that some debits are refused."""

EXPIRED: Final = encode_error(
    DeadlineExceeded(detail="the request reached the store too late, and changed nothing")
)
KEY_REUSED: Final = encode_error(KeyReused(request_id="a key"))
REFUSED: Final = encode_error(BelowFloor(amount="", credit="", min_credit="0"))


class Outcome(NamedTuple):
    code: int
    body: bytes
    replayed: bool = False


class Debit(NamedTuple):
    """A debit as a rater asks for it."""

    token: str
    account: int
    cents: int
    deadline_us: int
    """On the store's clock."""
    ttl_us: int
    request: str
    """The client's key, or else the work: for the checks alone, who trust no token."""
    number: int
    """Which client's wish it is, for the checks alone."""
    work: tuple[str, int]
    """The balancer and the sequence number that it came from, for the checks alone."""


class Line(NamedTuple):
    """A line of the journal, or of what was refused."""

    debit: Debit
    outcome: Outcome
    at_us: int
    """On the store's clock."""


class Kept(NamedTuple):
    fingerprint: tuple[int, int]
    outcome: Outcome
    until_us: int


class Store:
    def __init__(self, accounts: int, clock_offset_us: int) -> None:
        self.clock_offset_us = clock_offset_us
        self.balances = [OPENING] * accounts
        self.tokens: dict[str, Kept] = {}
        self.log: list[Line] = []
        """All that was decided, in order: the journal, and refusals, which change no balance."""
        self.replicated = 0
        """So many of `log` the replica has."""
        self.up_from_us = 0
        """Before that, connections are refused."""
        self.stalled_until_us = 0
        """Before that, commands are taken and not carried out."""
        self.writable_from_us = 0
        """Before that, writes are refused: it is full, or was made a replica."""
        self.term = 0
        """Counts crashes and failovers: the connections of an earlier term are gone."""

    def journal(self) -> list[Line]:
        return [line for line in self.log if line.outcome.code == 0]

    def carry_out(self, debit: Debit, now_us: int) -> Outcome:
        """What the script does; `now_us` is the world's time."""
        now_us += self.clock_offset_us
        fingerprint = debit.account, debit.cents
        kept = self._kept(debit.token, now_us)
        if kept is not None:
            if kept.fingerprint != fingerprint:
                return Outcome(KeyReused.code, KEY_REUSED)
            return kept.outcome._replace(replayed=True)
        if self._is_late(debit, now_us):
            return Outcome(DeadlineExceeded.code, EXPIRED)
        left = self.balances[debit.account] - debit.cents
        if left < 0:
            outcome = Outcome(BelowFloor.code, REFUSED)
        else:
            self.balances[debit.account] = left
            outcome = Outcome(0, b"%d" % left)
        self._keep(debit.token, Kept(fingerprint, outcome, now_us + debit.ttl_us))
        self.log.append(Line(debit, outcome, now_us))
        return outcome

    def _kept(self, token: str, now_us: int) -> Kept | None:
        kept = self.tokens.get(token)
        return kept if kept is not None and kept.until_us > now_us else None

    def _keep(self, token: str, kept: Kept) -> None:
        self.tokens[token] = kept

    def _is_late(self, debit: Debit, now_us: int) -> bool:
        return now_us > debit.deadline_us

    def replicate_to(self, position: int) -> None:
        """The replica has confirmed so much of the log."""
        self.replicated = max(self.replicated, position)

    def fail_over(self, survivors: int) -> None:
        """The replica takes over with the first `survivors` of what was decided."""
        assert survivors >= self.replicated
        for line in reversed(self.log[survivors:]):
            del self.tokens[line.debit.token]
            if line.outcome.code == 0:
                self.balances[line.debit.account] += line.debit.cents
        del self.log[survivors:]
        self.term += 1
