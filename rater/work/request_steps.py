"""One request on its way from a job to its outcome: what is asked of the store for it, and what follows.

    begin ──▶ an error
      ├─────▶ a read of the account ──▶ `read_answer`: the outcome
      │                            └──▶ `planned_change`: a change by the account's tariff plan
      └─────▶ a change ──▶ `finish`: the outcome, or None and a change by the plan of now

Every error is raised. When commands go out and how replies come back is `rater.work.service`'s.
"""

from __future__ import annotations

import time
from typing import Final

from common.clock import monotonic_us
from common.errors import Forbidden, MethodNotFound, ResultTooLarge, UnknownSubject, UnknownTenant
from common.methods import BY_NAME, Method
from common.money import format_micros
from common.storage.store import Reply
from common.wire import CLIENT_KEY, TOKEN_KEY
from rater.accounts.looks import LOOKS, Look, describe, lines_of
from rater.accounts.mutation import Mutation, MutationResult, Refused
from rater.accounts.mutations import parse_mutation_reply
from rater.accounts.terms import fingerprint, parse_terms
from rater.descriptor import Descriptor
from rater.descriptor_reader import parse_descriptor
from rater.model import Account
from rater.rating.explain import answer
from rater.rating.quote import get_cost
from rater.rating.session_time import max_session_us
from rater.rating.snapshot import CompiledTariff, Snapshot
from rater.store.keys import AccountKeys, account_key, account_keys
from rater.work.change import Change
from rater.work.jobs import Job, Outcome, failed
from rater.work.rounds import Round

TOKEN_MARGIN_MS: Final = 60_000
"""How much longer than its deadline a gateway's token lives. Nobody sends a request again after its
deadline, and the script itself refuses what comes later, so any margin above clock errors will do."""

MAX_RESULT_BYTES: Final = 8 * 1024 * 1024
"""A result with its neighbours must fit into a frame (`common.wire.MAX_FRAME_BYTES`)."""

PLAN_METHODS: Final = ("AddRecievedCallSeconds", "ResetUserBudget")
"""Their changes depend on the account's tariff plan, which is read first."""

_GET_COST: Final = BY_NAME["GetCost"]
_EXPLAIN: Final = BY_NAME["Explain"]


class RequestSteps:
    """The steps of any request, by the tariff `snapshot` and the store's clock as they are by then."""

    def __init__(self, snapshot: Snapshot, *, key_ttl_ms: int, journal_lines: int) -> None:
        self.snapshot = snapshot
        self.clock_offset_us = 0
        """What to add to our monotonic clock to get the store's."""
        self._key_ttl_ms = key_ttl_ms
        self._journal_lines = journal_lines

    def begin(self, index: int, job: Job, work: Round) -> None:
        method = job.method
        if method is None:
            raise MethodNotFound(method="unknown to this rater")
        descriptor = parse_descriptor(job.params, method)
        tenant, subject, name = descriptor.tenant, descriptor.subject, method.name
        if job.tenants is not None and tenant not in job.tenants:
            raise Forbidden(what=f"tenant {tenant!r}")
        if name in LOOKS:
            work.look(index, account_keys(tenant, subject), descriptor, lines_of(method, descriptor))
        elif not method.mutates:
            tariff = self.snapshot.tenants.get(tenant) or self._tariff(tenant)
            work.read(index, account_key(tenant, subject), descriptor, tariff)
        elif name in PLAN_METHODS:
            work.read(index, account_key(tenant, subject), descriptor, None)
        else:
            change = self._change(index, job, method, descriptor, account_keys(tenant, subject))
            work.changes.append(change)

    def look(self, job: Job, look: Look, account: Reply, journal: Reply) -> Outcome:
        """What Account and History answer."""
        if account is None:
            self._tariff(look.descriptor.tenant)  # says so when the whole tenant is unknown
        assert job.method is not None
        return Outcome(0, describe(look, job.method, account, journal))

    def planned_change(self, index: int, job: Job, descriptor: Descriptor, account: Account | None) -> Change:
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
        terms, destination = None, descriptor.destination
        if method.takes_terms:
            terms = parse_terms(job.params)
            destination = fingerprint(terms)
        mutation = Mutation(
            method=method.name,
            tenant=descriptor.tenant,
            subject=descriptor.subject,
            token=key,
            token_ttl_ms=self._key_ttl_ms if is_clients else max(0, remaining_ms) + TOKEN_MARGIN_MS,
            request_id=key.removeprefix(CLIENT_KEY) if is_clients else "",
            amount_micros=descriptor.amount_micros if method.needs_amount else 0,
            destination=destination,
            matches=matches,
            plan_id=plan_id,
            plan=plan,
            terms=terms,
            deadline_us=job.deadline_us + self.clock_offset_us,
            journal_lines=self._journal_lines,
        )
        return Change(index, keys, descriptor, mutation)

    def finish(self, job: Job, change: Change, reply: Reply, further: Round) -> Outcome | None:
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


def read_answer(
    method: Method | None, tariff: CompiledTariff, asked: Descriptor, account: Account | None
) -> bytes:
    """The result of a method that only reads, from the account as it was read."""
    if method is _GET_COST:
        body = get_cost(tariff, asked, account)
        if len(body) > MAX_RESULT_BYTES:
            raise ResultTooLarge(size_bytes=len(body), limit_bytes=MAX_RESULT_BYTES)
        return body
    now_us = time.time_ns() // 1000
    if method is _EXPLAIN:
        return answer(tariff, asked, account, now_us)
    return format_micros(max_session_us(tariff, asked, now_us, asked.amount_micros, account)).encode()
