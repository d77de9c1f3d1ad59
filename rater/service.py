"""What a rater does with a batch of requests: from jobs to outcomes, in few round trips to the store.

Every request is begun, which gives an outcome at once (it is wrong, it has no rate), or a *read* of an
account or a *change* of one. All reads of a batch are one command, all changes by one method one script
call or a few (`rater.accounts`), and they go out together. Most requests take that one round trip; a change
that depends on the account's tariff plan is a read first, then a change that names the plan.

A request that fails, in whatever way, has its own outcome and never touches its neighbours'. Where a
script call with many changes fails as a whole, each of them is sent alone: those that were done already
are replays, and the error is that of the one that it belongs to. What could not be decided is `Undecided`,
and may be processed again, since a change is made at most once under its token.

Where changes must be safe before they are acknowledged (`common.durability`), the wait for that goes out
behind each round's changes, in the same round trip. What too few copies confirmed is answered with
`NotDurable`, whatever its outcome was: that stands under its token, and a replay waits again.

Deadlines go to the scripts by the store's clock. It is measured anew on each new connection, which may
be to another host, before anything is sent there, and at once when it turns out to have been set forward.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from time import monotonic_ns
from typing import Final

from redis.exceptions import ResponseError

from common.clock import monotonic_us
from common.durability import DEFAULT_DURABILITY, Durability
from common.errors import (
    DeadlineExceeded,
    Forbidden,
    InternalError,
    MethodNotFound,
    NotDurable,
    Overloaded,
    RatelError,
    ResultTooLarge,
    StoreUnavailable,
    UnknownSubject,
    UnknownTenant,
)
from common.logs import Throttle
from common.methods import BY_NAME, Method
from common.money import format_micros
from common.store import Command, Reply, StoreConnection
from common.wire import CLIENT_KEY, TOKEN_KEY
from rater.accounts import (
    Mutation,
    MutationResult,
    Refused,
    is_expired,
    is_stored,
    parse_account,
    parse_mutation_reply,
    store_error,
)
from rater.descriptor import Descriptor, parse_descriptor
from rater.jobs import Job, Outcome, Undecided, failed
from rater.keys import AccountKeys, account_key, account_keys
from rater.looks import LOOKS, Look, describe, lines_of
from rater.model import Account
from rater.rating.explain import answer
from rater.rating.quote import get_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, Snapshot
from rater.rounds import Change, Read, Round
from rater.scripts import execute

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 5
"""Round trips for one batch: a plan that changes under a request this often is being reloaded."""

TOKEN_MARGIN_MS: Final = 60_000
"""How much longer than its deadline a gateway's token lives. Nobody sends a request again after its
deadline, and the script itself refuses what comes later, so any margin above clock errors will do."""

PASSING_ERRORS: Final = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "NOSCRIPT")
"""The store's words for states that end by themselves: the command was not run, and is tried again."""

MAX_CLOCK_STEP_US: Final = 30_000_000
"""The store's clock may be set forward by this much without requests failing for it. After a larger step
tokens may have expired, or in truth this host stood still and others have done the work long ago: what the
script drops then stays dropped. Half of `TOKEN_MARGIN_MS`, so that tokens outlive what is done so late."""

TIME_BUDGET_US: Final = 50_000
"""Rating in one batch; reads beyond it are left for the next. A call of a month at hourly prices takes
10 ms to rate, and a work loop that is not heard from for 1.5 s is taken for dead."""

WARN_EVERY_S: Final = 5.0
"""A store that is away is reported no more often than this."""

MAX_RESULT_BYTES: Final = 8 * 1024 * 1024
"""A result with its neighbours must fit into a frame (`common.wire.MAX_FRAME_BYTES`)."""

_GET_COST: Final = BY_NAME["GetCost"]
_EXPLAIN: Final = BY_NAME["Explain"]

PLAN_METHODS: Final = ("AddRecievedCallSeconds", "ResetUserBudget")
"""Their changes depend on the account's tariff plan, which is read first."""


LATE_THERE: Final = failed(
    DeadlineExceeded(detail="it is past by the store's clock; whether the request was carried out is unknown")
)


class Service:
    """Processes batches against one store connection and the tariff `snapshot`."""

    def __init__(
        self,
        store: StoreConnection,
        snapshot: Snapshot,
        *,
        key_ttl_ms: int,
        journal_lines: int,
        durability: Durability = DEFAULT_DURABILITY,
    ) -> None:
        self.snapshot = snapshot
        self._store = store
        self._durability = durability
        self._key_ttl_ms = key_ttl_ms
        self._journal_lines = journal_lines
        self._store_clock_offset_us = 0
        self._clock_of = -1
        """The number of the connection on which that was measured."""
        self.store_answers = False
        self.store_round_trip_us = 0
        """Both as of the last look at the store's clock."""
        self._warnings = Throttle(WARN_EVERY_S)

    def measure_store_clock(self) -> None:
        """Learn what to add to our monotonic clock to get the store's. Raises StoreUnavailable."""
        self.store_answers = False
        began_us = monotonic_us()
        self._store_clock_offset_us = self._store.clock_offset_us(monotonic_us)
        self.store_round_trip_us = monotonic_us() - began_us
        self._clock_of = self._store.number
        self.store_answers = True

    @property
    def store_url(self) -> str:
        """Fit for people's eyes."""
        return self._store.where

    def look_at_store(self) -> None:
        """With each heartbeat: is it still the primary, what time is it there? Raises StoreUnavailable."""
        self._store.leave_old_primary()
        self.measure_store_clock()

    def process(self, jobs: Sequence[Job]) -> list[Outcome | Undecided]:
        """The outcome of each job, in order."""
        outcomes: list[Outcome | Undecided] = [Undecided.UNKNOWN] * len(jobs)
        if self._clock_of != self._store.number:
            try:
                self.measure_store_clock()
            except StoreUnavailable as error:
                self._complain(len(jobs), error)
                return outcomes
        work = self._begin_all(jobs, outcomes)
        for _ in range(MAX_ROUNDS):
            # Without the connection that the clock was measured on, what is left waits for another turn.
            if not work or self._clock_of != self._store.number:
                return outcomes
            try:
                commands = work.commands()
            except Exception as error:  # nothing was sent
                outcome = _failed(error)
                for index in work.places():
                    outcomes[index] = outcome
                return outcomes
            try:
                replies, shortfall = self._execute(commands, changes=bool(work.lists))
            except StoreUnavailable as error:
                self._complain(len(work.places()), error)
                return outcomes
            further = Round()
            if work.looks:
                self._take_looks(jobs, work.looks, replies, outcomes)
            if work.reads or work.looks:
                self._take_reads(jobs, work.reads, replies.pop(), further, outcomes)
            self._take_changes(jobs, zip(work.lists, replies, strict=True), shortfall, further, outcomes)
            work = further
        for index in work.places():
            outcomes[index] = failed(Overloaded(detail="the account's tariff plan keeps changing"))
        return outcomes

    # --- a round trip ---------------------------------------------------------------------------

    def _execute(self, commands: list[Command], *, changes: bool) -> tuple[list[Reply], NotDurable | None]:
        """The replies to the commands. The error is for all changes, when too few copies confirmed them."""
        waits = self._durability.waits
        if not (waits and changes):
            return execute(self._store, commands), None
        replies = execute(self._store, commands, waits)
        return replies[: len(commands)], self._shortfall(replies[-1])

    def _take_reads(
        self,
        jobs: Sequence[Job],
        reads: Sequence[Read],
        reply: Reply,
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> None:
        if isinstance(reply, ResponseError):
            if not _passes(reply):
                outcome = failed(store_error(reply))
                for index, *_ in reads:
                    outcomes[index] = outcome
            return
        give_up_ns = monotonic_ns() + 1000 * TIME_BUDGET_US
        for position, (index, place, descriptor, tariff) in enumerate(reads):
            if position and monotonic_ns() > give_up_ns:
                outcomes[index] = Undecided.NOT_BEGUN
                continue
            try:
                value = reply[place]
                account = None if value is None else parse_account(descriptor.subject, value)
                job = jobs[index]
                if tariff is None:
                    further.changes.append(self._planned_change(index, job, descriptor, account))
                elif job.method is _GET_COST:
                    outcomes[index] = Outcome(0, _get_cost(tariff, descriptor, account))
                elif job.method is _EXPLAIN:
                    outcomes[index] = Outcome(0, _explain(tariff, descriptor, account))
                else:
                    outcomes[index] = Outcome(0, _get_max_session_time(tariff, descriptor, account))
            except Exception as error:
                outcomes[index] = _failed(error)

    def _take_looks(
        self,
        jobs: Sequence[Job],
        looks: Sequence[Look],
        replies: list[Reply],
        outcomes: list[Outcome | Undecided],
    ) -> None:
        """Their journals are the last replies, which it takes off; the one before has all accounts."""
        journals = replies[-len(looks) :]
        del replies[-len(looks) :]
        accounts = replies[-1]
        for look, journal in zip(looks, journals, strict=True):
            try:
                for reply in (accounts, journal):
                    if isinstance(reply, ResponseError):
                        raise reply
                account = accounts[look.place]
                if account is None:
                    self._tariff(look.descriptor.tenant)  # says so when the whole tenant is unknown
                method = jobs[look.job].method
                assert method is not None
                outcomes[look.job] = Outcome(0, describe(look, method, account, journal))
            except ResponseError as error:
                if not _passes(error):
                    outcomes[look.job] = failed(store_error(error))
            except Exception as error:
                outcomes[look.job] = _failed(error)

    def _take_changes(
        self,
        jobs: Sequence[Job],
        replies: Iterable[tuple[Sequence[Change], Reply]],
        shortfall: NotDurable | None,
        further: Round,
        outcomes: list[Outcome | Undecided],
    ) -> None:
        expired: list[int] = []
        for changes, reply in replies:
            if isinstance(reply, ResponseError) and len(changes) > 1 and not _passes(reply):
                further.alone += changes
                continue
            given = isinstance(reply, list) and len(reply) == len(changes)
            for change, one in zip(changes, reply if given else [reply] * len(changes), strict=True):
                index = change.job
                if isinstance(one, ResponseError) and _passes(one):
                    continue
                if shortfall and is_stored(one):
                    outcomes[index] = failed(shortfall)
                    continue
                try:
                    outcome = self._finish(jobs[index], change, one, further)
                except Exception as error:
                    outcome = _failed(error)
                if outcome is not None:
                    outcomes[index] = outcome
                if is_expired(one) and jobs[index].deadline_us > monotonic_us():
                    expired.append(index)
        if expired:
            late = self._look_at_the_clock()
            for index in expired:
                outcomes[index] = late

    def _look_at_the_clock(self) -> Outcome | Undecided:
        """Measure the store's anew, when scripts dropped what is in time by ours; what becomes of that."""
        before_us = self._store_clock_offset_us
        try:
            self.measure_store_clock()
        except StoreUnavailable:
            return LATE_THERE
        step_us = self._store_clock_offset_us - before_us
        return Undecided.NOT_BEGUN if step_us <= MAX_CLOCK_STEP_US else LATE_THERE

    def _shortfall(self, waited: Reply) -> NotDurable | None:
        level, _, timeout_ms = self._durability
        confirmed, copies = self._durability.confirmed(waited), self._durability.copies
        if confirmed >= copies:
            return None
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning(
                "not_durable level=%s copies=%s of=%s held_back=%s reply=%s",
                level.value,
                confirmed,
                copies,
                held,
                waited,
            )
        return NotDurable(confirmed=confirmed, copies=copies, timeout_ms=timeout_ms)

    def _complain(self, undecided: int, error: StoreUnavailable) -> None:
        held = self._warnings.passes(time.monotonic())
        if held is not None:
            log.warning("undecided=%s held_back=%s %s", undecided, held, error)

    def _begin_all(self, jobs: Sequence[Job], outcomes: list[Outcome | Undecided]) -> Round:
        work = Round()
        for index, job in enumerate(jobs):
            try:
                self._begin(index, job, work)
            except Exception as error:  # whatever is wrong with one must not touch the others
                outcomes[index] = _failed(error)
        for index in work.left:
            outcomes[index] = Undecided.NOT_BEGUN
        return work

    # --- one request ----------------------------------------------------------------------------

    def _begin(self, index: int, job: Job, work: Round) -> None:
        method = job.method
        if method is None:
            raise MethodNotFound(method="unknown to this rater")
        descriptor = parse_descriptor(job.params, method)
        if job.tenants is not None and descriptor.tenant not in job.tenants:
            raise Forbidden(what=f"tenant {descriptor.tenant!r}")
        if method in LOOKS:
            keys = account_keys(descriptor.tenant, descriptor.subject)
            work.look(index, keys, descriptor, lines_of(method, descriptor))
        elif not method.mutates:
            tariff = self._tariff(descriptor.tenant)
            work.read(index, account_key(descriptor.tenant, descriptor.subject), descriptor, tariff)
        elif method.name in PLAN_METHODS:
            work.read(index, account_key(descriptor.tenant, descriptor.subject), descriptor, None)
        else:
            keys = account_keys(descriptor.tenant, descriptor.subject)
            work.changes.append(self._change(index, job, method, descriptor, keys))

    def _planned_change(
        self, index: int, job: Job, descriptor: Descriptor, account: Account | None
    ) -> Change:
        if account is None:
            self._tariff(descriptor.tenant)  # says so when the whole tenant is unknown
            raise UnknownSubject(tenant=descriptor.tenant, subject=descriptor.subject)
        assert job.method is not None
        keys = account_keys(descriptor.tenant, descriptor.subject)
        return self._change(index, job, job.method, descriptor, keys, account.plan)

    def _change(
        self,
        index: int,
        job: Job,
        method: Method,
        descriptor: Descriptor,
        keys: AccountKeys,
        plan_id: str = "",
    ) -> Change:
        key = job.key or f"{TOKEN_KEY}{job.token}"
        if descriptor.request_id:
            key = CLIENT_KEY + descriptor.request_id
        is_clients = key.startswith(CLIENT_KEY)
        remaining_ms = (job.deadline_us - monotonic_us()) // 1000
        matches: tuple[tuple[str, int], ...] = ()
        plan = None
        if plan_id or method.name == "DebitSeconds":
            tariff = self.snapshot.tenants.get(descriptor.tenant)
            if tariff is not None and plan_id:
                plan = tariff.plan(plan_id)
            elif tariff is not None:
                matches = tariff.matching_destinations(descriptor.destination)
        mutation = Mutation(
            method=method.name,
            tenant=descriptor.tenant,
            subject=descriptor.subject,
            token=key,
            token_ttl_ms=self._key_ttl_ms if is_clients else max(0, remaining_ms) + TOKEN_MARGIN_MS,
            request_id=key.removeprefix(CLIENT_KEY) if is_clients else "",
            amount_micros=descriptor.amount_micros if method.needs_amount else 0,
            destination=descriptor.destination,
            matches=matches,
            plan_id=plan_id,
            plan=plan,
            deadline_us=job.deadline_us + self._store_clock_offset_us,
            journal_lines=self._journal_lines,
        )
        return Change(index, keys, descriptor, mutation)

    def _finish(self, job: Job, change: Change, reply: Reply, further: Round) -> Outcome | None:
        """The outcome; None when the account has another plan by now, and it is to be done by that."""
        result = parse_mutation_reply(change.mutation, reply)
        if type(result) is MutationResult:
            return Outcome(0, format_micros(result.value_micros).encode(), result.replayed)
        if isinstance(result, Refused):
            if isinstance(result.error, UnknownSubject):
                self._tariff(change.descriptor.tenant)
            return failed(result.error, result.replayed)
        assert not isinstance(result, MutationResult)
        assert job.method is not None
        again = self._change(change.job, job, job.method, change.descriptor, change.keys, result.plan_id)
        further.changes.append(again)
        return None

    def _tariff(self, tenant: str) -> CompiledTariff:
        tariff = self.snapshot.tenants.get(tenant)
        if tariff is None:
            raise UnknownTenant(tenant=tenant)
        return tariff


def _passes(error: ResponseError) -> bool:
    """The store is in a state that ends by itself."""
    return str(error).startswith(PASSING_ERRORS)


def _failed(error: Exception) -> Outcome:
    """The outcome of a request whose work raised an error."""
    if isinstance(error, RatelError):
        return failed(error)
    log.error("a request failed", exc_info=error)
    return failed(InternalError(detail=type(error).__name__))


def _get_cost(tariff: CompiledTariff, descriptor: Descriptor, account: Account | None) -> bytes:
    body = get_cost(tariff, descriptor, account)
    if len(body) > MAX_RESULT_BYTES:
        raise ResultTooLarge(size_bytes=len(body), limit_bytes=MAX_RESULT_BYTES)
    return body


def _get_max_session_time(tariff: CompiledTariff, descriptor: Descriptor, account: Account | None) -> bytes:
    now_us = time.time_ns() // 1000
    seconds_us = max_session_us(tariff, descriptor, now_us, descriptor.amount_micros, account)
    return format_micros(seconds_us).encode()


def _explain(tariff: CompiledTariff, descriptor: Descriptor, account: Account | None) -> bytes:
    return answer(tariff, descriptor, account, time.time_ns() // 1000)
