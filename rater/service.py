"""What a rater does with a batch of requests: from jobs to outcomes, in few round trips to the store.

Every request is begun, which gives an outcome at once (it is wrong, it has no rate) or a step: one
command for the store and what to do with the reply. The commands of all steps go out together; a
reply gives an outcome or a further step. Most requests take one step, those that depend on the
account's tariff plan take two.

A request that fails, in whatever way, has its own outcome and never touches its neighbours'. When
the store is out of reach, the outcomes not decided yet are None: the caller may process those jobs
again, since a mutation is done at most once under its token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from redis.exceptions import ResponseError

from common.errors import (
    InternalError,
    MethodNotFound,
    Overloaded,
    RatelError,
    StoreUnavailable,
    UnknownSubject,
    UnknownTenant,
    encode_error,
)
from common.methods import Method
from common.money import format_micros
from common.store import Command, Reply, StoreConnection
from rater.accounts import (
    Mutation,
    MutationResult,
    Refused,
    mutation_command,
    parse_account,
    parse_mutation_reply,
    read_command,
    store_error,
)
from rater.descriptor import Descriptor, parse_descriptor
from rater.keys import AccountKeys, account_keys
from rater.rating.call_cost import encode_call_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, Snapshot
from rater.rating.spans import Call, rate_call
from rater.scripts import execute

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 5
"""Round trips for one batch: a plan that changes under a request this often is being reloaded."""

TOKEN_MARGIN_MS: Final = 60_000
"""How much longer than its deadline a gateway's token lives. Nobody sends a request again after its
deadline, and the script itself refuses what comes later, so any margin above clock errors will do."""

PASSING_ERRORS: Final = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY")
"""The store's words for states that end by themselves: the command was not run, and is tried again."""


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


class Outcome(NamedTuple):
    code: int
    """0, or a code of `common.errors`."""
    body: bytes
    """JSON text: the result or the error object."""
    replayed: bool


class Step(NamedTuple):
    command: Command
    finish: Callable[[Reply], Outcome | Step]
    """May raise RatelError."""


def failed(error: RatelError, replayed: bool = False) -> Outcome:
    return Outcome(error.code, encode_error(error), replayed)


class Service:
    """Processes batches against one store connection and the tariff `snapshot`."""

    def __init__(
        self, store: StoreConnection, snapshot: Snapshot, *, key_ttl_ms: int, journal_lines: int
    ) -> None:
        self.snapshot = snapshot
        self._store = store
        self._key_ttl_ms = key_ttl_ms
        self._journal_lines = journal_lines
        self._store_clock_offset_us: int | None = None

    def measure_store_clock(self) -> None:
        """Learn what to add to our monotonic clock to get the store's. Raises StoreUnavailable."""
        self._store_clock_offset_us = self._store.clock_offset_us(_monotonic_us)

    def process(self, jobs: Sequence[Job]) -> list[Outcome | None]:
        """The outcome of each job, in order; None where the store was out of reach."""
        outcomes: list[Outcome | None] = [None] * len(jobs)
        if self._store_clock_offset_us is None:
            try:
                self.measure_store_clock()
            except StoreUnavailable as error:
                log.warning("undecided=%s %s", len(jobs), error)
                return outcomes
        steps: list[tuple[int, Step]] = []
        for index, job in enumerate(jobs):
            _settle(outcomes, steps, index, self._begin, job)
        for _ in range(MAX_ROUNDS):
            if not steps:
                return outcomes
            try:
                replies = self._execute([step.command for _, step in steps])
            except StoreUnavailable as error:
                log.warning("undecided=%s %s", len(steps), error)
                return outcomes
            further: list[tuple[int, Step]] = []
            for (index, step), reply in zip(steps, replies, strict=True):
                if type(reply) is ResponseError and str(reply).startswith(PASSING_ERRORS):
                    continue
                _settle(outcomes, further, index, step.finish, reply)
            steps = further
        for index, _ in steps:
            outcomes[index] = failed(Overloaded(detail="the account's tariff plan keeps changing"))
        return outcomes

    def _execute(self, commands: list[Command]) -> list[Reply]:
        """As `execute`, with equal reads sent once: many ask for the same account in one batch."""
        places: dict[Command, int] = {}
        unique: list[Command] = []
        order: list[int] = []
        for command in commands:
            place = places.get(command) if command[0] == b"HGETALL" else None
            if place is None:
                place = len(unique)
                unique.append(command)
                if command[0] == b"HGETALL":
                    places[command] = place
            order.append(place)
        replies = execute(self._store, unique)
        return replies if len(unique) == len(commands) else [replies[place] for place in order]

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
            return Step(read_command(keys), lambda reply: _get_cost(tariff, descriptor, reply))
        return Step(read_command(keys), lambda reply: _get_max_session_time(tariff, descriptor, reply))

    def _begin_mutation(
        self, job: Job, method: Method, descriptor: Descriptor, keys: AccountKeys
    ) -> Outcome | Step:
        if method.name in ("AddRecievedCallSeconds", "ResetUserBudget"):
            plan_command: Command = (b"HGET", keys.account, b"plan")
            return Step(
                plan_command,
                lambda reply: self._mutate_with_plan(
                    job, method, descriptor, keys, _plan_id(descriptor, reply)
                ),
            )
        matches: tuple[tuple[str, int], ...] = ()
        if method.name == "DebitSeconds":
            tariff = self.snapshot.tenants.get(descriptor.tenant)
            matches = tariff.matching_destinations(descriptor.destination) if tariff else ()
        mutation = self._mutation(job, method, descriptor, matches=matches)
        return Step(
            mutation_command(keys, mutation),
            lambda reply: self._finish_mutation(job, method, descriptor, keys, mutation, reply),
        )

    def _mutate_with_plan(
        self, job: Job, method: Method, descriptor: Descriptor, keys: AccountKeys, plan_id: str
    ) -> Step:
        mutation = self._mutation(job, method, descriptor, plan_id=plan_id)
        return Step(
            mutation_command(keys, mutation),
            lambda reply: self._finish_mutation(job, method, descriptor, keys, mutation, reply),
        )

    def _mutation(
        self,
        job: Job,
        method: Method,
        descriptor: Descriptor,
        matches: tuple[tuple[str, int], ...] = (),
        plan_id: str = "",
    ) -> Mutation:
        client_key = descriptor.request_id or job.client_key
        tariff = self.snapshot.tenants.get(descriptor.tenant)
        remaining_ms = (job.deadline_us - _monotonic_us()) // 1000
        assert self._store_clock_offset_us is not None
        return Mutation(
            method=method.name,
            tenant=descriptor.tenant,
            subject=descriptor.subject,
            # Kinds of tokens are told apart by their first letter, so none can pass for another's.
            token=f"c:{client_key}" if client_key else f"g:{job.token}",
            token_ttl_ms=self._key_ttl_ms if client_key else max(0, remaining_ms) + TOKEN_MARGIN_MS,
            request_id=client_key,
            amount_micros=descriptor.amount_micros,
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
        return self._mutate_with_plan(job, method, descriptor, keys, result.plan_id)

    def _tariff(self, tenant: str) -> CompiledTariff:
        tariff = self.snapshot.tenants.get(tenant)
        if tariff is None:
            raise UnknownTenant(tenant=tenant)
        return tariff


def _settle(
    outcomes: list[Outcome | None],
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
    tor, tenant, subject, destination, start_us, end_us, _, _ = descriptor
    call = Call(tor, tenant, subject, destination, start_us, end_us)
    cost = rate_call(tariff, call, parse_account(subject, reply))
    return Outcome(0, encode_call_cost(cost), False)


def _get_max_session_time(tariff: CompiledTariff, descriptor: Descriptor, reply: Reply) -> Outcome:
    now_us = time.time_ns() // 1000
    account = parse_account(descriptor.subject, reply)
    seconds_us = max_session_us(tariff, descriptor, now_us, descriptor.amount_micros, account)
    return Outcome(0, format_micros(seconds_us).encode(), False)


def _plan_id(descriptor: Descriptor, reply: Reply) -> str:
    if reply is None:
        raise UnknownSubject(tenant=descriptor.tenant, subject=descriptor.subject)
    if type(reply) is not bytes:
        raise store_error(reply)
    return reply.decode()


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000
