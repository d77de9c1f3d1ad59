"""Deliberate faults, one a class, to see that the simulator notices each.

Each breaks one rule of `balancer.dispatch`, of the store's scripts or of a rater, in the way that a
slip in an edit would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any, Final

import balancer.dispatch as rules
from balancer.actions import Action, Answer, Rater, Request, SendDrained, without
from balancer.dispatch import Dispatch, DispatchSettings
from common.errors import encode_error
from common.wire import WorkItem
from tests.simulation import rater as raters
from tests.simulation import store as stores
from tests.simulation.rater import Job
from tests.simulation.store import Debit, Kept, Outcome
from tests.simulation.world import Parts, World

# --- the dispatcher -------------------------------------------------------------------------------


class RepliesLeaveHolders(Dispatch):
    """A reply is counted, and its rater goes on holding the request."""

    def replies(self, rater_id: bytes, rows: Iterable[Sequence[Any]], now_us: int) -> list[Answer]:
        rater, before = self._raters.get(rater_id), dict(self._requests)
        answers = super().replies(rater_id, rows, now_us)
        for answer in answers:
            request = answer.request
            if request.seq not in self._requests and rater is not None:
                request.holders = (rater,)
                self._requests[request.seq] = before[request.seq]
        return answers


class AnswersTwice(Dispatch):
    """Whoever replies is listened to, whether or not the request is over."""

    def replies(self, rater_id: bytes, rows: Iterable[Sequence[Any]], now_us: int) -> list[Answer]:
        rows = list(rows)
        over = [self._requests[row[0]] for row in rows if row[0] in self._requests]
        over = [request for request in over if request.answered]
        answers = super().replies(rater_id, rows, now_us)
        said = {row[0]: row for row in rows}
        return answers + [Answer(request, *said[request.seq][1:]) for request in over]


class IgnoresCredit(Dispatch):
    """A rater's credit is taken for more than it is."""

    def state(self, rater_id: bytes, name: str, credit: int, tariff_epoch: int, now_us: int) -> bool:
        return super().state(rater_id, name, credit and credit + 1, tariff_epoch, now_us)


class DropsInsteadOfRequeueing(Dispatch):
    """What a dead rater had is forgotten."""

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        before = len(self._waiting)
        actions = super().lost(rater_id, unsent, dead=dead)
        for _ in range(len(self._waiting) - before):
            self._remove(self._waiting.popleft())
        return actions


class RequeuesToTheBack(Dispatch):
    """What a dead rater had waits behind everything else."""

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        before = len(self._waiting)
        actions = super().lost(rater_id, unsent, dead=dead)
        self._waiting.rotate(before - len(self._waiting))
        return actions


class CountsSilenceAsDeath(Dispatch):
    """A rater that falls silent has died of its requests."""

    def _pass_over(self, rater: Rater) -> None:
        for request in self._requests.values():
            request.deaths += rater in request.holders
        super()._pass_over(rater)


class CountsLossAsDeath(Dispatch):
    """A rater that could not be sent to has died, whatever the reason."""

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        return super().lost(rater_id, frozenset(), dead=True)


class NeverQuarantines(Dispatch):
    """Deaths are not counted: a request may kill every rater there is."""

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        return super().lost(rater_id, unsent, dead=False)


class NoDeadlines(Dispatch):
    """Requests wait for ever."""

    def _expire(self, now_us: int) -> list[Action]:
        return []


class ForgetsInFlightAtTheDeadline(Dispatch):
    """What is over at its deadline keeps its place in the rater's credit."""

    def _expire(self, now_us: int) -> list[Action]:
        before = {rater: rater.in_flight for rater in self._raters.values()}
        actions = super()._expire(now_us)
        for rater, in_flight in before.items():
            rater.in_flight = in_flight
        return actions


class EagerCopies(Dispatch):
    """Second copies are sent before the rater had its time."""

    def __init__(self, settings: DispatchSettings) -> None:
        super().__init__(settings)
        self._true_settings = settings

    def _copies(self, now_us: int) -> list[Action]:
        timeout_us = self._true_settings.attempt_timeout_us
        return super()._copies(now_us + timeout_us // 2)


class UnlimitedCopies(Dispatch):
    """Second copies cost nothing."""

    def _copies(self, now_us: int) -> list[Action]:
        self._copy_budget.earn(self._last_seq, 3_600_000_000)
        return super()._copies(now_us)


class CopiesForTheSameRater(Dispatch):
    """A second copy may go to the rater that has the first."""

    def _copies(self, now_us: int) -> list[Action]:
        held = {request.seq: request.holders for request in self._requests.values()}
        for request in self._requests.values():
            if len(request.holders) == 1 and request.attempts == 1:
                request.holders = (Rater(b"?", "?", now_us),)
        actions = super()._copies(now_us)
        for seq, holders in held.items():
            request = self._requests[seq]
            request.holders = holders + tuple(rater for rater in request.holders[1:] if rater not in holders)
        return actions


class NewNumberForEachAttempt(Dispatch):
    """An attempt has a sequence number of its own, and so a token of its own."""

    def _take(self, rater: Rater, count: int, now_us: int) -> list[WorkItem]:
        for request in list(self._waiting)[:count]:
            if request.attempts:
                del self._requests[request.seq]
                self._last_seq = request.seq = self._last_seq + 1
                self._requests[request.seq] = request
        return super()._take(rater, count, now_us)


class WorkForLeavingRaters(Dispatch):
    """A rater that leaves is sent more."""

    def leave(self, rater_id: bytes, now_us: int) -> list[SendDrained]:
        if rater_id in self._raters:
            self._hear(self._raters[rater_id], now_us)
        return [SendDrained(rater_id)]


class WorkForSilentRaters(Dispatch):
    """Silence changes nothing but the queue."""

    def _pass_over(self, rater: Rater) -> None:
        super()._pass_over(rater)
        rater.limit = rater.credit


class HeardAgainAndStillWaiting(Dispatch):
    """What a silent rater had goes on waiting when it is heard again."""

    def _hear(self, rater: Rater, now_us: int) -> None:
        rater.seen_us = now_us
        rater.silent = False
        rater.update_limit()


class ForgetsTheBytes(Dispatch):
    """The parameters of what is over count for ever."""

    def _remove(self, request: Request) -> None:
        del self._requests[request.seq]


class TakesTooMany(Dispatch):
    """The bound on requests is not looked at."""

    def __init__(self, settings: DispatchSettings) -> None:
        bound = DispatchSettings(settings.deadline_us, settings.attempt_timeout_us, 10 * settings.max_queued)
        super().__init__(bound)


class SaysNothingWasDone(Dispatch):
    """A deadline is said to have passed before anything was done, whoever has the request."""

    def _late_body(self, request: Request) -> bytes:
        return encode_error(rules.DeadlineExceeded(detail="nothing was done"))


class LosesTheLastHolder(Dispatch):
    """A rater that is lost takes with it what another one still works on."""

    def lost(self, rater_id: bytes, unsent: Set[int] = frozenset(), *, dead: bool) -> list[Action]:
        rater = self._raters.get(rater_id)
        for request in self._requests.values():
            if rater in request.holders and len(request.holders) > 1:
                for other in without(request.holders, rater):
                    other.in_flight -= 1
                request.holders = rater.alone
        return super().lost(rater_id, unsent, dead=dead)


# --- the store ------------------------------------------------------------------------------------


class TokenNotStored(stores.Store):
    """The script forgets the token."""

    def _keep(self, token: str, kept: Kept) -> None:
        pass

    def fail_over(self, survivors: int) -> None:
        self.tokens.update((line.debit.token, Kept((0, 0), line.outcome, 0)) for line in self.log)
        super().fail_over(survivors)
        self.tokens.clear()


class RefusalNotStored(stores.Store):
    """A refusal is decided anew each time."""

    def _kept(self, token: str, now_us: int) -> Kept | None:
        kept = super()._kept(token, now_us)
        return kept if kept is not None and kept.outcome.code == 0 else None


class DeadlineIgnored(stores.Store):
    """The script does what it is told however late."""

    def _is_late(self, debit: Debit, now_us: int) -> bool:
        return False


class ReplayComputedAnew(stores.Store):
    """A replay tells the balance of now, not of then."""

    def carry_out(self, debit: Debit, now_us: int) -> Outcome:
        outcome = super().carry_out(debit, now_us)
        if outcome.replayed and outcome.code == 0:
            return outcome._replace(body=b"%d" % self.balances[debit.account])
        return outcome


class TwoDebits(stores.Store):
    """The balance is changed twice for one line."""

    def carry_out(self, debit: Debit, now_us: int) -> Outcome:
        outcome = super().carry_out(debit, now_us)
        if outcome.code == 0 and not outcome.replayed:
            self.balances[debit.account] -= debit.cents
        return outcome


# --- the raters -----------------------------------------------------------------------------------


class RepliesBeforeTheReplica(raters.Rater):
    """What is acknowledged is on one machine only."""

    def _confirm(
        self, jobs: list[Job], term: int, position: int, outcomes: list[Outcome], answer: list[list[Outcome]]
    ) -> None:
        if not answer:
            answer.append(outcomes)
            self._settle(jobs, answer)


class OwnTokens(raters.Rater):
    """A token names the attempt, not the request."""

    def _token(self, job: Job) -> str:
        token = super()._token(job)
        return token if job.item.key else f"{token}-{self.name}"


class ForgetsTheKey(raters.Rater):
    """A client's key is not used."""

    def _token(self, job: Job) -> str:
        return f"g:{job.link.balancer.id}-{job.item.seq}"


class ForgetsUndecided(raters.Rater):
    """What the store did not decide is neither answered nor tried again, and the balancer is not told."""

    def _settle(self, jobs: list[Job], answer: list[list[Outcome]] | None) -> None:
        super()._settle(jobs, answer)
        if answer is None:
            for job in jobs:
                self._reply(job, raters.LATE)
            self.backlog.clear()


DISPATCH: Final = [
    RepliesLeaveHolders,
    AnswersTwice,
    IgnoresCredit,
    DropsInsteadOfRequeueing,
    RequeuesToTheBack,
    CountsSilenceAsDeath,
    CountsLossAsDeath,
    NeverQuarantines,
    NoDeadlines,
    ForgetsInFlightAtTheDeadline,
    EagerCopies,
    UnlimitedCopies,
    CopiesForTheSameRater,
    NewNumberForEachAttempt,
    WorkForLeavingRaters,
    WorkForSilentRaters,
    HeardAgainAndStillWaiting,
    ForgetsTheBytes,
    TakesTooMany,
    SaysNothingWasDone,
    LosesTheLastHolder,
]
STORE: Final = [TokenNotStored, RefusalNotStored, DeadlineIgnored, ReplayComputedAnew, TwoDebits]
RATER: Final = [
    RepliesBeforeTheReplica,
    OwnTokens,
    ForgetsTheKey,
    ForgetsUndecided,
]

MUTANTS: Final[dict[str, Parts]] = {
    **{mutant.__name__: Parts(dispatch=mutant) for mutant in DISPATCH},
    **{mutant.__name__: Parts(store=mutant) for mutant in STORE},
    **{mutant.__name__: Parts(rater=mutant) for mutant in RATER},
}


def first_to_notice(parts: Parts, seeds: range) -> tuple[int, str] | None:
    """The first seed whose world notices, and what it says."""
    for seed in seeds:
        try:
            World(seed, parts).run()
        except AssertionError as error:
            return seed, str(error)
    return None
