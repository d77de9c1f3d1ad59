"""What a rater does with a batch of requests: from jobs to outcomes, in few round trips to the store.

Every request is begun, which gives an outcome at once (it is wrong, it has no rate) or a step: one
command for the store and what to do with the reply. The commands of all steps go out together; a
reply gives an outcome or a further step. Most requests take one step, those that depend on the
account's tariff plan take two.

A request that fails, in whatever way, has its own outcome and never touches its neighbours'. What
could not be decided is `Undecided`, and may be processed again, since a mutation is done at most once
under its token.

Where changes must be safe before they are acknowledged (`common.durability`), the wait for that goes out
behind each round's mutations, in the same round trip. What too few copies confirmed is answered with
`NotDurable`, whatever its outcome was: that stands under its token, and a replay waits again.

Deadlines go to the scripts by the store's clock. It is measured anew on each new connection, which may
be to another host, before anything is sent there, and at once when it turns out to have been set forward.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from common.clock import monotonic_us
from common.durability import DEFAULT_DURABILITY, Durability
from common.errors import (
    DeadlineExceeded,
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
from common.methods import Method
from common.money import format_micros
from common.store import Command, Reply, StoreConnection
from rater.accounts import (
    Mutation,
    MutationResult,
    Refused,
    is_expired,
    is_stored,
    mutation_command,
    parse_account,
    parse_mutation_reply,
    read_command,
)
from rater.descriptor import Descriptor, parse_descriptor
from rater.jobs import Job, Outcome, Undecided, failed
from rater.keys import AccountKeys, account_keys
from rater.rating.quote import get_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, Snapshot
from rater.scripts import execute

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 5
"""Round trips for one batch: a plan that changes under a request this often is being reloaded."""

TOKEN_MARGIN_MS: Final = 60_000
"""How much longer than its deadline a gateway's token lives. Nobody sends a request again after its
deadline, and the script itself refuses what comes later, so any margin above clock errors will do."""

READ: Final = b"MGET"
"""The command that reads an account: equal ones are sent once, and can be left and repeated."""

MUTATION: Final = b"EVALSHA"
"""The command that changes an account."""

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


class Step(NamedTuple):
    command: Command
    finish: Callable[[Reply], Outcome | Step]
    """May raise RatelError."""


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
        self._warnings = Throttle(WARN_EVERY_S)

    def measure_store_clock(self) -> None:
        """Learn what to add to our monotonic clock to get the store's. Raises StoreUnavailable."""
        self._store_clock_offset_us = self._store.clock_offset_us(monotonic_us)
        self._clock_of = self._store.number

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
        steps: list[tuple[int, Step]] = []
        for index, job in enumerate(jobs):
            _settle(outcomes, steps, index, self._begin, job)
        for _ in range(MAX_ROUNDS):
            # Without the connection that the clock was measured on, what is left waits for another turn.
            if not steps or self._clock_of != self._store.number:
                return outcomes
            try:
                replies, shortfall = self._execute([step.command for _, step in steps])
            except StoreUnavailable as error:
                self._complain(len(steps), error)
                return outcomes
            steps = self._take_replies(jobs, steps, replies, shortfall, outcomes)
        for index, _ in steps:
            outcomes[index] = failed(Overloaded(detail="the account's tariff plan keeps changing"))
        return outcomes

    def _take_replies(
        self,
        jobs: Sequence[Job],
        steps: list[tuple[int, Step]],
        replies: list[Reply],
        shortfall: NotDurable | None,
        outcomes: list[Outcome | Undecided],
    ) -> list[tuple[int, Step]]:
        """File what the replies of one round decide; the steps that come of the others."""
        give_up_us = monotonic_us() + TIME_BUDGET_US
        further: list[tuple[int, Step]] = []
        expired: list[int] = []
        for position, ((index, step), whole) in enumerate(zip(steps, replies, strict=True)):
            reply = whole[0] if type(whole) is list else whole  # each command here is for one account
            if isinstance(reply, ResponseError) and str(reply).startswith(PASSING_ERRORS):
                continue
            if position and step.command[0] == READ and monotonic_us() > give_up_us:
                outcomes[index] = Undecided.NOT_BEGUN
            elif shortfall and step.command[0] == MUTATION and is_stored(reply):
                outcomes[index] = failed(shortfall)
            else:
                _settle(outcomes, further, index, step.finish, reply)
                if is_expired(reply) and jobs[index].deadline_us > monotonic_us():
                    expired.append(index)
        if expired:
            outcome = self._look_at_the_clock()
            for index in expired:
                outcomes[index] = outcome
        return further

    def _look_at_the_clock(self) -> Outcome | Undecided:
        """Measure the store's anew, when scripts dropped what is in time by ours; what becomes of that."""
        before_us = self._store_clock_offset_us
        try:
            self.measure_store_clock()
        except StoreUnavailable:
            return LATE_THERE
        step_us = self._store_clock_offset_us - before_us
        return Undecided.NOT_BEGUN if step_us <= MAX_CLOCK_STEP_US else LATE_THERE

    def _execute(self, commands: list[Command]) -> tuple[list[Reply], NotDurable | None]:
        """As `execute`, with equal reads sent once: many ask for the same account in one batch.

        The error is for the mutations among them, when too few copies confirmed them.
        """
        places: dict[Command, int] = {}
        unique: list[Command] = []
        order: list[int] = []
        for command in commands:
            place = places.get(command) if command[0] == READ else None
            if place is None:
                place = len(unique)
                unique.append(command)
                if command[0] == READ:
                    places[command] = place
            order.append(place)
        shortfall = None
        waits = self._durability.waits
        if waits and any(command[0] == MUTATION for command in unique):
            replies = execute(self._store, unique, waits)
            shortfall = self._shortfall(replies[-1])
            del replies[len(unique) :]
        else:
            replies = execute(self._store, unique)
        if len(unique) < len(commands):
            replies = [replies[place] for place in order]
        return replies, shortfall

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

    # --- one request ----------------------------------------------------------------------------

    def _begin(self, job: Job) -> Outcome | Step:
        method = job.method
        if method is None:
            raise MethodNotFound(method="unknown to this rater")
        descriptor = parse_descriptor(job.params, method)
        keys = account_keys(descriptor.tenant, descriptor.subject)
        if method.mutates:
            return self._begin_mutation(job, method, descriptor, keys)
        tariff = self._tariff(descriptor.tenant)
        if method.name == "GetCost":
            return Step(read_command([keys]), lambda reply: _get_cost(tariff, descriptor, reply))
        return Step(read_command([keys]), lambda reply: _get_max_session_time(tariff, descriptor, reply))

    def _begin_mutation(
        self, job: Job, method: Method, descriptor: Descriptor, keys: AccountKeys
    ) -> Outcome | Step:
        if method.name in ("AddRecievedCallSeconds", "ResetUserBudget"):
            return Step(
                read_command([keys]),
                lambda reply: self._mutate(
                    job, method, descriptor, keys, plan_id=_plan_id(descriptor, reply)
                ),
            )
        matches: tuple[tuple[str, int], ...] = ()
        if method.name == "DebitSeconds":
            tariff = self.snapshot.tenants.get(descriptor.tenant)
            matches = tariff.matching_destinations(descriptor.destination) if tariff else ()
        return self._mutate(job, method, descriptor, keys, matches=matches)

    def _mutate(
        self,
        job: Job,
        method: Method,
        descriptor: Descriptor,
        keys: AccountKeys,
        *,
        matches: tuple[tuple[str, int], ...] = (),
        plan_id: str = "",
    ) -> Step:
        mutation = self._mutation(job, method, descriptor, matches, plan_id)
        return Step(
            mutation_command(keys, mutation),
            lambda reply: self._finish_mutation(job, method, descriptor, keys, mutation, reply),
        )

    def _mutation(
        self,
        job: Job,
        method: Method,
        descriptor: Descriptor,
        matches: tuple[tuple[str, int], ...],
        plan_id: str,
    ) -> Mutation:
        client_key = descriptor.request_id or job.client_key
        tariff = self.snapshot.tenants.get(descriptor.tenant)
        remaining_ms = (job.deadline_us - monotonic_us()) // 1000
        return Mutation(
            method=method.name,
            tenant=descriptor.tenant,
            subject=descriptor.subject,
            # Kinds of tokens are told apart by their first letter, so none can pass for another's.
            token=f"c:{client_key}" if client_key else f"g:{job.token}",
            token_ttl_ms=self._key_ttl_ms if client_key else max(0, remaining_ms) + TOKEN_MARGIN_MS,
            request_id=client_key,
            amount_micros=descriptor.amount_micros if method.needs_amount else 0,
            destination=descriptor.destination,
            matches=matches,
            plan_id=plan_id,
            plan=tariff.plan(plan_id) if tariff and plan_id else None,
            deadline_us=job.deadline_us + self._store_clock_offset_us,
            journal_lines=self._journal_lines,
        )

    def _finish_mutation(
        self,
        job: Job,
        method: Method,
        descriptor: Descriptor,
        keys: AccountKeys,
        mutation: Mutation,
        reply: Reply,
    ) -> Outcome | Step:
        result = parse_mutation_reply(mutation, reply)
        if type(result) is MutationResult:
            return Outcome(0, format_micros(result.value_micros).encode(), result.replayed)
        if isinstance(result, Refused):
            if isinstance(result.error, UnknownSubject):
                self._tariff(descriptor.tenant)  # says so when the whole tenant is unknown
            return failed(result.error, result.replayed)
        assert not isinstance(result, MutationResult)
        return self._mutate(job, method, descriptor, keys, plan_id=result.plan_id)

    def _tariff(self, tenant: str) -> CompiledTariff:
        tariff = self.snapshot.tenants.get(tenant)
        if tariff is None:
            raise UnknownTenant(tenant=tenant)
        return tariff


def _settle(
    outcomes: list[Outcome | Undecided],
    steps: list[tuple[int, Step]],
    index: int,
    work: Callable[[Any], Outcome | Step],
    argument: Any,
) -> None:
    """Do a piece of work for one request and file what comes of it, whatever that is."""
    try:
        result = work(argument)
    except RatelError as error:
        outcomes[index] = failed(error)
    except Exception as error:
        log.exception("a request failed")
        outcomes[index] = failed(InternalError(detail=type(error).__name__))
    else:
        if type(result) is Step:
            steps.append((index, result))
        else:
            assert isinstance(result, Outcome)
            outcomes[index] = result


def _get_cost(tariff: CompiledTariff, descriptor: Descriptor, reply: Reply) -> Outcome:
    body = get_cost(tariff, descriptor, parse_account(descriptor.subject, reply))
    if len(body) > MAX_RESULT_BYTES:
        raise ResultTooLarge(size_bytes=len(body), limit_bytes=MAX_RESULT_BYTES)
    return Outcome(0, body, False)


def _get_max_session_time(tariff: CompiledTariff, descriptor: Descriptor, reply: Reply) -> Outcome:
    now_us = time.time_ns() // 1000
    account = parse_account(descriptor.subject, reply)
    seconds_us = max_session_us(tariff, descriptor, now_us, descriptor.amount_micros, account)
    return Outcome(0, format_micros(seconds_us).encode(), False)


def _plan_id(descriptor: Descriptor, reply: Reply) -> str:
    account = parse_account(descriptor.subject, reply)
    if account is None:
        raise UnknownSubject(tenant=descriptor.tenant, subject=descriptor.subject)
    return account.plan
